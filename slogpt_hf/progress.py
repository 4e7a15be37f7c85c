"""Progress of a stage: a bar with a rate on a terminal, plain lines in a log."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

Advance = Callable[[int], None]
BYTE_UNITS = ("B", "kB", "MB", "GB", "TB")


class Progress:
    """Reports stages to ``stream``; ``quiet`` says nothing at all."""

    def __init__(self, stream: TextIO | None = None, quiet: bool = False) -> None:
        self.stream = stream or sys.stderr
        self.quiet = quiet
        self.is_terminal = _is_terminal(self.stream)

    def line(self, text: str) -> None:
        """One plain line."""
        if not self.quiet:
            print(text, file=self.stream, flush=True)

    @contextmanager
    def stage(self, name: str, total: int, unit: str = "B") -> Iterator[Advance]:
        """A stage of ``total`` units; yields what takes the units done since its last call."""
        done, started = 0, time.perf_counter()
        bar = None
        if self.is_terminal and not self.quiet:
            from tqdm import tqdm

            scale = unit == "B"
            bar = tqdm(
                total=total, desc=f"{name:>8}", unit=unit, unit_scale=scale, file=self.stream
            )

        def advance(units: int) -> None:
            nonlocal done
            done += units
            if bar is not None:
                bar.update(units)

        try:
            yield self.advancing(name, total, advance)
        finally:
            if bar is not None:
                bar.close()
        if bar is None:
            self.line(f"{name:>8}: {_amount(done, unit)} {_pace(done, started, unit)}")

    def advancing(self, name: str, total: int, advance: Advance) -> Advance:
        """What a stage hands out to be told of progress: ``advance``, or more."""
        return advance

    @contextmanager
    def client_stage(self, name: str, total: int) -> Iterator[None]:
        """A stage of ``total`` bytes that the Hub client does, with its own bars on a terminal."""
        from huggingface_hub.utils import (
            are_progress_bars_disabled,
            disable_progress_bars,
            enable_progress_bars,
        )

        hide = (self.quiet or not self.is_terminal) and not are_progress_bars_disabled()
        if hide:
            disable_progress_bars()
        started = time.perf_counter()
        try:
            yield
        finally:
            if hide:
                enable_progress_bars()
        self.line(f"{name:>8}: {human_bytes(total)} {_pace(total, started, 'B')}")


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers from its own bars and warnings, such as that on a class it has not."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def human_bytes(n_bytes: float) -> str:
    """Bytes with a decimal unit, e.g. ``1.4 GB``."""
    size = float(n_bytes)
    for name in BYTE_UNITS:
        if size < 1000 or name == BYTE_UNITS[-1]:
            break
        size /= 1000
    return f"{size:.0f} {name}" if name == "B" else f"{size:.1f} {name}"


def _is_terminal(stream: TextIO) -> bool:
    """Whether a bar can be drawn; a pty that was given no size has no columns for one."""
    if not stream.isatty():
        return False
    try:
        return os.get_terminal_size(stream.fileno()).columns > 0
    except (OSError, ValueError):  # a terminal without a descriptor to ask
        return True


def _amount(done: int, unit: str) -> str:
    return human_bytes(done) if unit == "B" else f"{done} {unit}"


def _pace(done: int, started: float, unit: str) -> str:
    seconds = max(time.perf_counter() - started, 1e-9)
    rate = human_bytes(done / seconds) if unit == "B" else f"{done / seconds:.1f} {unit}"
    return f"in {seconds:.1f} s ({rate}/s)"


SILENT = Progress(quiet=True)
