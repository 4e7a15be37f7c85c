"""Discussions and pull requests: a JSON file each, beside the refs of the repository.

`discussions/N.json` says who said what; the commits of pull request N are `refs/pr/N`, so a clone
can fetch them. A file is changed under a lock and replaced whole.
"""

from __future__ import annotations

import fcntl
import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from slogpt_hf.hub.embedded import commits, git, lfs, names
from slogpt_hf.hub.embedded.commits import CommitRequest
from slogpt_hf.hub.embedded.git import CommitFacts, Repository
from slogpt_hf.hub.embedded.wire import RefusalError

TEXT_LIMIT = 64 * 1024
_COMMITS_LISTED = 250
_MERGE = ("-c", "merge.renames=false", "merge-tree", "--write-tree", "--name-only", "-z")

Record = dict[str, Any]
"""What a file holds: title, status, base (of a pull request: a full ref name), merge, events."""


@dataclass(frozen=True)
class Merge:
    """What merging would give: a tree, or the files in the way (True: they cannot be told)."""

    tree: str
    conflicts: list[str] | bool


def read_all(repo: Repository) -> list[tuple[int, Record]]:
    """Every discussion with its number, the newest first."""
    numbers = sorted((int(p.stem) for p in _folder(repo).glob("[1-9]*.json")), reverse=True)
    return [(number, read(repo, number)) for number in numbers]


def read(repo: Repository, number: int) -> Record:
    """
    Raises:
        RefusalError: 404 if there is no such discussion.
    """
    try:
        record: Record = json.loads((_folder(repo) / f"{number}.json").read_text("utf-8"))
    except FileNotFoundError:
        raise RefusalError(404, f"Discussion {number} not found") from None
    return record


def create(repo: Repository, title: str, text: str, author: str, *, base: str = "") -> int:
    """Open a discussion, or (`base`: a full ref name) a pull request without commits; its number.

    Raises:
        RefusalError: 400 for a title of fewer than 3 or more than 200 characters, a text that is
            too long, 404 if there is no such base.
    """
    record = _record(title, text, author, "draft" if base else "open", base)
    head = git.resolve(repo, base) if base else None
    if base and head is None:
        raise RefusalError(404, f"Invalid rev id: {base}", "RevisionNotFound")
    return _add(repo, record, head)


def propose(repo: Repository, base: str, request: CommitRequest) -> tuple[str, int]:
    """Open a pull request with one commit on top of a branch; the commit's id and the number.

    Raises:
        RefusalError: as `commits.commit`.
    """
    head = git.resolve(repo, base)
    if request.parent is not None and request.parent != head:
        raise commits.conflict()
    oid = commits.write_on(repo, str(head), request)
    title = " ".join(request.summary.replace("\0", "").split())[:200].strip()
    title = title if len(title) >= 3 else f"Commit: {title}"
    record = _record(title, request.description, "", "open", base)
    return oid, _add(repo, record, oid)


@contextmanager
def changing(repo: Repository, number: int) -> Iterator[Record]:
    """The record of a discussion, to be changed; it is written when the block ends well.

    Raises:
        RefusalError: 404 if there is no such discussion.
    """
    with _locked(repo):
        record = read(repo, number)
        yield record
        text = json.dumps(record)
        lfs.write_whole(repo.incoming, _folder(repo) / f"{number}.json", text)


def event(kind: str, author: str, **data: Any) -> Record:
    """A new entry of a discussion."""
    return {"id": secrets.token_hex(12), "type": kind, "at": now(), "author": author, "data": data}


def comment(text: str, author: str) -> Record:
    """A new comment.

    Raises:
        RefusalError: 400 for one that is too long.
    """
    return event("comment", author, versions=[version(text, author)], hidden=False)


def version(text: str, author: str) -> Record:
    """One wording of a comment."""
    if len(text) > TEXT_LIMIT:
        raise RefusalError(400, f"A comment has at most {TEXT_LIMIT} characters.")
    return {"text": text, "author": author, "at": now()}


def now() -> str:
    """This moment in the Hub's form, in UTC with milliseconds."""
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "Z"


def checked_title(title: str) -> str:
    title = " ".join(title.replace("\0", "").split())  # it becomes a commit's first line
    if not 3 <= len(title) <= 200:
        raise RefusalError(400, '"title" length must be 3 to 200 characters long')
    return title


