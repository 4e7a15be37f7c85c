"""Files that ``torch.save`` wrote."""

from __future__ import annotations

from pathlib import Path

from slogpt_hf.checkpoints.containers.archive import read_archive
from slogpt_hf.checkpoints.containers.zip_slice import LOCAL_MAGIC
from slogpt_hf.checkpoints.contents import Contents

NAME = "torch.save file"


def recognises(start: bytes) -> bool:
    """Whether a file with these first 16 bytes is a zip archive."""
    return start.startswith(LOCAL_MAGIC)


def read(path: Path) -> Contents:
    """Read a checkpoint file; ``value`` is what the trainer gave to ``torch.save``.

    Raises:
        UsageError: ``path`` is not a file.
        CheckpointError: as ``read_archive``.
    """
    return Contents(path, NAME, read_archive(path), (path,))
