"""A BPE vocabulary of scored pieces, from ``tokenizer.model`` or llama2.c's ``tokenizer.bin``."""

from __future__ import annotations

import hashlib
import math
import struct
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

from slogpt_hf.datasets.vocabulary import describe
from slogpt_hf.errors import CheckpointError
from slogpt_hf.files import require_file

MAX_BYTES = 5 << 20  # that of Llama (32,000 pieces) has 0.5 MB, of Gemma (256,000) 4 MB
MAX_PIECES = 300_000
MAX_PIECE_BYTES = 8_000  # sentencepiece's own limit
MAX_CODE_POINTS = 1_000_000  # of all pieces together
PIECES_MODEL = "tokenizer.model"
SPACE = "\u2581"
BYTE_PIECES = tuple(f"<0x{byte:02X}>" for byte in range(256))

# run.c: a merge has to score better than this.
RUN_C_WORST = -1e10
# run.c: id 0 is unknown, 1 begins a text, 2 ends it, and a byte's piece is at byte + 3.
RUN_C_FIRST_BYTE = 3


class PieceType(IntEnum):
    """``ModelProto.SentencePiece.Type`` of sentencepiece_model.proto."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Pieces:
    """The pieces of a BPE tokenizer by id, and how text becomes pieces.

    Attributes:
        texts: the piece of each id, as the file spells it.
        scores: fp32 values; of all neighbours that could be one piece, those whose piece has
            the highest score become one first, the leftmost of equals.
        types: what each piece is for.
        space: what a space of the text is in the pieces: U+2581 or a space.
        add_dummy_prefix: whether a text gets a space in front.
        remove_extra_whitespaces: whether spaces at the ends go and runs of them become one.
        byte_fallback: whether an unknown character becomes the pieces of its UTF-8 bytes
            instead of the unknown piece.
        unk: id of the unknown piece.
        bos: id that begins a text, eos: ends it, pad: fills up; None without one.
        unk_surface: what the unknown piece decodes to.
        merged_types: pieces of these types can come out of a merge.
        source: the file.
        sha256: of the file.
        model: the file as it may be published, of a ``tokenizer.model``; None of any other.
    """

    texts: tuple[str, ...] = field(repr=False)
    scores: tuple[float, ...] = field(repr=False)
    types: tuple[PieceType, ...] = field(repr=False)
    space: str
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool
    byte_fallback: bool
    unk: int
    bos: int | None
    eos: int | None
    pad: int | None
    unk_surface: str
    merged_types: frozenset[PieceType]
    source: str
    sha256: str
    model: bytes | None = field(default=None, repr=False, compare=False)

    @property
    def size(self) -> int:
        """Number of ids."""
        return len(self.texts)


def is_pieces_file(path: Path) -> bool:
    """Whether a file begins as a ``tokenizer.model`` or a ``tokenizer.bin`` does.

    A ``tokenizer.bin`` begins with a small int32, a ``tokenizer.model`` with the protobuf tag of
    ModelProto's first field, the length of that piece and a tag within it.
    """
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError:
        return False
    if head.lstrip().startswith(b"{"):
        return False  # JSON
    return _is_bin(head) or (head[:1] == b"\x0a" and head[2:3] in (b"\x0a", b"\x15", b"\x18"))


def read_pieces(path: Path) -> Pieces:
    """Read the pieces of a sentencepiece BPE model or of llama2.c's export of one.

    The content tells which of the two a file is.

    Raises:
        UsageError: there is no such file.
        CheckpointError: it is neither, is damaged, or is a model whose encoding a
            ``tokenizer.json`` cannot reproduce (unigram, a normaliser that changes characters).
    """
    from slogpt_hf.tokenizers.sentencepiece_model import parse_model

    require_file(path, "tokenizer")
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}.") from error
    if len(data) > MAX_BYTES:
        raise CheckpointError(
            f"{path}: is larger than {MAX_BYTES >> 20} MiB, which no tokenizer is.",
            hint="Give the tokenizer.model or tokenizer.bin that the model was trained with.",
        )
    pieces = _parse_bin(data, str(path)) if _is_bin(data) else parse_model(data, str(path))
    _require_sound(pieces)
    return pieces


def damaged(source: str, what: str) -> CheckpointError:
    """The error of a file that is not what its beginning promises."""
    return CheckpointError(
        f"{source}: is not a whole tokenizer file: {what}.",
        hint="Copy it again from where the model was trained.",
    )


def unsupported(source: str, what: str) -> CheckpointError:
    """The error of a tokenizer that ``tokenizer.json`` cannot reproduce."""
    return CheckpointError(
        f"{source}: {what}, which a tokenizer.json cannot reproduce exactly.",
        hint="Give a tokenizer.json of your own with --tokenizer.",
    )


def _is_bin(head: bytes) -> bool:
    return len(head) >= 4 and head[2:4] == b"\0\0" and head[:2] != b"\0\0"


def _parse_bin(data: bytes, source: str) -> Pieces:
    """llama2.c's ``tokenizer.bin``: int32 longest piece, then fp32 score, int32 length, bytes.

    It names no types: those follow from the ids that run.c has built in.
    """
    (longest,) = struct.unpack_from("<i", data)
    texts: list[str] = []
    scores: list[float] = []
    at = 4
    while at < len(data):
        if len(data) - at < 8:
            raise damaged(source, f"it ends within piece {len(texts)}")
        score, length = struct.unpack_from("<fi", data, at)
        at += 8
        if not 0 <= length <= min(longest, MAX_PIECE_BYTES):
            raise damaged(
                source, f"piece {len(texts)} has a length of {length}, the longest has {longest}"
            )
        if length > len(data) - at:
            raise damaged(source, f"it ends within piece {len(texts)}")
        if len(texts) == MAX_PIECES:
            raise damaged(source, f"it has more than {MAX_PIECES} pieces")
        texts.append(text_of(data[at : at + length], source, len(texts)))
        scores.append(score)
        at += length
    bytes_end = RUN_C_FIRST_BYTE + len(BYTE_PIECES)
    if tuple(texts[RUN_C_FIRST_BYTE:bytes_end]) != BYTE_PIECES:
        raise CheckpointError(
            f"{source}: its ids {RUN_C_FIRST_BYTE} to {bytes_end - 1} are not the byte pieces"
            " <0x00> to <0xFF>, so run.c could not encode with it.",
            hint="Export it again with llama2.c's current tokenizer.py, or give tokenizer.model.",
        )
    if " " not in texts:
        raise CheckpointError(
            f"{source}: has no piece for a space, which run.c puts in front of every text.",
            hint="Give the tokenizer.model that it was exported from.",
        )
    types = [PieceType.UNKNOWN, PieceType.CONTROL, PieceType.CONTROL]
    types += [PieceType.BYTE] * len(BYTE_PIECES)
    types += [PieceType.NORMAL] * (len(texts) - len(types))
    return Pieces(
        texts=tuple(texts),
        scores=tuple(scores),
        types=tuple(types),
        space=" ",
        add_dummy_prefix=True,
        remove_extra_whitespaces=False,
        byte_fallback=True,
        unk=0,
        bos=1,
        eos=2,
        pad=None,
        unk_surface=texts[0],
        merged_types=frozenset(PieceType),
        source=source,
        sha256=hashlib.sha256(data).hexdigest(),
    )


def text_of(piece: bytes, source: str, index: int) -> str:
    """A piece as text.

    Raises:
        CheckpointError: it is not UTF-8.
    """
    try:
        return piece.decode()
    except UnicodeDecodeError:
        raise damaged(source, f"piece {index} is not UTF-8") from None


def _require_sound(pieces: Pieces) -> None:
    """What every original demands of its pieces, so that text has one encoding."""
    source = pieces.source
    first: dict[str, int] = {}
    if sum(map(len, pieces.texts)) > MAX_CODE_POINTS:
        raise damaged(source, f"its pieces have more than {MAX_CODE_POINTS} characters")
    for i, (text, score) in enumerate(zip(pieces.texts, pieces.scores, strict=True)):
        if not text or "\0" in text:
            raise damaged(source, f"piece {i} is empty or holds NUL")
        if first.setdefault(text, i) != i:
            raise damaged(source, f"pieces {first[text]} and {i} are both {describe(text)}")
        if not math.isfinite(score):
            raise damaged(source, f"the score of piece {i} is {score}")
    single = (
        text
        for text, kind in zip(pieces.texts, pieces.types, strict=True)
        if len(text) == 1 and kind in (PieceType.UNKNOWN, PieceType.CONTROL)
    )
    for text in single:
        raise unsupported(source, f"the single character {describe(text)} is a control piece")
