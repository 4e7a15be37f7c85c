"""Which tokenizer a checkpoint gets, and what of the choice makes a release another one."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from slogpt_hf.checkpoints import Checkpoint, read_checkpoint
from slogpt_hf.datasets import Vocabulary
from slogpt_hf.errors import CheckpointError, UsageError
from slogpt_hf.tokenizers import choose_tokenizer

Write = Callable[..., Path]

CHARACTERS = "\n " + "".join(map(chr, range(65, 65 + 35)))


def tables(characters: str) -> dict[str, object]:
    return {
        "vocab_size": len(characters),
        "itos": dict(enumerate(characters)),
        "stoi": {c: i for i, c in enumerate(characters)},
    }


@pytest.fixture
def checkpoint(slo_checkpoint: Write) -> Checkpoint:
    return read_checkpoint(slo_checkpoint(n_layer=1))  # 37 rows, context 24


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "dataset"
    folder.mkdir()
    (folder / "meta.pkl").write_bytes(pickle.dumps(tables(CHARACTERS)))
    return folder


def existing(folder: Path, words: int = 37, first: str = "w0") -> Path:
    """A tokenizer of whole words, saved as transformers saves one."""
    vocab = {first: 0} | {f"w{i}": i for i in range(1, words)}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="w1"))
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="w2").save_pretrained(folder)
    return folder


def ids(*values: int) -> bytes:
    return np.array(values, dtype="<u2").tobytes()


def test_vocabulary_of_the_checkpoint_itself(checkpoint: Checkpoint, tmp_path: Path) -> None:
    own = replace(checkpoint, vocabulary=Vocabulary(tuple(CHARACTERS), "own"))
    choice = choose_tokenizer(own, root=tmp_path)
    assert choice.vocabulary is own.vocabulary
    choice.write(tmp_path / "out", own)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").encode("A\n") == [2, 0]


def test_vocabulary_of_a_checkpoint_file(
    slo_content: Callable[..., dict[str, object]], tmp_path: Path
) -> None:
    import torch

    torch.save(slo_content() | tables(CHARACTERS), tmp_path / "ckpt.pt")
    choice = choose_tokenizer(read_checkpoint(tmp_path / "ckpt.pt"), root=tmp_path)
    assert choice.vocabulary is not None
    assert "".join(choice.vocabulary.characters) == CHARACTERS


def test_dataset_comes_before_the_checkpoints_own(checkpoint: Checkpoint, dataset: Path) -> None:
    own = replace(checkpoint, vocabulary=Vocabulary(tuple(reversed(CHARACTERS)), "own"))
    choice = choose_tokenizer(own, dataset=str(dataset))
    assert choice.vocabulary is not None
    assert "".join(choice.vocabulary.characters) == CHARACTERS


def test_unknown_that_the_vocabulary_lacks_is_refused_at_once(
    checkpoint: Checkpoint, dataset: Path
) -> None:
    with pytest.raises(UsageError, match="unknown characters cannot become"):
        choose_tokenizer(checkpoint, dataset=str(dataset), unknown="\u20ac")
    assert choose_tokenizer(checkpoint, dataset=str(dataset), unknown="A").unknown == "A"


def test_tokenizer_with_more_ids_than_the_model_is_refused_at_once(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="needs 38 ids but the model has 37"):
        choose_tokenizer(checkpoint, tokenizer=str(existing(tmp_path / "many", 38)))


def test_existing_tokenizer_is_known_by_its_content(checkpoint: Checkpoint, tmp_path: Path) -> None:
    a, b, c = (
        choose_tokenizer(checkpoint, tokenizer=str(existing(tmp_path / name, first=first)))
        for name, first in (("a", "x"), ("b", "x"), ("c", "y"))
    )
    assert a.fingerprint == b.fingerprint != c.fingerprint
    assert str(tmp_path) not in str(a.fingerprint)


def test_tokenizer_that_changes_in_place_is_another(checkpoint: Checkpoint, tmp_path: Path) -> None:
    before = choose_tokenizer(checkpoint, tokenizer=str(existing(tmp_path / "a", first="x")))
    after = choose_tokenizer(checkpoint, tokenizer=str(existing(tmp_path / "a", first="y")))
    assert before.source == after.source
    assert before.fingerprint != after.fingerprint
    before.write(tmp_path / "out", checkpoint)  # what was chosen, not what lies there now
    assert "x" in AutoTokenizer.from_pretrained(tmp_path / "out").get_vocab()


def test_fingerprints_of_characters(checkpoint: Checkpoint, dataset: Path) -> None:
    error, other = (
        choose_tokenizer(checkpoint, dataset=str(dataset), unknown=unknown)
        for unknown in ("error", "A")
    )
    assert error.fingerprint != other.fingerprint
    assert error.fingerprint == choose_tokenizer(checkpoint, dataset=str(dataset)).fingerprint


def test_ids_come_from_the_first_file_that_has_any(checkpoint: Checkpoint, dataset: Path) -> None:
    def text_ids(limit: int) -> list[int]:
        return choose_tokenizer(checkpoint, dataset=str(dataset)).text_ids(limit)

    assert text_ids(24) == []
    (dataset / "input.txt").write_bytes(b"A \r\nB")
    assert text_ids(24) == [2, 1, 0, 3]
    (dataset / "train.bin").touch()
    (dataset / "val.bin").touch()
    assert text_ids(24) == [2, 1, 0, 3]
    (dataset / "train.bin").write_bytes(ids(5, 6, 7))
    assert text_ids(2) == [5, 6]
    (dataset / "val.bin").write_bytes(ids(8))
    assert text_ids(24) == [8]


def test_ids_outside_the_vocabulary_are_refused(checkpoint: Checkpoint, dataset: Path) -> None:
    (dataset / "val.bin").touch()
    (dataset / "train.bin").write_bytes(ids(0, 37))
    with pytest.raises(CheckpointError, match=r"go up to 37, but .* has only 37 entries"):
        choose_tokenizer(checkpoint, dataset=str(dataset))


def test_ids_of_spare_rows_are_outside_the_vocabulary(
    checkpoint: Checkpoint, dataset: Path
) -> None:
    (dataset / "meta.pkl").write_bytes(pickle.dumps(tables(CHARACTERS[:30])))
    (dataset / "val.bin").write_bytes(ids(29))
    choose_tokenizer(checkpoint, dataset=str(dataset), allow_spare_ids=True)
    (dataset / "val.bin").write_bytes(ids(30))
    with pytest.raises(CheckpointError, match="has only 30 entries"):
        choose_tokenizer(checkpoint, dataset=str(dataset), allow_spare_ids=True)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"A B\nC", "A B\nC"),
        (b"A B\r\nC\r\n", "A B\nC\n"),  # as the prepare script's open() reads it
        (b"A\rB", "A\nB"),
        ("A \u20ac".encode(), "A "),
        (b"A \xff", "A "),
        (b"", ""),
    ],
)
def test_text_is_read_as_the_prepare_script_reads_it(
    checkpoint: Checkpoint, dataset: Path, content: bytes, text: str
) -> None:
    (dataset / "input.txt").write_bytes(content)
    choice = choose_tokenizer(checkpoint, dataset=str(dataset))
    corpus = choice.corpus
    assert "".join(corpus.texts(choice.decode, choice.size) if corpus else ()) == text


def test_a_stand_in_is_no_other_interface(tmp_path: Path) -> None:
    """The digest is the one that the record of an earlier version has of the same vocabulary."""
    golden = Path(__file__).parents[1] / "data" / "golden" / "slo-classic"
    checkpoint = read_checkpoint(golden / "ckpt.pt")
    earlier = "9b602c87ffd063e767683f8268024c0d1f88673d40b2a32c5a1cce1794ecc051"
    for special in ((), ("eos",)):
        choice = choose_tokenizer(checkpoint, dataset=str(golden), special=special)
        choice.write(tmp_path, checkpoint)
        assert (choice.interface(tmp_path) == earlier) == (not special)
        assert choice.facts(tmp_path)["sha256"] != earlier
