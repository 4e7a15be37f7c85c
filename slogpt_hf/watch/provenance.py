"""The git commit and branch that a checkpoint was found on."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

CREDENTIALS_IN_URL = re.compile(r"(?<=://)[^/]*@")
SET_BY_HOOKS = ("GIT_DIR", "GIT_WORK_TREE")  # git obeys them rather than the folder


@dataclass(frozen=True)
class Provenance:
    """Where in a git repository a file lies; None for what git does not know.

    Attributes:
        commit: id of the commit that is checked out, 40 hex digits.
        branch: name of the branch that is checked out; None when HEAD is detached.
        remote: URL of ``origin``, without credentials.
    """

    commit: str | None = None
    branch: str | None = None
    remote: str | None = None


def provenance_of(path: Path) -> Provenance:
    """The commit, branch and remote of the repository around ``path``; empty outside of one."""
    folder = path.resolve().parent
    commit = _git(folder, "rev-parse", "--verify", "--quiet", "HEAD")
    if commit is None:
        return Provenance()
    remote = _git(folder, "remote", "get-url", "origin")
    return Provenance(
        commit=commit,
        branch=_git(folder, "symbolic-ref", "--quiet", "--short", "HEAD"),
        remote=CREDENTIALS_IN_URL.sub("", remote) if remote else None,
    )


def _git(folder: Path, *arguments: str) -> str | None:
    inherited = {name: value for name, value in os.environ.items() if name not in SET_BY_HOOKS}
    try:
        result = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=30,
            check=False,
            env=inherited | {"GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None if result.returncode == 0 else None
