"""The table of progress: rows on a terminal, lines in a log, nothing if quiet."""

from __future__ import annotations

import io

import pytest

from slogpt_hf.batch.outcome import Outcome
from slogpt_hf.batch.table import Table
from slogpt_hf.progress import Progress

NAMES = ["runs/a/ckpt.pt", "runs/" + "very" * 20 + "long/ckpt.pt"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(stream: io.StringIO, quiet: bool = False) -> str:
    """What is shown of two checkpoints, of which one fails."""
    table = Table(Progress(stream, quiet), NAMES)
    for index in (0, 1):
        table.show(index, {"started": "convert"})
        table.show(index, {"line": "    plan: 10 parameters"})
    table.show(0, {"waits": True})
    table.show(1, {"stage": "verify", "total": 8, "at": 2})
    table.show(1, {"stage": "verify", "total": 8, "at": 99})
    table.end(0, Outcome(NAMES[0], "converted", {}, "out/a\x1b[2J", seconds=1.5))
    table.end(1, Outcome(NAMES[1], "failed", {}, "", "broken", 3))
    table.close()
    return stream.getvalue()


def test_a_log_has_a_line_for_each_thing() -> None:
    lines = shown(io.StringIO()).splitlines()
    assert lines[:2] == [f"{NAMES[0]}: begins", f"{NAMES[0]}: plan: 10 parameters"]
    assert f"{NAMES[0]}: waits for memory" in lines
    assert lines[-2].split()[1:] == ["converted", "out/a\\x1b[2J", "in", "1.5", "s", "[1/2]"]
    assert lines[-1].endswith("failed (exit code 3) in 0.0 s  [2/2, 1 failed]")
    assert not any("\r" in line or "verify" in line for line in lines)


def test_a_terminal_has_a_row_for_each_at_work() -> None:
    text = shown(Terminal())
    assert "verify" in text and " 25% " in text and "100% " in text
    assert "waits for memory" in text and "[2/2, 1 failed]" in text
    assert "plan: 10" not in text and "..." in text


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_quiet_says_nothing(stream: io.StringIO) -> None:
    assert shown(stream, quiet=True) == ""
