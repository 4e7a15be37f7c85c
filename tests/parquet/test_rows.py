"""Rows of text: whole, in order, begun where the text says, the same whatever is read at once."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slogpt_hf.datasets.ids import IdFile
from slogpt_hf.parquet import rows as rows_module
from slogpt_hf.parquet.rows import KINDS, Rule, first_begin, rows_between, rule_for
from slogpt_hf.parquet.spelling import Spelling

LETTERS = Spelling((b"a", b"\n", b"b", b" "))
# Parts of characters, two that mark documents, a paragraph's end, and an empty one.
PARTS = Spelling(
    (b"", b"", b" the", b"\xe2\x88", b"\x91", b"\n\n", b"\n", b"x", b"\xff"),
    first=(b"", b"", b"the", b"\xe2\x88", b"\x91", b"\n\n", b"\n", b"x", b"\xff"),
    opens=frozenset({0}),
    closes=frozenset({1}),
)


def id_file(folder: Path, ids: list[int]) -> IdFile:
    path = folder / "train.bin"
    np.array(ids, "<u2").tofile(path)
    return IdFile(path, "train", "uint16", len(ids))


def texts(file: IdFile, rule: Rule, begin: int, end: int, most: int) -> list[str]:
    found: list[str] = []
    for rows in rows_between(file, rule, begin, end, most):
        assert rows.bounds[0] == 0
        assert rows.bounds[-1] == len(rows.ids)
        found += rule.spelling.strings(*rows).to_pylist()
    return found


def plain(spelling: Spelling, ids: list[int]) -> bytes:
    opened, parts = False, []
    for i in ids:
        entry = spelling.entries[i]
        parts.append(entry.removeprefix(b" ") if opened and spelling.first else entry)
        opened = i in spelling.opens
    return b"".join(parts)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rows")


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=80),
    st.sampled_from(KINDS[1:]),
    st.integers(1, 90),
    st.integers(1, 20),
    st.data(),
)
def test_rows_are_the_text_however_it_is_read(
    folder: Path, ids: list[int], kind: str, most: int, longest: int, data: st.DataObject
) -> None:
    file, rule = id_file(folder, ids), Rule(LETTERS, kind)
    object.__setattr__(rule, "most_ids", longest)
    whole = texts(file, rule, 0, len(ids), 1000)
    assert "".join(whole).encode() == plain(LETTERS, ids)
    assert texts(file, rule, 0, len(ids), most) == whole
    assert all(whole)
    assert max(map(len, whole)) <= longest
    # A shard begins where the one before it ends.
    cut = first_begin(file, rule, data.draw(st.integers(0, len(ids))))
    parts = texts(file, rule, 0, cut, most) + texts(file, rule, cut, len(ids), most)
    assert "".join(parts) == "".join(whole)


@given(st.lists(st.integers(0, 8), min_size=3, max_size=60), st.sampled_from(KINDS))
def test_looked_up_or_compared_with_each_rows_begin_alike(ids: list[int], kind: str) -> None:
    rule = Rule(PARTS, kind)
    compared = rule.begins(np.array(ids, "<u2"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_module, "FEW", 0)
        assert rule.begins(np.array(ids, "<u2")).tolist() == compared.tolist()


@given(st.lists(st.integers(0, 8), min_size=1, max_size=60), st.integers(1, 70))
def test_documents_of_parts_of_characters(folder: Path, ids: list[int], most: int) -> None:
    file, rule = id_file(folder, ids), Rule(PARTS, "documents")
    found = texts(file, rule, 0, len(ids), most)
    begins = [i for i in range(len(ids)) if i == 0 or ids[i] == 0 or ids[i - 1] == 1]
    bounds = [*begins, len(ids)]
    expected = []
    for a, b in pairwise(bounds):
        before = 0 if a and ids[a - 1] == 0 else None
        bytes_of = plain(PARTS, [*([0] if before == 0 else []), *ids[a:b]])
        expected.append(bytes_of.decode("utf-8", "replace"))
    assert found == expected


@pytest.mark.parametrize(
    ("ids", "kind", "expected"),
    [
        ([0, 1, 1, 2, 1, 0], "paragraphs", ["a\n\n", "b\na"]),
        ([0, 1, 1, 1, 1, 2], "paragraphs", ["a\n\n\n\n", "b"]),
        ([0, 1, 1, 2, 1, 0], "lines", ["a\n", "\n", "b\n", "a"]),
        ([0, 1, 1, 2, 1, 0], "pieces", ["a\n\nb\na"]),
    ],
)
def test_where_rows_begin(folder: Path, ids: list[int], kind: str, expected: list[str]) -> None:
    assert texts(id_file(folder, ids), Rule(LETTERS, kind), 0, len(ids), 3) == expected


def test_the_rule_is_the_first_that_gives_sensible_rows(folder: Path) -> None:
    def kind(ids: list[int], spelling: Spelling = LETTERS) -> str:
        return rule_for(id_file(folder, ids), spelling, 1 << 20).kind

    assert kind([0, 1, 1, 2] * 3000) == "paragraphs"
    assert kind([0, 1, 2] * 3000) == "lines"
    assert kind([0, 2, 3] * 3000) == "pieces"
    assert kind([0, 7, 7, 1] * 3000, PARTS) == "documents"
    assert kind([7, 5, 7] * 3000, PARTS) == "paragraphs"


def test_a_cut_is_not_within_a_character(folder: Path) -> None:
    ids = [7, 3, 4, 3, 4, 3, 4, 7]
    rule = Rule(PARTS, "pieces")
    object.__setattr__(rule, "most_ids", 4)
    assert texts(id_file(folder, ids), rule, 0, len(ids), 100) == ["x∑", "∑∑", "x"]


def test_a_change_moves_no_other_row(folder: Path) -> None:
    before = [0, 1, 1, 2, 2, 1, 1, 0, 3, 2, 1, 1, 2]
    after = [*before[:4], 0, 0, *before[4:]]
    old, new = (
        texts(id_file(folder, ids), Rule(LETTERS, "paragraphs"), 0, len(ids), 100)
        for ids in (before, after)
    )
    assert [row for row in new if row not in old] == ["baab\n\n"]


def test_memory_of_long_entries_is_bounded() -> None:
    spelling = Spelling((b"a", b"b" * (1 << 20)))
    assert spelling.most_ids == 32
    assert Rule(spelling, "pieces").most_ids == 1
    assert Rule(LETTERS, "pieces").most_ids == rows_module.MOST_IDS


def test_one_byte_each_and_a_table_give_the_same() -> None:
    ids = np.array([0, 1, 2, 3, 2, 1, 0], "<u2")
    bounds = np.array([0, 2, 7])
    longer = Spelling((*LETTERS.entries, b"long"))
    one, other = LETTERS.strings(ids, bounds), longer.strings(ids, bounds)
    assert one.equals(other)
    assert one.type == pa.string()
    assert one.to_pylist() == ["a\n", "b b\na"]
