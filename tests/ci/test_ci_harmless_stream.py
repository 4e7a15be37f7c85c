"""In a CI's log, nothing that is printed is obeyed but what is meant to be."""

from __future__ import annotations

import io
import json
import re
import sys
import threading
from typing import Any, TextIO, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from slogpt_hf import cli
from slogpt_hf.ci.logs import HarmlessStream, harmless
from slogpt_hf.cli.options import print_json

PASSED_OVER = "\u00ad\u200b\u200d\u2060\ufeff\ufe0f\u034f\u115f\u3164\U000e0100"
PIECES = st.sampled_from(
    [
        *":#[]\r\n \t\x1b\u2028vso",
        *PASSED_OVER,
        *("::", "::error::", "##[", "##vso[task.setvariable variable=PATH]", "\r\n", "add-mask"),
        *("section_start:1:x\r\x1b[0K", "std::vector", "\ud800", "text"),
    ]
)
HOSTILE = st.lists(st.one_of(PIECES, st.text(max_size=5)), max_size=30)
PLAIN = st.lists(
    st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "Zs"], exclude_characters=":#"))
    | st.sampled_from(["\n", " a std::vector", " # 1", "100 % [x]", "a: b"]),
)


def obeyed(line: str) -> bool:
    """Whether GitHub (ActionCommand.cs) or Azure (Command.cs) would take a line for a command."""
    line = re.sub(f"[{PASSED_OVER}]", "", line)
    start = line.lstrip()
    return (
        (start.startswith("::") and "::" in start[2:])
        or "##[" in line
        or "##vso[" in line.lower()
        or "\x1b" in line
    )


@given(HOSTILE, st.sets(st.integers(0, 30)))
@example(["#", "#", "[group]x"], {1})
@example([":", ":", "error::x"], {0})
@example(["a", "\r", "::error::x"], set())
@example(["::err", "or::x"], {1})
def test_no_ci_obeys_it_in_whatever_pieces_it_is_written(
    pieces: list[str], flushed: set[int]
) -> None:
    below = io.StringIO()
    stream = HarmlessStream(below)
    for n, piece in enumerate(pieces):
        assert stream.write(piece) == len(piece)
        if n in flushed:
            stream.flush()
    stream.flush()
    assert not any(map(obeyed, re.split(r"[\r\n]", below.getvalue())))


@given(PLAIN)
def test_plain_text_passes_unchanged(pieces: list[str]) -> None:
    below = io.StringIO()
    stream = HarmlessStream(below)
    stream.writelines(pieces)
    stream.flush()
    text = "".join(pieces)
    # Only a line's end is added, where the last line has none.
    expected = text if text.endswith("\n") or not text else f"{text}\n"
    if harmless(text) == text:
        assert below.getvalue() == expected


def test_lines_of_windows_are_lines() -> None:
    below = io.StringIO()
    HarmlessStream(below).write("one\r\ntwo\r\nthree\rfour\n")
    assert below.getvalue() == "one\ntwo\nthree\nfour\n"


def test_a_line_passes_when_it_is_whole() -> None:
    below = io.StringIO()
    stream = HarmlessStream(below)
    print("one", end="", file=cast(TextIO, stream))
    assert below.getvalue() == ""
    print(" line", file=cast(TextIO, stream))
    assert below.getvalue() == "one line\n"


def test_nothing_is_lost_that_several_threads_write() -> None:
    below = io.StringIO()
    stream = HarmlessStream(below)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:

        def say(name: str) -> None:
            for _ in range(2000):
                stream.write(name)
                stream.write("\n")

        threads = [threading.Thread(target=say, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    stream.flush()
    assert {name: below.getvalue().count(name) for name in "abcd"} == dict.fromkeys("abcd", 2000)


def test_what_is_to_be_obeyed_goes_below(monkeypatch: pytest.MonkeyPatch) -> None:
    below = io.StringIO()
    stream = HarmlessStream(below)
    monkeypatch.setattr(sys, "stdout", stream)
    sys.stdout.write("::error::text")
    cli.obeyed("::group::x")
    assert below.getvalue() == ": :error::text\n::group::x\n"


@pytest.mark.parametrize(
    ("arguments", "environment", "is_wrapped"),
    [
        (["ci", "prove", "x"], {}, True),
        (["releases", "me/model"], {"GITHUB_ACTIONS": "true"}, True),
        (["releases", "me/model"], {"TF_BUILD": "True"}, True),
        (["releases", "me/model"], {"GITLAB_CI": "true"}, False),
        (["releases", "me/model"], {}, False),
    ],
)
def test_which_commands_write_to_a_log_that_obeys(
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    environment: dict[str, str],
    is_wrapped: bool,
) -> None:
    for name in cli.COMMANDED:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)

    def run(arguments: list[str]) -> int:
        sys.stdout.write("::error::out\n")
        sys.stderr.write("##[error]err\n")
        return 5

    monkeypatch.setattr(cli, "run", run)
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 5
    assert obeyed(out.getvalue()) != is_wrapped
    assert obeyed(err.getvalue()) != is_wrapped


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.lists(PIECES).map("".join)
    | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.lists(PIECES).map("".join), inner),
    max_leaves=10,
)


@given(JSON, st.sampled_from([None, 2]))
@example("#\u034f#[group]", 2)
@example("####[x]", None)
@example("##vso[task.setvariable variable=PATH]x", 2)
@example(["a\n::error::b", "\ud800", "\u2028"], 2)
def test_json_stays_what_it_is_and_is_not_obeyed(content: Any, indent: int | None) -> None:
    below, before = io.StringIO(), sys.stdout
    sys.stdout = below
    try:
        print_json(content, indent)
    finally:
        sys.stdout = before
    text = below.getvalue()
    assert json.loads(text) == content
    assert harmless(text) == text
    assert not any(map(obeyed, text.splitlines()))
    text.encode()


def test_json_is_readable_where_it_can_be(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"name": "größer 大", "ref": "#1"})
    assert capsys.readouterr().out == '{\n  "name": "größer 大",\n  "ref": "#1"\n}\n'
