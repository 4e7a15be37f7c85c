"""Files: inputs that are what they should be, outputs that appear only when whole."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from slogpt_hf.errors import CheckpointError, UsageError

LFS_MAGIC = b"version https://git-lfs"
HASH_CHUNK = 1 << 22
# Errors of writing alone: whoever meets one below an output cannot write that output.
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
# What a file is to what to do if it is a folder, and if it is empty.
FILE_HINTS = {
    "checkpoint": (
        "Name the file in it, e.g. ckpt.pt.",
        "The training run may have been stopped while saving it.",
    ),
    "vocabulary": (
        "Name the meta.pkl in it.",
        "Write it again with the script that prepared the dataset.",
    ),
    "tokenizer": (
        "Name the tokenizer.model or tokenizer.bin in it.",
        "Copy it again from where the model was trained.",
    ),
    "file of token ids": (
        "Name the train.bin or val.bin in it.",
        "Write it again with the script that prepared the dataset.",
    ),
}


@dataclass(frozen=True)
class FileStamp:
    """Which file lay at a path, and in which state: device, inode, bytes, mtime in ns."""

    device: int
    inode: int
    n_bytes: int
    modified_ns: int


def stamp_of(path: Path) -> FileStamp | None:
    """The stamp of the file at ``path``; None if there is none that can be looked at."""
    try:
        found = path.stat()
    except OSError:
        return None
    return FileStamp(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def is_folder(path: Path) -> bool:
    """Whether a folder lies at ``path``; a path that cannot be looked at is none."""
    try:
        return path.is_dir()
    except OSError:  # a name too long, a folder that may not be entered
        return False


def absolute(path: str | None) -> str | None:
    """A path that means the same in any folder."""
    return str(Path(path).absolute()) if path else None


def require_file(path: Path, what: str = "checkpoint") -> None:
    """Raise unless ``path`` is a non-empty regular file that is not a Git LFS pointer.

    Args:
        path: the file.
        what: a key of ``FILE_HINTS``.

    Raises:
        UsageError: nothing is there, or what is there is not a file that can be read.
        CheckpointError: the file is empty or a Git LFS pointer.
    """
    if_folder, if_empty = FILE_HINTS[what]
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise UsageError(f"{path}: is a folder, not a {what}.", hint=if_folder)
        if not stat.S_ISREG(mode):
            raise UsageError(f"{path}: is not a regular file.", hint=f"Name a {what}.")
        with path.open("rb") as file:
            start = file.read(len(LFS_MAGIC))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(f"{path}: no such {what}.", hint="Check the path.") from error
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be read: {error.strerror}.", hint="Check its permissions."
        ) from error
    if not start:
        raise CheckpointError(f"{path}: is empty.", hint=if_empty)
    if start == LFS_MAGIC:
        raise CheckpointError(
            f"{path}: is a Git LFS pointer, not the {what} itself.",
            hint=f"Fetch it with: git lfs pull --include '{path.name}'",
        )


def is_lfs_pointer(path: Path) -> bool:
    """Whether a file stands for a Git LFS object that was not fetched."""
    with path.open("rb") as file:
        return file.read(len(LFS_MAGIC)) == LFS_MAGIC


def sha256_of(path: Path, advance: Callable[[int], None] | None = None) -> str:
    """SHA-256 of a file as 64 hex digits; ``advance`` is told the bytes of each piece."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(HASH_CHUNK):
            digest.update(piece)
            if advance:
                advance(len(piece))
    return digest.hexdigest()


def require_free(final: Path) -> None:
    """Raise UsageError if something lies where an output is to appear."""
    if final.exists() or final.is_symlink():
        raise UsageError(
            f"{final}: exists already.", hint="Name another output, or remove it first."
        )


@contextmanager
def staged_folder(final: Path) -> Iterator[Path]:
    """A working folder that becomes ``final`` in one rename, or vanishes on any exception.

    Raises:
        UsageError: ``final`` exists, its parent cannot be written, or the disk is full, also
            where the body meets that. Any other error of the body is its own.
    """
    try:
        require_free(final)
        final.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{final.name}.partial-", dir=final.parent))
    except OSError as error:
        raise _unwritable(final, error) from error
    try:
        try:
            work.chmod(0o755)
            yield work
        except OSError as error:
            if error.errno not in DISK_ERRORS:
                raise
            raise _unwritable(final, error) from error
        try:
            for path in work.rglob("*"):
                _sync(path)
            _sync(work)
            work.rename(final)
            _sync(final.parent)
        except OSError as error:
            raise _unwritable(final, error) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def resumable_folder(final: Path) -> Iterator[Path]:
    """A working folder that becomes ``final`` in one rename, or stays to be gone on with.

    It is ``.NAME.partial`` beside ``final``, of one process at a time.

    Raises:
        UsageError: ``final`` exists, another process works on it, its parent cannot be written, or
            the disk is full, also where the body meets that. Any other error is the body's own.
    """
    work = final.with_name(f".{final.name}.partial")
    try:
        if final.exists() or final.is_symlink():
            raise UsageError(
                f"{final}: exists already.", hint="Name another output, or remove it first."
            )
        work.mkdir(parents=True, exist_ok=True)
        lock = os.open(work, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise _unwritable(final, error) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"{final}: another process is writing it.", hint="Wait until it has ended."
            ) from None
        try:
            yield work
        except OSError as error:
            if error.errno not in DISK_ERRORS:
                raise
            raise _unwritable(final, error) from error
        try:
            for path in (*work.rglob("*"), work):
                _sync(path)
            work.rename(final)
            _sync(final.parent)
        except OSError as error:
            raise _unwritable(final, error) from error
    finally:
        os.close(lock)


def bytes_below(folder: Path) -> int:
    """Bytes of the files below a folder; links count as themselves."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += Path(parent, name).lstat().st_size
    return total


def write_files(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write files by name into a folder, made if missing; each is whole or not there.

    Raises:
        UsageError: the folder cannot be written or the disk is full.
    """
    for name, content in contents.items():
        write_atomically(folder / name, content)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file, text as UTF-8, that is either whole or not there.

    Raises:
        UsageError: the folder cannot be written or the disk is full.
    """
    work = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        work.write_bytes(content.encode() if isinstance(content, str) else content)
        _sync(work)
        work.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        with suppress(OSError):
            work.unlink()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unwritable(path: Path, error: OSError) -> UsageError:
    where = f" ({error.filename})" if error.filename else ""
    return UsageError(
        f"{path}: cannot be written: {error.strerror or error}{where}.",
        hint="Check the disk's free space and the folder's permissions.",
    )
