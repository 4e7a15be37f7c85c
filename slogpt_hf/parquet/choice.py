"""Which vocabulary a dataset's ids are of, and the text of each id."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slogpt_hf.datasets import Vocabulary, read_meta
from slogpt_hf.datasets.ids import IdFile
from slogpt_hf.errors import CheckpointError, UsageError
from slogpt_hf.parquet.spelling import Spelling

META_FILE = "meta.pkl"
NO_TOKENIZER = "none"
PIECES_FILES = ("tokenizer.model", "tokenizer.bin")
ALONE = "pass --tokenizer none for the ids alone"


@dataclass(frozen=True)
class IdVocabulary:
    """What the ids of a dataset mean.

    Attributes:
        kind: characters, sentencepiece, existing or none.
        size: number of ids; None where nothing is known.
        files: of the tokenizer, name to content.
        spelling: text of the ids; None without one.
        vocabulary: of characters.
        source: where a tokenizer came from.
        decode: the tokenizer's own decode.
    """

    kind: str
    size: int | None = None
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    spelling: Spelling | None = None
    vocabulary: Vocabulary | None = None
    source: str | None = None
    decode: Callable[[Sequence[int]], str] | None = field(default=None, repr=False)

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What of it shapes the dataset, JSON-ready: content, not where it lies."""
        if self.vocabulary is not None:
            return {"entries": self.vocabulary.characters}
        digests = {name: hashlib.sha256(data).hexdigest() for name, data in self.files.items()}
        return {"kind": self.kind, "files": digests}


def vocabulary_of(files: Sequence[IdFile], tokenizer: str | None, block_size: int) -> IdVocabulary:
    """Find what the ids of a dataset mean.

    In this order: ``tokenizer``; ``meta.pkl`` beside the ids; of llama2.c's shards, a
    ``tokenizer.model`` or ``tokenizer.bin`` in their folder or the one above, or the folder's name
    with ``.model`` (``tok4096.model`` beside ``tok4096/``).

    Args:
        files: of ids.
        tokenizer: a tokenizer.model or tokenizer.bin, a folder or a Hub repository; ``none`` for
            ids without text.
        block_size: the tokenizer's ``model_max_length``.

    Raises:
        UsageError: there is none; the message names the option that gives one.
        CheckpointError: it cannot be read, or its text is not known to be that of its ids.
    """
    folder = files[0].path.parent
    if tokenizer == NO_TOKENIZER:
        return IdVocabulary("none")
    if tokenizer is not None:
        return _named(tokenizer, block_size)
    if (folder / META_FILE).exists():
        return _of_characters(read_meta(folder / META_FILE), block_size)
    beside = [folder / name for name in PIECES_FILES]
    beside += [folder.with_name(f"{folder.name}.model"), *(folder.parent / n for n in PIECES_FILES)]
    if files[0].path.name != "train.bin":
        for path in beside:
            if path.is_file():
                return _of_pieces(path, block_size)
    raise UsageError(
        f"{folder}: holds no {META_FILE}, so nothing says what its ids mean.",
        hint=f"Give --tokenizer PATH|REPO (of GPT-2, openai-community/gpt2), or {ALONE}.",
    )


def _named(tokenizer: str, block_size: int) -> IdVocabulary:
    from slogpt_hf.tokenizers.pieces import is_pieces_file

    path = Path(tokenizer)
    inside = [path / name for name in PIECES_FILES if not (path / "tokenizer.json").exists()]
    for file in (path, *inside):
        if file.is_file() and file.name == META_FILE:
            return _of_characters(read_meta(file), block_size)
        if file.is_file() and is_pieces_file(file):
            return _of_pieces(file, block_size)
    return _existing(tokenizer, block_size)


def _of_characters(vocabulary: Vocabulary, block_size: int) -> IdVocabulary:
    from slogpt_hf.tokenizers.characters import character_files

    # No stand-ins: they would make every dataset's next release a major one.
    files = character_files(vocabulary, model_max_length=block_size, stand_ins=False)
    spelling = Spelling.of_characters(vocabulary)
    return IdVocabulary("characters", vocabulary.size, files, spelling, vocabulary)


