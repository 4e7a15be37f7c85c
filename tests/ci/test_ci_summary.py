"""The summary says what happened, and nobody's text becomes markup in it."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from slogpt_hf.ci.markup import chart, details, is_page, link, span, visible
from slogpt_hf.ci.outcome import Outcome
from slogpt_hf.ci.summary import LARGEST, LEFT_OUT, NOTHING_NEW, summary_of, write_summary

COMMIT = "89abcdef01" * 4
URL = "https://huggingface.co/me/tiny/tree/v1.4.0"
REPORT: dict[str, Any] = {
    "passed": True,
    "fp64_error": 1.6e-14,
    "fp32_error": 2.5e-6,
    "fp64_bound": 1e-10,
    "fp32_bound": 6e-6,
    "comparisons": [
        {
            "name": "full block",
            "batch": 2,
            "length": 256,
            "max_logit": 9.5,
            "fp64_error": 1.6e-14,
            "fp32_error": 2.5e-6,
            "fp32_noise": 1.5e-6,
        },
        {"name": "odd length, batch of 2", "batch": 2, "length": 127, "fp64_error": 0.0},
    ],
}
RELEASED = Outcome(
    "a",
    "out/ckpt.pt",
    "released",
    "train/small",
    COMMIT,
    record={"model": {"remote_code": False}, "tokenizer": {"kind": "characters"}},
    report=REPORT,
    repo_id="me/tiny",
    version="1.4.0",
    tag="v1.4.0",
    release_commit=COMMIT,
    url=URL,
)
REFUSED = Outcome(
    "b",
    "out/bad.pt",
    "refused",
    "train/small",
    COMMIT,
    message="out/bad.pt differs. Convert it again.",
    exit_code=4,
    tensor="layer 1, attention",
    report=REPORT,
)
PLAIN_TEXT = "xy z"
HOSTILE = st.one_of(
    st.text(),
    st.lists(
        st.sampled_from(
            [
                *"|`<>&\\[]()#-+=*_~!{}%$@:./\n\r\t 1a\"'",
                *("---\n", "```", "</code>", "</details>", "<!--", "-->", "\n\n", "<script>"),
                *("[x](javascript:alert(1))", "![y](http://e.example/p.png)", "@me", "#1", ":+1:"),
                *("https://evil.example", "www.evil.example", "a@b.example", "&lt;", "&#64;me"),
                *(
                    "\u202e",
                    "\x00",
                    "\x1b[31m",
                    "\u2028",
                    "\n/close\n",
                    "\n# h",
                    "\n- i",
                    "%%{init",
                ),
            ]
        )
    ).map("".join),
)
FIGURES = st.one_of(
    st.none(),
    st.booleans(),
    st.floats(),
    st.integers(-(10**400), 10**400),
    HOSTILE,
    st.lists(HOSTILE, max_size=2),
)


@dataclass
class Page(HTMLParser):
    """Elements with their attributes, and the text outside of code."""

    elements: list[tuple[str, tuple[tuple[str, str | None], ...]]] = field(default_factory=list)
    code: list[str] = field(default_factory=list)
    outside: str = ""
    depth: int = 0

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, tuple(attrs)))
        if tag == "code":
            self.depth += 1
            self.code.append("")

    def handle_endtag(self, tag: str) -> None:
        self.depth -= tag == "code"

    def handle_comment(self, data: str) -> None:
        self.elements.append(("comment", ()))

    def handle_data(self, data: str) -> None:
        if self.depth:
            self.code[-1] += data
        else:
            self.outside += data


def rendered(markdown: str) -> Page:
    """The page that a reader of GitHub's Markdown makes, with HTML, tables and autolinks."""
    page = Page()
    page.feed(MarkdownIt("gfm-like").render(markdown))
    page.close()
    return page


def outcome_with(text: str, figure: Any, status: Any) -> Outcome:
    """An outcome with ``text`` in every field that is free text, and a figure in the others."""
    report = copy.deepcopy(REPORT)
    report |= dict.fromkeys(("fp64_error", "fp32_bound"), figure)
    report["comparisons"][0] |= {"name": text, "fp32_error": figure, "batch": figure}
    report["comparisons"].append(figure)
    report |= {"level": "assumed", "family": text, "assumptions": [figure]}
    told = {"name": f"a {text}", "value": text, "why": f"a {text}", "text": f"a {text}"}
    report["assumptions"].append(told)
    return Outcome(
        "k",
        text,
        status,
        text,
        text,
        message=text,
        tensor=text,
        record={"model": figure, "tokenizer": text, "parity": figure},
        report=report,
        repo_id=text,
        version=text,
        tag=text,
        release_commit=text,
        url=URL,
    )


STATUSES = st.sampled_from(["released", "known", "proven", "refused", "unpublished"])


