"""Opening ``torch.save`` files: tensors mapped, no code run, one message for what is not one."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED

from slogpt_hf.errors import CheckpointError, first_line
from slogpt_hf.files import require_file

ZIP_MAGIC = b"PK\x03\x04"


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
                    f"{path}: {packed[0]!r} in it is compressed, which torch.save never does.",
                    hint="Take the file as the trainer saved it.",
                )
    except CheckpointError:
        raise
    except Exception as error:  # whatever a damaged directory makes zipfile raise
        raise CheckpointError(
            f"{path}: is truncated or damaged ({first_line(error)}).",
            hint="Copy it again, or take the checkpoint before it.",
        ) from error
    try:
        with warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        reason = _forbidden(str(error))
        raise CheckpointError(
            f"{path}: its pickle {reason}; nothing of it was run.",
            hint="A checkpoint may hold tensors and plain values only. Save it again without "
            "other objects, with torch.save's own pickle protocol.",
        ) from error
    except Exception as error:  # whatever a damaged file makes the unpickler raise
        raise CheckpointError(
            f"{path}: cannot be read as a checkpoint ({first_line(error)}).",
            hint="Copy it again, or take the checkpoint before it.",
        ) from error


def _forbidden(message: str) -> str:
    for line in message.splitlines():
        if "Unsupported operand" in line:
            return f"holds an instruction that torch.save does not write ({line.strip()[:160]})"
        if "GLOBAL" in line or "Unsupported" in line:
            return f"holds something that is not plain data ({line.strip()[:160]})"
    return f"is damaged ({first_line(message)})"
