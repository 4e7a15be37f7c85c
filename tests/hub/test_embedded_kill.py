"""kill -9 of the embedded hub and its git commands: the old state or the new, and it goes on."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, HfApi, constants, hf_hub_download
from huggingface_hub.utils import _http

from slogpt_hf.hub.embedded import git, serve
from slogpt_hf.hub.embedded.store import open_store

REPO = "me/model"

SERVER = """
import os, signal, subprocess, sys
from pathlib import Path
from slogpt_hf.hub.embedded import serve

kill_at, moment, count = int(sys.argv[2]), sys.argv[3], 0
real = subprocess.Popen

class Counted(real):
    def __init__(self, *arguments, **options):
        global count
        count += armed
        if count == kill_at and moment == "before":
            os.killpg(0, signal.SIGKILL)
        super().__init__(*arguments, **options)
        if count == kill_at and moment == "during":
            os.killpg(0, signal.SIGKILL)
        if count == kill_at and moment == "after":
            self.communicate(options.get("input"))

    def communicate(self, *arguments, **options):
        done = super().communicate(*arguments, **options)
        if count == kill_at and moment == "after":
            os.killpg(0, signal.SIGKILL)
        return done

armed = 0
def intercept(request):
    global armed
    armed = armed or int("commit" in request.path or "tag" in request.path)

subprocess.Popen = Counted
with serve(Path(sys.argv[1]), intercept=intercept) as hub:
    print(hub.endpoint, flush=True)
    hub.wait()
"""


@pytest.fixture(autouse=True)
def _quiet_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    impatient = types.SimpleNamespace(**{**vars(_http.time), "sleep": lambda seconds: None})
    monkeypatch.setattr(_http, "time", impatient)


@contextmanager
def child(folder: Path, kill_at: int = 0, moment: str = "") -> Iterator[tuple[str, int]]:
    """A hub in its own process group; yields its endpoint and the group's id."""
    command = [sys.executable, "-c", SERVER, str(folder), str(kill_at), moment]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, start_new_session=True,
        cwd=Path(__file__).parents[2], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip(), process.pid
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def contents(number: int) -> dict[str, bytes]:
    """Files of which each one tells the number: a commit is whole if they agree."""
    return {
        "state.json": json.dumps(number).encode(),
        f"history/{number}.txt": str(number).encode(),
        "weights.bin": random.Random(number).randbytes(50_000),
    }


def commit(api: HfApi, number: int) -> None:
    operations = [CommitOperationAdd(path, data) for path, data in contents(number).items()]
    api.create_commit(REPO, operations=operations, commit_message=f"commit {number}")


def check_and_continue(folder: Path, cache: Path, acknowledged: int) -> int:
    """Open the folder again: git is content, the head is whole and not older than acknowledged."""
    fsck = subprocess.run(
        ["git", f"--git-dir={folder}/{REPO}.git", "fsck", "--full", "--strict", "--no-dangling"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (fsck.returncode, fsck.stdout) == (0, "")
    # A git that was killed too may take a moment to be gone; it holds the store's lock until then.
    with (folder / ".slogpt-hf" / "lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
    with serve(folder) as hub:
        assert list((folder / ".slogpt-hf" / "incoming").iterdir()) == []
        api = HfApi(endpoint=hub.endpoint, token=False)
        info = api.model_info(REPO, files_metadata=True)

        def read(path: str) -> bytes:
            name = hf_hub_download(
                REPO, path, revision=info.sha, endpoint=hub.endpoint, cache_dir=cache, token=False
            )
            return Path(name).read_bytes()

        number = int(read("state.json"))
        assert number in (acknowledged, acknowledged + 1)
        assert {path: read(path) for path in contents(number)} == contents(number)
        for sibling in info.siblings or []:
            if sibling.lfs:
                assert hashlib.sha256(read(sibling.rfilename)).hexdigest() == sibling.lfs.sha256
        assert len(api.list_repo_commits(REPO)) == number + 2
        for ref in api.list_repo_refs(REPO).tags:
            assert (ref.name, ref.target_commit) == (f"v{number}", info.sha)
            api.delete_tag(REPO, tag=ref.name)
        commit(api, number + 1)
        api.create_tag(REPO, tag="again")
        api.delete_tag(REPO, tag="again")
    return number + 1


def start(folder: Path) -> None:
    with serve(folder) as hub:
        api = HfApi(endpoint=hub.endpoint, token=False)
        api.create_repo(REPO)
        commit(api, 0)


def test_killed_at_every_git_command(tmp_path: Path) -> None:
    folder, acknowledged, outcomes = tmp_path / "hub", 0, []
    start(folder)
    rng = random.Random(7)
    for kill_at in range(1, 14):
        moment = rng.choice(["before", "during", "after"])
        with child(folder, kill_at, moment) as (endpoint, _):
            api = HfApi(endpoint=endpoint, token=False)
            before = acknowledged
            try:
                commit(api, acknowledged + 1)
                acknowledged += 1
                api.create_tag(REPO, tag=f"v{acknowledged}")
            except Exception:
                pass
        number = check_and_continue(folder, tmp_path / "cache", acknowledged)
        outcomes.append(number - 1 > before)
        acknowledged = number
    assert not outcomes[0] and outcomes[-1], "the kills were not spread over the commit"


def test_killed_at_random_times(tmp_path: Path) -> None:
    folder, acknowledged = tmp_path / "hub", 0
    start(folder)
    rng = random.Random(11)
    for _ in range(5):
        with child(folder) as (endpoint, group):
            api = HfApi(endpoint=endpoint, token=False)
            done: list[int] = []
            first = threading.Event()

            def run(api: HfApi, done: list[int], first: threading.Event, number: int) -> None:
                try:
                    while True:
                        commit(api, number)
                        done.append(number)
                        number += 1
                        first.set()
                except Exception:
                    first.set()

            thread = threading.Thread(target=run, args=(api, done, first, acknowledged + 1))
            thread.start()
            first.wait(30)
            timer = threading.Timer(rng.uniform(0, 0.15), os.killpg, (group, signal.SIGKILL))
            timer.start()
            thread.join(60)
            timer.join()
            assert not thread.is_alive() and done
        acknowledged = check_and_continue(folder, tmp_path / "cache", done[-1])


def test_a_git_command_that_outlives_its_server_keeps_the_folder(tmp_path: Path) -> None:
    left_over = tmp_path / "hub" / ".slogpt-hf" / "incoming" / "left-over"
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with open_store(tmp_path / "hub") as store:
        repo = store.create("me", "model", private=False)
        left_over.write_text("in use")
        command = threading.Thread(target=git.git, args=(repo, "hash-object", str(fifo)))
        command.start()
        writer = fifo.open("wb")
    with writer, open_store(tmp_path / "hub"):
        assert left_over.exists()
    command.join()
    with open_store(tmp_path / "hub"):
        assert not left_over.exists()
