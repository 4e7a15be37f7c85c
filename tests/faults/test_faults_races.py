"""Releases that meet on one repository: all are published, in order, none lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slogpt_hf.errors import HubError
from slogpt_hf.hub.embedded import Request, Response

REPO = "me/model"
FORM = ("--transfer", "lfs", "--json")
NAMES = ("sharded", "single", "third", "fourth")


class Gate:
    """Holds the first request of every client at a step until all of them are there."""

    def __init__(self, clients: int) -> None:
        self.barrier = threading.Barrier(clients)
        self.left = clients
        self.lock = threading.Lock()

    def __call__(self, request: Request) -> Response | None:
        with self.lock:
            self.left -= 1
            waits = self.left >= 0
        if waits:
            self.barrier.wait(60)
        return request.proceed()


def pushed(hub: Any, artefacts: list[Path], *options: str) -> list[tuple[int, dict[str, Any], str]]:
    """Pushes all at once, each in a process of its own: exit code, ``--json``, stderr."""
    import slogpt_hf

    environment = os.environ | {
        "HF_ENDPOINT": hub.endpoint,
        "HF_TOKEN": "hf_canary",
        "PYTHONPATH": str(Path(slogpt_hf.__file__).parents[1]),
    }
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "slogpt_hf",
                "push",
                str(path),
                "--repo-id",
                REPO,
                *FORM,
                *options,
            ],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for path in artefacts
    ]
    found = []
    for process in processes:
        out, err = process.communicate(timeout=120)
        found.append((process.returncode, json.loads(out) if out else {}, err))
    return found


def require_line_of_releases(shown: Any, tags: list[str], before: int) -> None:
    """The tags are consecutive commits on main, and the last one's ledger has each once."""
    shown.require_whole_tags()
    line = shown.branches["main"]
    assert shown.tags.keys() == set(tags)
    assert [shown.tags[tag] for tag in tags] == list(reversed(line))[before:]
    ledger = shown.ledger(tags[-1])
    assert [f"v{version}" for version, _ in ledger] == tags[::-1]
    assert len({identity for _, identity in ledger}) == len(tags)


@pytest.mark.parametrize("step", ["refs", "whoami", "create", "commit"])
def test_two_first_releases(
    step: str, faulty_hub: Any, seeds: Any, artefacts: Any, view: Any
) -> None:
    """Both meet at each request in turn, neither knows of the other before it."""
    faulty_hub.reset(seeds["missing"])
    faulty_hub.always((step, 1), Gate(2))
    found = pushed(faulty_hub, [artefacts[name] for name in NAMES[:2]])
    assert [code for code, _, _ in found] == [0, 0], found
    assert {result["version"] for _, result, _ in found} == {"1.0.0", "1.0.1"}
    require_line_of_releases(view(faulty_hub.folder), ["v1.0.0", "v1.0.1"], before=1)


@pytest.mark.parametrize("step", ["refs", "preupload", "commit"])
def test_two_more_releases(
    step: str, faulty_hub: Any, seeds: Any, artefacts: Any, view: Any
) -> None:
    faulty_hub.reset(seeds["released"])
    faulty_hub.always((step, 1), Gate(2))
    found = pushed(faulty_hub, [artefacts[name] for name in NAMES[1:3]])
    assert [code for code, _, _ in found] == [0, 0], found
    shown = view(faulty_hub.folder)
    require_line_of_releases(shown, ["v1.0.0", "v1.0.1", "v1.0.2"], before=2)
    assert faulty_hub.count()["commit"] >= 3 and faulty_hub.count()["tag"] == 2


def test_the_tag_of_the_one_comes_after_the_commit_of_the_other(
    faulty_hub: Any, seeds: Any, artefacts: Any, view: Any
) -> None:
    """One stops between its commit and its tag until the other has finished."""
    finished = threading.Event()

    def hold(request: Request) -> Response | None:
        assert finished.wait(60)
        return request.proceed()

    def release(request: Request) -> Response | None:
        answer = request.proceed()
        finished.set()
        return answer

    faulty_hub.reset(seeds["released"])
    faulty_hub.once(("tag", 1), hold)
    faulty_hub.once(("tag", 2), release)
    found = pushed(faulty_hub, [artefacts[name] for name in NAMES[1:3]])
    assert [code for code, _, _ in found] == [0, 0], found
    require_line_of_releases(view(faulty_hub.folder), ["v1.0.0", "v1.0.1", "v1.0.2"], before=2)


