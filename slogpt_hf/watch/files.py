"""Checkpoints on disk, and which files each of them is."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from slogpt_hf.errors import CheckpointError, UsageError
from slogpt_hf.files import is_folder, sha256_of
from slogpt_hf.watch.candidate import Candidate
from slogpt_hf.watch.event import Event
from slogpt_hf.watch.git import MOST_POINTER_BYTES, Content, combined, pointer_in
from slogpt_hf.watch.patterns import ANY_FOLDERS, compiled, fixed_folder, is_glob
from slogpt_hf.watch.provenance import provenance_of

METADATA = ".metadata"  # of a torch.distributed.checkpoint folder, for which it stands
SHARD = ".distcp"  # a part of one; no checkpoint by itself


def file_candidates(
    patterns: Sequence[str], event: Event | None = None, base: Path | None = None
) -> tuple[Candidate, ...]:
    """Checkpoints on disk, each once, in the order in which they were written.

    Args:
        patterns: paths and globs, relative to the current folder or absolute. A glob does not
            follow links, and finds nothing below ``.git``; no match is no error, a path that is
            not there is one.
        event: of the CI at hand.
        base: what adapter checkpoints adapt.

    Raises:
        UsageError: a path is not there, or cannot be read.
    """
    found = {path.absolute(): path for pattern in patterns for path in paths_of(pattern)}
    if base is not None:
        found.pop(base.absolute(), None)  # it is no adapter
    candidates = [_candidate(path, event, base) for path in found.values()]
    return tuple(sorted(candidates, key=lambda each: (each.time or 0, each.name)))


def checkpoint_files(path: Path) -> tuple[Path, ...]:
    """The files of a checkpoint in the order in which their digests count.

    A folder's are those that its reader opens; where it cannot be read, all of them.

    Raises:
        UsageError: nothing is there, or it cannot be looked at.
    """
    if not is_folder(path):
        return (path,)
    from slogpt_hf.checkpoints.reader import read_contents

    try:
        return read_contents(path).files
    except CheckpointError:  # reading it again, for the conversion, will say why
        files = (file for file in path.rglob("*") if file.is_file())
        return tuple(sorted(files, key=Path.as_posix))


def digests_on_disk(path: Path) -> dict[Path, Content]:
    """What each file of a checkpoint is, in the order in which their digests count.

    Raises:
        UsageError: a file is not there or cannot be read.
    """
    return {file: _content(file) for file in checkpoint_files(path)}


def checkpoint_digest(path: Path, base: Path | None = None) -> str:
    """SHA-256 of a checkpoint, and of what it adapts, as a ledger has it.

    Raises:
        UsageError: a file is not there or cannot be read.
    """
    contents = digests_on_disk(path) | (digests_on_disk(base) if base else {})
    return combined(content.sha256 for content in contents.values())


def _candidate(path: Path, event: Event | None, base: Path | None) -> Candidate:
    contents = digests_on_disk(path)
    all_contents = contents | (digests_on_disk(base) if base and base.exists() else {})
    is_known = base is None or len(all_contents) > len(contents)
    return Candidate(
        name=str(path),
        kind="file",
        place=str(path.absolute()),
        provenance=provenance_of(path, contents, event),
        time=max(file.stat().st_mtime for file in contents),
        sha256=combined(each.sha256 for each in all_contents.values()) if is_known else None,
        n_bytes=sum(content.n_bytes for content in contents.values()),
        is_pointer=any(content.is_pointer for content in contents.values()),
    )


def _content(file: Path) -> Content:
    """What a file on disk is, or points to.

    Raises:
        UsageError: it is not there or cannot be read.
    """
    try:
        n_bytes = file.stat().st_size
        if n_bytes <= MOST_POINTER_BYTES and (pointer := pointer_in(file.read_bytes())):
            return pointer
        return Content(sha256_of(file), n_bytes)
    except OSError as error:
        raise UsageError(
            f"{file}: cannot be read: {error.strerror}.", hint="Check the path and permissions."
        ) from error


def paths_of(pattern: str) -> Iterator[Path]:
    """The checkpoints that a path or glob stands for, as ``file_candidates`` takes them.

    Raises:
        UsageError: a path is not there, or a folder cannot be read.
    """
    path = Path(pattern)
    if not is_glob(pattern) or path.exists():
        if not path.exists():
            raise UsageError(f"{pattern}: no such checkpoint.", hint="Check the path.")
        yield path.parent if path.name == METADATA else path
        return
    glob = os.path.normpath(pattern)
    expression, start = compiled(glob), fixed_folder(glob)
    levels = None if ANY_FOLDERS in glob.split("/") else glob.count("/")
    for folder, folders, names in os.walk(start or ".", onerror=_refuse):
        folders[:] = sorted(name for name in folders if name != ".git")
        if Path(folder, "file").as_posix().count("/") == levels:
            folders.clear()
        for name in sorted(names):
            file = Path(folder, name)
            if (
                expression.fullmatch(file.as_posix())
                and not name.endswith(SHARD)
                and not file.is_symlink()
                and file.is_file()
            ):
                yield file.parent if name == METADATA else file


def _refuse(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise UsageError(
            f"{error.filename}: cannot be read: {error.strerror}.", hint="Check its permissions."
        ) from error
