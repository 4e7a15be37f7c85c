"""Converting and releasing many checkpoints: one that fails neither stops nor hides the others."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from slogpt_hf.batch.choosing import Chosen
from slogpt_hf.batch.memory import free_memory
from slogpt_hf.batch.outcome import Outcome
from slogpt_hf.batch.pool import Pool, Task
from slogpt_hf.batch.table import Table, shown
from slogpt_hf.card.record import RECORD_FILE
from slogpt_hf.errors import HubError, UsageError
from slogpt_hf.progress import Progress
from slogpt_hf.settings import Settings

AHEAD = 2  # times the jobs: how far proofs go ahead of what is published, since artefacts are kept


class Batch:
    """Many checkpoints, and how they are worked on.

    Args:
        found: the checkpoints.
        settings: of all of them.
        jobs: most at once.
        memory: bytes that they may take; None for most of what is free.
        progress: told what happens.
    """

    def __init__(
        self,
        found: Sequence[Chosen],
        settings: Settings,
        jobs: int,
        memory: int | None,
        progress: Progress,
    ) -> None:
        if settings.output:
            raise UsageError("--output takes one checkpoint at a time.", hint="Leave --output out.")
        self.found, self.settings = found, settings
        self.jobs = min(jobs, len(found))
        self.memory = free_memory() if memory is None and jobs > 1 else memory or 0
        self.table = Table(progress, [shown(str(each.path)) for each in found])
        self.began: dict[int, float] = {}

    def convert(self, output: Path) -> Iterator[Outcome]:
        """Convert each into a folder of its name below ``output``, in whatever order they end.

        Raises:
            UsageError: ``output`` cannot hold them.
        """
        if (output / RECORD_FILE).is_file() or (output.exists() and not output.is_dir()):
            raise UsageError(
                f"{output}: is no folder that several artefacts can go to.",
                hint="Name another output.",
            )
        folders = [output / each.name for each in self.found]
        with _nothing_partial(output, folders), self._pool({}) as (pool, _):
            for index, folder in enumerate(folders):
                pool.submit(self._task(index, "convert", folder))
            for task, message in pool.messages():
                if outcome := self._ended(task.index, message):
                    if not outcome.exit_code:
                        name, status = str(folders[task.index]), message["done"]["status"]
                        facts = {"output": name, "record": outcome.facts}
                        outcome = replace(outcome, status=status, facts=facts, output=name)
                    yield self._told(task.index, outcome)

    def release(self, environment: Mapping[str, str]) -> Iterator[Outcome]:
        """Release each, in their order: proofs run at once, publication one after the other.

        So versions, tags and branches become what they become without jobs. Behind one that the
        hub refuses, none is published: their versions would depend on it.

        Args:
            environment: of the processes, besides that of this one.
        """
        with self._pool(environment) as (pool, folder):
            yield from _Releases(self, pool, folder).outcomes()

    @contextmanager
    def _pool(self, environment: Mapping[str, str]) -> Iterator[tuple[Pool, Path]]:
        threads = max(1, _processors() // self.jobs)
        prefix = "slogpt-hf-"
        with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as name:
            folder = Path(name)
            try:
                with Pool(self.jobs, self.memory, threads, folder, environment) as pool:
                    yield pool, folder
            finally:
                self.table.close()

    def _task(self, index: int, do: str, folder: Path) -> Task:
        chosen, report = self.found[index], Path(self.settings.report)
        # What several refusals keep must not be one file.
        own = report.with_name(f"{report.stem}-{chosen.name}{report.suffix}")
        settings = asdict(replace(self.settings, report=str(own)))
        arguments = {"path": str(chosen.path), "output": str(folder)}
        return Task(index, do, arguments, settings)

    def _ended(self, index: int, message: Mapping[str, Any]) -> Outcome | None:
        """What a task came to, if a message says that; shows what others say."""
        self.began.setdefault(index, time.monotonic())
        name, seconds = str(self.found[index].path), time.monotonic() - self.began[index]
        if "error" in message:
            code = message["exit_code"]
            release = message.get("release") or {}
            shown = f"{release['repo_id']}@{release['tag']}" if release else ""
            return Outcome(name, "failed", release, shown, message["error"], code, seconds, index)
        if "done" in message:
            done = message["done"]
            facts = done.get("record") or done.get("release") or {}
            return Outcome(name, "", facts, seconds=seconds, index=index)
        self.table.show(index, message)
        return None

    def _told(self, index: int, outcome: Outcome) -> Outcome:
        self.table.end(index, outcome)
        return outcome


class _Releases:
    """Which checkpoints of a batch are proven, and whose turn it is to be published."""

    def __init__(self, batch: Batch, pool: Pool, folder: Path) -> None:
        self.batch, self.pool, self.folder = batch, pool, folder
        self.n = len(batch.found)
        self.turn = self.submitted = 0
        self.ready: set[int] = set()
        self.ended: dict[int, Outcome] = {}
        self.publishing: int | None = None
        self.refused: Outcome | None = None

    def outcomes(self) -> Iterator[Outcome]:
        """Every outcome, in the order of the checkpoints."""
        yield from self._go_on()
        for task, message in self.pool.messages():
            if outcome := self.batch._ended(task.index, message):
                self._take(task, outcome)
                yield from self._go_on()
            if self.turn == self.n:  # what is still at work would not be published
                return

    def _take(self, task: Task, outcome: Outcome) -> None:
        if task.do == "publish":
            self.publishing = None
            shutil.rmtree(self._artefact(task.index), ignore_errors=True)
        if not outcome.exit_code and not outcome.facts:
            self.ready.add(task.index)
            return
        if not outcome.exit_code:
            release = outcome.facts
            status = "released" if release["released"] else "known"
            shown = f"{release['repo_id']}@{release['tag']}"
            outcome = replace(outcome, status=status, output=shown)
        self.ended[task.index] = outcome

    def _go_on(self) -> Iterator[Outcome]:
        """Give out what is decided, and submit what can be begun."""
        while self.turn < self.n:
            outcome = self.ended.pop(self.turn, None)
            if outcome is None and self.refused:
                outcome = self._not_tried(self.turn)
            if outcome is None:
                break
            if outcome.exit_code == HubError.exit_code and self.refused is None:
                self.refused = outcome
                self.pool.forget()
            yield self.batch._told(self.turn, outcome)
            self.turn += 1
        if self.turn in self.ready and self.publishing is None and self.refused is None:
            self.ready.discard(self.turn)
            self.publishing = self.turn
            self.pool.submit(self._task("publish", self.turn), first=True)
        if self.refused is None:
            for index in range(self.submitted, min(self.n, self.turn + AHEAD * self.batch.jobs)):
                self.pool.submit(self._task("prove", index))
                self.submitted = index + 1

    def _not_tried(self, index: int) -> Outcome:
        assert self.refused is not None
        message = f"Not tried, since {self.refused.checkpoint} before it could not be published."
        path = str(self.batch.found[index].path)
        code = self.refused.exit_code
        return Outcome(path, "failed", {}, "", message, code, index=index)

    def _task(self, do: str, index: int) -> Task:
        return self.batch._task(index, do, self._artefact(index))

    def _artefact(self, index: int) -> Path:
        return self.folder / f"artefact-{index}"


@contextmanager
def _nothing_partial(output: Path, folders: Sequence[Path]) -> Iterator[None]:
    """Remove what a killed process left half-written, and ``output`` if nothing came into it."""
    starts = tuple(f".{folder.name}.partial-" for folder in folders)
    there, before = output.is_dir(), set(output.glob(".*.partial-*"))
    try:
        yield
    finally:
        for path in set(output.glob(".*.partial-*")) - before:
            if path.name.startswith(starts):
                shutil.rmtree(path, ignore_errors=True)
        if not there:
            with suppress(OSError):
                output.rmdir()


def _processors() -> int:
    """Processors that torch may use, of those that this process may run on."""
    has = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    given = os.environ.get("OMP_NUM_THREADS", "")
    return min(has, int(given)) if given.isdecimal() and int(given) else has
