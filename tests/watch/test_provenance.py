from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from slogpt_hf.watch import Provenance, provenance_of


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=T", "-c", "user.email=t@example.org"]
    result = subprocess.run([*command, *arguments], capture_output=True, text=True, check=True)
    return result.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one commit on the branch ``runs/shakespeare``."""
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):  # set while a git hook runs
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch=runs/shakespeare")
    (folder / "out").mkdir()
    (folder / "out" / "ckpt.pt").write_bytes(b"x")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "Trained")
    return folder


def test_commit_branch_and_remote(repository: Path) -> None:
    git(repository, "remote", "add", "origin", "https://example.org/me/model.git")
    commit = git(repository, "rev-parse", "HEAD")
    assert provenance_of(repository / "out" / "ckpt.pt") == Provenance(
        commit, "runs/shakespeare", "https://example.org/me/model.git"
    )


def test_detached_head_has_no_branch(repository: Path) -> None:
    git(repository, "checkout", "--quiet", "--detach")
    provenance = provenance_of(repository / "out" / "ckpt.pt")
    assert provenance == Provenance(git(repository, "rev-parse", "HEAD"), None, None)


def test_repository_without_a_commit(repository: Path, tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet", "empty")
    assert provenance_of(tmp_path / "empty" / "ckpt.pt") == Provenance()


def test_outside_of_a_repository(repository: Path, tmp_path: Path) -> None:
    assert provenance_of(tmp_path / "ckpt.pt") == Provenance()


def test_folder_that_is_not_there(repository: Path, tmp_path: Path) -> None:
    assert provenance_of(tmp_path / "nowhere" / "ckpt.pt") == Provenance()


def test_without_git(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance_of(repository / "out" / "ckpt.pt") == Provenance()


@pytest.mark.parametrize(
    ("url", "clean"),
    [
        ("https://me:secret@example.org/me/model.git", "https://example.org/me/model.git"),
        ("https://secret@example.org/me/model", "https://example.org/me/model"),
        ("https://me:se@cret@example.org/me/model", "https://example.org/me/model"),
        ("https://example.org/me/@model", "https://example.org/me/@model"),
        ("git@example.org:me/model.git", "git@example.org:me/model.git"),
        ("/srv/git/model.git", "/srv/git/model.git"),
    ],
)
def test_credentials_in_the_remote_are_removed(repository: Path, url: str, clean: str) -> None:
    git(repository, "remote", "add", "origin", url)
    assert provenance_of(repository / "out" / "ckpt.pt").remote == clean


def test_a_link_counts_where_it_points(repository: Path, tmp_path: Path) -> None:
    link = tmp_path / "latest.pt"
    link.symlink_to(repository / "out" / "ckpt.pt")
    assert provenance_of(link).branch == "runs/shakespeare"


def test_the_repository_of_a_running_hook_is_not_taken(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", str(repository / ".git"))
    assert provenance_of(tmp_path / "ckpt.pt") == Provenance()


def test_branch_name_that_is_not_unicode(repository: Path) -> None:
    subprocess.run(
        [b"git", b"-C", str(repository).encode(), b"checkout", b"--quiet", b"-b", b"caf\xe9"],
        check=True,
    )
    assert provenance_of(repository / "out" / "ckpt.pt").branch == "caf\N{REPLACEMENT CHARACTER}"
