"""A bar on a terminal, plain lines in a log, nothing when quiet."""

from __future__ import annotations

import fcntl
import io
import os
import re
import struct
import termios
from collections.abc import Callable
from typing import TextIO

import pytest

from slogpt_hf import progress
from slogpt_hf.progress import SILENT, Progress, human_bytes


class Terminal(io.StringIO):
    """Says that it is one."""

    def isatty(self) -> bool:
        return True


def worked(stream: io.StringIO, *, quiet: bool = False, unit: str = "B") -> str:
    """What a stage of 3000 units writes."""
    work(stream, quiet=quiet, unit=unit)
    return stream.getvalue()


def work(stream: TextIO, *, quiet: bool = False, unit: str = "B") -> None:
    """A stage of 3000 units, then a line."""
    told = Progress(stream, quiet=quiet)
    with told.stage("convert", 3000, unit) as advance:
        for _ in range(3):
            advance(1000)
    told.line("   proof: done")


def test_terminal_shows_a_bar_with_a_rate() -> None:
    text = worked(Terminal())
    assert "\r" in text
    last = text.replace("\r", "\n").strip().splitlines()[-2]
    assert last.strip().startswith("convert: 100%|")
    assert "3.00k/3.00k" in last and re.search(r"\d(\.\d+)?[kMG]?B/s\]", last)
    assert text.endswith("   proof: done\n")


def test_terminal_counts_passes() -> None:
    text = worked(Terminal(), unit="passes")
    assert "3000/3000" in text and "passes/s]" in text


def test_log_has_plain_lines() -> None:
    first, second = worked(io.StringIO()).splitlines()
    assert re.fullmatch(r" convert: 3\.0 kB in \d+\.\d s \(\d+(\.\d)? [kMGT]?B/s\)", first)
    assert second == "   proof: done"
    (line, _) = worked(io.StringIO(), unit="passes").splitlines()
    assert re.fullmatch(r" convert: 3000 passes in \d+\.\d s \(\d+\.\d passes/s\)", line)


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_quiet_says_nothing(stream: Callable[[], io.StringIO]) -> None:
    assert worked(stream(), quiet=True) == ""


def test_silent_writes_nowhere(capsys: pytest.CaptureFixture[str]) -> None:
    with SILENT.stage("convert", 1) as advance:
        advance(1)
    SILENT.line("x")
    assert capsys.readouterr() == ("", "")


def test_rate_is_what_was_done_over_time(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([10.0, 12.0])
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(times))
    assert worked(io.StringIO()).splitlines()[0] == " convert: 3.0 kB in 2.0 s (1.5 kB/s)"


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_a_stage_that_fails_does_not_say_that_it_was_done(
    stream: Callable[[], io.StringIO],
) -> None:
    out = stream()
    with pytest.raises(KeyError), Progress(out).stage("convert", 10) as advance:
        advance(4)
        raise KeyError
    assert " in " not in out.getvalue() and "100%" not in out.getvalue()


@pytest.mark.parametrize(
    ("terminal", "quiet", "bars"),
    [(True, False, True), (True, True, False), (False, False, False), (False, True, False)],
)
def test_the_clients_own_bars(terminal: bool, quiet: bool, bars: bool) -> None:
    from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars

    enable_progress_bars()
    stream = Terminal() if terminal else io.StringIO()
    with Progress(stream, quiet=quiet).client_stage("upload", 5000):
        assert are_progress_bars_disabled() is not bars
    assert not are_progress_bars_disabled()
    assert ("upload: 5.0 kB" in stream.getvalue()) is not quiet


def test_the_clients_own_bars_stay_off_where_they_were() -> None:
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    disable_progress_bars()
    try:
        for told in (SILENT, Progress(Terminal())):
            with told.client_stage("upload", 5000):
                pass
            assert are_progress_bars_disabled()
    finally:
        enable_progress_bars()


@pytest.mark.parametrize("columns", [0, 80])
def test_a_terminal_without_a_size_gets_plain_lines(columns: int) -> None:
    """As in ``script`` and ``docker run -t``: a bar of no width is no bar."""
    try:
        controller, terminal = os.openpty()
    except OSError:
        pytest.skip("this machine has no pseudo-terminals")
    try:
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 0, columns, 0, 0))
        with os.fdopen(terminal, "w") as stream:
            work(stream)
            text = os.read(controller, 65536).decode()
    finally:
        os.close(controller)
    assert ("convert: 3.0 kB in" in text) is (columns == 0)
    assert ("100%|" in text) is (columns == 80)


SIZES = {0: "0 B", 999: "999 B", 1000: "1.0 kB", 1_400_000_000: "1.4 GB", 2 * 10**15: "2000.0 TB"}


@pytest.mark.parametrize("size", SIZES)
def test_human_bytes(size: int) -> None:
    assert human_bytes(size) == SIZES[size]
