"""Proof that tokenizer files encode and decode scored pieces as their original does."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from slogpt_hf.datasets.vocabulary import describe
from slogpt_hf.errors import CheckpointError
from slogpt_hf.tokenizers.check import ADVERSARIAL, TokenizerReport
from slogpt_hf.tokenizers.piece_encoding import PieceCodec
from slogpt_hf.tokenizers.pieces import PIECES_MODEL, Pieces, read_pieces

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

N_MIXTURES = 300
PIECES_PER_MIXTURE = 40

UNUSUAL = (
    "   ",
    " a",
    "a ",
    "a  b   c ",
    "\n",
    " \n \n  ",
    "\t\ta\t",
    "\x00a\x00\x00",
    "\u2581",
    "\u2581 \u2581\u2581a\u2581",
    "\u4f60\u597d\uff0c\u4e16\u754c\u3002\ud55c\uad6d\uc5b4\u306e\u30c6\u30b9\u30c8",
    "e\u0301\u0327\u0327\u0338 \u0301 n\u0303",
    "\ufffd\ufffe\uffff\ufdd0\ue000\U0010ffff\U000e0001",
    "\u200b\u200e\u2066x\u2069\ufe0f",
    "a" * 3000,
    "ab" * 1500,
    " " * 500,
    "\n" * 200,
    "\U0001f44d" * 100,
    "0123456789" * 20,
)


def check_pieces(
    tokenizer: PreTrainedTokenizerBase, codec: PieceCodec, texts: Iterable[str] = ()
) -> TokenizerReport:
    """Compare a tokenizer, as ``load_tokenizer`` gives it, with pieces.

    Compared are the ids with and without special tokens, the decoded text with and without
    ``skip_special_tokens``, alone and in a batch, with those of ``codec``: over every piece,
    seeded mixtures of pieces, unusual strings and ``texts``.

    Args:
        tokenizer: the artefact's.
        codec: the original's.
        texts: real ones, each compared alone.
    """
    pieces = codec.pieces
    characters: set[str] = set()
    compared, first = 0, None
    for batch in _batches(pieces, texts):
        characters.update(*batch)
        compared += sum(map(len, batch))
        first = _difference(tokenizer, codec, batch)
        if first is not None:
            break
    unknown = "its UTF-8 bytes" if pieces.byte_fallback else pieces.texts[pieces.unk]
    return TokenizerReport(
        characters=len(characters), code_points=compared, unknown=unknown, first_difference=first
    )


def model_difference(folder: Path, pieces: Pieces) -> str | None:
    """What is wrong with the ``tokenizer.model`` of an artefact; None where nothing is.

    Earlier versions wrote none, and of a ``tokenizer.bin`` there is none. Where the original is
    such an export, which knows less, the scores are compared.

    Args:
        folder: the artefact.
        pieces: the original's, of which ``check_pieces`` shows that tokenizer.json has them.
    """
    if not (path := folder / PIECES_MODEL).is_file():
        return None
    try:
        found = read_pieces(path)
    except CheckpointError as error:
        return f"{PIECES_MODEL}: {error.message}"
    if pieces.model is None:
        same = found.scores == pieces.scores
    else:
        same = replace(found, source=pieces.source, sha256=pieces.sha256) == pieces
    return None if same else f"{PIECES_MODEL} has not the pieces and scores of the original"


def _batches(pieces: Pieces, texts: Iterable[str]) -> Iterator[list[str]]:
    shown = [piece.replace(pieces.space, " ") for piece in pieces.texts]
    yield shown
    yield list(pieces.texts)
    yield [*ADVERSARIAL, *UNUSUAL]
    choose = random.Random(0).choices
    yield ["".join(choose(shown, k=PIECES_PER_MIXTURE)) for _ in range(N_MIXTURES)]
    for text in texts:
        yield [text]


def _difference(
    tokenizer: PreTrainedTokenizerBase, codec: PieceCodec, batch: list[str]
) -> str | None:
    bos = [] if codec.pieces.bos is None else [codec.pieces.bos]
    try:
        plain = tokenizer(batch, add_special_tokens=False, verbose=False)["input_ids"]
        full = tokenizer(batch, verbose=False)["input_ids"]
    except Exception as error:  # the backend raises bare Exception
        return f"encoding {describe(batch[0])} raises {type(error).__name__}: {error}"
    for text, got, got_full in zip(batch, plain, full, strict=True):
        expected = codec.encode(text)
        if got != expected or got_full != bos + expected:
            return f"{describe(text[:40])} is encoded as {_around(got, expected)}"
        decoded = codec.decode(expected)
        for ids, skip in ((expected, False), (bos + expected, True)):
            shown = tokenizer.decode(ids, skip_special_tokens=skip)
            if shown != decoded:
                return (
                    f"{ids[:8]} is decoded as {describe(shown[:40])},"
                    f" the original has {describe(decoded[:40])}"
                )
    return None


def _around(got: list[int], expected: list[int]) -> str:
    pairs = zip(got, expected, strict=False)
    shorter = min(len(got), len(expected))
    at = next((i for i, (a, b) in enumerate(pairs) if a != b), shorter)
    return f"{got[at : at + 8]} from token {at} on, the original has {expected[at : at + 8]}"
