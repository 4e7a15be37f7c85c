"""Which folders become a hub, and what a hub sweeps in them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from slogpt_hf.errors import UsageError
from slogpt_hf.hub.embedded.store import open_store

LOCKS = (
    "packed-refs.lock",
    "refs/heads/main.lock",
    "objects/aa/tmp_obj_x",
    "objects/pack/tmp_pack_x",
    "objects/tmp_objdir-incoming-x/aa",
)


def leave_locks(git_dir: Path) -> list[Path]:
    paths = [git_dir / name for name in LOCKS]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return paths


def test_only_repositories_that_the_hub_made_are_swept(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        mine = leave_locks(store.create("me", "model", private=False).git_dir)
        foreign = tmp_path / "me" / "foreign.git"
        subprocess.run(["git", "init", "--bare", "--quiet", str(foreign)], check=True)
        theirs = leave_locks(foreign)
    with open_store(tmp_path) as store:
        assert [repo.id for repo in store.repositories()] == ["me/foreign", "me/model"]
    assert not any(path.exists() for path in mine)
    assert all(path.exists() for path in theirs)


@pytest.mark.parametrize("content", ["notes.txt", "src/app.py", "me/model.git/HEAD", ".git/HEAD"])
def test_a_folder_of_other_things_does_not_become_a_hub(tmp_path: Path, content: str) -> None:
    path = tmp_path / content
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match=r"not a hub.*new or an empty"), open_store(tmp_path):
        pass
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("content", [None, ".gitkeep", ".DS_Store"])
def test_an_empty_folder_becomes_a_hub_and_stays_one(tmp_path: Path, content: str | None) -> None:
    if content:
        (tmp_path / content).touch()
    with open_store(tmp_path) as store:
        store.create("me", "model", private=False)
    (tmp_path / "notes.txt").touch()
    with open_store(tmp_path) as store:
        assert [repo.id for repo in store.repositories()] == ["me/model"]


def test_a_copy_of_the_repositories_alone_is_a_hub(tmp_path: Path) -> None:
    with open_store(tmp_path / "hub") as store:
        store.create("me", "model", private=False)
    (tmp_path / "copy").mkdir()
    (tmp_path / "hub" / "me").rename(tmp_path / "copy" / "me")
    with open_store(tmp_path / "copy") as store:
        assert [repo.id for repo in store.repositories()] == ["me/model"]
