"""The data on which a trainer computed its validation loss, where it lies and is known to be that.

It is ``val.bin``, as the trainers of nanoGPT's family write it, or the last tenth of ``input.txt``,
which their prepare scripts put into it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from slogpt_hf.checkpoints import Checkpoint
from slogpt_hf.datasets import find_text
from slogpt_hf.errors import SloGPTError
from slogpt_hf.files import is_lfs_pointer
from slogpt_hf.tokenizers.choice import TokenizerChoice

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

IDS_FILE, TEXT_FILE = "val.bin", "input.txt"
TRAIN_SHARE = 0.9  # of a text, from its start; the rest is for validation
SPLITTING = ("slo", "nanogpt")  # dialects whose trainers divide a text so
MOST_TEXT = 1 << 26  # bytes
PEEK = 4096  # ids that are looked at to tell how wide they are


@dataclass(frozen=True)
class ValidationData:
    """Token ids of a validation set.

    Attributes:
        ids: (n,) token ids, perhaps mapped from a file.
        name: of what they are, e.g. ``val.bin``.
    """

    ids: npt.NDArray[np.integer]
    name: str


def validation_data(checkpoint: Checkpoint, choice: TokenizerChoice) -> ValidationData | str | None:
    """What the recorded validation loss was computed on.

    Args:
        checkpoint: gives the recorded loss and the name of the dataset.
        choice: the dataset's folder, and what encodes its text.

    Returns:
        The data; why there is none, one phrase; or None where no loss is recorded.
    """
    if checkpoint.facts.val_loss is None:
        return None
    folder = choice.dataset or next(_recorded_folders(checkpoint), None)
    if folder is None:
        return "its dataset is not at hand"
    ids, text = folder / IDS_FILE, folder / TEXT_FILE
    try:
        if ids.is_file():
            if is_lfs_pointer(ids):
                return f"{ids.name} was not fetched from Git LFS"
            return ValidationData(_read(ids, checkpoint.spec.vocab_size), IDS_FILE)
        if text.is_file():
            return _held_out(text, checkpoint, choice)
    except (OSError, ValueError) as error:
        # The report is published, so it names no folder of this machine.
        reason = error.strerror if isinstance(error, OSError) else error
        return f"the dataset's folder cannot be read ({reason})"
    return f"the dataset's folder holds neither {IDS_FILE} nor {TEXT_FILE}"


def _held_out(
    path: Path, checkpoint: Checkpoint, choice: TokenizerChoice
) -> ValidationData | str | None:
    """The part of a text that the trainer's own rule holds out."""
    import numpy as np

    if checkpoint.dialect not in SPLITTING:
        return f"how its trainer divides {path.name} is not known"
    if not choice.size:
        return f"there is no tokenizer for {path.name}"
    if path.stat().st_size > MOST_TEXT:
        return f"{path.name} is too large to be divided"
    text = path.read_text("utf-8")
    try:
        ids = choice.encode(text[int(len(text) * TRAIN_SHARE) :])
    except KeyError as error:
        return f"{path.name} holds {error}, which the vocabulary has not"
    return ValidationData(np.array(ids, dtype=np.int64), f"the last tenth of {path.name}")


def _read(path: Path, vocab_size: int) -> npt.NDArray[np.integer]:
    """Ids of 16 bits or, of a large vocabulary or where every other one is zero, of 32."""
    import numpy as np

    size = path.stat().st_size
    narrow = np.memmap(path, dtype="<u2", mode="r", shape=(size // 2,))
    wide = size % 4 == 0 and (vocab_size > 1 << 16 or not narrow[1:PEEK:2].any())
    if size % 2 or (vocab_size > 1 << 16 and not wide):
        raise ValueError(f"{path.name}: {size} bytes is no number of token ids")
    return np.memmap(path, dtype="<u4", mode="r") if wide else narrow


def _recorded_folders(checkpoint: Checkpoint) -> Iterator[Path]:
    """The folders of the dataset that the trainer recorded."""
    name = PurePath(checkpoint.facts.dataset or "")
    if not name.parts or name.is_absolute() or ".." in name.parts:
        return
    for root in (Path(), *checkpoint.path.resolve().parents):
        try:
            if (found := find_text(str(name), root)) is not None:
                yield found
        except SloGPTError:
            continue
