"""What a runner obeys is what is meant, and nothing that somebody else wrote."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from slogpt_hf import redaction
from slogpt_hf.ci.logs import (
    AZURE,
    GITHUB,
    GITLAB,
    MOST_ANNOTATIONS,
    PLAIN,
    Annotation,
    LogStyle,
    annotation_line,
    annotations_of,
    group_end,
    group_start,
    grouped,
    harmless,
    masks,
)
from slogpt_hf.ci.markup import visible
from slogpt_hf.ci.outcome import Outcome

STYLES = (PLAIN, GITHUB, GITLAB, AZURE)
PASSED_OVER = "\u00ad\u200b\u200d\u2060\ufeff\ufe0f\u034f"
TOKENS = (
    *":#[]%;,=\r\n\t \x1b\u2028\x85",
    *PASSED_OVER,
    *("::", "##[", "##vso[", "##VSO[", "group", "::error::", "add-mask", "%0A", "%25"),
    *("task.setvariable variable=PATH]", "section_start:1:x\r\x1b[0K", "std::vector"),
)
HOSTILE = st.one_of(
    st.text(),
    st.lists(st.sampled_from(TOKENS)).map("".join),
)


def github_command(line: str) -> tuple[str, dict[str, str], str] | None:
    """The command in a line, as ActionCommand.cs of actions/runner reads it, ignoring culture."""
    line = re.sub(f"[{PASSED_OVER}]", "", line)
    if line.lstrip().startswith("::") and "::" in line.lstrip()[2:]:
        info, data = line.lstrip()[2:].split("::", 1)
        name, _, rest = info.partition(" ")
        pairs = (each.split("=", 1) for each in rest.strip().split(",") if "=" in each)
        return name, {key: unescaped(value, ":,") for key, value in pairs}, unescaped(data)
    if (start := line.find("##[")) >= 0 and (end := line.find("]", start)) >= 0:
        return line[start + 3 : end].partition(" ")[0], {}, line[end + 1 :]
    return None


def azure_command(line: str) -> tuple[str, dict[str, str], str] | None:
    """The command in a line, as Command.cs of azure-pipelines-agent reads it."""
    line = re.sub(f"[{PASSED_OVER}]", "", line)
    start = line.lower().find("##vso[")
    if start < 0 or (end := line.find("]", start)) < 0:
        return None
    name, _, rest = line[start + 6 : end].partition(" ")
    pairs = (each.split("=", 1) for each in rest.split(";") if "=" in each)
    decoded = {key: unescaped(value, ";]", "%AZP25") for key, value in pairs}
    return name, decoded, unescaped(line[end + 1 :], ";]", "%AZP25")


def unescaped(text: str, more: str = "", percent: str = "%25") -> str:
    for character in (*more, "\r", "\n"):
        text = text.replace(f"%{ord(character):02X}", character)
    return text.replace(percent, "%")


def lines(text: str) -> list[str]:
    return re.split(r"[\r\n]", text)


@given(HOSTILE)
@example("  \u2028::error::x")
@example("####[group]x")
@example("a\r::stop-commands::x")
@example("#\u200b#[x]")
def test_no_ci_obeys_harmless_text(text: str) -> None:
    shown = harmless(text)
    for line in lines(shown):
        assert github_command(line) is None
        assert azure_command(line) is None
        assert not re.match(r"\s*##\[", re.sub(f"[{PASSED_OVER}]", "", line))
    assert "\x1b" not in shown


@pytest.mark.parametrize("text", ["a std::vector", "# heading", "half: 1 : 2", "100 % [x] #1", ""])
def test_harmless_text_stays_as_it_is(text: str) -> None:
    assert harmless(text) == text


def test_harmless_takes_time_in_proportion() -> None:
    assert len(harmless(" \n" * 200_000 + "\u2028" * 200_000)) == 600_000


@given(st.sampled_from(STYLES), HOSTILE)
def test_a_group_is_one_line_with_its_own_command_alone(style: LogStyle, title: str) -> None:
    start = group_start(style, title, 5)
    assert "\n" not in start
    if style is GITHUB:
        shown = re.sub(f"[{PASSED_OVER}]", "", harmless(visible(title)))
        assert github_command(start) == ("group", {}, shown)
        assert github_command(group_end(style, title)) == ("endgroup", {}, "")
    elif style is AZURE:
        assert start == f"##[group]{harmless(visible(title))}"
        assert azure_command(start) is None
    elif style is GITLAB:
        head = re.match(r"\x1b\[0Ksection_start:5:(\w+)\[collapsed=true\]\r\x1b\[0K", start)
        assert head is not None
        assert start.count("\x1b") == 2 and start.count("\r") == 1
        assert group_end(style, title, 6) == f"\x1b[0Ksection_end:6:{head[1]}\r\x1b[0K"


def test_a_group_ends_when_its_block_fails() -> None:
    said: list[str] = []
    with pytest.raises(KeyError), grouped(GITHUB, "Prove", said.append, lambda: 1.0):
        raise KeyError
    assert said == ["::group::Prove", "::endgroup::"]
    with grouped(PLAIN, "Prove", said.append, lambda: 1.0):
        pass
    assert said[2:] == ["--- Prove"]


SECRETS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)


@given(st.dictionaries(st.sampled_from(["HF_TOKEN", "MY_PASSWORD", "API_KEY"]), SECRETS))
def test_masks_are_the_lines_of_the_secrets(environment: dict[str, str]) -> None:
    secrets = [v.strip() for v in environment.values() if not v.startswith(redaction.PATH_STARTS)]
    expected = {
        line for secret in secrets for line in re.split(r"[\r\n]", secret) if len(line.strip()) >= 8
    }
    github = [github_mask(line) for line in masks(GITHUB, environment)]
    assert set(github) == expected and len(github) == len(expected)
    azure = [line.removeprefix("##vso[task.setsecret]") for line in masks(AZURE, environment)]
    assert {unescaped(value, ";]", "%AZP25") for value in azure} == expected
    assert not any("\n" in line or "\r" in line for line in masks(GITHUB, environment))


def github_mask(line: str) -> str:
    assert line.startswith("::add-mask::")
    return unescaped(line.removeprefix("::add-mask::"))


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [
        ("HF_TOKEN", " hf_0123456789\n", "hf_0123456789"),
        ("https_proxy", "http://me:pass%20word@proxy:3128", "pass word"),
        ("SLOGPT_HF_TOKEN", "hf_0123456789", None),
        ("HF_TOKEN_PATH", "hf_0123456789", None),
        ("SIGNING_KEY", "hf_0123456789", None),
        ("AWS_SECRET_ACCESS_KEY", "/run/secrets/key", None),
        ("HF_TOKEN", "short", None),
        ("HOME", "/home/me-0123456789", None),
    ],
)
def test_masked_is_what_redaction_takes_out(
    name: str, value: str, secret: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert masks(GITHUB, {name: value}) == ((f"::add-mask::{secret}",) if secret else ())
    monkeypatch.setattr(redaction, "_known", frozenset())
    monkeypatch.setattr(redaction, "_pattern", None)
    redaction.register_environment({name: value})
    assert redaction._known == ({secret} if secret else frozenset())


@pytest.mark.parametrize("style", [PLAIN, GITLAB])
def test_a_ci_without_masks_is_shown_no_secret(style: LogStyle) -> None:
    assert masks(style, {"HF_TOKEN": "hf_0123456789"}) == ()


@given(
    st.sampled_from(STYLES),
    st.sampled_from(["error", "warning", "notice"]),
    HOSTILE,
    HOSTILE,
    HOSTILE,
)
def test_an_annotation_is_one_line_that_reads_back(
    style: LogStyle, level: Any, title: str, message: str, file: str
) -> None:
    line = annotation_line(style, Annotation(level, title, message, file, 3))
    assert "\n" not in line and "\r" not in line
    shown = [harmless(visible(text)) for text in (title, message, file)]
    if style is GITHUB:
        expected = {"line": "3", "title": shown[0], "file": shown[2]}
        command = github_command(line)
        assert command is not None and command[0] == level
        # The title is the last of the properties, behind which the runner strips white space.
        expected = without_passed_over(expected)
        if title := expected.pop("title", "").rstrip():
            expected["title"] = title
        assert {k: v for k, v in command[1].items() if v} == expected
        assert command[2] == without_passed_over({"": shown[1]}).get("", "")
    elif style is AZURE and level != "notice":
        command = azure_command(line)
        assert command is not None and command[0] == "task.logissue"
        assert command[1]["type"] == level
    else:
        assert github_command(line) is None and azure_command(line) is None


def without_passed_over(values: dict[str, str]) -> dict[str, str]:
    found = {name: re.sub(f"[{PASSED_OVER}]", "", value) for name, value in values.items()}
    return {name: value for name, value in found.items() if value}


def test_annotations_name_file_and_tensor() -> None:
    refused = Outcome(
        "a",
        "out/ckpt.pt",
        "refused",
        message="It differs. Retrain.",
        tensor="h.1.attn.c_attn.weight",
    )
    fine = Outcome("b", "out/b.pt", "released")
    url = Outcome("c", "https://x.example/ckpt.pt", "unpublished", message="The hub is down.")
    first, second = annotations_of([refused, fine, url])
    assert annotation_line(GITHUB, first) == (
        "::error file=out/ckpt.pt,title=Checkpoint not released::out/ckpt.pt: It differs. Retrain. "
        "The models first differ at h.1.attn.c_attn.weight."
    )
    assert annotation_line(PLAIN, second) == (
        "error: Checkpoint proven, but not published: https://x.example/ckpt.pt: The hub is down."
    )
    assert annotation_line(AZURE, first).startswith(
        "##vso[task.logissue type=error;sourcepath=out/ckpt.pt]Checkpoint not released: out/ckpt.pt"
    )


def test_a_proof_on_assumptions_is_a_notice() -> None:
    told = {"name": "activation", "value": "gelu", "why": "", "text": "exact GELU"}
    report = {"passed": True, "level": "assumed", "family": "nanoGPT", "assumptions": [told]}
    proven = Outcome("a", "out/ckpt.pt", "proven", report=report)
    (found,) = annotations_of([proven])
    assert annotation_line(GITHUB, found) == (
        "::notice file=out/ckpt.pt,title=Proof%3A assumed::out/ckpt.pt: proven equal to nanoGPT as "
        "slogpt-hf knows it; assumed: exact GELU."
    )
    for level in ("witnessed", None):
        assert (
            annotations_of([replace(proven, report=report | {"level": level, "assumptions": []})])
            == ()
        )
    many = [replace(proven, key=str(i)) for i in range(30)]
    assert len(annotations_of([*many, Outcome("z", "z.pt", "refused", message="x")])) == 11


def test_many_annotations_are_counted_in_the_last() -> None:
    many = [Outcome(str(i), f"{i}.pt", "refused", message="x") for i in range(25)]
    found = annotations_of(many)
    assert len(found) == MOST_ANNOTATIONS
    assert found[-1].message.startswith("16 more")
