"""Real git repositories, made commit by commit, and hubs that hold releases."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from object_stores import Web, serving
from watched_world import World

from slogpt_hf import watching
from slogpt_hf.watch import stores

WHEN = 1_700_000_000  # of the first commit, in seconds since 1970


class Git:
    """A git repository; every commit is a minute after the one before it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.n_commits = folder, 0

    def run(self, *arguments: str, stdin: bytes | None = None) -> str:
        date = f"{WHEN + 60 * self.n_commits} +0000"
        command = ["git", "-c", "user.name=T", "-c", "user.email=t@example.org", *arguments]
        done = subprocess.run(
            command,
            cwd=self.folder,
            input=stdin,
            capture_output=True,
            check=False,
            env=os.environ | {"GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date},
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode("utf-8", "replace").strip()

    def commit(self, files: Mapping[str, bytes | None], message: str = "Train") -> str:
        """Write files (None removes one) and commit them; the commit's id."""
        for name, content in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink() if content is None else path.write_bytes(content)
        self.n_commits += 1
        self.run("add", "--all", ".")
        self.run("commit", "--quiet", "--allow-empty", "-m", message)
        return self.run("rev-parse", "HEAD")

    def branch(self, name: str, start: str = "HEAD") -> None:
        self.run("checkout", "--quiet", "-b", name, start)


def pointer(content: bytes) -> bytes:
    """What Git LFS commits in place of ``content``."""
    digest = hashlib.sha256(content).hexdigest()
    head = "version https://git-lfs.github.com/spec/v1"
    return f"{head}\noid sha256:{digest}\nsize {len(content)}\n".encode()


@pytest.fixture
def make_pointer() -> Callable[[bytes], bytes]:
    return pointer


@pytest.fixture
def new_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Git]:
    """Makes a repository ``name`` with the branch ``main``, or a clone by ``git clone`` options."""
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):  # set while a git hook runs
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")

    def make(name: str = "repository", of: Git | None = None, *options: str) -> Git:
        folder = tmp_path / name
        folder.mkdir()
        git = Git(folder)
        if of is None:
            git.run("init", "--quiet", "--initial-branch=main")
        else:
            git.run("clone", "--quiet", *options, f"file://{of.folder}", ".")
        return git

    return make


def entry(version: str, **checkpoint: Any) -> dict[str, Any]:
    """What a ledger keeps of a release."""
    numbers = dict.fromkeys(("fp64_error", "fp64_bound", "fp32_error", "fp32_bound"), 0.0)
    commit = checkpoint.pop("commit", None)
    return {
        "version": version,
        "tag": f"v{version}",
        "identity": version,
        "date": "2026-01-01",
        "source": {"commit": commit, "branch": None},
        "model": {"spec": {}, "remote_code": False},
        "parity": {"passed": True, **numbers},
        "checkpoint": {"file": "ckpt.pt", "step": 1, "val_loss": 1.0, **checkpoint},
    }


@pytest.fixture
def ledger_entry() -> Callable[..., dict[str, Any]]:
    """Makes an entry: ``(version, sha256=, commit=)``."""
    return entry


@pytest.fixture
def new_hub(tmp_path: Path) -> Callable[..., Path]:
    """Makes the folder of an embedded hub whose me/model has releases, the newest first."""

    def make(*entries: dict[str, Any], branch: str = "main") -> Path:
        from slogpt_hf.hub.client import open_hub

        folder = tmp_path / "hub"
        record = entries[0] | {
            "schema": 1,
            "languages": [],
            "tokenizer": {},
            "files": {},
            "previous": list(entries[1:]),
        }
        content = json.dumps(record).encode()
        with open_hub(folder) as hub:
            hub.api.create_repo("me/model", exist_ok=True)
            if branch != "main":
                hub.api.create_branch("me/model", branch=branch)
            hub.api.upload_file(
                path_or_fileobj=content,
                path_in_repo="release.json",
                repo_id="me/model",
                revision=branch,
            )
            hub.api.create_tag("me/model", tag=entries[0]["tag"], revision=branch)
        return folder

    return make


@pytest.fixture
def fresh_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of other tests: neither in this module's memory nor in that of fsspec."""
    from fsspec.implementations.memory import MemoryFileSystem

    monkeypatch.setattr(stores, "_entrusted", {})
    monkeypatch.setattr(stores, "_learned", {})
    monkeypatch.setattr(MemoryFileSystem, "store", {})
    monkeypatch.setattr(MemoryFileSystem, "pseudo_dirs", [""])
    monkeypatch.delenv("HF_TOKEN", raising=False)


@pytest.fixture
def web() -> Iterator[Web]:
    with serving() as running:
        yield running


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(stores, "_learned", {})
    monkeypatch.setattr(watching.tempfile, "tempdir", str(tmp_path))  # type: ignore[attr-defined]
    monkeypatch.chdir(tmp_path)
    yield World(tmp_path)
    assert Path.cwd() == tmp_path
    assert not list(tmp_path.glob("slogpt-hf-watch-*")), "a look left files behind"
