"""The text that ships with the package and the dataset made of it."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slogpt_hf.datasets import read_ids, read_meta
from slogpt_hf.demo.corpus import corpus_text, dataset_files, write_dataset
from slogpt_hf.errors import UsageError


def test_the_text_has_all_characters_of_tiny_shakespeare_already_in_its_training_part() -> None:
    text = corpus_text()
    assert 100_000 < len(text) < 200_000
    assert text.endswith("\n")
    assert len(set(text[: len(text) * 9 // 10])) == len(set(text)) == 65


def test_meta_follows_the_sorted_characters(tmp_path: Path) -> None:
    write_dataset(tmp_path / "d", corpus_text())
    vocabulary = read_meta(tmp_path / "d" / "meta.pkl")
    assert vocabulary.size == 65
    assert list(vocabulary.ids.items()) == [
        (c, i) for i, c in enumerate(sorted(set(corpus_text())))
    ]


@given(st.text(st.characters(codec="utf-8"), min_size=1))
def test_the_ids_decode_to_the_text(text: str) -> None:
    files = dataset_files(text)
    itos = pickle.loads(files["meta.pkl"])["itos"]
    ids = np.frombuffer(files["train.bin"] + files["val.bin"], dtype="<u2")
    assert "".join(itos[int(i)] for i in ids) == text == files["input.txt"].decode()
    assert len(files["train.bin"]) == 2 * int(0.9 * len(text))


def test_the_same_dataset_is_left_alone_and_another_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "datasets" / "letters"
    write_dataset(folder, "abcabcabcabc")
    before = (folder / "train.bin").stat().st_mtime_ns
    write_dataset(folder, "abcabcabcabc")
    assert (folder / "train.bin").stat().st_mtime_ns == before
    with pytest.raises(UsageError, match="exists already"):
        write_dataset(folder, "abcabcabcabd")
    assert read_ids(folder / "train.bin").tolist() == [0, 1, 2] * 3 + [0]
    assert [path.name for path in folder.parent.iterdir()] == ["letters"]
