"""A release that ends at its commit, by kill -9 or else: a rerun gives the one release."""

from __future__ import annotations

import os
import signal
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


def started(hub: Any, folder: Path, temporary: Path) -> subprocess.Popen[str]:
    """``slogpt-hf release`` of the checkpoint of a folder in a process of its own."""
    import slogpt_hf

    environment = os.environ | {
        "HF_ENDPOINT": hub.endpoint,
        "HF_TOKEN": "hf_canary",
        "PYTHONPATH": str(Path(slogpt_hf.__file__).parents[1]),
        "TMPDIR": str(temporary),
    }
    options = ("--dataset", folder / "meta.pkl", "--repo-id", REPO, "--transfer", "lfs")
    return subprocess.Popen(
        [sys.executable, "-m", "slogpt_hf", "release", folder / "ckpt.pt", *options],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def killed_at_the_commit(hub: Any, folder: Path, temporary: Path, is_applied: bool) -> None:
    """Start a release and kill it at its commit, before or after the hub applied that."""
    process: list[subprocess.Popen[str]] = []
    is_started = threading.Event()

    def kill(request: Request) -> Response | None:
        if is_applied:
            request.proceed()
        is_started.wait(60)
        os.kill(process[0].pid, signal.SIGKILL)
        process[0].wait(60)
        raise ConnectionResetError("killed")

    hub.heal()
    hub.once(("commit", 1), kill)
    process.append(started(hub, folder, temporary))
    is_started.set()
    out, _ = process[0].communicate(timeout=120)
    assert process[0].returncode == -signal.SIGKILL and not out
    hub.settle()


def test_killed_before_and_after_the_commit(
    faulty_hub: Any,
    golden: Callable[[str], Path],
    tmp_path: Path,
    view: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from slogpt_hf.release import release_checkpoints
    from slogpt_hf.settings import Settings

    folder = golden("slo-classic")
    faulty_hub.reset(None)
    killed_at_the_commit(faulty_hub, folder, tmp_path, is_applied=False)
    left = view(faulty_hub.folder)
    assert not left.tags and len(left.branches["main"]) == 1
    killed_at_the_commit(faulty_hub, folder, tmp_path, is_applied=True)
    left = view(faulty_hub.folder)
    assert not left.tags and len(left.branches["main"]) == 2 and left.is_whole("main")
    faulty_hub.heal()
    monkeypatch.setenv("HF_ENDPOINT", faulty_hub.endpoint)
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    dataset = str(folder / "meta.pkl")
    settings = Settings(repo_id=REPO, dataset=dataset, transfer="lfs", smoke=False)
    (release,) = release_checkpoints([folder / "ckpt.pt"], settings)
    (again,) = release_checkpoints([folder / "ckpt.pt"], settings)
    after = view(faulty_hub.folder)
    after.require_whole_tags()
    assert (release.released, again.released) == (True, False)
    assert after.tags == {"v1.0.0": release.commit} == {"v1.0.0": again.commit}
    assert after.branches == left.branches and after.branches["main"][0] == release.commit
    assert len(after.ledger("main")) == 1
    seen = faulty_hub.count()
    assert seen["commit"] == seen["object"] == 0 and seen["tag"] == 1


def test_somebody_commits_before_the_tag_is_made_up_for(
    faulty_hub: Any, seeds: Any, released: Callable[..., Any], view: Any
) -> None:
    """Their commit holds the whole release, too; the tag belongs on the release's own."""
    from huggingface_hub import HfApi

    faulty_hub.reset(seeds["released"])
    faulty_hub.always(("tag", 1), lambda request: Response(403, b"{}"))
    with pytest.raises(HubError):
        released("single")
    own = view(faulty_hub.folder).branches["main"][0]
    faulty_hub.heal()
    api = HfApi(endpoint=faulty_hub.endpoint, token="hf_canary")
    for content in (b"theirs", b"theirs again"):
        api.upload_file(path_or_fileobj=content, path_in_repo="notes.txt", repo_id=REPO)
    release, again = released("single"), released("single")
    after = view(faulty_hub.folder)
    after.require_whole_tags()
    assert (release.commit, again.commit) == (own, own) and after.tags["v1.0.1"] == own
    assert (release.released, again.released) == (True, False)
    assert after.branches["main"][2] == own and len(after.tags) == 2
