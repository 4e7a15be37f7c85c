"""Git plumbing on one bare repository; only here and in `git_http` is `git` started.

Every command runs without the user's and the system's configuration and, through `GIT_DIR`, on
this repository only. Commands inherit the hub's folder lock, so that a command which outlives a
killed server still counts as a user of the folder.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

from slogpt_hf.hub.embedded import names

COMMITTER = "slogpt-hf embedded hub"
NO_OBJECT = "0" * 40
_POINTER = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\noid sha256:([0-9a-f]{64})\nsize (\d{1,19})\n"
)
POINTER_SIZES = range(120, 160)
"""Bytes of a blob that may be a pointer."""
OPTIONS = tuple(
    part
    for setting in (
        "core.fsync=committed,reference",
        "core.filesRefLockTimeout=10000",
        "core.hooksPath=/dev/null",  # nothing that lies in a repository runs
    )
    for part in ("-c", setting)
)


class GitError(Exception):
    """A git command that ended with exit status `status`; the message is git's own."""

    def __init__(self, message: str, status: int, output: bytes = b"") -> None:
        super().__init__(message)
        self.status = status
        self.output = output


@dataclass(frozen=True)
class Repository:
    """A bare repository `namespace/name`, where its temporary files go, and the folder's lock.

    `kind` is `model` or `dataset`.
    """

    id: str
    git_dir: Path
    incoming: Path
    lock_fd: int
    kind: str = "model"

    @property
    def location(self) -> str:
        """Path of the repository below the hub's address, and below its folder."""
        return located(self.id, self.kind)


def located(repo_id: str, kind: str) -> str:
    """Path of a repository below the hub's address: models have no prefix."""
    return repo_id if kind == "model" else f"{kind}s/{repo_id}"


@dataclass(frozen=True)
class Pointer:
    """What a git-lfs pointer blob says: sha256 in hexadecimal and size in bytes of the object."""

    sha256: str
    size: int
    pointer_size: int


@dataclass(frozen=True)
class Entry:
    """One path of a tree. `size`: bytes of the content, not of the pointer; 0 for a folder."""

    path: str
    mode: str
    is_folder: bool
    oid: str
    size: int
    lfs: Pointer | None = None

    @property
    def parent(self) -> str:
        return self.path.rpartition("/")[0]


@dataclass(frozen=True)
class CommitFacts:
    oid: str
    date: datetime
    title: str
    message: str


@dataclass(frozen=True)
class Ref:
    """A branch or tag; `commit` is the peeled target."""

    name: str
    ref: str
    commit: str


def pointer_text(sha256: str, size: int) -> bytes:
    """The blob that stands for an LFS object (git-lfs specification, version 1)."""
    return (
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
    )


def parse_pointer(blob: bytes) -> Pointer | None:
    match = _POINTER.fullmatch(blob)
    return Pointer(match[1].decode(), int(match[2]), len(blob)) if match else None