@settings(max_examples=150, deadline=None)
@given(HOSTILE, HOSTILE, STATUSES, STATUSES)
def test_no_text_becomes_markup(first: str, second: str, one: Any, two: Any) -> None:
    def made(texts: list[str]) -> Page:
        outcomes = [outcome_with(texts[0], 1e-9, one), outcome_with(texts[1], 1e-9, two)]
        assert outcomes[1].report is not None
        # Proofs that rest on the same would be told once.
        outcomes[1] = replace(outcomes[1], report={**outcomes[1].report, "level": "corroborated"})
        return rendered(summary_of(outcomes))

    page = made([f"x {first}", f"x {second}"])
    plain = made([PLAIN_TEXT, PLAIN_TEXT])
    assert page.elements == plain.elements
    assert page.outside == plain.outside


@settings(max_examples=100, deadline=None)
@given(FIGURES, STATUSES)
def test_no_figure_becomes_markup(figure: Any, status: Any) -> None:
    page = rendered(summary_of([outcome_with(PLAIN_TEXT, figure, status)]))
    plain = rendered(summary_of([outcome_with(PLAIN_TEXT, None, status)]))
    assert page.elements == plain.elements
    words = re.compile(r"[–\d.e+-]+")
    assert words.sub("", page.outside).split() == words.sub("", plain.outside).split()


@given(HOSTILE)
def test_a_span_shows_the_text_as_one_piece_of_code(text: str) -> None:
    page = rendered(f"| a |\n| --- |\n| {span(f'x{text}', 10_000)} |")
    assert page.code == [visible(f"x{text}")]
    assert [tag for tag, _ in page.elements if tag in ("td", "code")] == ["td", "code"]
    line = rendered(span(f"x{text}", 10_000))
    assert [tag for tag, _ in line.elements] == ["p", "code"]


@given(HOSTILE)
def test_what_is_folded_stays_folded(text: str) -> None:
    page = rendered(details(f"x{text}", "inside *it*"))
    assert [tag for tag, _ in page.elements] == ["details", "summary", "code", "p", "em"]
    whole = visible(f"x{text}")
    assert page.code == [whole] if len(whole) <= 120 else len(page.code[0]) <= 120


@given(HOSTILE, HOSTILE)
@example("", "%")
@example("", "%2F%C3%A4")
def test_a_link_leads_to_a_plain_page_or_nowhere(label: str, url: str) -> None:
    for target in (url, f"https://h.example/{url}", f"https://{url}"):
        links = [dict(a)["href"] for tag, a in rendered(link(label, target)).elements if tag == "a"]
        assert links == ([target] if is_page(target) else [])


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        "data:text/html,x",
        "https://me:secret@h.example/",
        "https://h.example/?token=x",
        "https://h.example/)](x",
        "//h.example/",
        "https://h.example/\n",
        None,
        3,
    ],
)
def test_what_is_no_plain_page(url: object) -> None:
    assert not is_page(url)


def test_long_text_is_cut() -> None:
    assert rendered(span("a" * 10**6)).code == ["a" * 119 + "…"]


@given(st.lists(st.tuples(HOSTILE, FIGURES), min_size=1, max_size=8), FIGURES)
def test_a_chart_is_valid_whatever_is_drawn(bars: list[tuple[str, Any]], bound: Any) -> None:
    text = chart("error", [name for name, _ in bars], [error for _, error in bars], bound)
    number = r"-?\d+(?:\.\d\d)?"
    numbers = rf"{number}(?:, {number})*"
    label = r'"\d+(?: [A-Za-z0-9]+)*"'
    match = re.fullmatch(
        r"```mermaid\nxychart-beta\n"
        r'    title "error"\n'
        rf"    x-axis \[({label}(?:, {label})*)\]\n"
        rf'    y-axis "log10" ({number}) --> ({number})\n'
        rf"    bar \[({numbers})\]\n"
        rf"(?:    line \[({numbers})\]\n)?"
        r"```",
        text,
    )
    assert match is not None
    bottom, top = float(match[2]), float(match[3])
    for drawn in (match[4], match[5]):
        heights = [float(each) for each in (drawn or match[4]).split(", ")]
        assert len(heights) == len(bars)
        assert all(bottom <= height < top for height in heights)
    assert match[1].count('"') == 2 * len(bars)


def test_a_chart_shows_errors_below_their_bound() -> None:
    text = chart("float64 error", ["full block", "one"], [1e-14, 0.0], 1e-10)
    assert "bar [-14.00, -15.00]" in text
    assert "line [-10.00, -10.00]" in text
    assert '"log10" -15 --> -9' in text
    assert '["1 full block", "2 one"]' in text


