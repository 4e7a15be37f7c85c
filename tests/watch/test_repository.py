from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slogpt_hf.errors import CheckpointError, UsageError
from slogpt_hf.progress import Progress
from slogpt_hf.settings import Settings
from slogpt_hf.watch import Candidate, repository
from slogpt_hf.watch.event import Event
from slogpt_hf.watch.repository import git_candidates

ZEROS = "0" * 40
MISSING = "1" * 40
NewGit = Callable[..., Any]


def look(git: Any, event: Event | None = None, known: tuple[str, ...] = (), **settings: Any) -> Any:
    candidates = git_candidates(git.folder, Settings(**settings), event, known)
    return [(each.name, each.provenance.commit, each.provenance.branch) for each in candidates]


def push(commit: str, before: str | None = None, branch: str | None = "main", **more: Any) -> Event:
    return Event("push", commit, branch, before=before, **more)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_the_files_of_the_head_with_the_commits_that_brought_them(new_git: NewGit) -> None:
    git = new_git()
    git.run("remote", "add", "origin", "https://me:secret@example.org/me/model.git")
    first = git.commit({"out/ckpt-1.pt": b"1", "README.md": b"x", "out/ckpt-3.pt": b"overwritten"})
    second = git.commit({"out/ckpt-2.pt": b"22"})
    third = git.commit({"out/ckpt-3.pt": b"3"})
    git.commit({"README.md": b"y"})
    found = git_candidates(git.folder, Settings())
    assert [(each.name, each.provenance.commit) for each in found] == [
        ("out/ckpt-1.pt", first),
        ("out/ckpt-2.pt", second),
        ("out/ckpt-3.pt", third),
    ]
    middle = found[1]
    assert middle == Candidate(
        name="out/ckpt-2.pt",
        kind="git",
        place=str(git.folder),
        provenance=middle.provenance,
        time=1_700_000_120.0,
        sha256=sha256(b"22"),
        n_bytes=2,
    )
    assert middle.provenance.branch == "main"
    assert middle.provenance.remote == "https://example.org/me/model.git"
    assert middle.provenance.tracked and not middle.provenance.dirty


def test_a_pointer_of_git_lfs_tells_the_digest(
    new_git: NewGit, make_pointer: Callable[[bytes], bytes]
) -> None:
    git = new_git()
    contents = {"a/ckpt.pt": b"weights", "b/ckpt.pt": b"other", "c/ckpt.pt": b"third one"}
    git.commit({name: make_pointer(content) for name, content in contents.items()})
    found = git_candidates(git.folder, Settings())
    assert [(each.name, each.sha256, each.n_bytes, each.is_pointer) for each in found] == [
        (name, sha256(content), len(content), True) for name, content in contents.items()
    ]


def test_what_a_push_brought_even_if_it_was_overwritten_since(new_git: NewGit) -> None:
    git = new_git()
    before = git.commit({"ckpt.pt": b"1"})
    second, third = git.commit({"ckpt.pt": b"2"}), git.commit({"ckpt.pt": b"3"})
    head = git.commit({"ckpt.pt": b"2"})
    # What comes back later is not new.
    assert look(git, push(head, before)) == [
        ("ckpt.pt", second, "main"),
        ("ckpt.pt", third, "main"),
    ]


@pytest.mark.parametrize("before", [None, ZEROS, MISSING, "--all", "HEAD"])
def test_the_head_alone_where_nothing_tells_what_is_new(
    new_git: NewGit, before: str | None
) -> None:
    git = new_git()
    git.commit({"ckpt.pt": b"1"})
    second = git.commit({"ckpt.pt": b"2"})
    head = git.commit({"other": b""})
    assert look(git, push(head, before)) == [("ckpt.pt", second, "main")]