def git(
    repo: Repository,
    *arguments: str,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> bytes:
    """Standard output of one git command.

    Raises:
        GitError: the command ended with an error.
    """
    command = ["git", *OPTIONS, *arguments]
    done = subprocess.run(
        command,
        input=stdin,
        capture_output=True,
        cwd=cwd or repo.git_dir,
        env={**environment(), "GIT_DIR": str(repo.git_dir), **(env or {})},
        pass_fds=(repo.lock_fd,),
        check=False,
    )
    if done.returncode:
        message = done.stderr.decode(errors="replace").strip()
        raise GitError(message or f"git {arguments[0]} failed", done.returncode, done.stdout)
    return done.stdout


def environment() -> dict[str, str]:
    """Variables with which git reads no configuration but the repository's own."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "LC_ALL": "C",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_LITERAL_PATHSPECS": "1",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_AUTHOR_NAME": COMMITTER,
        "GIT_AUTHOR_EMAIL": "hub@localhost",
        "GIT_COMMITTER_NAME": COMMITTER,
        "GIT_COMMITTER_EMAIL": "hub@localhost",
    }


def resolve(repo: Repository, revision: str) -> str | None:
    """Commit id of a whole commit id, a branch, a tag, a full ref name or a shortened commit id.

    They are tried in this order: no name stands before the commit that somebody has pinned. Full
    names are those of branches, tags and pull requests (`refs/pr/1`).
    """
    if revision == "HEAD":
        revision = "main"
    if revision.startswith(("refs/heads/", "refs/tags/")):
        candidates = [revision] if names.is_ref_name(revision.split("/", 2)[2]) else []
    elif names.is_pull_ref(revision) or names.is_commit_id(revision):
        candidates = [revision]
    else:
        candidates = (
            [f"refs/heads/{revision}", f"refs/tags/{revision}"]
            if names.is_ref_name(revision)
            else []
        )
        candidates += [revision] if names.is_commit_prefix(revision) else []
    if not candidates:
        return None
    lines = "".join(f"{candidate}^{{commit}}\n" for candidate in candidates)
    for line in git(repo, "cat-file", "--batch-check", stdin=lines.encode()).splitlines():
        fields = line.split()
        if len(fields) == 3 and fields[1] == b"commit":
            return fields[0].decode()
    return None


def writable_ref(repo: Repository, name: str) -> str | None:
    """The full name of an existing branch or pull request; None for tags, commit ids and others."""
    short = name.removeprefix("refs/heads/")
    ref = name if names.is_pull_ref(name) else f"refs/heads/{short}"
    return ref if resolve(repo, ref) else None


def read_blobs(repo: Repository, oids: Iterable[str]) -> list[bytes]:
    """Contents of blobs that exist, in order."""
    wanted = list(oids)
    if not wanted:
        return []
    output = git(repo, "cat-file", "--batch", stdin="".join(f"{o}\n" for o in wanted).encode())
    blobs, start = [], 0
    for _ in wanted:
        end_of_header = output.index(b"\n", start)
        size = int(output[start:end_of_header].split()[2])
        blobs.append(output[end_of_header + 1 : end_of_header + 1 + size])
        start = end_of_header + 2 + size
    return blobs


@lru_cache(maxsize=256)
def tree(repo: Repository, commit: str) -> Mapping[str, Entry]:
    """Every file and folder of a commit by path; cached, since a commit never changes."""
    entries = {}
    for record in git(repo, "ls-tree", "-rtlz", "--full-tree", commit).split(b"\0")[:-1]:
        facts, _, raw_path = record.partition(b"\t")
        mode, kind, oid, size = facts.decode().split()
        path = raw_path.decode("utf-8", "surrogateescape")
        if kind != "commit":
            entries[path] = Entry(
                path, mode, kind == "tree", oid, 0 if kind == "tree" else int(size)
            )
    small = [e for e in entries.values() if not e.is_folder and e.size in POINTER_SIZES]
    for entry, blob in zip(small, read_blobs(repo, (e.oid for e in small)), strict=True):
        if pointer := parse_pointer(blob):
            entries[entry.path] = Entry(
                entry.path, entry.mode, False, entry.oid, pointer.size, pointer
            )
    return entries


def log(
    repo: Repository, commit: str, *, path: str = "", limit: int = 0, without: str = ""
) -> list[CommitFacts]:
    """Commits from `commit` backwards, first the newest; `limit` 0 means all of them.

    `path` keeps those that change it, `without` leaves out a commit and those before it.
    """
    arguments = ["log", "-z", "--format=%H%n%ct%n%s%n%b"]
    arguments += [f"--max-count={limit}"] if limit else []
    arguments += [commit, *([f"^{without}"] if without else [])]
    output = git(repo, *arguments, "--", *([path] if path else []))
    facts = []
    for record in output.decode("utf-8", "replace").split("\0"):
        if record:
            oid, seconds, title, message = record.split("\n", 3)
            facts.append(
                CommitFacts(oid, datetime.fromtimestamp(int(seconds), UTC), title, message.strip())
            )
    return facts


def list_refs(repo: Repository, kind: str) -> list[Ref]:
    """Branches (`heads`) or tags (`tags`) that point to commits."""
    form = "%(refname)%00%(objecttype)%00%(objectname)%00%(*objecttype)%00%(*objectname)"
    refs = []
    for line in git(repo, "for-each-ref", f"--format={form}", f"refs/{kind}").splitlines():
        ref, own_type, own, peeled_type, peeled = line.decode("utf-8", "surrogateescape").split(
            "\0"
        )
        if "commit" in (own_type, peeled_type):
            refs.append(Ref(ref.split("/", 2)[2], ref, own if own_type == "commit" else peeled))
    return refs


def update_ref(repo: Repository, ref: str, new: str, old: str) -> None:
    """Move or create (`old` all zeros) a ref, only if it still is `old`.

    Raises:
        GitError: the ref is not `old`, or its name collides with another ref.
    """
    git(repo, "update-ref", "--no-deref", ref, new, old)
