"""Outputs that appear under their final name only when whole."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from slogpt_hf.errors import UsageError


@contextmanager
def staged_folder(final: Path) -> Iterator[Path]:
    """A working folder that becomes ``final`` in one rename, or vanishes on any exception.

    Raises:
        UsageError: ``final`` exists, its parent cannot be written, or the disk is full.
    """
    try:
        if final.exists() or final.is_symlink():
            raise UsageError(
                f"{final}: exists already.", hint="Name another output, or remove it first."
            )
        final.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{final.name}.partial-", dir=final.parent))
    except OSError as error:
        raise _unwritable(final, error) from error
    try:
        work.chmod(0o755)
        yield work
        for path in work.rglob("*"):
            _sync(path)
        _sync(work)
        work.rename(final)
        _sync(final.parent)
    except OSError as error:
        raise _unwritable(final, error) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def write_atomically(path: Path, text: str) -> None:
    """Write a text file that is either whole or not there.

    Raises:
        UsageError: the folder cannot be written or the disk is full.
    """
    work = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        work.write_text(text, encoding="utf-8")
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
