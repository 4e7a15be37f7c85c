"""The processes of a batch, with a stub in place of the one that converts."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from slogpt_hf.batch import pool as module
from slogpt_hf.batch.memory import RESIDENT
from slogpt_hf.batch.pool import Pool, Task

Said = list[tuple[int, dict[str, Any]]]
MANY = 1 << 50


@pytest.fixture
def pool(tmp_path: Path) -> Callable[..., Pool]:
    def make(jobs: int, budget: int = MANY) -> Pool:
        command = (sys.executable, str(Path(__file__).with_name("stub.py")))
        return Pool(jobs, budget, 1, tmp_path, {"NOTES": str(tmp_path)}, command)

    return make


def said(pool: Pool, *words: str) -> Said:
    """What the pool says about tasks until all are done; leaves no process."""
    with pool:
        for index, word in enumerate(words):
            pool.submit(Task(index, "stub", {"path": word}, {}))
        found = [(task.index, message) for task, message in pool.messages()]
    assert not pool._workers
    return found


def ends(found: Said) -> dict[int, Any]:
    return {index: m.get("exit_code", 0) for index, m in found if "done" in m or "error" in m}


def processes(found: Said) -> set[str]:
    return {m["line"].split()[-1] for _, m in found if " in " in m.get("line", "")}


def test_one_that_fails_or_dies_keeps_none_of_the_others(pool: Callable[..., Pool]) -> None:
    found = said(pool(2), "ok", "fail:4", "die", "ok", "die", "ok")
    assert ends(found) == {0: 0, 1: 4, 2: 1, 3: 0, 4: 1, 5: 0}
    errors = [m["error"] for index, m in found if index in (2, 4) and "error" in m]
    assert len(errors) == 2
    assert all("SIGKILL (out of luck)" in error and "--jobs" in error for error in errors)


def test_processes_are_used_again_and_no_more_of_them_than_jobs(pool: Callable[..., Pool]) -> None:
    assert len(processes(said(pool(1), *["ok"] * 4))) == 1
    assert len(processes(said(pool(3), *["ok"] * 6))) <= 3


def most_at_once(pool: Pool, needs: list[int]) -> tuple[int, int]:
    """How many went on at once at most, and how many were told to wait for memory."""
    at_work: dict[int, int] = {}
    begun: dict[int, int] = {}
    most = waited = done = 0
    with pool:
        for index, need in enumerate(needs):
            pool.submit(Task(index, "stub", {"path": f"need:{need}"}, {}))
        for task, message in pool.messages():
            if " in " in (line := message.get("line", "")):
                begun[task.index] = int(line.split()[-1])
            elif line == "admitted":
                at_work[task.index] = begun[task.index]
            elif "waits" in message:
                waited += 1
            elif "done" in message:
                done += 1
                del at_work[task.index]
            most = max(most, len(at_work))
            if at_work and (len(at_work) == 2 or "waits" in message or done == len(needs) - 1):
                for process in at_work.values():
                    os.kill(process, signal.SIGUSR1)
    return most, waited


def test_the_budget_is_kept_and_what_waits_is_told(pool: Callable[..., Pool]) -> None:
    two = 2 * RESIDENT
    assert most_at_once(pool(2, two + 150), [100, 100]) == (1, 1)
    assert most_at_once(pool(2, two + 200), [100, 100]) == (2, 0)


def test_what_needs_more_than_the_budget_runs_alone(pool: Callable[..., Pool]) -> None:
    assert most_at_once(pool(2, 2 * RESIDENT), [100, 100]) == (1, 1)
    found = said(pool(3, 10), "ok", "ok", "ok")
    assert len(processes(found)) == 1


def test_a_task_may_be_put_before_the_others_meanwhile(pool: Callable[..., Pool]) -> None:
    order = []
    with pool(1) as running:
        for index in range(3):
            running.submit(Task(index, "stub", {"path": "ok"}, {}))
        for task, message in running.messages():
            if "done" in message:
                order.append(task.index)
                if task.index == 0:
                    running.submit(Task(9, "stub", {"path": "ok"}, {}), first=True)
                if task.index == 1:
                    running.forget()
    assert order == [0, 9, 1]


def hung(running: Pool) -> Iterator[int]:
    """Process ids of tasks that go on for ever, when all of them have begun."""
    for _, message in running.messages():
        if " in " in message.get("line", ""):
            yield int(message["line"].split()[-1])


def gone(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_whatever_ends_the_block_interrupts_all_and_leaves_none(
    pool: Callable[..., Pool], tmp_path: Path, error: type[BaseException]
) -> None:
    begun: list[int] = []
    with pytest.raises(error), pool(2) as running:
        for index in range(3):
            running.submit(Task(index, "stub", {"path": "hang"}, {}))
        for process in hung(running):
            begun.append(process)
            if len(begun) == 2:
                raise error
    assert all(map(gone, begun))
    notes = {path.name for path in tmp_path.glob("interrupted-*")}
    assert notes == {f"interrupted-{process}" for process in begun}


def test_one_that_does_not_end_is_killed(
    pool: Callable[..., Pool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GRACE", 0.0)
    monkeypatch.setattr(module.signal, "SIGTERM", module.signal.SIGCONT)  # which it ignores
    with pool(1) as running:
        running.submit(Task(0, "stub", {"path": "hang"}, {}))
        process = next(hung(running))
    assert gone(process)