def _of_pieces(path: Path, block_size: int) -> IdVocabulary:
    from slogpt_hf.tokenizers.piece_encoding import BYTE_VALUES, PieceCodec
    from slogpt_hf.tokenizers.piece_files import piece_tokenizer_files
    from slogpt_hf.tokenizers.pieces import PieceType, read_pieces

    pieces = read_pieces(path)
    codec = PieceCodec(pieces)
    marks = {i for i in (pieces.bos, pieces.eos) if i is not None}

    def entry(i: int) -> bytes:
        if i in marks or pieces.types[i] == PieceType.CONTROL:
            return b""
        if pieces.types[i] == PieceType.BYTE:
            return bytes([BYTE_VALUES[pieces.texts[i]]])
        return codec.decode([marked, i]).encode() if i == pieces.unk else spelt(pieces.texts[i])

    def spelt(piece: str) -> bytes:
        return piece.replace(pieces.space, " ").encode()

    marked = pieces.bos if pieces.bos is not None else 0
    entries = tuple(map(entry, range(pieces.size)))
    first: tuple[bytes, ...] = ()
    if pieces.remove_extra_whitespaces:
        first = tuple(entry.lstrip(b" ") for entry in entries)
    elif pieces.add_dummy_prefix:
        first = tuple(entry.removeprefix(b" ") for entry in entries)
    spelling = Spelling(
        entries,
        frozenset({pieces.bos} - {None}),  # type: ignore[arg-type]
        frozenset({pieces.eos} - {None}),  # type: ignore[arg-type]
        first,
    )
    files = piece_tokenizer_files(pieces, block_size)
    return IdVocabulary(
        "sentencepiece", pieces.size, files, spelling, None, path.name, codec.decode
    )


def _existing(source: str, block_size: int) -> IdVocabulary:
    from slogpt_hf.card.facts import without_folders
    from slogpt_hf.tokenizers.existing import load_existing, n_ids, tokenizer_files

    loaded = load_existing(source)
    size = n_ids(loaded)
    files = tokenizer_files(loaded, source, vocab_size=size, model_max_length=block_size)
    entries = _bytes_of(json.loads(files["tokenizer.json"]), size, source)
    closes, opens = loaded.eos_token_id, loaded.bos_token_id
    marks = [i for i in (opens, closes) if isinstance(i, int)]
    for i in marks:
        entries[i] = b""
    # GPT-2 has one id for both, which its datasets have behind each document.
    spelling = Spelling(
        tuple(entries),
        frozenset({opens} if isinstance(opens, int) and opens != closes else ()),
        frozenset({closes} if isinstance(closes, int) else ()),
    )

    def decode(ids: Sequence[int]) -> str:
        text: str = loaded.decode(list(ids), clean_up_tokenization_spaces=False)
        return text

    shown = Path(source).absolute().name if Path(source).exists() else without_folders(source)
    return IdVocabulary("existing", size, files, spelling, None, shown, decode)


def _bytes_of(tokenizer: Mapping[str, Any], size: int, source: str) -> list[bytes]:
    """The bytes of each id of a ``tokenizer.json`` whose decoder only joins."""
    decoder = (tokenizer.get("decoder") or {}).get("type")
    ids = tokenizer["model"].get("vocab")
    if decoder not in ("ByteLevel", "Fuse") or not isinstance(ids, dict):
        raise CheckpointError(
            f"{source}: its decoder {decoder!a} does more than join what the ids stand for.",
            hint=f"Give its tokenizer.model if it has one, or {ALONE}.",
        )
    to_byte = _byte_of_letter()
    entries = [b""] * size
    for token, i in ids.items():
        if decoder == "ByteLevel" and all(letter in to_byte for letter in token):
            entries[i] = bytes(to_byte[letter] for letter in token)
        else:
            entries[i] = token.encode()
    for added in tokenizer.get("added_tokens", ()):
        entries[added["id"]] = added["content"].encode()
    return entries


def _byte_of_letter() -> dict[str, int]:
    """The byte that each letter of a byte-level vocabulary stands for.

    Printable bytes of Latin-1 stand for themselves, the others for letters from U+0100 on.
    Source: ``bytes_to_unicode`` of https://github.com/openai/gpt-2/blob/master/src/encoder.py
    """
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(b): b for b in plain} | {chr(256 + n): b for n, b in enumerate(others)}