def test_everything_since_the_last_released_commit(new_git: NewGit) -> None:
    git = new_git()
    first, second = git.commit({"ckpt.pt": b"1"}), git.commit({"ckpt.pt": b"2"})
    third, head = git.commit({"ckpt.pt": b"3"}), git.commit({"ckpt.pt": b"4"})
    since = [("ckpt.pt", commit, "main") for commit in (second, third, head)]
    # A run between was lost: `before` is later than what was released.
    assert look(git, push(head, third), (first, MISSING, "x")) == since
    assert look(git, push(head, third), (first, second)) == since[1:]
    assert look(git, None, (first,)) == since
    assert look(git, push(head, third), (MISSING,)) == since[2:]


def test_a_released_commit_without_common_history_tells_nothing(new_git: NewGit) -> None:
    git = new_git()
    other = git.commit({"ckpt.pt": b"0"})
    git.run("checkout", "--quiet", "--orphan", "fresh")
    git.commit({"ckpt.pt": b"1"})
    head = git.commit({"ckpt.pt": b"2"})
    assert look(git, push(head, None, "fresh"), (other,)) == [("ckpt.pt", head, "fresh")]


def test_force_push(new_git: NewGit) -> None:
    git = new_git()
    git.commit({"a": b"1"})
    replaced = git.commit({"ckpt.pt": b"1"})
    git.run("reset", "--quiet", "--hard", "HEAD^")
    git.commit({"ckpt.pt": b"2"})
    head = git.commit({"b": b"1"})
    (found,) = look(git, push(head, replaced))
    assert found[0] == "ckpt.pt"
    newer = git.commit({"ckpt.pt": b"5"})
    assert look(git, push(newer, replaced)) == [("ckpt.pt", newer, "main")]
    # What was released from a commit that is no part of the branch any more tells where they part.
    middle, last = git.commit({"ckpt.pt": b"3"}), git.commit({"ckpt.pt": b"4"})
    names = [commit for _, commit, _ in look(git, push(last, replaced), (replaced,))]
    assert names[1:] == [newer, middle, last]
    assert len(names) == 4


def test_new_branch(new_git: NewGit) -> None:
    git = new_git()
    released = git.commit({"ckpt.pt": b"1"})
    git.branch("train/a")
    first, head = git.commit({"ckpt.pt": b"2"}), git.commit({"ckpt.pt": b"3"})
    event = push(head, ZEROS, "train/a")
    assert look(git, event, (released,)) == [
        ("ckpt.pt", first, "train/a"),
        ("ckpt.pt", head, "train/a"),
    ]


def test_merge(new_git: NewGit) -> None:
    git = new_git()
    before = git.commit({"x": b"1"})
    git.branch("train/a")
    one = git.commit({"a/ckpt.pt": b"1"})
    git.run("checkout", "--quiet", "main")
    two = git.commit({"b/ckpt.pt": b"2"})
    git.run("merge", "--quiet", "--no-commit", "train/a")
    merge = git.commit({"a/ckpt.pt": b"of neither"})
    found = look(git, push(merge, before))
    assert sorted(found[:2]) == [("a/ckpt.pt", one, "main"), ("b/ckpt.pt", two, "main")]
    assert found[2:] == [("a/ckpt.pt", merge, "main")]
    git.run("checkout", "--quiet", "-b", "plain", before)
    git.run("merge", "--quiet", "--no-ff", "-m", "Merge", "train/a")
    head = git.run("rev-parse", "HEAD")
    assert look(git, push(head, before, "plain")) == [("a/ckpt.pt", one, "plain")]


def test_tag(new_git: NewGit) -> None:
    git = new_git()
    first = git.commit({"ckpt.pt": b"1"})
    git.run("tag", "-a", "v1", "-m", "One")
    head = git.commit({"ckpt.pt": b"2"})
    event = Event("push", first, tag="v1", before=ZEROS)
    assert look(git, event) == [("ckpt.pt", first, None)]
    assert look(git, Event("push", tag="v1")) == [("ckpt.pt", first, None)]
    assert look(git, event, branches=("main",)) == [
        ("ckpt.pt", first, None),
        ("ckpt.pt", head, "main"),
    ]


