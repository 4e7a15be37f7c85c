"""Opening checkpoint files: what is not one is said in one message, and no code in it runs."""

from __future__ import annotations

import hashlib
import pickle
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED

from slogpt_hf.errors import CheckpointError, UsageError

LFS_MAGIC = b"version https://git-lfs"
ZIP_MAGIC = b"PK\x03\x04"
HASH_CHUNK = 1 << 22


def require_file(path: Path, what: str = "checkpoint") -> None:
    """Raise unless ``path`` is a non-empty regular file that is not a Git LFS pointer.

    Raises:
        UsageError: nothing is there, or what is there is not a file that can be read.
        CheckpointError: the file is empty or a Git LFS pointer.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise UsageError(
                f"{path}: is a folder, not a {what} file.",
                hint="Name the file in it, e.g. ckpt.pt.",
            )
        if not stat.S_ISREG(mode):
            raise UsageError(f"{path}: is not a regular file.", hint=f"Name a {what} file.")
        with path.open("rb") as file:
            start = file.read(len(LFS_MAGIC))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(f"{path}: no such {what}.", hint="Check the path.") from error
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be read: {error.strerror}.", hint="Check its permissions."
        ) from error
    if not start:
        raise CheckpointError(
            f"{path}: is empty.", hint="The training run may have been stopped while saving it."
        )
    if start == LFS_MAGIC:
        raise CheckpointError(
            f"{path}: is a Git LFS pointer, not the {what} itself.",
            hint=f"Fetch it with: git lfs pull --include '{path.name}'",
        )


def sha256_of(path: Path, advance: Callable[[int], None] | None = None) -> str:
    """SHA-256 of a file as 64 hex digits; ``advance`` is told the bytes of each piece."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(HASH_CHUNK):
            digest.update(piece)
            if advance:
                advance(len(piece))
    return digest.hexdigest()


def load_torch_file(path: Path) -> Any:
    """Load a ``torch.save`` zip file with every tensor memory-mapped and no code run.

    Raises:
        UsageError: ``path`` is not a file.
        CheckpointError: it is not a zip archive that ``torch.save`` wrote, is truncated, or its
            pickle names anything but tensors and plain values.
    """
    import torch

    require_file(path)
    with path.open("rb") as file:
        start = file.read(4)
    if start != ZIP_MAGIC:
        legacy = start[:1] == b"\x80"
        raise CheckpointError(
            f"{path}: is not a checkpoint that torch.save wrote (its first bytes are {start!r}).",
            hint="It looks like a pickle of PyTorch before 1.6: load it there and save it again."
            if legacy
            else "Name the file that the trainer saved, e.g. out/ckpt.pt.",
        )
    try:
        with zipfile.ZipFile(path) as archive:
            if not any(name.endswith("data.pkl") for name in archive.namelist()):
                raise CheckpointError(
                    f"{path}: is a zip archive without a data.pkl, not a checkpoint.",
                    hint="Name the file that the trainer saved, e.g. out/ckpt.pt.",
                )
            # Mapped bytes are read as they lie, so compressed ones would be taken for weights.
            packed = [e.filename for e in archive.infolist() if e.compress_type != ZIP_STORED]
            if packed:
                raise CheckpointError(
                    f"{path}: {packed[0]} in it is compressed, which torch.save never does.",
                    hint="Take the file as the trainer saved it.",
                )
    except CheckpointError:
        raise
    except Exception as error:  # whatever a damaged directory makes zipfile raise
        raise CheckpointError(
            f"{path}: is truncated or damaged ({_first_line(error)}).",
            hint="Copy it again, or take the checkpoint before it.",
        ) from error
    try:
        return torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        reason = _forbidden(str(error))
        raise CheckpointError(
            f"{path}: its pickle {reason}; nothing of it was run.",
            hint="A checkpoint may hold tensors and plain values only. Save it again without "
            "other objects.",
        ) from error
    except Exception as error:  # whatever a damaged file makes the unpickler raise
        raise CheckpointError(
            f"{path}: cannot be read as a checkpoint ({_first_line(error)}).",
            hint="Copy it again, or take the checkpoint before it.",
        ) from error


def _forbidden(message: str) -> str:
    for line in message.splitlines():
        if "GLOBAL" in line or "Unsupported" in line:
            return f"holds something that is not plain data ({line.strip()[:160]})"
    return f"is damaged ({_first_line(message)})"


def _first_line(error: object) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
