"""The files of a commit, and which of them make up a checkpoint."""

from __future__ import annotations

import posixpath
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

from slogpt_hf.errors import CheckpointError, UsageError
from slogpt_hf.watch.files import METADATA, SHARD, digests_on_disk
from slogpt_hf.watch.git import (
    Content,
    ReadBlob,
    blob_reader,
    combined,
    content_of,
    git_bytes,
    git_text,
    remote_of,
)
from slogpt_hf.watch.patterns import matches

REGULAR = b"100"  # first digits of a regular file's mode; links and submodules have others
FORBIDDEN = ("", ".", "..", ".git")  # parts of a path that only a harmful tree has


@dataclass(frozen=True)
class Repository:
    """A git repository that is read, never written.

    Attributes:
        folder: absolute; globs and the paths of settings are relative to it.
        prefix: its path in the repository, with a ``/`` at the end; empty for the top.
        remote: URL of ``origin``, without credentials.
        read: gives a blob's own content.
        content: what a blob stands for, told once for each.
    """

    folder: Path
    prefix: str
    remote: str | None
    read: ReadBlob
    content: Callable[[str], Content]

    def path_in(self, path: str) -> str:
        """A path that is relative to the folder, as the repository names it."""
        return posixpath.normpath(self.prefix + path)

    def files(self, commit: str, path: str = "") -> dict[str, str]:
        """The regular files of a commit at or below ``path``: path in the repository to blob.

        In names that are not UTF-8, surrogates stand for what is not.

        Raises:
            UsageError: the commit is not in the repository, or not whole.
        """
        below = ["--", path] if path else []
        output = git_bytes(self.folder, "ls-tree", "-r", "-z", "--full-tree", commit, *below)
        records = (record.partition(b"\t") for record in output.split(b"\0") if record)
        return {
            name.decode("utf-8", "surrogateescape"): facts.split()[2].decode()
            for facts, _, name in records
            if facts.startswith(REGULAR)
        }


@dataclass(frozen=True)
class Weights:
    """A checkpoint in a commit.

    Attributes:
        files: its files, path in the repository to blob, in the order in which their digests count.
        sha256: as a ledger has it, with what it adapts; None where only a download could tell.
        n_bytes: of its files.
        is_pointer: git holds a Git LFS pointer for one of them.
    """

    files: dict[str, str]
    sha256: str | None
    n_bytes: int
    is_pointer: bool


def is_repository(folder: Path) -> bool:
    """Whether a folder is, or lies in, a git repository.

    Raises:
        UsageError: it is one, but git cannot read it or is not installed.
    """
    if git_text(folder, "rev-parse", "--git-dir") is not None:
        return True
    if (folder / ".git").exists():
        git_bytes(folder, "rev-parse", "--git-dir")
    return False


@contextmanager
def open_repository(folder: Path) -> Iterator[Repository]:
    """The repository that a folder is or lies in, for the time of the block.

    Raises:
        UsageError: there is none, or git is not installed.
    """
    prefix = git_bytes(folder, "rev-parse", "--show-prefix").decode("utf-8", "replace")[:-1]
    with blob_reader(folder) as read:
        content = cache(lambda oid: content_of(read, oid))
        yield Repository(folder.absolute(), prefix, remote_of(folder), read, content)


def is_checkpoint(repository: Repository, globs: tuple[str, ...], path: str) -> bool:
    """Whether the globs, which are relative to the repository's folder, match a path."""
    if not path.startswith(repository.prefix) or path.endswith(SHARD) or path == METADATA:
        return False  # a whole repository is no checkpoint
    return matches(globs, path.removeprefix(repository.prefix))


def is_harmless(path: str) -> bool:
    """Whether a path of a tree can be written below a folder without leaving it."""
    return not any(part.lower() in FORBIDDEN for part in path.split("/")) and "\0" not in path


def checkpoint_at(path: str) -> str:
    """What is named where a glob finds ``path``: it, or the folder that its ``.metadata`` is of."""
    pure = PurePosixPath(path)
    return str(pure.parent) if pure.name == METADATA else path


def weights_at(
    repository: Repository, commit: str, path: str, blob: str, base: str | None = None
) -> Weights:
    """The checkpoint that a commit has at ``path``.

    Args:
        repository: where.
        commit: id.
        path: of a file in the repository; ``.metadata`` for the folder that it describes.
        blob: of that file.
        base: what an adapter adapts: path relative to the repository's folder, or on disk where
            it is absolute.

    Raises:
        UsageError: something of it is not in the repository.
    """
    files, is_whole = _files_at(repository, commit, path, blob)
    contents = {name: repository.content(oid) for name, oid in files.items()}
    sha256 = combined(content.sha256 for content in contents.values()) if is_whole else None
    if base is not None and is_whole:
        sha256 = _with_base(repository, commit, contents, base)
    n_bytes = sum(content.n_bytes for content in contents.values())
    return Weights(files, sha256, n_bytes, any(each.is_pointer for each in contents.values()))


def _with_base(
    repository: Repository, commit: str, own: dict[str, Content], base: str
) -> str | None:
    """The digest of an adapter and its base; None where the commit does not have the base."""
    if Path(base).is_absolute():
        on_disk = digests_on_disk(Path(base)).values() if Path(base).exists() else ()
        more = [content.sha256 for content in on_disk]
    else:
        path = repository.path_in(base)
        found = repository.files(commit, path)
        metadata = f"{path}/{METADATA}"
        named = path if path in found else metadata
        files = _files_at(repository, commit, named, found[named])[0] if named in found else {}
        more = [repository.content(oid).sha256 for name, oid in files.items() if name not in own]
    return combined([*(content.sha256 for content in own.values()), *more]) if more else None


def _files_at(
    repository: Repository, commit: str, path: str, blob: str
) -> tuple[dict[str, str], bool]:
    """The files of a checkpoint, and whether git can tell which of the folder's files they are."""
    folder = checkpoint_at(path)
    if folder == path:
        return {path: blob}, True
    found = repository.files(commit, folder)
    if repository.content(blob).is_pointer:
        return found, False
    names = _distributed_names(repository, folder, found, blob)
    return {name: found[name] for name in names} if names else found, True


def _distributed_names(
    repository: Repository, path: str, found: dict[str, str], metadata: str
) -> list[str] | None:
    """The files that hold the model, as a folder of empty files of the same sizes tells them.

    The same order as ``checkpoints.containers.distributed.read``; None for a damaged ``.metadata``.
    """
    from slogpt_hf.checkpoints.containers.distributed_metadata import read_metadata

    with tempfile.TemporaryDirectory(prefix="slogpt-hf-") as temporary:
        folder = Path(temporary)
        for name, oid in found.items():
            if not is_harmless(name):
                continue
            file = folder / name.removeprefix(f"{path}/")
            file.parent.mkdir(parents=True, exist_ok=True)
            if oid == metadata:
                file.write_bytes(b"".join(repository.read(oid)))
            else:
                with file.open("wb") as empty:
                    empty.truncate(repository.content(oid).n_bytes)
        try:
            saved = read_metadata(folder)
        except (CheckpointError, UsageError):
            return None
        places = [chunk.place for tensor in saved.tensors.values() for chunk in tensor.chunks]
        files = {place.file for place in (*places, *saved.values.values())}
        ordered = (folder / METADATA, *sorted(files))
        return [f"{path}/{file.relative_to(folder).as_posix()}" for file in ordered]
