"""From the lines of a commit request to one commit; the last step, a ref update, makes it."""

from __future__ import annotations

import base64
import binascii
import io
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slogpt_hf.hub.embedded import attributes, cards, git, lfs, names
from slogpt_hf.hub.embedded.git import Repository
from slogpt_hf.hub.embedded.wire import RefusalError

LINE_LIMIT = 64 * 1024 * 1024
ATTEMPTS = 20

Files = dict[str, tuple[str, str]]
"""Path → (git mode, blob id)."""


@dataclass(frozen=True)
class Change:
    """One operation (`file`, `lfs`, `deletedFile` or `deletedFolder`); `oid` is the new blob."""

    kind: str
    path: str
    oid: str = ""


@dataclass(frozen=True)
class CommitRequest:
    summary: str
    description: str
    parent: str | None
    changes: tuple[Change, ...] = field(default=())


def read_request(repo: Repository, body: io.BufferedReader) -> CommitRequest:
    """Read the ndjson lines `{"key": …, "value": {…}}` and write their contents as blobs.

    Regular files go through a folder of temporary files, one at a time, into one `hash-object`.

    Raises:
        RefusalError: 400 for anything malformed or an LFS object that was not uploaded, 413 for
            a line above 64 MiB.
    """
    header: dict[str, Any] | None = None
    plan: list[tuple[str, str, str]] = []
    with tempfile.TemporaryDirectory(dir=repo.incoming, prefix="commit-") as folder:
        count = 0
        for key, value in _lines(body):
            if key == "header":
                header = value
                continue
            path = names.repo_path(str(value.get("path", "")).removesuffix("/"))
            if key in ("deletedFile", "deletedFolder"):
                plan.append((key, path, ""))
            elif key in ("file", "lfsFile"):
                content = _content(value) if key == "file" else _pointer(repo, value)
                if path == cards.FILE and key == "file":
                    _require_valid(content)
                (Path(folder) / str(count)).write_bytes(content)
                plan.append(("file" if key == "file" else "lfs", path, str(count)))
                count += 1
            else:
                raise RefusalError(400, f"Unknown operation {key!r} in a commit.")
        oids = _hash_objects(repo, Path(folder), count)
    if header is None:
        raise RefusalError(400, "A commit needs a header line.")
    summary, description = (str(header.get(name) or "") for name in ("summary", "description"))
    if not summary.strip():
        raise RefusalError(400, "A commit needs a summary.")
    parent = header.get("parentCommit")
    changes = tuple(Change(kind, path, oids[int(n)] if n else "") for kind, path, n in plan)
    return CommitRequest(summary, description, str(parent) if parent else None, changes)


def apply(files: Files, changes: tuple[Change, ...]) -> Files:
    """The files after the changes, in order.

    Raises:
        RefusalError: 404 if a deleted path does not exist, 400 for a file that is also a folder.
    """
    result = dict(files)
    for change in changes:
        if change.kind == "deletedFile" and change.path in result:
            del result[change.path]
        elif change.kind in ("deletedFile", "deletedFolder"):
            # A folder may be deleted by its name alone.
            inside = [path for path in result if path.startswith(f"{change.path}/")]
            if not inside:
                raise _missing(change.path)
            for path in inside:
                del result[path]
        else:
            mode = result.get(change.path, ("100644", ""))[0]
            result[change.path] = ("100755" if mode == "100755" else "100644", change.oid)
    folders = {parent for path in result for parent in _parents(path)}
    if clash := sorted(folders & result.keys()):
        raise RefusalError(400, f"{clash[0]!r} would be a file and a folder at once.")
    return result


def commit(repo: Repository, ref: str, request: CommitRequest) -> str:
    """Put the changes on a branch (`refs/heads/…`) or pull request (`refs/pr/…`); the commit's id.

    The ref moves by compare-and-swap.
    Without `parentCommit` a commit that lost the race is computed anew on top of the winner.

    Raises:
        RefusalError: 404 for an unknown branch, 412 if the branch is not at `parentCommit`.
    """
    for _ in range(ATTEMPTS):
        head = git.resolve(repo, ref)
        if head is None:
            raise RefusalError(404, f"Invalid rev id: {ref}", "RevisionNotFound")
        if request.parent is not None and request.parent != head:
            raise conflict()
        oid = write_on(repo, head, request)
        try:
            git.update_ref(repo, ref, oid, head)
        except git.GitError:
            if git.resolve(repo, ref) == head:
                raise
            continue
        return oid
    raise RefusalError(503, f"Too many commits at once on {ref}; try again.")


def conflict() -> RefusalError:
    """The refusal of a change to a ref that is not (any more) where the client thinks."""
    return RefusalError(
        412, "The branch was updated since you opened this page. Please refresh and try again."
    )


def write_on(repo: Repository, head: str, request: CommitRequest) -> str:
    """Write the commit that makes the changes on top of another; no ref moves."""
    before: Files = {
        e.path: (e.mode, e.oid) for e in git.tree(repo, head).values() if not e.is_folder
    }
    files = _track_lfs(repo, apply(before, request.changes), request.changes)
    return _write_commit(repo, files, request.summary, request.description, head)


