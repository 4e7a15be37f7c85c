"""Proof that the files of an existing tokenizer encode and decode as it does itself."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import TYPE_CHECKING

from slogpt_hf.datasets.vocabulary import describe
from slogpt_hf.tokenizers.check import ADVERSARIAL, TokenizerReport
from slogpt_hf.tokenizers.existing import encoded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def check_existing(
    ours: PreTrainedTokenizerBase, original: PreTrainedTokenizerBase, texts: Iterable[str] = ()
) -> TokenizerReport:
    """Compare the tokenizer of an artefact with the original.

    Compared are the text of every id, and the ids with and without special tokens, and their text
    with and without ``skip_special_tokens``, of adversarial strings and of ``texts``.

    Args:
        ours: the artefact's.
        original: that it was made of.
        texts: real ones, each compared alone.
    """
    characters: set[str] = set()
    compared, first = 0, _other_ids(ours, original)
    for text in chain(ADVERSARIAL, texts) if first is None else ():
        characters.update(text)
        compared += len(text)
        if (first := _difference(ours, original, text)) is not None:
            break
    return TokenizerReport(len(characters), compared, str(original.unk_token), first)


def _other_ids(ours: PreTrainedTokenizerBase, original: PreTrainedTokenizerBase) -> str | None:
    found, expected = (sorted(set(each.get_vocab().values())) for each in (ours, original))
    if found != expected:
        return f"it has {len(found)} ids, the original has {len(expected)}"
    for i in expected:
        text, same = original.decode([i]), ours.decode([i])
        if same != text:
            return f"{i} is decoded as {describe(same)}, the original has {describe(text)}"
    return None


def _difference(
    ours: PreTrainedTokenizerBase, original: PreTrainedTokenizerBase, text: str
) -> str | None:
    for special in (False, True):
        found, expected = (encoded(each, text, special=special) for each in (ours, original))
        if found != expected:
            ids = f"{_start(found)}, the original has {_start(expected)}"
            return f"{describe(text)} is encoded as {ids}"
        if found is not None and ours.decode(found, skip_special_tokens=special) != original.decode(
            found, skip_special_tokens=special
        ):
            return f"{found[:8]} is not decoded as the original does"
    return None


def _start(ids: list[int] | None) -> str:
    return "nothing, but refused" if ids is None else str(ids[:8])
