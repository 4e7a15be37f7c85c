"""The git commit and branch that a checkpoint was found on, and whether it belongs to them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from slogpt_hf.watch.event import Event
from slogpt_hf.watch.git import git_text, remote_of

STATUS = (
    "status",
    "--porcelain=v2",
    "-z",
    "--branch",
    "--untracked-files=no",
    "--ignore-submodules=dirty",  # does not start git in them
)
# Fields before the path, by the kind of a record of `git status --porcelain=v2`.
FIELDS = {"1": 8, "2": 9, "u": 10}


@dataclass(frozen=True)
class Provenance:
    """The repository around a file; None for what git does not know or nobody asked it.

    Attributes:
        commit: id of the commit that is checked out, 40 hex digits.
        branch: name of the branch that is checked out; None when HEAD is detached.
        remote: URL of ``origin``, without credentials.
        tracked: the files are all part of the commit, unchanged. Otherwise the commit is only what
            was checked out when they were read.
        dirty: a file that git tracks was changed since the commit.
        url: where the checkpoint was fetched from, without credentials; None for a file on disk or
            in git.
        etag: what the store called this very content; None where ``url`` is.
        run: URL of the CI's run that released it.
    """

    commit: str | None = None
    branch: str | None = None
    remote: str | None = None
    tracked: bool | None = None
    dirty: bool | None = None
    url: str | None = None
    etag: str | None = None
    run: str | None = None


def provenance_of(path: Path, files: Iterable[Path] = (), event: Event | None = None) -> Provenance:
    """The commit, branch and remote of the repository around ``path``; empty outside of one.

    Args:
        path: a file or a folder.
        files: what has to be part of the commit to be tracked; ``path`` itself by default.
        event: of the CI at hand, which checks out a commit without its branch.

    Format: "Porcelain Format Version 2" of https://git-scm.com/docs/git-status.
    """
    path = path.resolve()
    folder = path if path.is_dir() else path.parent
    status = git_text(folder, *STATUS, config=_without_filters(folder))
    records = (status or "").split("\0")
    heads = dict(r.removeprefix("# branch.").split(" ", 1) for r in records if r.startswith("# b"))
    if heads.get("oid", "(initial)") == "(initial)":
        return Provenance()
    changed = [r.split(" ", FIELDS[r[0]])[-1] for r in records if r[:1] in FIELDS and r[1:2] == " "]
    branch = None if heads["head"] == "(detached)" else heads["head"]
    if branch is None and event is not None and event.commit == heads["oid"]:
        branch = event.branch
    return Provenance(
        commit=heads["oid"],
        branch=branch,
        remote=remote_of(folder),
        tracked=_tracked(folder, {file.resolve() for file in files} or {path}, changed),
        dirty=bool(changed),
        run=event.run if event else None,
    )


def _tracked(folder: Path, files: set[Path], changed: list[str]) -> bool:
    # git refuses paths outside of the repository, and leaves out those that it does not track.
    found = git_text(folder, "ls-files", "-z", "--full-name", "--", *map(str, sorted(files)))
    names = set(filter(None, (found or "").split("\0")))
    whole = len(names) == len(files) and not any(file.is_dir() for file in files)
    return whole and names.isdisjoint(changed)


def _without_filters(folder: Path) -> list[tuple[str, str]]:
    """Configuration without the programs that a repository's files are filtered through.

    Whoever made the repository chose them. The files of a fresh checkout are compared by their
    times; one that only its filter could show to be unchanged counts as changed.
    """
    keys = git_text(folder, "config", "-z", "--name-only", "--get-regexp", r"^filter\.") or ""
    return [(name, "") for name in keys.split("\0") if name]