def read_files(items: Any) -> dict[str, bytes]:
    """Path to content of the `files` with which a repository is to be created; None is none.

    Raises:
        RefusalError: 400 for anything malformed.
    """
    if items is None:
        return {}
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise RefusalError(400, "`files` must be a list of objects.")
    return {names.repo_path(str(item.get("path", ""))): _content(item) for item in items}


def write_initial(repo: Repository, contents: Mapping[str, bytes]) -> str:
    """The first commit of an empty repository, on `main`.

    Raises:
        RefusalError: 400 for a file that is also a folder.
    """
    with tempfile.TemporaryDirectory(dir=repo.incoming, prefix="commit-") as folder:
        for number, content in enumerate(contents.values()):
            (Path(folder) / str(number)).write_bytes(content)
        oids = _hash_objects(repo, Path(folder), len(contents))
    changes = (Change("file", path, oid) for path, oid in zip(contents, oids, strict=True))
    oid = _write_commit(repo, apply({}, tuple(changes)), "initial commit", "", None)
    git.update_ref(repo, "refs/heads/main", oid, git.NO_OBJECT)
    return oid


def _lines(body: io.BufferedReader) -> Iterator[tuple[str, dict[str, Any]]]:
    while line := body.readline(LINE_LIMIT + 1):
        if len(line) > LINE_LIMIT:
            raise RefusalError(413, f"A line of the commit is longer than {LINE_LIMIT} bytes.")
        if not line.strip():
            continue
        try:
            item = json.loads(line)
            key, value = item["key"], item["value"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise RefusalError(400, "A line of the commit is not an operation in JSON.") from None
        if not isinstance(value, dict):
            raise RefusalError(400, "A line of the commit has no value.")
        yield str(key), value


def _content(value: Mapping[str, Any]) -> bytes:
    content, encoding = value.get("content", ""), value.get("encoding", "utf-8")
    try:
        if encoding == "base64":
            return base64.b64decode(content, validate=True)
        return str(content).encode()
    except (binascii.Error, ValueError, TypeError):
        raise RefusalError(
            400, f"The content of {value.get('path')!r} cannot be decoded."
        ) from None


def _require_valid(card: bytes) -> None:
    errors, _ = cards.problems(card[: cards.LIMIT].decode("utf-8", "replace"))
    if errors:
        raise RefusalError(400, "\n".join(errors))


def _pointer(repo: Repository, value: Mapping[str, Any]) -> bytes:
    sha256 = str(value.get("oid", ""))
    size = lfs.object_size(repo, sha256) if names.is_sha256(sha256) else None
    if size is None or value.get("size", size) != size:
        raise RefusalError(400, f"The LFS object of {value.get('path')!r} has not been uploaded.")
    return git.pointer_text(sha256, size)


def _hash_objects(repo: Repository, folder: Path, count: int) -> list[str]:
    if not count:
        return []
    numbers = "".join(f"{number}\n" for number in range(count)).encode()
    arguments = ("hash-object", "-w", "--no-filters", "--stdin-paths")
    return git.git(repo, *arguments, stdin=numbers, cwd=folder).decode().split()


def _track_lfs(repo: Repository, files: Files, changes: tuple[Change, ...]) -> Files:
    """`files` with a rule in `.gitattributes` for every new LFS file that no rule covers yet."""
    new = [change.path for change in changes if change.kind == "lfs" and change.path in files]
    triples = ((path, mode, oid) for path, (mode, oid) in files.items())
    missing = set(new) - attributes.lfs_paths(repo, triples, new)
    if not missing:
        return files
    mode, oid = files.get(attributes.FILE, ("100644", ""))
    text = git.read_blobs(repo, [oid])[0] if oid else b""
    text += b"\n" if text and not text.endswith(b"\n") else b""
    text += "".join(attributes.exact_rule(path) for path in sorted(missing)).encode()
    new_oid = git.git(repo, "hash-object", "-w", "--stdin", stdin=text).decode().strip()
    return {**files, attributes.FILE: (mode, new_oid)}


def _write_commit(
    repo: Repository, files: Files, summary: str, description: str, parent: str | None
) -> str:
    message = f"{summary}\n\n{description}".strip().replace("\0", "")
    records = "".join(f"{mode} {oid}\t{path}\0" for path, (mode, oid) in files.items())
    try:
        stdin = records.encode("utf-8", "surrogateescape"), message.encode()
    except UnicodeEncodeError:
        raise RefusalError(400, "The commit message is not valid text.") from None
    with tempfile.TemporaryDirectory(dir=repo.incoming, prefix="index-") as folder:
        env = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        git.git(repo, "update-index", "-z", "--index-info", stdin=stdin[0], env=env)
        tree = git.git(repo, "write-tree", env=env).decode().strip()
    parents = ("-p", parent) if parent else ()
    output = git.git(repo, "commit-tree", tree, *parents, "-F", "-", stdin=stdin[1])
    return output.decode().strip()


def _parents(path: str) -> Iterator[str]:
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


def _missing(path: str) -> RefusalError:
    return RefusalError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
