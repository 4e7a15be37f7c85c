"""Git plumbing that only reads: nothing is written, and nothing that a repository names is run.

Hooks and the file system monitor are off, filters and external diffs are not used, and commands
reach no other repository, so that a partial clone fails rather than fetch. Any owner is accepted,
since nothing of a repository is believed: in a container the folder is another user's.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from slogpt_hf.errors import CheckpointError, UsageError, first_line
from slogpt_hf.files import HASH_CHUNK, LFS_MAGIC
from slogpt_hf.redaction import without_secrets

# Set while a hook runs; git obeys them rather than the folder.
SET_BY_HOOKS = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX")
NO_PROTOCOL = "none"
OPTIONS = {
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_LITERAL_PATHSPECS": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ALLOW_PROTOCOL": NO_PROTOCOL,
}
CONFIG = {"safe.directory": "*", "core.fsmonitor": "false", "core.hooksPath": os.devnull}
SECONDS = 30  # for what is asked about a file
LONGEST_SECONDS = 600
DOWNLOAD_SECONDS = 24 * 3600
MOST_POINTER_BYTES = 1024  # of the git-lfs specification
OID = re.compile(rb"^oid sha256:([0-9a-f]{64})$", re.MULTILINE)
SIZE = re.compile(rb"^size (\d{1,19})$", re.MULTILINE)
CREDENTIALS_IN_URL = re.compile(r"(?<=://)[^/]*@")
OF_MISSING = ("missing", "bad object", "not allowed", "unable to read", "not a tree", "not our ref")
INCOMPLETE = "Fetch what is missing: check out without a filter, and with the whole history."

ReadBlob = Callable[[str], Iterator[bytes]]


@dataclass(frozen=True)
class Content:
    """What a blob of git stands for: SHA-256 in 64 hex digits, bytes, and how it is kept."""

    sha256: str
    n_bytes: int
    is_pointer: bool = False


def environment(config: Iterable[tuple[str, str]] = ()) -> dict[str, str]:
    """The environment of a git command, with configuration that no argument list shows.

    What the caller configures by ``GIT_CONFIG_COUNT`` stays, and ``config`` counts more.
    """
    inherited = {name: value for name, value in os.environ.items() if name not in SET_BY_HOOKS}
    count = inherited.get("GIT_CONFIG_COUNT", "")
    first = int(count) if count.isdecimal() else 0
    pairs = dict(enumerate((*CONFIG.items(), *config), first))
    return (
        inherited
        | OPTIONS
        | {"GIT_CONFIG_COUNT": str(first + len(pairs))}
        | {f"GIT_CONFIG_KEY_{i}": key for i, (key, _) in pairs.items()}
        | {f"GIT_CONFIG_VALUE_{i}": value for i, (_, value) in pairs.items()}
    )


def git_text(folder: Path, *arguments: str, config: Iterable[tuple[str, str]] = ()) -> str | None:
    """What a git command prints, stripped; None if it fails, prints nothing or is not there."""
    try:
        result = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=SECONDS,
            check=False,
            env=environment(config),
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None if result.returncode == 0 else None


def git_bytes(
    folder: Path,
    *arguments: str,
    stdin: bytes = b"",
    config: Iterable[tuple[str, str]] = (),
    env: Mapping[str, str] | None = None,
    seconds: float = LONGEST_SECONDS,
) -> bytes:
    """What a git command prints.

    Args:
        folder: the repository, or a folder in it.
        arguments: of git.
        stdin: what it reads.
        config: name and value of settings.
        env: variables beside those of ``environment``.
        seconds: that it may take.

    Raises:
        UsageError: git is not installed, or the command failed.
    """
    try:
        result = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            input=stdin,
            capture_output=True,
            timeout=seconds,
            check=False,
            env=environment(config) | dict(env or {}),
        )
    except FileNotFoundError as error:
        raise UsageError("git is not installed.", hint="Install git.") from error
    except subprocess.TimeoutExpired as error:
        raise UsageError(f"{folder}: git {arguments[0]} took more than {seconds:.0f} s.") from error
    if result.returncode:
        said = without_secrets(result.stderr.decode("utf-8", "replace"))
        lines = [line for line in said.splitlines() if line.startswith(("fatal:", "error:"))]
        is_incomplete = any(words in said for words in OF_MISSING)
        raise UsageError(
            f"{folder}: git {arguments[0]} failed ({first_line(lines[-1] if lines else said)}).",
            hint=INCOMPLETE if is_incomplete else "",
        )
    return result.stdout


def sizes_of(folder: Path, blobs: Iterable[str]) -> dict[str, int]:
    """Blob to bytes, of those that are in the repository."""
    wanted = dict.fromkeys(blobs)
    lines = "".join(f"{blob}\n" for blob in wanted).encode()
    check = ("cat-file", "--batch-check")
    try:
        output = git_bytes(folder, *check, stdin=lines)
    except UsageError:  # a partial clone, where asking for a missing one is to fetch it
        output = git_bytes(folder, *check, "--batch-all-objects", "--unordered")
    fields = (line.split() for line in output.decode().splitlines())
    return {line[0]: int(line[2]) for line in fields if len(line) == 3 and line[0] in wanted}


@contextmanager
def blob_reader(folder: Path) -> Iterator[ReadBlob]:
    """A function that gives a blob's content in pieces; all of them have to be taken.

    Raises:
        UsageError: git is not installed; from the function, where an object is not there.
    """
    try:
        process = subprocess.Popen(
            ["git", "-C", str(folder), "cat-file", "--batch"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment(),
        )
    except FileNotFoundError as error:
        raise UsageError("git is not installed.", hint="Install git.") from error
    assert process.stdin and process.stdout
    source, requests = process.stdout, process.stdin

    def read(oid: str) -> Iterator[bytes]:
        try:
            requests.write(f"{oid}\n".encode())
            requests.flush()
            size = source.readline().split()[2]
        except (OSError, IndexError) as error:
            raise UsageError(
                f"{folder}: the object {oid[:12]} is not in the repository.", hint=INCOMPLETE
            ) from error
        left = int(size)
        while left:
            piece = source.read(min(left, HASH_CHUNK))
            if not piece:
                raise UsageError(
                    f"{folder}: the object {oid[:12]} is damaged.", hint="Run: git fsck"
                )
            left -= len(piece)
            yield piece
        source.read(1)

    with process:
        try:
            yield read
        finally:
            process.kill()


def content_of(read: ReadBlob, oid: str) -> Content:
    """What a blob stands for: its own content, or that of the Git LFS object that it points to.

    Raises:
        UsageError: the blob is not in the repository.
    """
    digest, n_bytes, pointer = hashlib.sha256(), 0, None
    for piece in read(oid):
        pointer = None if n_bytes else pointer_in(piece)
        digest.update(piece)
        n_bytes += len(piece)
    return pointer or Content(digest.hexdigest(), n_bytes)


def pointer_in(content: bytes) -> Content | None:
    """What a Git LFS pointer points to; None for anything else.

    Format: https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md.
    """
    if len(content) > MOST_POINTER_BYTES or not content.startswith(LFS_MAGIC):
        return None
    oid, size = OID.search(content), SIZE.search(content)
    return Content(oid[1].decode(), int(size[1]), True) if oid and size else None


def pointer_text(content: Content) -> bytes:
    """The pointer to a Git LFS object."""
    return (
        LFS_MAGIC
        + f".github.com/spec/v1\noid sha256:{content.sha256}\nsize {content.n_bytes}\n".encode()
    )


def combined(digests: Iterable[str]) -> str:
    """SHA-256 of a checkpoint of several files: that of their digests, a line each."""
    lines = list(digests)
    if len(lines) == 1:
        return lines[0]
    return hashlib.sha256("".join(f"{digest}\n" for digest in lines).encode()).hexdigest()


def require_utf8(path: str) -> str:
    """A path of a tree, in which surrogates stand for what is not UTF-8.

    Raises:
        CheckpointError: there are some, so that no record could name it.
    """
    try:
        path.encode()
    except UnicodeEncodeError as error:
        shown = ascii(path.encode("utf-8", "surrogateescape"))[2:-1]
        raise CheckpointError(
            f"{shown}: its name is not UTF-8.", hint="Rename the checkpoint."
        ) from error
    return path


def remote_of(folder: Path) -> str | None:
    """URL of ``origin``, without credentials."""
    remote = git_text(folder, "remote", "get-url", "origin")
    return CREDENTIALS_IN_URL.sub("", remote) if remote else None
