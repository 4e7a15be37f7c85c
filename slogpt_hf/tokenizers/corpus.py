"""The text of a dataset, a piece at a time: what a tokenizer is proven on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from slogpt_hf.datasets import read_ids
from slogpt_hf.datasets.vocabulary import describe
from slogpt_hf.errors import CheckpointError
from slogpt_hf.files import is_lfs_pointer

TEXT_FILE = "input.txt"
ID_FILES = ("val.bin", "train.bin")
PIECE = 65_536  # characters or ids
MOST_COUNTED = 1 << 28  # bytes of a text whose characters are counted
Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True)
class Corpus:
    """The files of a dataset that hold its text: all in ``input.txt``, or as ids.

    Attributes:
        files: in the order in which they are read.
        known: the characters that there are; None for any. A text is read up to another one.
        foreign: the first character that is none of them; empty if all are.
    """

    files: tuple[Path, ...]
    known: Set[str] | None = None
    foreign: str = ""

    @property
    def name(self) -> str:
        """Of the files, for a report."""
        return " and ".join(path.name for path in self.files)

    @property
    def n_bytes(self) -> int:
        """Size of the files."""
        return sum(path.stat().st_size for path in self.files)

    def texts(self, decode: Decode, size: int) -> Iterator[str]:
        """The whole text in pieces of at most PIECE characters or ids.

        Args:
            decode: gives the text of ids, of those that are stored as such.
            size: number of ids that there are.

        Raises:
            CheckpointError: a file of ids is no such file, or holds one that there is not.
        """
        for path in self.files:
            if path.name == TEXT_FILE:
                for text in _read(path):
                    covered, foreign = _covered(text, self.known)
                    if covered:
                        yield covered
                    if foreign:
                        break
                continue
            ids = read_ids(path)
            for start in range(0, len(ids), PIECE):
                piece = ids[start : start + PIECE].tolist()
                require_known(piece, size, path)
                yield decode(piece)


@dataclass
class Reading:
    """Texts up to a limit, and how far it went.

    Attributes:
        texts: to read.
        limit: most characters of all together.
        advance: told the characters of each.
        characters: that were read.
        cut: there were more.
    """

    texts: Iterator[str]
    limit: int
    advance: Callable[[int], None] = lambda characters: None
    characters: int = 0
    cut: bool = False

    def __iter__(self) -> Iterator[str]:
        for text in self.texts:
            if self.characters + len(text) > self.limit:
                self.cut = True
                return
            self.characters += len(text)
            yield text
            self.advance(len(text))


def require_known(ids: Sequence[int], size: int, source: Path) -> None:
    """Raise unless every id is one of ``size``.

    Raises:
        CheckpointError: one is not; the message names the file ``source``.
    """
    if ids and max(ids) >= size:
        raise CheckpointError(
            f"{source}: its token ids go up to {max(ids)}, but "
            f"the vocabulary has only {size} entries.",
            hint="Name the dataset that the model was trained on with --dataset.",
        )


def corpus_in(folder: Path | None, known: Set[str] | None) -> Corpus | None:
    """The text that lies in a dataset's folder; None if there is none.

    A text with a character that the vocabulary does not have is not the one that the model was
    trained on: ids come before it, and of it counts what is before that character.

    Args:
        folder: of the dataset.
        known: the characters of the vocabulary; None if any can be encoded.
    """
    if folder is None:
        return None
    text, foreign = folder / TEXT_FILE, ""
    if has_text := _has_content(text):
        if known is not None:
            foreign = next(filter(None, (_covered(each, known)[1] for each in _read(text))), "")
        if not foreign:
            return Corpus((text,), known)
    # What only points to a Git LFS object was not fetched, since nobody asked for it.
    if ids := tuple(path for path in id_files(folder) if not is_lfs_pointer(path)):
        return Corpus(ids)
    return Corpus((text,), known, foreign) if has_text else None


def other_vocabulary(folder: Path | None, ids: Mapping[str, int]) -> str | None:
    """How the ids of a dataset show that they were made by another vocabulary of its characters.

    If there are as many ids as characters, each character occurs as often as its id, however the
    text was split or shuffled.

    Args:
        folder: of the dataset.
        ids: the vocabulary: character to id.
    """
    import numpy as np

    files = [path for path in id_files(folder) if not is_lfs_pointer(path)]
    if not folder or not files or not _has_content(text := folder / TEXT_FILE):
        return None
    if text.stat().st_size > MOST_COUNTED:
        return None
    arrays = [read_ids(path) for path in files]
    characters: Counter[str] = Counter()
    for piece in _read(text):
        characters.update(piece)
    if characters.total() != sum(map(len, arrays)) or not characters.keys() <= ids.keys():
        return None
    counts = np.zeros(1 << 16, dtype=np.int64)
    for array in arrays:
        for start in range(0, len(array), PIECE):
            counts += np.bincount(array[start : start + PIECE], minlength=1 << 16)
    for character, n in characters.most_common():
        if n != (found := int(counts[ids[character]])):
            names = " and ".join(path.name for path in files)
            return (
                f"{describe(character)} is {n} times in {TEXT_FILE}, its id {ids[character]} "
                f"{found} times in {names}: that is another vocabulary"
            )
    return None


def _covered(text: str, known: Set[str] | None) -> tuple[str, str]:
    """What is before the first character that is not known, and that one; empty if all are."""
    if known is None or set(text) <= known:
        return text, ""
    at = next(i for i, character in enumerate(text) if character not in known)
    return text[:at], text[at]


def id_files(folder: Path | None) -> tuple[Path, ...]:
    """The files of a dataset that hold token ids."""
    names = ID_FILES if folder else ()
    return tuple(path for name in names if _has_content(path := Path(folder or "") / name))


def _has_content(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _read(path: Path) -> Iterator[str]:
    """Lines end in ``\\n``, whatever they end in on the disk, as the prepare script reads them."""
    with path.open(encoding="utf-8", errors="replace") as file:
        while piece := file.read(PIECE):
            yield piece
