from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from slogpt_hf.errors import CheckpointError, HubError, UsageError
from slogpt_hf.settings import Settings
from slogpt_hf.watch import Candidate, Provenance
from slogpt_hf.watch.access import credentials_in, token_access, without_credentials
from slogpt_hf.watch.event import Event
from slogpt_hf.watch.fetching import fetch
from slogpt_hf.watch.sources import (
    branches_of,
    cloned,
    find_candidates,
    is_git_url,
    is_store,
    sources_of,
)

NewGit = Callable[..., Any]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("GITHUB_TOKEN", "GITHUB_SERVER_URL"):
        monkeypatch.delenv(name, raising=False)


def found(*sources: str, **settings: Any) -> list[tuple[str, str]]:
    candidates = find_candidates(sources, Settings(**settings), None, ())
    return [(each.kind, each.name) for each in candidates]


@pytest.mark.parametrize(
    ("source", "is_git", "is_object"),
    [
        ("https://github.com/me/model", True, False),
        ("https://github.com/me/model/releases/download/v1/ckpt.pt", False, True),
        ("https://example.org/me/model.git", True, False),
        ("https://example.org/ckpt.pt", False, True),
        ("ssh://git@example.org/model", True, False),
        ("git@example.org:me/model.git", True, False),
        ("git+https://example.org/model", True, False),
        ("file:///srv/model.git", True, False),
        ("s3://bucket/ckpt.pt", False, True),
        ("https://[", False, True),
        ("out/ckpt.pt", False, False),
        (".", False, False),
    ],
)
def test_kinds_of_sources(source: str, is_git: bool, is_object: bool) -> None:
    assert (is_git_url(source), is_store(source)) == (is_git, is_object)


def test_where_to_look_if_nobody_says_it() -> None:
    assert sources_of(Settings()) == (".",)
    assert sources_of(Settings(checkpoints=("a.pt", "s3://b/c"))) == (".", "s3://b/c")
    assert sources_of(Settings(checkpoints=("s3://b/c",))) == ("s3://b/c",)


def test_git_disk_and_both(new_git: NewGit, tmp_path: Path) -> None:
    git = new_git()
    git.commit({"ckpt.pt": b"1"})
    (git.folder / "ckpt-new.pt").write_bytes(b"2")
    plain = tmp_path / "plain [1]"
    (plain / "out").mkdir(parents=True)
    (plain / "out" / "ckpt.pt").write_bytes(b"3")
    assert found(str(git.folder)) == [("git", "ckpt.pt")]
    assert found(str(plain)) == [("file", str(plain / "out" / "ckpt.pt"))]
    new = str(git.folder / "*-new.pt")
    assert found(new, str(git.folder)) == [
        ("file", str(git.folder / "ckpt-new.pt")),
        ("git", "ckpt.pt"),
    ]
    assert found(new, str(git.folder / "ckpt-new.pt")) == found(new)
    assert found(str(git.folder), checkpoints=("s3://x/y",)) == []


def test_a_repository_that_git_cannot_read(new_git: NewGit, tmp_path: Path) -> None:
    git = new_git()
    git.run("config", "core.repositoryFormatVersion", "99")
    with pytest.raises(UsageError, match="git rev-parse failed"):
        found(str(git.folder))


def test_a_folder_that_is_a_checkpoint_itself(new_git: NewGit) -> None:
    folder = Path(__file__).parents[1] / "data" / "distributed" / "slo-one"
    assert found(str(folder)) == [("file", str(folder))]


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> Candidate:
    """The one object of every store."""
    candidate = Candidate("s3://x/ckpt.pt", "store", "s3://x/ckpt.pt", Provenance(), sha256="ab")
    module = ModuleType("stores")
    module.store_candidates = lambda urls, known: (candidate,)  # type: ignore[attr-defined]
    module.fetch_object = lambda found, file, progress: file.write_bytes(b"x")  # type: ignore
    monkeypatch.setitem(sys.modules, "slogpt_hf.watch.stores", module)
    return candidate


def test_an_object_of_a_store(stored: Candidate, tmp_path: Path) -> None:
    (found,) = find_candidates(["s3://x/*.pt"], Settings(), None, ())
    assert found == stored
    base = tmp_path / "base.pt"
    (unknown,) = find_candidates(["s3://x/*.pt"], Settings(base=str(base)), None, ())
    assert unknown.sha256 is None
    base.write_bytes(b"base")
    (both,) = find_candidates(["s3://x/*.pt"], Settings(base=str(base)), None, ())
    digest = hashlib.sha256(b"base").hexdigest()
    assert both.sha256 == hashlib.sha256(f"ab\n{digest}\n".encode()).hexdigest()
    with pytest.raises(CheckpointError, match="not the planned"):
        fetch(stored, tmp_path / "work", Settings())
    fetched = fetch(unknown, tmp_path / "other", Settings())
    assert fetched.path == tmp_path / "other" / "ckpt.pt"
    assert fetched.sha256 == hashlib.sha256(b"x").hexdigest()


