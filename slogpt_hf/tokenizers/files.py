"""Tokenizer files appear under their final name only when whole."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from slogpt_hf.errors import UsageError


def write_files(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write files into a folder, each by way of a temporary sibling, fsync and rename.

    Args:
        folder: created if missing.
        contents: file name to content.

    Raises:
        UsageError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            _write(folder / name, content)
    except OSError as error:
        raise UsageError(
            f"{folder}: the tokenizer cannot be written: {error.strerror}.",
            hint="Give a folder that can be written.",
        ) from error


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
