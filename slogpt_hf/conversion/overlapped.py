"""Writing that overlaps with making what is written next, and with the disk."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

SYNC_BYTES = 64 << 20  # dirty pages go to the disk from here on, not all of them at the end
IN_FLIGHT = 8  # pieces: more than most tensors have, so that the next one is made meanwhile


class OverlappedFile:
    """A new file: one thread writes it in order, another one syncs it as it grows.

    Leaving the block waits for both and syncs the rest, so that the file is on the disk.
    An error of a thread (a full disk) is raised by the next call.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("xb", buffering=0)
        self._writer, self._syncer = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self._pending: deque[Future[None]] = deque()
        self._sync: Future[None] | None = None
        self._unsynced = 0

    def __enter__(self) -> OverlappedFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self.drain()
                if self._sync is not None:
                    self._sync.result()  # the kernel reports an error once, so not to fsync below
        finally:
            self._writer.shutdown(cancel_futures=True)
            self._syncer.shutdown(cancel_futures=True)
            with self._file:
                if kind is None:
                    os.fsync(self._file.fileno())

    def write(
        self, data: bytes | memoryview, before: Callable[[], None] = lambda: None
    ) -> Future[None]:
        """Queue bytes, which must not change until the future that it returns is done.

        Args:
            data: what to write.
            before: run by the writing thread first; what it raises, a later call raises.
        """
        while len(self._pending) >= IN_FLIGHT:
            self._pending.popleft().result()
        self._pending.append(self._writer.submit(self._write, memoryview(data), before))
        self._unsynced += len(data)
        if self._unsynced >= SYNC_BYTES and (self._sync is None or self._sync.done()):
            self._unsynced = 0
            if self._sync is not None:
                self._sync.result()
            self._sync = self._syncer.submit(os.fdatasync, self._file.fileno())
        return self._pending[-1]

    def drain(self) -> None:
        """Wait until everything queued is written, though not yet synced."""
        while self._pending:
            self._pending.popleft().result()

    def _write(self, data: memoryview, before: Callable[[], None]) -> None:
        before()
        while data:
            data = data[self._file.write(data) :]