def test_a_summary_says_what_happened() -> None:
    text = summary_of([RELEASED, REFUSED])
    assert text.startswith("## slogpt-hf: 1 released, 1 refused\n")
    assert f"released: [`me/tiny v1.4.0`](<{URL}>)" in text
    assert "| 1.6e-14 | 1.0e-10 | 2.5e-06 | 6.0e-06 |" in text
    assert "`out/bad.pt`: `out/bad.pt differs. Convert it again.`" in text
    assert "They first differ at `layer 1, attention`." in text
    assert 'AutoModelForCausalLM.from_pretrained("me/tiny", revision="v1.4.0")' in text
    assert "AutoTokenizer" in text and "trust_remote_code" not in text
    assert text.index("### The proof") < text.index("<details>\n<summary><code>out/ckpt.pt")
    page = rendered(text)
    assert [tag for tag, _ in page.elements].count("table") == 3
    assert sum("xychart-beta" in code for code in page.code) == 4


GELU = {"name": "activation", "value": "gelu", "why": "No file records it.", "text": "exact GELU"}


def with_level(level: str | None, *assumptions: Any) -> Outcome:
    stated = {"level": level, "family": "nanoGPT", "assumptions": list(assumptions)}
    return replace(RELEASED, report=REPORT | stated)


def test_a_summary_says_what_the_proof_rests_on() -> None:
    text = summary_of([with_level("assumed", GELU)])
    known = "`proven equal to nanoGPT as slogpt-hf knows it`"
    assert f"`out/ckpt.pt`: level **assumed**, {known}" in text
    assert "| `exact GELU` | `activation=gelu` | `No file records it.` |" in text
    assert "| assumed | 1.6e-14 |" in text
    text = summary_of([with_level("witnessed")])
    assert "level **witnessed**, `proven equal to the trainer's own model`" in text
    assert "| `exact GELU` |" not in text
    text = summary_of([with_level(None)])
    assert "level **not known (proven by an earlier version)**" in text
    failed = replace(REFUSED, report=with_level("assumed", GELU).report | {"passed": False})  # type: ignore[operator]
    assert "What the proof rests on" not in summary_of([failed])


def test_proofs_that_rest_on_the_same_are_told_once() -> None:
    same = [replace(with_level("assumed", GELU), name=f"{i}.pt") for i in range(9)]
    text = summary_of([*same, with_level("witnessed")])
    assert text.count("activation=gelu") == 1 and "`5.pt` and 3 more: level" in text


def test_code_of_its_own_is_said_in_the_snippet() -> None:
    text = summary_of([replace(RELEASED, record={"model": {"remote_code": True}})])
    assert 'revision="v1.4.0", trust_remote_code=True)' in text
    assert "AutoTokenizer" not in text


@pytest.mark.parametrize("tag", [None, "v1\nimport os", '")', "a..b"])
def test_no_snippet_for_a_tag_that_is_none(tag: str | None) -> None:
    assert "from_pretrained" not in summary_of([replace(RELEASED, tag=tag)])


def test_a_link_to_another_repository_is_none() -> None:
    other = replace(RELEASED, url="https://huggingface.co/evil/tiny/tree/v1.4.0")
    assert "evil" not in summary_of([other])


def test_nothing_new() -> None:
    assert summary_of([]) == f"## slogpt-hf: nothing new\n\n{NOTHING_NEW}\n"


def test_a_proven_pull_request_says_that_nothing_was_published() -> None:
    text = summary_of([replace(RELEASED, status="proven", tag=None, url=None)])
    assert "proven, not published" in text and "from_pretrained" not in text


def test_what_became_of_the_planted_faults() -> None:
    controls = [
        {"name": "a stale row", "outcome": "caught", "error": 1.0},
        {"name": "theta", "outcome": "cannot occur", "error": None},
    ]
    text = summary_of([replace(RELEASED, report=REPORT | {"controls": controls})])
    assert "Planted faults: 1 of 1 were caught.\n" in text
    assert "Planted" not in summary_of([RELEASED])
    missed = [*controls, {"name": "one | flipped bit", "outcome": "missed", "error": 0.0}]
    invalid = replace(REFUSED, exit_code=5, report=REPORT | {"controls": missed})
    text = summary_of([invalid])
    assert "| **not proven: the gate is invalid** |" in text and "**refused**" not in text
    assert "Planted faults: 1 of 2 were caught. **Not caught: <code>one &#124; flipped" in text


@pytest.mark.parametrize("largest", [LARGEST, 60_000, 2_000])
def test_a_summary_of_very_many_fits(largest: int) -> None:
    many = [replace(REFUSED, key=str(i), name="é" * 200, message="€" * 5000) for i in range(1500)]
    text = summary_of(many, largest)
    assert len(text.encode()) <= largest
    assert text.endswith(f"{LEFT_OUT}\n") or largest == LARGEST
    assert [tag for tag, _ in rendered(text).elements].count("details") == text.count("</details>")


def test_a_summary_is_added_to_that_of_the_step(tmp_path: Any) -> None:
    path = tmp_path / "summary.md"
    path.write_text("before")
    assert write_summary("## x\n", {"GITHUB_STEP_SUMMARY": str(path)})
    assert path.read_text() == "before\n## x\n"
    assert not write_summary("## x\n", {"GITLAB_CI": "true"})
