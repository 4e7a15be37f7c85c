"""Which id plays which role without being asked for, and which character stands in."""

from __future__ import annotations

import pytest

from slogpt_hf.datasets.vocabulary import Vocabulary
from slogpt_hf.tokenizers.special import seldom, special_tokens


@pytest.mark.parametrize(
    ("entries", "asked", "rows", "unknown", "ids"),
    [
        (("a", "b"), (), 2, "error", {}),
        (("a", "</s>", "<PAD>"), (), 3, "error", {"pad": 2, "eos": 1}),
        (("a", "<unk>"), (), 2, "error", {"unk": 1}),
        (("a", "<unk>"), (), 2, "a", {}),
        (("a", "b"), (), 4, "error", {"pad": 2}),  # to spare: no text is encoded to it
        (("a", "b"), ("eos",), 4, "error", {"pad": 3, "eos": 2}),
        (("a", "b"), ("eos",), 3, "error", {"eos": 2}),
        (("a", "b"), ("eos",), 2, "error", {"eos": 2}),
        (("a", "<|pad|>x"), (), 2, "error", {}),
    ],
)
def test_roles(
    entries: tuple[str, ...], asked: tuple[str, ...], rows: int, unknown: str, ids: dict[str, int]
) -> None:
    found = special_tokens(Vocabulary(entries, "here"), asked, rows, unknown)
    assert found.ids == ids
    assert found.asked_ids == {role: i for role, i in ids.items() if role in asked}


@pytest.mark.parametrize(
    ("entries", "found"),
    [("\n $&3?az", "$"), ("a`$", "`"), ("zqa", "z"), ("ab\u4e00", "\u4e00"), (("ab",), None)],
)
def test_a_seldom_character(entries: tuple[str, ...], found: str | None) -> None:
    assert seldom(Vocabulary(tuple(entries), "here")) == found
