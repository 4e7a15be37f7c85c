"""kill -9 of the releaser before and after any request: a rerun ends where it would have ended."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slogpt_hf.hub.embedded import Request, Response

REPO = "me/model"
REQUESTS = {"missing": 21, "released": 17, "candidates": 18}  # of a release, nothing failing
MOMENTS = [
    (start, number, moment)
    for start, requests in REQUESTS.items()
    for number in range(1, requests + 1)
    for moment in ("before", "after")
]
ALL = "TESTS_EVERY_KILL"  # else some, others on each day of a year
PLAYED = MOMENTS if os.environ.get(ALL) else random.Random(4).sample(MOMENTS, 16)


def started(hub: Any, artefact: Path, *options: str) -> subprocess.Popen[bytes]:
    """``slogpt-hf push`` in a process of its own."""
    import slogpt_hf

    environment = os.environ | {
        "HF_ENDPOINT": hub.endpoint,
        "HF_TOKEN": "hf_canary",
        "PYTHONPATH": str(Path(slogpt_hf.__file__).parents[1]),
    }
    command = [sys.executable, "-m", "slogpt_hf", "push", str(artefact), "--repo-id", REPO]
    return subprocess.Popen(
        [*command, "--transfer", "lfs", *options],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def killer(
    process: list[subprocess.Popen[bytes]], is_started: threading.Event, moment: str
) -> Callable[[Request], Response | None]:
    def kill(request: Request) -> Response | None:
        if moment == "after":
            request.proceed()
        is_started.wait(60)
        os.kill(process[0].pid, signal.SIGKILL)
        process[0].wait(60)
        raise ConnectionResetError("killed")

    return kill


@pytest.fixture(scope="module")
def undisturbed(faulty_hub: Any, seeds: Any, artefacts: Any, view: Any) -> Callable[[str], Any]:
    """What the hub holds after a release that nothing disturbs, by where it starts."""
    found: dict[str, Any] = {}

    def release(start: str) -> Any:
        if start not in found:
            faulty_hub.reset(seeds["missing" if start == "missing" else "released"])
            artefact = artefacts["sharded" if start == "missing" else "single"]
            process = started(faulty_hub, artefact, *options(start))
            assert process.communicate(timeout=120) and process.returncode == 0
            assert len(faulty_hub.steps) == REQUESTS[start]
            found[start] = view(faulty_hub.folder)
        return found[start]

    return release


def options(start: str) -> tuple[str, ...]:
    return ("--promote", "never") if start == "candidates" else ()


def content(shown: Any) -> Any:
    """What two runs have in common: all but ids of commits, which have their times."""
    history = {name: len(commits) for name, commits in shown.branches.items()}
    ledgers = {tag: shown.ledger(tag) for tag in shown.tags}
    files = {
        ref: {n: d for n, d in digests.items() if n not in ("release.json", "README.md")}
        for ref, digests in shown.digests.items()
    }
    return history, ledgers, files


@pytest.mark.parametrize(("start", "number", "moment"), PLAYED, ids=lambda value: str(value))
def test_rerun_after_a_kill_ends_in_the_same_state(
    start: str,
    number: int,
    moment: str,
    undisturbed: Any,
    faulty_hub: Any,
    seeds: Any,
    artefacts: Any,
    released: Any,
    view: Any,
) -> None:
    expected = undisturbed(start)
    seed = seeds["missing" if start == "missing" else "released"]
    faulty_hub.reset(seed)
    process: list[subprocess.Popen[bytes]] = []
    is_started = threading.Event()
    kill = killer(process, is_started, moment)
    faulty_hub.at(number, kill)
    name = "sharded" if start == "missing" else "single"
    process.append(started(faulty_hub, artefacts[name], *options(start)))
    is_started.set()
    process[0].communicate(timeout=120)
    assert process[0].returncode == -signal.SIGKILL
    faulty_hub.settle()
    left = view(faulty_hub.folder)
    if left is not None:
        left.require_whole_tags()
    faulty_hub.heal()
    promote = "never" if start == "candidates" else "latest"
    release = released(name, promote=promote)
    after = view(faulty_hub.folder)
    after.require_whole_tags()
    assert content(after) == content(expected)
    assert after.tags[release.tag] == release.commit
    kept = left.tags if left else {}
    assert kept.items() <= after.tags.items()
