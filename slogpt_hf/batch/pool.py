"""The processes of a batch: as many tasks at once as was asked for and as fit into memory."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from slogpt_hf.batch.memory import RESIDENT
from slogpt_hf.errors import first_line

GRACE = 10.0  # seconds that a process has to clean up, before its parent does it for it
READ_BYTES = 1 << 16
WORKER = (sys.executable, "-P", "-m", "slogpt_hf.batch.worker")
MOST_SAID = 4096  # bytes of what a process said before it ended
MOST_LINE = 64 << 20  # bytes of a message; a record has some kilobytes


@dataclass(frozen=True)
class Task:
    """Something to do, by a name of ``worker.TASKS``.

    Attributes:
        index: of the checkpoint that it is about.
        do: the name.
        arguments: JSON-ready.
        settings: of ``Settings``, by name, JSON-ready.
    """

    index: int
    do: str
    arguments: Mapping[str, str]
    settings: Mapping[str, Any]


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    errors: IO[bytes]
    task: Task | None = None
    resident: int = RESIDENT  # bytes without what its task needs
    need: int = 0  # bytes, once admitted
    waiting: int | None = None  # bytes that it asks for
    told: bool = False  # that it waits
    read: bytearray = field(default_factory=bytearray)

    def say(self, message: Mapping[str, Any]) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # its end is noticed where its messages are read
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()


class Pool:
    """Processes that do tasks, for the time of a ``with`` block; at its end none is left.

    Args:
        jobs: most tasks at once.
        budget: bytes of memory for all; a task that needs more than all of it runs alone.
        threads: of torch, for each process.
        temporary: folder for what the processes write for themselves.
        environment: of the processes, besides that of this one.
        command: that starts one, in place of the own.
    """

    def __init__(
        self,
        jobs: int,
        budget: int,
        threads: int,
        temporary: Path,
        environment: Mapping[str, str] | None = None,
        command: Sequence[str] = (),
    ) -> None:
        self.jobs, self.budget, self.temporary = jobs, budget, temporary
        self.command = command or WORKER
        self.environment = {
            **os.environ,
            **(environment or {}),
            "OMP_NUM_THREADS": str(threads),
            "TMPDIR": str(temporary),
            "PYTHONPATH": os.pathsep.join(_own_path()),
        }
        self._tasks: deque[Task] = deque()
        self._workers: list[_Worker] = []
        self._selector = selectors.DefaultSelector()

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._end()
        except BaseException:  # a second Ctrl-C: no time for anything
            self._kill()
            raise

    def submit(self, task: Task, *, first: bool = False) -> None:
        """Have a task done after the others, or before them; also while ``messages`` runs."""
        self._tasks.insert(0 if first else len(self._tasks), task)

    def forget(self) -> None:
        """Do none of the tasks that no process has begun."""
        self._tasks.clear()

    def messages(self) -> Iterator[tuple[Task, dict[str, Any]]]:
        """What the processes say, until every task is done.

        Yields:
            A task, and: ``started``; ``line``; ``stage`` with ``total`` and ``at``; ``waits``, for
            memory; at last ``done``, or ``error`` with ``exit_code``.
        """
        while True:
            yield from self._start()
            yield from self._admit()
            if not any(worker.task for worker in self._workers):
                if not self._tasks:
                    return
                continue
            for key, _ in self._selector.select():
                yield from self._heard(key.data)

    def _start(self) -> Iterator[tuple[Task, dict[str, Any]]]:
        while self._tasks and sum(1 for w in self._workers if w.task) < self.jobs:
            idle = next((w for w in self._workers if w.task is None), None)
            if idle is None and self._workers and self._used() + RESIDENT > self.budget:
                return
            worker = idle or self._new()
            worker.task = task = self._tasks.popleft()
            worker.say({"do": task.do, "arguments": task.arguments, "settings": task.settings})
            yield task, {"started": task.do}

    def _used(self) -> int:
        return sum(worker.resident + worker.need for worker in self._workers)

    def _admit(self) -> Iterator[tuple[Task, dict[str, Any]]]:
        """Let those go on that wait for memory, the first of the batch first."""
        asking = [w for w in self._workers if w.task and w.waiting is not None]
        for worker in sorted(asking, key=lambda each: each.task.index if each.task else 0):
            assert worker.waiting is not None
            alone = not any(each.need for each in self._workers)
            if not alone and self._used() + worker.waiting > self.budget:
                if worker.task and not worker.told:
                    worker.told = True
                    yield worker.task, {"waits": True}
                return
            worker.need, worker.waiting = max(1, worker.waiting), None
            worker.told = False
            worker.say({})

    def _new(self) -> _Worker:
        errors = tempfile.TemporaryFile(dir=self.temporary)  # noqa: SIM115  closed where it is read
        process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=self.environment,
            start_new_session=True,  # Ctrl-C reaches this process alone, which ends the others
        )
        worker = _Worker(process, errors)
        assert process.stdout is not None
        self._selector.register(process.stdout, selectors.EVENT_READ, worker)
        self._workers.append(worker)
        return worker

    def _heard(self, worker: _Worker) -> Iterator[tuple[Task, dict[str, Any]]]:
        assert worker.process.stdout is not None
        data = os.read(worker.process.stdout.fileno(), READ_BYTES)
        task = worker.task
        if not data or len(worker.read) > MOST_LINE:
            self._remove(worker)
            if task is not None:
                yield task, _ended(worker)
            return
        worker.read += data
        *lines, rest = worker.read.split(b"\n")
        worker.read = bytearray(rest)
        for message in map(json.loads, lines):
            assert task is not None
            if "need" in message:
                worker.waiting = message["need"]
                continue
            if "done" in message or "error" in message:
                worker.task, worker.need = None, 0
                worker.resident = max(RESIDENT, message.pop("resident"))
            yield task, message

    def _remove(self, worker: _Worker) -> None:
        assert worker.process.stdout is not None and worker.process.stdin is not None
        self._selector.unregister(worker.process.stdout)
        self._workers.remove(worker)
        _signal(worker, signal.SIGKILL)  # what it started
        worker.process.wait()
        for pipe in (worker.process.stdout, worker.process.stdin):
            with suppress(BrokenPipeError):
                pipe.close()

    def _end(self) -> None:
        for worker in self._workers:
            _signal(worker, signal.SIGTERM if worker.task else signal.SIGKILL)
        until = time.monotonic() + GRACE
        for worker in self._workers:
            with suppress(subprocess.TimeoutExpired):
                worker.process.wait(max(0.0, until - time.monotonic()))
        self._kill()

    def _kill(self) -> None:
        for worker in tuple(self._workers):
            self._remove(worker)
            worker.errors.close()
        self._selector.close()


def _signal(worker: _Worker, number: signal.Signals) -> None:
    """Send a signal to a process, and SIGKILL to what it started as well."""
    with suppress(ProcessLookupError, PermissionError):
        if number == signal.SIGKILL:
            os.killpg(worker.process.pid, number)
        else:
            worker.process.send_signal(number)


def _ended(worker: _Worker) -> dict[str, Any]:
    """The message in place of that of a process which is gone."""
    code = worker.process.returncode
    worker.errors.seek(max(0, worker.errors.seek(0, os.SEEK_END) - MOST_SAID))
    lines = worker.errors.read().decode("utf-8", "replace").strip().splitlines()
    worker.errors.close()
    how = f"with exit code {code}"
    if code < 0:
        how = f"by {signal.Signals(-code).name}"
    said = f" ({first_line(lines[-1])})" if lines else ""
    hint = "Try it alone, or fewer at once (--jobs); see whether memory ran out."
    return {"error": f"The process that did it was ended {how}{said}. {hint}", "exit_code": 1}


def _own_path() -> list[str]:
    """Where this very package lies, before what the environment names."""
    import slogpt_hf

    given = os.environ.get("PYTHONPATH", "")
    return [str(Path(slogpt_hf.__file__).parents[1]), *filter(None, given.split(os.pathsep))]
