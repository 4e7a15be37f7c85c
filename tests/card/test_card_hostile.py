"""Text from strangers is shown and does nothing."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st

from slogpt_hf.card import CardFacts, Sample, TokenizerFacts, render_facts
from slogpt_hf.card.escaping import code, escape_markdown, fence, printable, python_literal
from slogpt_hf.parity.report import Behaviour, Control, Published, Witness

HOSTILE = (
    "a | b || c",
    "```\n# out\n```",
    "~~~\n---\nlicense: mit\n---\n",
    "---",
    "\n---\nlicense: gpl\n---\n# title",
    "{{7*7}}{% raw %}{{ config }}",
    "<script>alert(1)</script><img src=x onerror=y>",
    "[x](javascript:alert(1)) ![y](http://evil.example/p.png)",
    "</details></code>",
    "`|`\\|\\`",
    "# h\n## h2\n- item\n1. one\n> quote",
    "https://evil.example www.evil.example a@b.example",
    "\u202egnp.exe\x00\x1b[31m\ud800",
    "&lt;b&gt; &#124; &amp;",
    "$$x$$ \\\\(y\\\\) **b** __u__ ~~s~~ *e*",
    "'quoted' \"double\" !!python/object: *anchor &ref",
    "\r\n\x85\u2028| a | b |\u2029",
)
ANY_TEXT = st.one_of(
    st.sampled_from(HOSTILE),
    st.text(st.characters()),
    st.lists(st.sampled_from([*"|`<>&\\[]()#-+=*_~!{}%$@:./\n\r\t 1a", "---\n", "```"])).map(
        "".join
    ),
)
OWN_TAGS = {"<code>", "</code>", "<details>", "</details>", "<summary>", "</summary>"}
# Of the pictures, which no text gets into.
PICTURE = re.compile(
    r'</?picture>|<source media="[^"<>]*" srcset="[^"<>]*">|<img [^<>]*width="800">'
)


def body_outside_code(card: str) -> list[str]:
    """The card's lines after the metadata and outside of fences, as CommonMark finds fences."""
    lines, ticks = [], None
    for line in ModelCard(card).text.split("\n"):
        if ticks is None:
            opening = re.fullmatch(r" {0,3}(`{3,}|~{3,})([^`]*)", line)
            ticks = opening[1] if opening else None
            if opening is None:
                lines.append(line)
        elif re.fullmatch(rf" {{0,3}}{re.escape(ticks)}{re.escape(ticks[0])}*\s*", line):
            ticks = None
    assert ticks is None, "a fence is open at the end"
    return lines


def structure(card: str) -> list[str]:
    """Headings, HTML tags and the number of cells of table rows, in order."""
    found = []
    for line in body_outside_code(card):
        if line.startswith("#"):
            found.append("heading")
        if line.startswith("|"):
            borders = re.findall(r"(?<!\\)\|", line)
            found.append(f"row of {len(borders) - 1}")
        line = PICTURE.sub("", line)
        outside = re.sub(r"\(<https://[^>]*>\)", "", re.sub(r"`[^`]*`", "", line))
        tags = re.findall(r"<[^>]*>?", outside)
        assert set(tags) <= OWN_TAGS
        found += [tag for tag in tags if "code" not in tag]
    return found


def facts_with(make: Callable[..., CardFacts], texts: list[str]) -> CardFacts:
    """Facts whose every free text is one of ``texts``, in turn."""
    name, branch, key, value, note, sample, unknown, file, batch = texts
    facts = make(
        dataset=name,
        settings={f"k{key}": f"v{value}"},
        notes=(f"n{note}",),
        sample=Sample(f"{sample}x", prompt=f"p{sample}"),
        tokenizer=TokenizerFacts("characters", unknown=f"u{unknown}"),
        checkpoint_file=f"f{file}",
        created=f"d{note}",
        tag=f"t{branch}",
    )
    comparison = replace(facts.parity.comparisons[0], name=f"b{batch}")
    return replace(
        facts,
        provenance=replace(facts.provenance, branch=f"b{branch}"),
        parity=replace(
            facts.parity,
            comparisons=(comparison,) * 2,
            oracle=f"o{batch}",
            shaken_error=1e-16,
            controls=(Control(f"c{batch}", "caught", 1.0),),
            behaviours=(Behaviour(f"a{note}", True, 0.0, 1e-10, f"n{value}"),),
            witnesses=(Witness(f"w{file}", True, 0.0, 0.0, 1.0, None, 1, 2),),
            published=Published(f"d{batch}", 0.0, 0.0, 1.0),
        ),
        has_pictures=True,
    )


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(ANY_TEXT, min_size=9, max_size=9))
def test_no_text_changes_the_structure_or_the_metadata(
    card_facts: Callable[..., CardFacts], texts: list[str]
) -> None:
    facts = facts_with(card_facts, texts)
    plain = facts_with(card_facts, ["a"] * 9)
    if not facts.dataset_name:
        plain = replace(plain, dataset=None)
    card = render_facts(facts)
    card.encode("utf-8")
    assert structure(card) == structure(render_facts(plain))
    data = ModelCard(card).data
    assert data.eval_results[0].dataset_name == (facts.dataset_name or "not recorded")
    expected = ModelCard(render_facts(plain)).data
    for field in ("license", "language", "tags", "library_name", "pipeline_tag", "model_name"):
        assert data.get(field) == expected.get(field)
    assert data.get("datasets") is None


@pytest.mark.parametrize("text", HOSTILE)
def test_each_hostile_text_everywhere(card_facts: Callable[..., CardFacts], text: str) -> None:
    facts = facts_with(card_facts, [text] * 9)
    card = render_facts(facts)
    plain = facts_with(card_facts, ["a"] * 9)
    if not facts.dataset_name:
        plain = replace(plain, dataset=None)
    assert structure(card) == structure(render_facts(plain))
    assert "49" not in card
    assert ModelCard(card).data.eval_results[0].dataset_name == (
        facts.dataset_name or "not recorded"
    )


@given(ANY_TEXT)
def test_escaped_text_reads_as_the_text(text: str) -> None:
    shown = html.unescape(re.sub(r"\\([*_\[\]])", r"\1", escape_markdown(text)))
    assert shown == re.sub(r"\s+", " ", printable(text))


@given(ANY_TEXT)
def test_escaped_text_is_one_line_without_structure(text: str) -> None:
    escaped = escape_markdown(text)
    assert not re.search(r"[|`<>$@~\n\r]|(?<!\\)[*_\[\]]|://|www\.", escaped, re.IGNORECASE)
    assert not re.match(r" ?([#+=-]|\d+[.)](\s|$))", escaped)


@given(ANY_TEXT)
def test_code_is_one_span_without_a_cell_border(text: str) -> None:
    span = code(text)
    assert "|" not in span
    assert re.fullmatch(r"(`[^`<>]+`|<code>[^`<>]+</code>)?", span)


@given(ANY_TEXT)
def test_nothing_closes_a_fence(text: str) -> None:
    assert body_outside_code(f"{fence(text)}\nafter") == ["after"]


@given(ANY_TEXT)
def test_a_python_literal_is_the_text(text: str) -> None:
    value: str = eval(python_literal(text), {"__builtins__": {}})
    assert value == printable(text, lines=False)