def commits_of(repo: Repository, number: int, record: Record) -> list[CommitFacts]:
    """The commits of a pull request that its base has not, the oldest first, at most 250."""
    head, base = git.resolve(repo, f"refs/pr/{number}"), _base(repo, record)
    if head is None or base is None:
        return []
    return git.log(repo, head, without=base, limit=_COMMITS_LISTED)[::-1]


def diff(repo: Repository, number: int, record: Record) -> str:
    """What a pull request changes, as `git diff` shows it."""
    head, base = git.resolve(repo, f"refs/pr/{number}"), _base(repo, record)
    if head is None or base is None:
        return ""
    options = ("--no-ext-diff", "--no-textconv", "--no-renames")
    try:
        output = git.git(repo, "diff", *options, f"{base}...{head}")
    except git.GitError:  # no commit in common
        output = git.git(repo, "diff", *options, base, head)
    return output.decode("utf-8", "replace")


def merged(repo: Repository, number: int, record: Record) -> Merge:
    """What merging pull request `number` into its base now would give."""
    base, head = git.resolve(repo, record["base"]), git.resolve(repo, f"refs/pr/{number}")
    if base is None or head is None:
        return Merge("", True)
    try:
        output = git.git(repo, *_MERGE, "--no-messages", base, head)
    except git.GitError as error:
        if error.status != 1:
            return Merge("", True)
        paths = error.output.split(b"\0")[1:]
        return Merge("", [path.decode("utf-8", "replace") for path in paths if path])
    return Merge(output.split(b"\0")[0].decode(), [])


def merge(repo: Repository, number: int, author: str, text: str = "") -> str:
    """Put a pull request on its base as one commit; the commit's id.

    Raises:
        RefusalError: 400 for what is no open pull request, 409 for conflicts, 412 if the base moved
            meanwhile.
    """
    with changing(repo, number) as record:
        if not record["base"] or record["status"] != "open":
            raise RefusalError(400, f"Only an open pull request can be merged; #{number} is not.")
        result, base = merged(repo, number, record), git.resolve(repo, record["base"])
        if result.conflicts or base is None:
            raise RefusalError(409, f"Pull request #{number} has conflicts: {result.conflicts}")
        told = "".join(
            f"\n- {facts.title} ({facts.oid})" for facts in commits_of(repo, number, record)
        )
        message = f"{record['title']} (#{number})\n{told}\n".encode("utf-8", "replace")
        arguments = ("commit-tree", result.tree, "-p", base, "-F", "-")
        oid = git.git(repo, *arguments, stdin=message).decode().strip()
        try:
            git.update_ref(repo, record["base"], oid, base)
        except git.GitError:
            if git.resolve(repo, record["base"]) == base:
                raise
            raise commits.conflict() from None
        record |= {"status": "merged", "merge": oid}
        record["events"] += [comment(text, author)] if text else []
        record["events"] += [event("status-change", author, status="merged")]
    return oid


def _base(repo: Repository, record: Record) -> str | None:
    """The base as it was before a merge, or as it is."""
    return git.resolve(repo, record["base"]) if not record["merge"] else _parent(repo, record)


def _parent(repo: Repository, record: Record) -> str | None:
    try:
        return git.git(repo, "rev-parse", "--verify", f"{record['merge']}^").decode().strip()
    except git.GitError:
        return None


def _record(title: str, text: str, author: str, status: str, base: str) -> Record:
    return {
        "title": checked_title(title),
        "status": status,
        "base": base,
        "merge": "",
        "author": author,
        "at": now(),
        "events": [comment(text, author)],
    }


def _add(repo: Repository, record: Record, head: str | None) -> int:
    """Write a discussion under the next number; its ref comes first, if it has a commit."""
    with _locked(repo):
        taken = [int(path.stem) for path in _folder(repo).glob("[1-9]*.json")]
        taken += [int(ref.name) for ref in git.list_refs(repo, "pr") if names.is_pull_ref(ref.ref)]
        number = max(taken, default=0) + 1
        if head:
            git.update_ref(repo, f"refs/pr/{number}", head, git.NO_OBJECT)
        text = json.dumps(record)
        lfs.write_whole(repo.incoming, _folder(repo) / f"{number}.json", text)
    return number


def _folder(repo: Repository) -> Path:
    return repo.git_dir / "discussions"


@contextmanager
def _locked(repo: Repository) -> Iterator[None]:
    folder = _folder(repo)
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
