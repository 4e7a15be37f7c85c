"""The files of token ids of a dataset: which there are, of which split, read piece by piece."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from slogpt_hf.datasets.vocabulary import describe
from slogpt_hf.errors import CheckpointError, UsageError
from slogpt_hf.files import is_folder, require_file

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Ids = npt.NDArray[np.unsignedinteger]

TRAIN, VALIDATION = "train", "validation"
NAMED = {"train.bin": TRAIN, "val.bin": VALIDATION}
LLAMA2C_SHARD = re.compile(r"data\d{1,6}\.bin", re.ASCII)
N_BYTES = {"uint16": 2, "uint32": 4}
MOST_OF_UINT16 = 1 << 16  # ids
LOOKED_AT = 1 << 16  # ids, to tell whether a file is what it is read as
ENOUGH = 64  # ids from which a file looks like anything


@dataclass(frozen=True)
class IdFile:
    """A file of token ids, little-endian, without a header.

    Attributes:
        path: the file.
        split: ``train`` or ``validation``.
        dtype: ``uint16`` or ``uint32``.
        n_ids: how many there are.
        size: of the vocabulary; None where it is not known.
    """

    path: Path
    split: str
    dtype: str
    n_ids: int
    size: int | None = None

    @property
    def n_bytes(self) -> int:
        """Size of the file."""
        return self.n_ids * N_BYTES[self.dtype]

    def pieces(self, begin: int, end: int, most: int) -> Iterator[Ids]:
        """The ids from ``begin`` to ``end`` in arrays of shape (n,), n at most ``most``.

        They are read, not mapped: mapped pages would count as memory.

        Raises:
            CheckpointError: the file cannot be read, has become shorter, or holds an id beyond
                the vocabulary.
        """
        import numpy as np

        dtype = np.dtype(self.dtype).newbyteorder("<")
        try:
            with self.path.open("rb", buffering=0) as file:
                file.seek(begin * dtype.itemsize)
                for start in range(begin, end, most):
                    ids = np.fromfile(file, dtype, min(most, end - start))
                    if len(ids) != min(most, end - start):
                        raise CheckpointError(
                            f"{self.path}: became shorter while it was read.",
                            hint="Wait until whatever writes it has ended.",
                        )
                    if self.size is not None and ids.max() >= self.size:
                        at = int((ids >= self.size).argmax())
                        raise self._beyond(int(ids[at]), start + at)
                    yield ids
        except OSError as error:
            raise CheckpointError(f"{self.path}: cannot be read: {error.strerror}.") from error

    def _beyond(self, i: int, at: int) -> CheckpointError:
        return CheckpointError(
            f"{self.path}: id {i} at place {at}, but the vocabulary has {self.size} entries.",
            hint="The ids were made with another vocabulary, or are of another width: see "
            "--tokenizer and --id-type.",
        )


def file_bytes(ids: Ids) -> memoryview:
    """Ids as a file holds them; the machine's own memory where that has the same order."""
    return ids.astype(ids.dtype.newbyteorder("<"), copy=False).data


def find_id_files(dataset: str, root: Path, dtype: str) -> tuple[IdFile, ...]:
    """The files of ids of a dataset, those of the split ``train`` first.

    They are ``train.bin`` and ``val.bin``, or llama2.c's tokenised shards ``data00.bin`` and so
    on, of which its trainer validates on the first.

    Args:
        dataset: a name below ``datasets/`` or ``data/``, or a folder.
        root: what a relative path and ``datasets/`` are relative to.
        dtype: of the ids: ``uint16`` or ``uint32``.

    Raises:
        UsageError: there is no such folder, or it holds no ids.
        CheckpointError: a file is empty, a Git LFS pointer, or not of whole ids.
    """
    folder = _folder(dataset, root)
    # A link that leads nowhere (git-annex, DVC) is a file that is missing, not a split less.
    named = [(folder / name, split) for name, split in NAMED.items()]
    found = [(path, split) for path, split in named if os.path.lexists(path)]
    if not found:
        shards = sorted(path for path in folder.iterdir() if LLAMA2C_SHARD.fullmatch(path.name))
        found = [(path, TRAIN) for path in shards[1:]] + [(path, VALIDATION) for path in shards[:1]]
    if not any(split == TRAIN for _, split in found):
        hint = "Run the dataset's prepare script, which writes them."
        raise UsageError(
            f"{folder}: holds neither a train.bin nor tokenised shards data00.bin, data01.bin.",
            hint=hint,
        )
    return tuple(_id_file(path, split, dtype) for path, split in found)


def require_looks_like(file: IdFile, option: str) -> None:
    """Raise where ids of 16 bits look as if they had 32: every second one is 0.

    Raises:
        CheckpointError: they do.
    """
    looked_at = replace(file, n_ids=min(file.n_ids, LOOKED_AT), size=None)
    (ids,) = looked_at.pieces(0, looked_at.n_ids, LOOKED_AT)
    could_be = file.dtype == "uint16" and len(ids) >= ENOUGH and file.n_ids % 2 == 0
    if could_be and not ids[1::2].any() and ids[::2].any():
        raise CheckpointError(
            f"{file.path}: every second id is 0, so they seem to be of 32 bits, not 16.",
            hint=f"Say which it is: {option} uint32 or {option} uint16.",
        )


def _folder(dataset: str, root: Path) -> Path:
    places = [root / "datasets" / dataset, root / "data" / dataset, root / dataset]
    for folder in places if dataset else ():
        if is_folder(folder):
            return folder
    raise UsageError(
        f"no dataset {describe(dataset)}; tried {', '.join(map(str, places))}.",
        hint="Give a name below datasets/, or a folder that holds train.bin.",
    )


def _id_file(path: Path, split: str, dtype: str) -> IdFile:
    require_file(path, "file of token ids")
    n_bytes, each = path.stat().st_size, N_BYTES[dtype]
    if n_bytes % each:
        odd = "an odd number" if n_bytes % 2 else f"not a multiple of {each}"
        raise CheckpointError(
            f"{path}: {n_bytes} bytes is {odd}, but token ids are {each} bytes each ({dtype}).",
            hint="The file is truncated or not token ids; prepare the dataset again.",
        )
    return IdFile(path, split, dtype, n_bytes // each)