def test_four_at_once(faulty_hub: Any, seeds: Any, artefacts: Any, view: Any) -> None:
    faulty_hub.reset(seeds["missing"])
    faulty_hub.always(("commit", 1), Gate(4))
    found = pushed(faulty_hub, [artefacts[name] for name in NAMES])
    assert [code for code, _, _ in found] == [0] * 4, found
    tags = [f"v1.0.{n}" for n in range(4)]
    require_line_of_releases(view(faulty_hub.folder), tags, before=1)


@pytest.mark.parametrize("seed", ["missing", "released"])
@pytest.mark.parametrize("step", ["refs", "commit"])
def test_the_same_artefact_twice_is_one_release(
    step: str, seed: str, faulty_hub: Any, seeds: Any, artefacts: Any, view: Any
) -> None:
    faulty_hub.reset(seeds[seed])
    faulty_hub.always((step, 1), Gate(2))
    found = pushed(faulty_hub, [artefacts["single"]] * 2)
    assert [code for code, _, _ in found] == [0, 0], found
    tags = ["v1.0.0", *(["v1.0.1"] if seed == "released" else [])]
    require_line_of_releases(view(faulty_hub.folder), tags, 2 if seed == "released" else 1)
    assert [result["tag"] for _, result, _ in found] == [tags[-1]] * 2


def test_a_first_release_that_another_one_overtakes(
    faulty_hub: Any, seeds: Any, artefacts: Any, released: Callable[..., Any], view: Any
) -> None:
    """The other begins and ends before the repository is made."""

    def overtaken(request: Request) -> Response | None:
        ((code, _, error),) = pushed(faulty_hub, [artefacts["third"]])
        assert code == 0, error
        return request.proceed()

    faulty_hub.reset(seeds["missing"])
    faulty_hub.once(("create", 1), overtaken)
    assert released("single").tag == "v1.0.1"
    require_line_of_releases(view(faulty_hub.folder), ["v1.0.0", "v1.0.1"], before=1)


def test_a_repository_that_vanishes_is_not_made_again(
    faulty_hub: Any, seeds: Any, released: Callable[..., Any], view: Any
) -> None:
    """It may have been private."""

    def vanish(request: Request) -> Response:
        shutil.rmtree(faulty_hub.folder / f"{REPO}.git")
        return Response(502, b"")

    faulty_hub.reset(seeds["released"])
    faulty_hub.once(("commit", 1), vanish)
    with pytest.raises(HubError, match="does not exist any more"):
        released("single")
    assert view(faulty_hub.folder) is None


def test_somebody_else_commits_before_every_commit(
    faulty_hub: Any,
    seeds: Any,
    released: Callable[..., Any],
    view: Any,
) -> None:
    """Their files stay, and the release comes behind."""
    theirs = []

    def commit_first(request: Request) -> Response | None:
        if len(theirs) < 3:
            git_dir = faulty_hub.folder / f"{REPO}.git"
            theirs.append(commit_in(git_dir, f"theirs {len(theirs)}"))
        return request.proceed()

    faulty_hub.reset(seeds["released"])
    faulty_hub.always(("commit", 1), commit_first)
    release = released("single")
    shown = view(faulty_hub.folder)
    shown.require_whole_tags()
    assert shown.branches["main"][:4] == (release.commit, *theirs[::-1])
    assert release.version == "1.0.1" and len(shown.ledger("v1.0.1")) == 2


def commit_in(git_dir: Path, message: str) -> str:
    """A commit on main that changes nothing."""
    identity = {"NAME": "them", "EMAIL": "them@example.org"}
    environment = os.environ | {
        f"GIT_{role}_{name}": value
        for role in ("AUTHOR", "COMMITTER")
        for name, value in identity.items()
    }
    git = ["git", "-C", str(git_dir)]
    command = [*git, "commit-tree", "main^{tree}", "-p", "main", "-m", message]
    made = subprocess.run(command, env=environment, capture_output=True, check=True, text=True)
    commit = made.stdout.strip()
    subprocess.run([*git, "update-ref", "refs/heads/main", commit], check=True)
    return commit
