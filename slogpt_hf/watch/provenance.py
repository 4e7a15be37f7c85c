"""The git commit and branch that a checkpoint was found on, and whether it belongs to them."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from slogpt_hf.watch.event import Event

CREDENTIALS_IN_URL = re.compile(r"(?<=://)[^/]*@")
# Set while a hook runs; git obeys them rather than the folder.
SET_BY_HOOKS = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX")
OPTIONS = {"GIT_OPTIONAL_LOCKS": "0", "GIT_LITERAL_PATHSPECS": "1"}
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
    status = _git(folder, *STATUS, env=_without_filters(folder))
    records = (status or "").split("\0")
    heads = dict(r.removeprefix("# branch.").split(" ", 1) for r in records if r.startswith("# b"))
    if heads.get("oid", "(initial)") == "(initial)":
        return Provenance()
    changed = [r.split(" ", FIELDS[r[0]])[-1] for r in records if r[:1] in FIELDS and r[1:2] == " "]
    remote = _git(folder, "remote", "get-url", "origin")
    branch = None if heads["head"] == "(detached)" else heads["head"]
    if branch is None and event is not None and event.commit == heads["oid"]:
        branch = event.branch
    return Provenance(
        commit=heads["oid"],
        branch=branch,
        remote=CREDENTIALS_IN_URL.sub("", remote) if remote else None,
        tracked=_tracked(folder, {file.resolve() for file in files} or {path}, changed),
        dirty=bool(changed),
        run=event.run if event else None,
    )


def _tracked(folder: Path, files: set[Path], changed: list[str]) -> bool:
    # git refuses paths outside of the repository, and leaves out those that it does not track.
    found = _git(folder, "ls-files", "-z", "--full-name", "--", *map(str, sorted(files)))
    names = set(filter(None, (found or "").split("\0")))
    whole = len(names) == len(files) and not any(file.is_dir() for file in files)
    return whole and names.isdisjoint(changed)


def _without_filters(folder: Path) -> dict[str, str]:
    """Environment without the programs that a repository's files are filtered through.

    Whoever made the repository chose them. The files of a fresh checkout are compared by their
    times; one that only its filter could show to be unchanged counts as changed.
    """
    keys = _git(folder, "config", "-z", "--name-only", "--get-regexp", r"^filter\.") or ""
    count = os.environ.get("GIT_CONFIG_COUNT", "")  # what the caller configures stays
    first = int(count) if count.isdecimal() else 0
    names = dict(enumerate(filter(None, keys.split("\0")), first))
    return (
        {"GIT_CONFIG_COUNT": str(first + len(names))}
        | {f"GIT_CONFIG_KEY_{i}": name for i, name in names.items()}
        | {f"GIT_CONFIG_VALUE_{i}": "" for i in names}
    )


def _git(folder: Path, *arguments: str, env: dict[str, str] | None = None) -> str | None:
    inherited = {name: value for name, value in os.environ.items() if name not in SET_BY_HOOKS}
    try:
        result = subprocess.run(
            ["git", "-c", "core.fsmonitor=false", "-C", str(folder), *arguments],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=30,
            check=False,
            env=inherited | OPTIONS | (env or {}),
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None if result.returncode == 0 else None
