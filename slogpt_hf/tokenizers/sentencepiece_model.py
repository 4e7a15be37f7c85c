"""sentencepiece's ``tokenizer.model``, read without its library.

The file is one protobuf message, ``ModelProto`` of sentencepiece_model.proto (google/
sentencepiece, Apache-2.0); the field numbers below are those of that file.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Mapping
from typing import Any

from slogpt_hf.tokenizers.pieces import (
    BYTE_PIECES,
    MAX_PIECE_BYTES,
    MAX_PIECES,
    SPACE,
    Pieces,
    PieceType,
    damaged,
    text_of,
    unsupported,
)

# ModelProto
_PIECE, _TRAINER, _NORMALIZER, _DENORMALIZER = 1, 2, 3, 5
# ModelProto.SentencePiece
_PIECE_TEXT, _PIECE_SCORE, _PIECE_TYPE = 1, 2, 3
# TrainerSpec: number to (name, default)
_TRAINER_FIELDS: dict[int, tuple[str, Any]] = {
    3: ("model_type", 1),
    24: ("treat_whitespace_as_suffix", 0),
    35: ("byte_fallback", 0),
    44: ("unk_surface", " \u2047 ".encode()),
    46: ("bos_piece", b"<s>"),
    47: ("eos_piece", b"</s>"),
    48: ("pad_piece", b"<pad>"),
}
_TRAINER_PATHS = (1, 2, 54)  # input, model_prefix, seed_sentencepieces_file
_NORMALIZER_FIELDS: dict[int, tuple[str, Any]] = {
    2: ("precompiled_charsmap", b""),
    3: ("add_dummy_prefix", 1),
    4: ("remove_extra_whitespaces", 1),
    5: ("escape_whitespaces", 1),
}
_MODEL_TYPES = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}
_BPE = 2
# Pieces of these types are in sentencepiece's map of what merges can make.
_MERGED = frozenset({PieceType.NORMAL, PieceType.USER_DEFINED, PieceType.UNUSED})

Field = tuple[int, int, Any]  # number, wire type, int or memoryview


def parse_model(data: bytes, source: str) -> Pieces:
    """The pieces of a ``ModelProto``.

    Args:
        data: the whole file.
        source: its path, for messages.

    Raises:
        CheckpointError: the file is damaged or is no BPE model that ``tokenizer.json`` can be
            equal to.
    """
    texts: list[str] = []
    scores: list[float] = []
    types: list[PieceType] = []
    trainer, normalizer, denormalizer = ({**_defaults(f)} for f in _SPECS)
    specs = {
        _TRAINER: (trainer, _TRAINER_FIELDS),
        _NORMALIZER: (normalizer, _NORMALIZER_FIELDS),
        _DENORMALIZER: (denormalizer, _NORMALIZER_FIELDS),
    }
    for number, wire, value in _fields(memoryview(data), source):
        if wire != 2:
            continue
        if number == _PIECE:
            if len(texts) == MAX_PIECES:
                raise damaged(source, f"it has more than {MAX_PIECES} pieces")
            text, score, kind = _piece(value, source, len(texts))
            texts.append(text)
            scores.append(score)
            types.append(kind)
        elif number in specs:
            values, names = specs[number]
            _update(values, names, value, source)
    _require_bpe(trainer, normalizer, denormalizer, source, len(texts))
    ids = {text: i for i, text in enumerate(texts)}
    unknown = [i for i, kind in enumerate(types) if kind == PieceType.UNKNOWN]
    if len(unknown) != 1:
        raise damaged(source, f"it has {len(unknown)} unknown pieces, not one")
    _require_types(texts, types, bool(trainer["byte_fallback"]), source)

    def control(name: str) -> int | None:
        i = ids.get(trainer[name].decode(errors="replace"))
        return i if i is not None and types[i] == PieceType.CONTROL else None

    return Pieces(
        texts=tuple(texts),
        scores=tuple(scores),
        types=tuple(types),
        space=SPACE,
        add_dummy_prefix=bool(normalizer["add_dummy_prefix"]),
        remove_extra_whitespaces=bool(normalizer["remove_extra_whitespaces"]),
        byte_fallback=bool(trainer["byte_fallback"]),
        unk=unknown[0],
        bos=control("bos_piece"),
        eos=control("eos_piece"),
        pad=control("pad_piece"),
        unk_surface=trainer["unk_surface"].decode(errors="replace"),
        merged_types=_MERGED,
        source=source,
        sha256=hashlib.sha256(data).hexdigest(),
        model=without_paths(data, source),
    )


def without_paths(data: bytes, source: str) -> bytes:
    """A ``ModelProto`` without what tells of the machine that it was trained on.

    Those are the trainer's input files, the path of its output and of a file of seeds; nothing
    that encodes or decodes reads them. A file without them stays as it is, byte for byte.

    Raises:
        CheckpointError: the file is damaged.
    """

    def kept(message: memoryview, inside: bool) -> bytes:
        made, at = bytearray(), 0
        for number, wire, value, end in _placed(message, source):
            if inside and number in _TRAINER_PATHS:
                pass
            elif not inside and (number, wire) == (_TRAINER, 2):
                content = kept(value, inside=True)
                made += b"\x12" + _as_varint(len(content)) + content
            else:
                made += message[at:end]
            at = end
        return bytes(made)

    return kept(memoryview(data), inside=False)


def _as_varint(value: int) -> bytes:
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*made, value])


def _defaults(fields: Mapping[int, tuple[str, Any]]) -> dict[str, Any]:
    return dict(fields.values())


_SPECS = (_TRAINER_FIELDS, _NORMALIZER_FIELDS, _NORMALIZER_FIELDS)


def _require_bpe(
    trainer: Mapping[str, Any],
    normalizer: Mapping[str, Any],
    denormalizer: Mapping[str, Any],
    source: str,
    n_pieces: int,
) -> None:
    if not n_pieces:
        raise damaged(source, "it holds no pieces")
    if trainer["model_type"] != _BPE:
        kind = _MODEL_TYPES.get(trainer["model_type"], "unknown kind of")
        raise unsupported(source, f"is a sentencepiece {kind} model, not a BPE one")
    if normalizer["precompiled_charsmap"] or denormalizer["precompiled_charsmap"]:
        # tokenizers' Precompiled rewrites per grapheme, sentencepiece by the longest prefix.
        raise unsupported(source, "normalises characters (it was not trained with identity)")
    if not normalizer["escape_whitespaces"] or trainer["treat_whitespace_as_suffix"]:
        raise unsupported(source, "does not put U+2581 in front of words")


def _require_types(
    texts: list[str], types: list[PieceType], byte_fallback: bool, source: str
) -> None:
    byte_texts = {t for t, kind in zip(texts, types, strict=True) if kind == PieceType.BYTE}
    if byte_texts != (set(BYTE_PIECES) if byte_fallback else set()):
        raise damaged(source, f"it has {len(byte_texts)} byte pieces, not <0x00> to <0xFF>")
    for text, kind in zip(texts, types, strict=True):
        if kind == PieceType.USER_DEFINED and len(text) > 1:
            raise unsupported(source, f"has the user-defined piece {text[:32]!r}")


def _piece(message: memoryview, source: str, index: int) -> tuple[str, float, PieceType]:
    text, score, kind = b"", 0.0, 1
    for number, wire, value in _fields(message, source):
        if (number, wire) == (_PIECE_TEXT, 2):
            if len(value) >= MAX_PIECE_BYTES:
                raise damaged(source, f"piece {index} has {len(value)} bytes")
            text = bytes(value)
        elif (number, wire) == (_PIECE_SCORE, 5):
            (score,) = struct.unpack("<f", value)
        elif (number, wire) == (_PIECE_TYPE, 0):
            kind = value
    if kind not in list(PieceType):
        raise damaged(source, f"piece {index} is of the unknown type {kind}")
    return text_of(text, source, index), score, PieceType(kind)


def _update(
    values: dict[str, Any],
    fields: Mapping[int, tuple[str, Any]],
    message: memoryview,
    source: str,
) -> None:
    for number, wire, value in _fields(message, source):
        if number not in fields:
            continue
        name, default = fields[number]
        if isinstance(default, bytes) and wire == 2:
            values[name] = bytes(value)
        elif isinstance(default, int) and wire == 0:
            values[name] = value


def _fields(message: memoryview, source: str) -> Iterator[Field]:
    """The fields of one protobuf message, in turn; values of messages and strings as bytes."""
    for number, wire, value, _ in _placed(message, source):
        yield number, wire, value


def _placed(message: memoryview, source: str) -> Iterator[tuple[int, int, Any, int]]:
    """Like ``_fields``, and where each field ends.

    Wire format: https://protobuf.dev/programming-guides/encoding/
    """
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at, source)
        number, wire = tag >> 3, tag & 7
        if number == 0:
            raise damaged(source, "a field has the number 0")
        value: Any
        if wire == 0:
            value, at = _varint(message, at, source)
            yield number, wire, value, at
            continue
        if wire == 2:
            length, at = _varint(message, at, source)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise damaged(source, f"field {number} has the wire type {wire}")
        if length > end - at:
            raise damaged(source, f"field {number} is longer than what holds it")
        at += length
        yield number, wire, message[at - length : at], at


def _varint(message: memoryview, at: int, source: str) -> tuple[int, int]:
    value = 0
    for i, byte in enumerate(message[at : at + 10]):
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return value, at + i + 1
    raise damaged(source, "a number does not end")
