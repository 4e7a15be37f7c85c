"""Outputs read back as they were written, whatever is in them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slogpt_hf.ci.outcome import Outcome
from slogpt_hf.ci.outputs import (
    LARGEST_FILE,
    azure_outputs,
    dotenv,
    github_outputs,
    outputs_of,
    properties,
    write_outputs,
)
from slogpt_hf.errors import UsageError

COMMIT = "89abcdef01" * 4
NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_-]{0,20}", fullmatch=True)
HOSTILE = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.lists(
        st.sampled_from(
            ["\n", "\r\n", "EOF", "end-", "<<", "=", "released", "::", "%0A", "\\", ";", "]"]
        )
    ).map("".join),
)
MAPPINGS = st.dictionaries(NAMES, HOSTILE, max_size=5)


def github_pairs(text: str) -> dict[str, str]:
    """What FileCommandManager.cs of actions/runner reads, on Linux: a line ends with ``\\n``."""
    pairs, lines = {}, iter(text.removesuffix("\n").split("\n"))
    for line in lines:
        equals, here = line.find("="), line.find("<<")
        if not line:
            continue
        if equals >= 0 and (here < 0 or equals < here):
            name, value = line.split("=", 1)
        else:
            name, end = line.split("<<", 1)
            assert name and end
            found = []
            for each in lines:
                if each == end:
                    break
                found.append(each)
            else:
                raise AssertionError(f"{end} is missing")
            value = "\n".join(found)
        pairs[name] = value
    return pairs


def java_pairs(text: str) -> dict[str, str]:
    """What java.util.Properties reads of lines without continuation."""
    pairs = {}
    for line in text.splitlines():
        name, value = line.split("=", 1)
        value = re.sub(r"\\u(....)", lambda match: chr(int(match[1], 16)), value.lstrip())
        pairs[name] = value.encode("utf-16-be", "surrogatepass").decode("utf-16-be")
    return pairs


@given(MAPPINGS)
def test_github_reads_back_what_was_written(outputs: dict[str, str]) -> None:
    assert github_pairs(github_outputs(outputs)) == outputs


@given(MAPPINGS)
def test_java_reads_back_what_was_written(outputs: dict[str, str]) -> None:
    expected = {f"RELEASE_{k.upper().replace('-', '_')}": v for k, v in outputs.items()}
    text = properties(outputs)
    assert text.isascii() and text.count("\n") == len(outputs)
    assert java_pairs(text) == expected


@given(MAPPINGS)
def test_azure_reads_back_what_was_written(outputs: dict[str, str]) -> None:
    found = {}
    for line in azure_outputs(outputs):
        assert "\n" not in line and "\r" not in line
        match = re.fullmatch(r"##vso\[task\.setvariable variable=(\w+);isOutput=true\](.*)", line)
        assert match is not None
        value = match[2]
        for character in ";]\r\n":
            value = value.replace(f"%{ord(character):02X}", character)
        found[match[1]] = value.replace("%AZP25", "%")
    assert found == {name.replace("-", "_"): value for name, value in outputs.items()}


@given(MAPPINGS)
def test_dotenv_is_a_line_for_each_output(outputs: dict[str, str]) -> None:
    lines = dotenv(outputs).split("\n")[:-1]
    assert len(lines) == len(outputs)
    for line in lines:
        assert re.match(r"RELEASE_[A-Z0-9_]+=", line)
        assert line.isprintable()


def test_dotenv_stays_within_what_gitlab_takes() -> None:
    text = dotenv({"a": "x" * LARGEST_FILE, "b": "y"})
    assert text == "RELEASE_B=y\n"


@pytest.mark.parametrize("name", ["", "a b", "a\nb", "a=b", "a<<b", "é", "1a"])
def test_a_name_that_is_none_is_a_mistake_of_ours(name: str) -> None:
    for write in (github_outputs, azure_outputs, dotenv, properties):
        with pytest.raises(ValueError, match="no name of an output"):
            write({name: "x"})


def test_each_ci_gets_its_own_form(tmp_path: Path) -> None:
    outputs = {"released": "true", "artefact-path": "/a b"}
    file, given_file = tmp_path / "outputs.env", tmp_path / "given"
    given_file.write_text("before=1")  # a step that forgot the line's end
    assert write_outputs(outputs, {"GITHUB_OUTPUT": str(given_file)}, file) == ()
    assert github_pairs(given_file.read_text()) == {"before": "1"} | outputs
    assert not file.exists()
    assert write_outputs(outputs, {"TF_BUILD": "True"}, file) == azure_outputs(outputs)
    assert write_outputs(outputs, {"GITLAB_CI": "true"}, file) == ()
    assert file.read_text() == "RELEASE_RELEASED=true\nRELEASE_ARTEFACT_PATH=/a b\n"
    write_outputs(outputs, {"JENKINS_URL": "https://ci.example"}, file)
    assert file.read_text() == "RELEASE_RELEASED=true\nRELEASE_ARTEFACT_PATH=/a\\u0020b\n"
    assert write_outputs(outputs, {}) == ()


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="GITHUB_OUTPUT"):
        write_outputs({"a": "b"}, {"GITHUB_OUTPUT": str(tmp_path)})


def released(key: str, version: str, **facts: Any) -> Outcome:
    return Outcome(
        key,
        f"{key}.pt",
        facts.pop("status", "released"),
        version=version,
        tag=f"v{version}",
        release_commit=COMMIT,
        url=f"https://huggingface.co/me/tiny/tree/v{version}",
        artefact=f"/w/artefacts/{key}",
        report_path=f"/w/reports/{key}.json",
        **facts,
    )


def test_the_last_release_counts() -> None:
    refused = Outcome("c", "c.pt", "refused", exit_code=4, report_path="/w/reports/c.json")
    found = outputs_of(
        [released("a", "1.0.0"), released("b", "1.1.0"), refused], {"include": [{"key": "a"}]}
    )
    assert found == {
        "released": "true",
        "version": "1.1.0",
        "tag": "v1.1.0",
        "commit": COMMIT,
        "url": "https://huggingface.co/me/tiny/tree/v1.1.0",
        "parity": "failed",
        "level": "",
        "assumptions": "",
        "report": "/w/reports/b.json",
        "artefact-path": "/w/artefacts/b",
        "matrix": json.dumps({"include": [{"key": "a"}]}),
    }


def test_without_a_release_what_is_known_counts() -> None:
    found = outputs_of([released("a", "1.0.0", status="known")])
    assert (found["released"], found["version"], found["parity"]) == ("false", "1.0.0", "passed")


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ([], "none"),
        ([Outcome("a", "a", "refused", exit_code=3)], "none"),
        ([Outcome("a", "a", "proven")], "passed"),
        ([Outcome("a", "a", "unpublished", exit_code=6)], "passed"),
        ([Outcome("a", "a", "proven"), Outcome("b", "b", "refused", exit_code=5)], "invalid"),
        (
            [Outcome("a", "a", "refused", exit_code=5), Outcome("b", "b", "refused", exit_code=4)],
            "failed",
        ),
    ],
)
def test_parity_is_the_worst_of_the_run(outcomes: list[Outcome], expected: str) -> None:
    assert outputs_of(outcomes)["parity"] == expected


def proven(key: str, level: str | None, *assumptions: tuple[str, Any]) -> Outcome:
    told = [{"name": n, "value": v, "why": "", "text": n} for n, v in assumptions]
    report = {"verdict": "passed", "level": level, "assumptions": told}
    return Outcome(key, key, "proven", report=report)


def test_the_level_is_the_least_of_the_run_and_all_assumptions_are_told() -> None:
    gelu, eps, tied = ("activation", "gelu"), ("norm_eps", 1e-05), ("tied", True)
    run = [proven("a", "witnessed"), proven("b", "corroborated", gelu, eps)]
    found = outputs_of(run[:1])
    assert (found["level"], found["assumptions"]) == ("witnessed", "[]")
    found = outputs_of([*run, proven("c", "assumed", gelu, tied, ("attention_multiplier", None))])
    assert found["level"] == "assumed"
    assert json.loads(found["assumptions"]) == [
        "activation=gelu",
        "norm_eps=1e-05",
        "tied=true",
        "attention_multiplier",
    ]
    # What is not known of one is not known of the run.
    assert outputs_of([*run, proven("d", None)])["level"] == ""


def test_a_proof_that_rests_on_less_than_required_still_tells_its_level() -> None:
    refused = replace(proven("a", "assumed"), status="refused", exit_code=4)
    assert outputs_of([refused])["level"] == "assumed"
    failed = replace(refused, report={"verdict": "failed", "level": "assumed"})
    assert outputs_of([failed])["level"] == ""


@given(HOSTILE, HOSTILE)
def test_of_an_assumption_nothing_gets_out_that_a_shell_reads(name: str, value: str) -> None:
    found = outputs_of([proven("a", value, (name, value))])
    assert found["level"] == ""
    assert re.fullmatch(r'\["[A-Za-z_]\w*(=[\w.+ -]+)?"\]', found["assumptions"], re.ASCII)


@given(HOSTILE)
def test_nothing_but_versions_tags_commits_and_pages_gets_out(text: str) -> None:
    outcome = Outcome(
        "a",
        text,
        "released",
        text,
        text,
        text,
        version=text,
        tag=text,
        release_commit=text,
        url=text,
    )
    found = outputs_of([outcome])
    assert re.fullmatch(r"[A-Za-z0-9._/+-]*", found["tag"] + found["version"] + found["commit"])
    assert re.fullmatch(r"(https?://[A-Za-z0-9._~%/:+-]*)?", found["url"])


@pytest.mark.parametrize("url", ["https://hf.co/$(id)", "javascript:x", "https://a:b@c/", "x y"])
def test_a_page_that_a_shell_would_evaluate_is_left_out(url: str) -> None:
    assert outputs_of([Outcome("a", "a", "released", url=url)])["url"] == ""
