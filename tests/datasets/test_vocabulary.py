from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slogpt_hf.datasets.vocabulary import Vocabulary
from slogpt_hf.errors import CheckpointError

CHARACTERS = st.lists(
    st.one_of(
        st.characters(exclude_categories=("Cs",)),
        st.text(st.characters(exclude_categories=("Cs",)), min_size=2, max_size=6),
    ),
    min_size=1,
    max_size=50,
    unique=True,
)


@given(CHARACTERS, st.sampled_from(["dict", "list", "shuffled", "stoi only", "itos only"]))
def test_tables_of_any_form_give_the_vocabulary(characters: list[str], form: str) -> None:
    stoi: object = {c: i for i, c in enumerate(characters)}
    itos: object = dict(enumerate(characters))
    if form == "list":
        itos = characters
    elif form == "shuffled":
        itos = dict(reversed(list(enumerate(characters))))
    elif form == "stoi only":
        itos = None
    elif form == "itos only":
        stoi = None
    vocabulary = Vocabulary.from_tables(itos, stoi, len(characters), "meta.pkl")
    assert vocabulary.characters == tuple(characters)
    assert vocabulary.size == len(characters)
    assert [vocabulary.ids[c] for c in characters] == list(range(len(characters)))


@pytest.mark.parametrize(
    ("itos", "stoi", "vocab_size", "words"),
    [
        ({0: "a", 2: "b"}, {"a": 0, "b": 2}, 2, ["'itos'", "id 1"]),
        ({1: "a", 2: "b"}, {"a": 1, "b": 2}, 2, ["'itos'", "id 0"]),
        ({-1: "a", 0: "b"}, {"a": -1, "b": 0}, 2, ["'itos'", "id 1"]),
        ({"0": "a"}, {"a": 0}, 1, ["'itos'", "key '0'"]),
        ({True: "a", 0: "b"}, {"a": 1, "b": 0}, 2, ["'itos'", "key True"]),
        ({0: 97}, {"a": 0}, 1, ["'itos'", "97 for id 0"]),
        ({0: b"a"}, {"a": 0}, 1, ["'itos'", "a bytes for id 0"]),
        ([["a"]], {"a": 0}, 1, ["'itos'", "a list for id 0"]),
        ("ab", {"a": 0, "b": 1}, 2, ["'itos'", "not a dict or list"]),
        (["a", "b"], ["a", "b"], 2, ["'stoi'", "not a dict"]),
        (["a", "b"], {"a": 1, "b": 0}, 2, ["id 0", "'a'", "1"]),
        (["a", "b"], {"a": 0}, 2, ["id 1", "'b'", "no id"]),
        (["a"], {"a": 0, "z": 1}, 1, ["'stoi'", "'z'"]),
        (["a"], {"a": "0"}, 1, ["'stoi'", "'a'"]),
        (["a"], {"a": False}, 1, ["'stoi'", "'a'", "False"]),
        (["a"], {b"a": 0}, 1, ["'stoi'", "a bytes"]),
        (None, {"a": 0, "b": 0}, None, ["'stoi'", "'a'", "'b'"]),
        (None, {"a": 0, "b": 2}, None, ["'stoi'", "id 1"]),
        (None, None, None, ["'stoi'"]),
        (["a", "b", "a"], None, 3, ["ids 0 and 2", "'a'"]),
        (["a", ""], {"a": 0, "": 1}, 2, ["id 1", "empty"]),
        (["a", "\ud800"], {"a": 0, "\ud800": 1}, 2, ["id 1", "surrogate"]),
        ([], {}, 0, ["empty"]),
        (["a"], {"a": 0}, 2, ["'vocab_size' is 2", "1 ids"]),
        (["a"], {"a": 0}, True, ["'vocab_size' is True"]),
        (["a"], {"a": 0}, [[]], ["'vocab_size' is a list"]),
        (["a"], {"a": 0}, 1.0, ["'vocab_size' is 1.0"]),
        pytest.param(["a"], {"a": 0}, 10**5000, ["'vocab_size'", "64 bits"], id="huge"),
    ],
)
def test_contradictions_are_named(
    itos: object, stoi: object, vocab_size: object, words: list[str]
) -> None:
    with pytest.raises(CheckpointError) as caught:
        Vocabulary.from_tables(itos, stoi, vocab_size, "some/meta.pkl")
    assert caught.value.message.startswith("some/meta.pkl: ")
    assert caught.value.hint
    assert all(word in caught.value.message for word in words), caught.value.message


def test_a_vocabulary_with_an_entry_twice_cannot_be_made() -> None:
    with pytest.raises(CheckpointError, match="ids 0 and 2"):
        Vocabulary(("a", "b", "a"), "here")
