"""Proof that the files of an existing tokenizer encode and decode as it does itself."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from slogpt_hf.datasets.vocabulary import describe
from slogpt_hf.tokenizers.check import ADVERSARIAL, TokenizerReport, load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def check_existing(
    folder: Path, original: PreTrainedTokenizerBase, texts: Iterable[str] = ()
) -> TokenizerReport:
    """Load the files of a folder with ``AutoTokenizer`` and compare them with the original.

    Compared are the text of every id, and the ids with and without special tokens, and their text
    with and without ``skip_special_tokens``, of adversarial strings and of ``texts``.

    Args:
        folder: holds the tokenizer files.
        original: that they were made of.
        texts: real ones, each compared alone.

    Raises:
        CheckpointError: the files cannot be loaded.
    """
    ours = load_tokenizer(folder)
    characters: set[str] = set()
    compared, first = 0, _other_ids(ours, original)
    for text in chain(ADVERSARIAL, texts) if first is None else ():
        characters.update(text)
        compared += len(text)
        if (first := _difference(ours, original, text)) is not None:
            break
    return TokenizerReport(len(characters), compared, str(original.unk_token), first)


def _other_ids(ours: PreTrainedTokenizerBase, original: PreTrainedTokenizerBase) -> str | None:
    if len(ours) != len(original):
        return f"it has {len(ours)} ids, the original has {len(original)}"
    for i in range(len(original)):
        found, expected = ours.decode([i]), original.decode([i])
        if found != expected:
            return f"{i} is decoded as {describe(found)}, the original has {describe(expected)}"
    return None


def _difference(
    ours: PreTrainedTokenizerBase, original: PreTrainedTokenizerBase, text: str
) -> str | None:
    for special in (False, True):
        found, expected = (
            tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]
            for tokenizer in (ours, original)
        )
        if found != expected:
            return f"{describe(text)} is encoded as {found[:8]}, the original has {expected[:8]}"
        if ours.decode(found, skip_special_tokens=special) != original.decode(
            found, skip_special_tokens=special
        ):
            return f"{found[:8]} is not decoded as the original does"
    return None
