"""How a daemon ends: at once where nothing is lost, else behind what it is at."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@dataclass
class Shutdown:
    """SIGTERM and SIGINT of a daemon.

    Idle, looking or downloading, it ends at once. A release under way is finished first: its proof
    may have taken long, and a supervisor that cannot wait kills, which does no harm either. The
    second signal gives the release up. What a signal raised may be lost where it came (in a
    finaliser, or behind a library that catches everything), so that ``check`` counts too.
    """

    busy: bool = False
    requested: bool = False

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handle the signals for the time of the block, in the main thread."""
        before = {each: signal.signal(each, self._handle) for each in _SIGNALS}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    @contextmanager
    def finishing(self) -> Iterator[None]:
        """A block that the first signal does not interrupt; ``check`` ends what follows it."""
        self.busy = True
        try:
            yield
        finally:
            self.busy = False

    def check(self) -> None:
        """Raise Stopped if a signal came."""
        if self.requested:
            raise Stopped

    def _handle(self, number: int, frame: FrameType | None) -> None:
        first, self.requested = not self.requested, True
        if not first:
            raise KeyboardInterrupt
        if not self.busy:
            raise Stopped


class Stopped(BaseException):
    """A daemon was told to end, and may."""
