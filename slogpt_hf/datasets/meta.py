"""Reading a dataset's ``meta.pkl`` (vocabulary) and ``*.bin`` (token ids)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from slogpt_hf.datasets.vocabulary import Vocabulary, describe
from slogpt_hf.errors import CheckpointError, UsageError
from slogpt_hf.files import require_file
from slogpt_hf.pickles import NUMPY, Wording, load

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

TEXT_FILES = ("val.bin", "train.bin", "input.txt")
MAX_META_BYTES = 16 * 2**20
WORDING = Wording(
    forbidden_hint="A vocabulary holds only dicts, lists, text and numbers;"
    " do not use this file unless you trust who wrote it.",
    damaged_hint="Check that it is whole and was written by the dataset's prepare script.",
)


def read_meta(path: Path) -> Vocabulary:
    """Read the vocabulary of a ``meta.pkl`` without running anything in it.

    The format is nanoGPT's: a pickled dict with ``vocab_size``, ``itos`` and ``stoi``.

    Raises:
        UsageError: there is no such file that can be read.
        CheckpointError: it is empty, a Git LFS pointer, no such pickle, or would run code.
    """
    require_file(path, "vocabulary")
    size = path.stat().st_size
    if size > MAX_META_BYTES:
        raise CheckpointError(
            f"{path}: {size} bytes is too large for a vocabulary"
            f" (at most {MAX_META_BYTES} bytes are read).",
            hint="Give the dataset's meta.pkl.",
        )
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}.") from error
    meta = load(data, str(path), globals=NUMPY, wording=WORDING)
    if not isinstance(meta, dict):
        raise CheckpointError(
            f"{path}: holds {describe(meta)}, not a dict with 'vocab_size', 'itos' and 'stoi'.",
            hint="Give the meta.pkl that the dataset's prepare script wrote.",
        )
    missing = [field for field in ("itos", "stoi") if meta.get(field) is None]
    if missing:
        raise CheckpointError(
            f"{path}: has no {' and no '.join(repr(field) for field in missing)}.",
            hint="Give the meta.pkl of a character dataset.",
        )
    return Vocabulary.from_tables(meta["itos"], meta["stoi"], meta.get("vocab_size"), str(path))


def find_meta(dataset: str, root: Path) -> Path:
    """Find the ``meta.pkl`` of a dataset.

    Args:
        dataset: a name below ``datasets/`` or ``data/``, a folder holding meta.pkl, or the file.
        root: what a relative path and ``datasets/`` are relative to.

    Raises:
        UsageError: there is none; the message lists the paths that were tried.
    """
    tried = list(_meta_candidates(dataset, root)) if dataset else []
    for path in tried:
        if _is_file(path):
            return path
    raise UsageError(
        f"no meta.pkl for the dataset {describe(dataset)}"
        + (f"; tried {', '.join(str(path) for path in tried)}." if tried else "."),
        hint="Give a name below datasets/, a folder that holds meta.pkl, or the file itself.",
    )


def find_text(dataset: str, root: Path) -> Path | None:
    """The folder of a dataset that holds text or token ids; None if it holds none.

    Args:
        dataset: as for ``find_meta``; the file may be any of a dataset's.
        root: what a relative path and ``datasets/`` are relative to.

    Raises:
        UsageError: there is no such dataset.
    """
    # The last candidate is a file of any name.
    *places, file = _meta_candidates(dataset, root)
    folders: list[Path] = [path.parent for path in places]
    folders += [file.parent] if _is_file(file) else []
    files = (folder / name for name in TEXT_FILES for folder in folders)
    found = next((path.parent for path in files if _is_file(path) and path.stat().st_size), None)
    if not any(folder.is_dir() for folder in folders):
        raise UsageError(
            f"no dataset {describe(dataset)}; tried {', '.join(str(path) for path in folders)}.",
            hint="Give a name below datasets/, or a folder that holds the text.",
        )
    return found


def read_ids(path: Path, limit: int | None = None) -> npt.NDArray[np.uint16]:
    """Memory-map the token ids of a ``train.bin`` or ``val.bin``.

    Args:
        path: flat little-endian uint16 ids, as nanoGPT's prepare scripts write them.
        limit: the first so many ids; None for all.

    Returns:
        Read-only array of shape (n,), dtype uint16.

    Raises:
        UsageError: there is no such file that can be read.
        CheckpointError: it is empty, a Git LFS pointer, or of odd length.
    """
    import numpy as np

    require_file(path, "file of token ids")
    size = path.stat().st_size
    if size % 2:
        raise CheckpointError(
            f"{path}: {size} bytes is an odd number, but token ids are 2 bytes each (uint16).",
            hint="The file is truncated or not token ids; prepare the dataset again.",
        )
    count = size // 2 if limit is None else min(limit, size // 2)
    try:
        return np.memmap(path, dtype="<u2", mode="r")[:count]
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}.") from error


def _meta_candidates(dataset: str, root: Path) -> Iterator[Path]:
    yield root / "datasets" / dataset / "meta.pkl"
    yield root / "data" / dataset / "meta.pkl"
    yield root / dataset / "meta.pkl"
    yield root / dataset


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long, a folder that may not be entered
        return False