def test_schedule_and_run_by_hand_take_the_branch_that_is_checked_out(new_git: NewGit) -> None:
    git = new_git()
    head = git.commit({"ckpt.pt": b"1"})
    for event in (Event("schedule", head), Event("workflow_dispatch"), Event("schedule", MISSING)):
        assert look(git, event) == [("ckpt.pt", head, "main")]


def test_a_branch_that_was_deleted(new_git: NewGit) -> None:
    git = new_git()
    git.commit({"ckpt.pt": b"1"})
    assert look(git, Event("delete", branch="main")) == []


def test_rerun_of_an_old_push(new_git: NewGit) -> None:
    git = new_git()
    before, old = git.commit({"a": b""}), git.commit({"ckpt.pt": b"1"})
    released = git.commit({"ckpt.pt": b"2"})
    assert look(git, push(old, before)) == [("ckpt.pt", old, "main")]
    assert look(git, push(old, before), (released,)) == [("ckpt.pt", old, "main")]


def test_pull_request(new_git: NewGit) -> None:
    git = new_git()
    base = git.commit({"old/ckpt.pt": b"1"})
    git.branch("topic")
    one, two = git.commit({"ckpt.pt": b"2"}), git.commit({"ckpt.pt": b"3"})
    git.run("checkout", "--quiet", "main")
    moved = git.commit({"base/ckpt.pt": b"4"})
    git.run("checkout", "--quiet", "--detach", "main")
    git.run("merge", "--quiet", "--no-ff", "-m", "Merge", "topic")
    merge = git.run("rev-parse", "HEAD")
    brought = [("ckpt.pt", one, "topic"), ("ckpt.pt", two, "topic")]
    event = Event("pull_request", merge, "topic", is_pull_request=True)
    assert look(git, event) == brought  # what CIs check out: the merge into the base
    assert look(git, event, branches=("train/**",)) == brought
    git.run("checkout", "--quiet", "--detach", "topic")
    of_head = Event("pull_request", two, "topic", before=moved, is_pull_request=True)
    assert look(git, of_head) == brought
    unknown = Event("pull_request", MISSING, "topic", before=MISSING, is_pull_request=True)
    assert look(git, unknown) == [("old/ckpt.pt", base, "topic"), ("ckpt.pt", two, "topic")]
    shallow = new_git("shallow", git, "--depth=1")
    head = shallow.run("rev-parse", "HEAD")
    assert {row[0] for row in look(shallow, event)} == {"old/ckpt.pt", "ckpt.pt"}
    assert {row[1] for row in look(shallow, event)} == {head}


def test_branches_by_glob_here_and_on_origin(new_git: NewGit) -> None:
    upstream = new_git("upstream")
    main = upstream.commit({"ckpt.pt": b"1"})
    upstream.branch("train/b")
    upstream.commit({"ckpt.pt": b"2"})
    upstream.branch("train/deep/c", "main")
    upstream.n_commits += 5
    upstream.commit({"ckpt.pt": b"3"})
    upstream.run("checkout", "--quiet", "main")
    expected = [
        ("ckpt.pt", upstream.run("rev-parse", name), name) for name in ("train/b", "train/deep/c")
    ]
    assert look(upstream, branches=("train/**",)) == expected
    clone = new_git("clone", upstream)
    assert look(clone, branches=("train/**",)) == expected
    assert look(clone, branches=("train/*",)) == expected[:1]
    assert look(clone, branches=("nothing",)) == []
    # The event's branch counts where it matches, and comes first.
    newest = push(expected[1][1], None, "train/deep/c")
    assert look(clone, newest, branches=("train/**",)) == expected[::-1]
    assert look(clone, push(main), branches=("train/**",)) == expected
    assert look(clone, push(MISSING, None, "train/gone"), branches=("train/**",)) == expected
    assert look(clone, branches=("**",))[0][2] == "main"
    assert len(look(clone, branches=("**",))) == 3


