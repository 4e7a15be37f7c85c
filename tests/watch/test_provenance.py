from __future__ import annotations

import os
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
        commit, "runs/shakespeare", "https://example.org/me/model.git", tracked=True, dirty=False
    )


def test_detached_head_has_no_branch(repository: Path) -> None:
    git(repository, "checkout", "--quiet", "--detach")
    provenance = provenance_of(repository / "out" / "ckpt.pt")
    assert provenance.commit == git(repository, "rev-parse", "HEAD")
    assert provenance.branch is None


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


def state(path: Path) -> tuple[bool | None, bool | None]:
    provenance = provenance_of(path)
    assert provenance.commit
    return provenance.tracked, provenance.dirty


def test_a_file_is_part_of_the_commit_only_as_it_was_committed(repository: Path) -> None:
    path = repository / "out" / "ckpt.pt"
    new = repository / "out" / "new ckpt.pt"
    assert state(path) == (True, False)
    new.write_bytes(b"x")
    assert state(new) == (False, False)
    assert state(path) == (True, False)  # an untracked file changes nothing
    git(repository, "add", ".")
    assert state(new) == (False, True)
    git(repository, "mv", "out/ckpt.pt", "out/*.pt")
    assert state(repository / "out" / "*.pt") == (False, True)
    git(repository, "commit", "--quiet", "-m", "More")
    assert state(new) == (True, False)
    path.with_name("*.pt").write_bytes(b"xx")
    assert state(path.with_name("*.pt")) == (False, True)
    assert state(new) == (True, True)


def test_an_ignored_file_is_not_part_of_the_commit(repository: Path) -> None:
    (repository / ".gitignore").write_text("*.bin\n")
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "-m", "Ignore")
    (repository / "model.bin").write_bytes(b"x")
    assert state(repository / "model.bin") == (False, False)


def test_no_program_that_a_repository_names_is_started(repository: Path, tmp_path: Path) -> None:
    hook = tmp_path / "hook"
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    hook.chmod(0o755)
    (repository / ".gitattributes").write_text("*.pt filter=mine\n")
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "-m", "Filter")
    git(repository, "config", "core.fsmonitor", str(hook))
    for key in ("clean", "process", "required"):
        git(repository, "config", f"filter.mine.{key}", str(hook) if key != "required" else "true")
    path = repository / "out" / "ckpt.pt"
    os.utime(path, (0, 0))  # so that git has to read it
    assert state(path) == (True, False)
    assert not (tmp_path / "started").exists()
    subprocess.run(["git", "-C", str(repository), "status"], capture_output=True, check=False)
    assert (tmp_path / "started").exists()  # which git alone would do


def test_configuration_from_the_environment_is_kept(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = repository / "out" / "ckpt.pt"
    git(repository, "config", "filter.mine.clean", "cat")
    path.chmod(0o755)
    assert state(path) == (False, True)
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "core.fileMode")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "false")
    assert state(path) == (True, False)


def test_a_checkpoint_of_several_files_is_tracked_as_a_whole(
    repository: Path, tmp_path: Path
) -> None:
    folder = repository / "out"
    first, second, outside = folder / "ckpt.pt", folder / "b.pt", tmp_path / "base.pt"
    outside.write_bytes(b"x")
    link = folder / "link.pt"
    link.symlink_to(first)

    def tracked(*files: Path) -> bool | None:
        return provenance_of(folder, files).tracked

    second.write_bytes(b"x")
    assert tracked(first) and tracked(first, link)
    assert not tracked(first, second)
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "-m", "Both")
    assert tracked(first, second)
    assert not tracked(first, second, outside)
    second.write_bytes(b"xx")
    assert not tracked(first, second)
    assert provenance_of(folder).branch == "runs/shakespeare"
    assert not provenance_of(folder).tracked


def test_a_folder_that_is_a_repository_itself(repository: Path) -> None:
    files = (repository / "out" / "ckpt.pt",)
    assert provenance_of(repository, files) == provenance_of(files[0])