def test_the_ledger_spares_work(new_git: NewGit) -> None:
    git = new_git()
    first = git.commit({"ckpt.pt": b"1"})
    git.commit({"ckpt.pt": b"2"})
    git.commit({"ckpt.pt": b"3"})
    entry = {"source": {"commit": first}, "checkpoint": {"sha256": None}}
    candidates = find_candidates([str(git.folder)], Settings(), None, [entry])
    assert len(candidates) == 2


def test_branches_that_are_looked_at(new_git: NewGit) -> None:
    git = new_git()
    git.commit({"ckpt.pt": b"1"})
    git.branch("train/a")
    assert branches_of([str(git.folder)], Settings(), None) == ("train/a",)
    event = Event("push", git.run("rev-parse", "HEAD"), "topic")
    assert branches_of([str(git.folder)], Settings(), event) == ("topic",)
    assert branches_of(["s3://x/y", "*.pt"], Settings(), None) == ()


def test_a_repository_by_url(new_git: NewGit) -> None:
    git = new_git("upstream.git")
    git.commit({"ckpt.pt": b"1"})
    git.branch("train/a")
    git.commit({"ckpt.pt": b"2"})
    url = f"file://{git.folder}"
    assert found(url) == [("git", "ckpt.pt")]
    git.commit({"b/ckpt.pt": b"3"})
    git.branch("other")
    assert found(url) == [("git", "ckpt.pt"), ("git", "b/ckpt.pt")]
    assert found(url, branches=("train/*",)) == found(url)
    (each, *_) = find_candidates([url], Settings(), None, ())
    assert each.provenance.remote == url
    assert each.provenance.branch == "other"
    git.run("checkout", "--quiet", "main")
    git.run("branch", "-D", "other")
    assert found(url, branches=("other",)) == []


def test_a_repository_that_is_not_there_and_its_password(tmp_path: Path) -> None:
    with pytest.raises(HubError, match="cannot be fetched") as caught:
        cloned(f"file://{tmp_path}/nowhere.git")
    url = "http://me:hunter2hunter2@127.0.0.1:1/me/model.git"
    with pytest.raises(HubError, match="cannot be fetched") as caught:
        cloned(url)
    assert "hunter2" not in str(caught.value)
    kept = [p.read_bytes() for p in (tmp_path / "cache").rglob("*") if p.is_file()]
    assert kept and not any(b"hunter2" in content for content in kept)


def test_credentials_go_to_the_server_that_they_are_of(monkeypatch: pytest.MonkeyPatch) -> None:
    assert token_access("https://github.com/me/model") == []
    monkeypatch.setenv("GITHUB_TOKEN", "ghs_0123456789abcdef")
    ((name, value),) = token_access("https://github.com/me/model")
    assert name == "http.https://github.com/.extraheader"
    text = value.removeprefix("Authorization: Basic ")
    assert base64.b64decode(text) == b"x-access-token:ghs_0123456789abcdef"
    for url in (
        "https://example.org/me/model",
        "http://github.com/me/model",
        "https://github.com.example.org/",
        "https://github.com:8443/me/model",
        "git@github.com:me/model",
        None,
    ):
        assert token_access(url) == []
    monkeypatch.setenv("GITHUB_SERVER_URL", "https://git.example.org")
    assert token_access("https://git.example.org/me/model")
    assert not token_access("https://github.com/me/model")


def test_credentials_of_a_url() -> None:
    url = "https://me:s%40cret-of-mine@example.org:8443/me/model.git"
    assert without_credentials(url) == "https://example.org:8443/me/model.git"
    assert without_credentials("ssh://git@example.org/x") == "ssh://git@example.org/x"
    ((name, value),) = credentials_in(url)
    assert name == "http.https://example.org:8443/.extraheader"
    assert base64.b64decode(value.rpartition(" ")[2]) == b"me:s@cret-of-mine"
    assert credentials_in("https://example.org/x") == []


def test_no_argument_list_shows_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    lists: list[list[str]] = []
    run = subprocess.run

    def record(command: list[str], **options: Any) -> Any:
        lists.append(command)
        return run(command, **options)

    monkeypatch.setattr(subprocess, "run", record)
    with pytest.raises(HubError):
        cloned("http://me:hunter2hunter2@127.0.0.1:1/me/model.git")
    assert lists and not any("hunter2" in word for words in lists for word in words)