def test_each_content_of_a_path_once(new_git: NewGit) -> None:
    git = new_git()
    first = git.commit({"ckpt.pt": b"1"})
    git.branch("a")
    git.commit({"x": b""})
    git.branch("b", "main")
    other = git.commit({"copy/ckpt.pt": b"1", "y": b""})
    found = look(git, branches=("*",))
    assert sorted(found) == [("ckpt.pt", first, "main"), ("copy/ckpt.pt", other, "b")]


def test_shallow_clone(new_git: NewGit) -> None:
    git = new_git("upstream")
    released = git.commit({"ckpt.pt": b"1"})
    commits = [git.commit({"ckpt.pt": str(i).encode()}) for i in range(2, 5)]
    clone = new_git("clone", git, "--depth=2")
    head = push(commits[-1], commits[0])
    assert look(clone, head, (released,)) == [("ckpt.pt", commits[-1], "main")]
    assert look(clone, push(commits[-1], commits[1])) == [("ckpt.pt", commits[-1], "main")]
    assert look(new_git("one", git, "--depth=1"), head) == [("ckpt.pt", commits[-1], "main")]


def test_partial_clone_without_blobs_says_what_to_do(new_git: NewGit) -> None:
    git = new_git("upstream")
    git.run("config", "uploadpack.allowFilter", "true")
    before = git.commit({"ckpt.pt": b"1"})
    git.commit({"ckpt.pt": b"2"})
    head = git.commit({"ckpt.pt": b"3"})
    clone = new_git("clone", git, "--filter=blob:none")
    assert look(clone) == [("ckpt.pt", head, "main")]  # the one of the checkout is there
    assert look(clone, push(head, MISSING), (MISSING,)) == look(clone)
    with pytest.raises(UsageError, match=r"not in the repository.*without a filter"):
        look(clone, push(head, before))
    with pytest.raises(UsageError, match="without a filter"):
        look(new_git("trees", git, "--filter=tree:0", "--no-checkout"))


def test_empty_repository_and_detached_head(new_git: NewGit) -> None:
    git = new_git()
    assert look(git) == []
    assert look(git, push(MISSING)) == []
    assert look(git, branches=("**",)) == []
    head = git.commit({"ckpt.pt": b"1"})
    git.run("checkout", "--quiet", "--detach")
    assert look(git) == [("ckpt.pt", head, None)]
    assert look(git, push(head, None, "train/a")) == [("ckpt.pt", head, "train/a")]


def test_links_and_submodules_are_no_checkpoints(new_git: NewGit) -> None:
    git = new_git()
    inner = git.commit({"ckpt.pt": b"1"})
    (git.folder / "ckpt-link.pt").symlink_to("ckpt.pt")
    git.run("update-index", "--add", "--cacheinfo", f"160000,{inner},ckpt-sub.pt")
    (git.folder / "ckpt-sub.pt").mkdir()
    git.commit({})
    assert [name for name, _, _ in look(git)] == ["ckpt.pt"]


def test_odd_names(new_git: NewGit) -> None:
    git = new_git()
    names = [
        "a b/ckpt 1.pt",
        "-x/ckpt.pt",
        "é/ckpt\N{SNOWMAN}.pt",
        "n\nl/ckpt\t.pt",
        '"q"/ckpt*.pt',
        ":(glob)/ckpt.pt",
    ]
    git.commit(dict.fromkeys(names, b"1"))
    assert sorted(name for name, _, _ in look(git)) == sorted(names)
    git.commit({"removed": b""})
    head = git.commit(dict.fromkeys(names, b"2"))
    assert {(name, head, "main") for name in names} == set(look(git, push(head)))


def test_a_name_that_is_not_unicode(new_git: NewGit) -> None:
    git = new_git()
    Path(os.fsdecode(os.fsencode(git.folder) + b"/caf\xe9.txt")).write_bytes(b"x")
    git.commit({})
    assert look(git) == []
    Path(os.fsdecode(os.fsencode(git.folder) + b"/ckpt\xe9.pt")).write_bytes(b"x")
    git.commit({})
    with pytest.raises(CheckpointError, match=r"ckpt\\xe9.pt: its name is not UTF-8"):
        look(git)


def test_globs_are_relative_to_the_folder(new_git: NewGit) -> None:
    git = new_git()
    git.commit({"models/tiny/out/ckpt.pt": b"1", "out/ckpt.pt": b"2"})
    folder = git.folder / "models" / "tiny"
    (found,) = git_candidates(folder, Settings(checkpoints=("out/*.pt",)))
    assert (found.name, found.place) == ("models/tiny/out/ckpt.pt", str(folder))


def test_a_bare_repository(new_git: NewGit) -> None:
    git = new_git("upstream")
    head = git.commit({"ckpt.pt": b"1"})
    assert look(new_git("bare", git, "--bare")) == [("ckpt.pt", head, "main")]


def test_nothing_is_written_and_nothing_of_the_repository_is_run(
    new_git: NewGit, tmp_path: Path
) -> None:
    git = new_git()
    git.commit({"ckpt.pt": b"1", ".gitattributes": b"*.pt filter=mine diff=mine\n"})
    hook = tmp_path / "hook"
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\ncat\n")
    hook.chmod(0o755)
    for key in ("core.fsmonitor", "filter.mine.smudge", "diff.mine.textconv", "diff.external"):
        git.run("config", key, str(hook))
    files = {p: p.stat().st_mtime_ns for p in git.folder.rglob("*")}
    assert len(look(git)) == 1
    assert {p: p.stat().st_mtime_ns for p in git.folder.rglob("*")} == files
    assert not (tmp_path / "started").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_repository_of_another_user(new_git: NewGit) -> None:
    git = new_git()
    git.commit({"ckpt.pt": b"1"})
    for path in (git.folder, *git.folder.rglob("*")):
        os.chown(path, 12345, 12345)
    refused = subprocess.run(
        ["git", "-C", str(git.folder), "log"], capture_output=True, check=False
    )
    assert b"dubious ownership" in refused.stderr
    assert [name for name, _, _ in look(git)] == ["ckpt.pt"]


def test_the_walk_is_bounded_and_says_so(
    new_git: NewGit, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    git = new_git()
    first = git.commit({"old/ckpt.pt": b"0"})
    commits = [git.commit({"ckpt.pt": str(i).encode()}) for i in range(4)]
    monkeypatch.setattr(repository, "MOST_COMMITS", 2)
    found = git_candidates(git.folder, Settings(), None, (first,), (), Progress())
    assert [each.provenance.commit for each in found if each.name == "ckpt.pt"] == commits[2:]
    assert "main: only the last 2 commits are looked at" in capsys.readouterr().err


def test_an_adapter_has_the_digest_of_both_files(new_git: NewGit, tmp_path: Path) -> None:
    git = new_git()
    git.commit({"base/ckpt.pt": b"base", "lora/ckpt.pt": b"lora"})
    both = sha256(f"{sha256(b'lora')}\n{sha256(b'base')}\n".encode())
    (found,) = git_candidates(git.folder, Settings(base="base/ckpt.pt"))
    assert (found.name, found.sha256) == ("lora/ckpt.pt", both)
    outside = tmp_path / "base.pt"
    outside.write_bytes(b"base")
    of_both = git_candidates(git.folder, Settings(base=str(outside)))
    assert [each.sha256 for each in of_both if each.name == "lora/ckpt.pt"] == [both]
    unknown = git_candidates(git.folder, Settings(base="nowhere.pt"))
    assert [each.sha256 for each in unknown] == [None, None]
