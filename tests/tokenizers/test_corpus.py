"""The whole text of a dataset, whatever it lies in, and what a tokenizer makes of it."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from slogpt_hf import files
from slogpt_hf.checkpoints import Checkpoint, read_checkpoint
from slogpt_hf.errors import CheckpointError, UsageError
from slogpt_hf.tokenizers import TokenizerChoice, check, check_choice, choose_tokenizer, corpus
from slogpt_hf.tokenizers.corpus import Corpus, Reading, corpus_in

Write = Callable[..., Path]
CHARACTERS = "\n " + "".join(map(chr, range(65, 65 + 35)))
ROWS = 600  # of the model, more than any of these tokenizers has
PIECES = Path(__file__).parents[1] / "data" / "tokenizers" / "tokenizer.model"


def ids(*values: int) -> bytes:
    return np.array(values, dtype="<u2").tobytes()


def letters(values: object) -> str:
    assert isinstance(values, list)
    return "".join(map(chr, values))


@pytest.fixture
def checkpoint(slo_checkpoint: Write) -> Checkpoint:
    return read_checkpoint(slo_checkpoint(n_layer=1))  # 37 rows


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "dataset"
    folder.mkdir()
    entries = dict(enumerate(CHARACTERS))
    tables = {"vocab_size": 37, "itos": entries, "stoi": {c: i for i, c in entries.items()}}
    (folder / "meta.pkl").write_bytes(pickle.dumps(tables))
    return folder


@pytest.fixture
def bytes_bpe(tmp_path: Path) -> Path:
    """A tokenizer of GPT-2's kind without merges: 256 bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(tmp_path / "bpe")
    return tmp_path / "bpe"


def test_ids_of_both_files_are_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "PIECE", 2)
    (tmp_path / "train.bin").write_bytes(ids(65, 66, 67))
    (tmp_path / "val.bin").write_bytes(ids(68))
    found = corpus_in(tmp_path, None)
    assert found is not None and found.name == "val.bin and train.bin"
    assert list(found.texts(letters, 128)) == ["D", "AB", "C"]


def test_text_is_before_ids_if_it_is_the_models(tmp_path: Path) -> None:
    (tmp_path / "val.bin").write_bytes(ids(65))
    (tmp_path / "input.txt").write_text("ABCD")
    covered, other = corpus_in(tmp_path, set("ABCD")), corpus_in(tmp_path, set("ABD"))
    assert covered is not None and covered.name == "input.txt"
    assert other is not None and other.name == "val.bin"
    (tmp_path / "val.bin").write_bytes(files.LFS_MAGIC + b" of an object that nobody fetched")
    cut = corpus_in(tmp_path, set("ABD"))
    assert cut is not None and (cut.name, cut.foreign) == ("input.txt", "C")
    assert list(cut.texts(letters, 128)) == ["AB"]
    assert corpus_in(None, None) is None
    assert corpus_in(tmp_path / "none", None) is None


def test_ids_that_there_are_not_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "val.bin"
    path.write_bytes(ids(1, 128))
    with pytest.raises(CheckpointError, match=r"val\.bin: its token ids go up to 128, but .* 128 "):
        list(Corpus((path,)).texts(letters, 128))


@given(st.lists(st.text(min_size=1, max_size=9)), st.integers(0, 40))
def test_reading_ends_at_the_limit(texts: list[str], limit: int) -> None:
    reading = Reading(iter(texts), limit)
    read = list(reading)
    assert read == texts[: len(read)]
    assert reading.characters == len("".join(read)) <= limit
    assert reading.cut == (len(read) < len(texts))


@pytest.mark.parametrize("name", ["input.txt", "train.bin"])
def test_the_last_character_of_the_corpus_counts(
    name: str, checkpoint: Checkpoint, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a tokenizer that joins two characters only the corpus's last two are wrong."""
    monkeypatch.setattr(check, "ADVERSARIAL", ())
    monkeypatch.setattr(check, "structure_difference", lambda *arguments: None)
    text = "AB " * 50_000 + "BA"
    content = text.encode() if name == "input.txt" else ids(*map(CHARACTERS.index, text))
    (dataset / name).write_bytes(content)
    choice = choose_tokenizer(checkpoint, dataset=str(dataset))
    folder = dataset.parent / "artefact"
    folder.mkdir()
    choice.write(folder, checkpoint)
    whole = check_choice(folder, choice, ROWS)
    assert whole is not None and whole.ok
    assert whole.corpus == f"all 150,002 characters of {name}"
    content = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    # Behind "\n BA" this pair is in no other text that is compared.
    content["normalizer"] = {"type": "Replace", "pattern": {"String": " BA"}, "content": " AB"}
    (folder / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    wrong = check_choice(folder, choice, ROWS)
    assert wrong is not None and not wrong.ok
    monkeypatch.setitem(check.MOST_CHARACTERS, "characters", 140_000)
    cut = check_choice(folder, choice, ROWS)
    assert cut is not None and cut.ok
    assert cut.corpus == f"the first 131,072 characters of {name}"


def test_entries_that_are_no_characters_are_left_out(checkpoint: Checkpoint, dataset: Path) -> None:
    entries = ["<pad>", *CHARACTERS[1:]]
    tables = {"itos": dict(enumerate(entries)), "stoi": {c: i for i, c in enumerate(entries)}}
    (dataset / "meta.pkl").write_bytes(pickle.dumps(tables))
    (dataset / "train.bin").write_bytes(ids(3, 0, 4))
    choice = choose_tokenizer(checkpoint, dataset=str(dataset))
    choice.write(dataset, checkpoint)
    report = check_choice(dataset, choice, ROWS)
    assert report is not None and report.ok
    assert report.corpus == "all 2 characters of train.bin"


def test_pieces_read_the_text_of_a_dataset(slo_checkpoint: Write, dataset: Path) -> None:
    checkpoint = read_checkpoint(slo_checkpoint(n_layer=1, vocab_size=512))
    (dataset / "input.txt").write_text("To be, or not to be \u20ac")
    choice = choose_tokenizer(checkpoint, tokenizer=str(PIECES), dataset=str(dataset))
    choice.write(dataset, checkpoint)
    report = check_choice(dataset, choice, ROWS)
    assert report is not None and report.ok
    assert report.corpus == "all 21 characters of input.txt"
    assert choice.text_ids(5) == choice.encode("To be, or not to be \u20ac")[:5]
    (dataset / "input.txt").unlink()
    (dataset / "train.bin").write_bytes(ids(*choice.encode("To be")))
    again = check_choice(dataset, replace(choice), ROWS)
    assert again is not None and again.corpus == "all 5 characters of train.bin"


def test_existing_tokenizer_is_held_against_its_source(
    slo_checkpoint: Write, dataset: Path, bytes_bpe: Path
) -> None:
    checkpoint = read_checkpoint(slo_checkpoint(n_layer=1, vocab_size=256))
    (dataset / "input.txt").write_text("h\u00e9llo")
    choice = choose_tokenizer(checkpoint, tokenizer=str(bytes_bpe), dataset=str(dataset))
    folder = dataset.parent / "artefact"
    folder.mkdir()
    choice.write(folder, checkpoint)
    report = check_choice(folder, choice, ROWS)
    assert report is not None and report.ok, report
    assert report.corpus == "all 5 characters of input.txt"
    assert len(choice.text_ids(9)) == 6
    content = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (folder / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    wrong = check_choice(folder, choice, ROWS)
    assert wrong is not None and "is decoded as 'b', the original has 'a'" in str(
        wrong.first_difference
    )
    content["model"]["vocab"]["a"], content["model"]["vocab"]["b"] = (
        vocabulary["b"],
        vocabulary["a"],
    )
    content["normalizer"] = {"type": "NFD"}
    (folder / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    wrong = check_choice(folder, choice, ROWS)
    assert wrong is not None and "is encoded as" in str(wrong.first_difference)


def test_a_text_counts_up_to_what_the_vocabulary_does_not_have(
    checkpoint: Checkpoint, dataset: Path
) -> None:
    (dataset / "input.txt").write_text("A B" * 40_000 + "\u20ac C")
    choice = choose_tokenizer(checkpoint, dataset=str(dataset))
    choice.write(dataset, checkpoint)
    report = check_choice(dataset, choice, ROWS)
    assert report.ok
    assert report.corpus == (
        "the first 120,000 characters of input.txt, up to '\\u20ac', which the vocabulary does not "
        "have"
    )
    assert choice.text_ids(3) == [2, 1, 3]
    (dataset / "input.txt").write_text("\ufeffA")
    choice = replace(choice)  # a corpus is what was there when it was first asked for
    assert choice.text_ids(3) == []
    assert (
        "the first 0 characters of input.txt, up to" in check_choice(dataset, choice, ROWS).corpus
    )


@pytest.mark.parametrize("name", ["pad", "eos"])
def test_tokens_that_the_model_or_the_original_has_not(
    name: str, checkpoint: Checkpoint, dataset: Path
) -> None:
    choice = choose_tokenizer(checkpoint, dataset=str(dataset))
    choice.write(dataset, checkpoint)
    assert check_choice(dataset, choice, 37).ok
    tokenizer = AutoTokenizer.from_pretrained(dataset)
    if name == "pad":
        tokenizer.add_special_tokens({"pad_token": "<pad>"})
        wrong = "tokenizer.json: added_tokens is "
    else:
        tokenizer.eos_token = "A"
        wrong = 'tokenizer_config.json: eos_token is "A", the original implies "`"'
    tokenizer.save_pretrained(dataset)
    assert str(check_choice(dataset, choice, 37).first_difference).startswith(wrong)
    if name == "pad":
        report = check_choice(dataset, TokenizerChoice(), 37)
        assert report.first_difference == "it has an id 37, but the model has 37 rows"


def test_without_an_original_it_must_load(checkpoint: Checkpoint, dataset: Path) -> None:
    choose_tokenizer(checkpoint, dataset=str(dataset)).write(dataset, checkpoint)
    loads = check_choice(dataset, TokenizerChoice(), 37)
    assert loads.ok and "not compared" in loads.corpus
    (dataset / "tokenizer.json").write_text("{")
    assert "cannot be loaded" in str(check_choice(dataset, TokenizerChoice(), 37).first_difference)


def test_a_tokenizer_that_refuses_unknown_characters_is_its_own_equal(
    checkpoint: Checkpoint, dataset: Path
) -> None:
    """Such as every tokenizer of characters that this package writes."""
    choose_tokenizer(checkpoint, dataset=str(dataset)).write(dataset, checkpoint)
    (dataset / "input.txt").write_text("A \u20ac")
    again = choose_tokenizer(checkpoint, tokenizer=str(dataset), dataset=str(dataset))
    assert check_choice(dataset, again, 37).ok
    assert again.text_ids(9) == []
    lenient = choose_tokenizer(checkpoint, dataset=str(dataset), unknown="A")
    folder = dataset.parent / "lenient"
    folder.mkdir()
    lenient.write(folder, checkpoint)
    report = check_choice(folder, again, 37)
    assert "the original has nothing, but refused" in str(report.first_difference)


def test_ids_with_gaps(slo_checkpoint: Write, dataset: Path) -> None:
    checkpoint = read_checkpoint(slo_checkpoint(n_layer=1, vocab_size=300))
    vocabulary = {f"w{i}": i + 30 for i in range(256)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="w1"))
    PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(dataset / "words")
    (dataset / "train.bin").write_bytes(ids(285, 30))
    choice = choose_tokenizer(checkpoint, tokenizer=str(dataset / "words"), dataset=str(dataset))
    choice.write(dataset, checkpoint)
    assert choice.size == 286
    assert check_choice(dataset, choice, 300).ok


def test_a_dataset_that_is_not_there(checkpoint: Checkpoint, dataset: Path) -> None:
    choose_tokenizer(checkpoint, dataset=str(dataset)).write(dataset, checkpoint)
    with pytest.raises(UsageError, match="no dataset 'typo'"):
        choose_tokenizer(checkpoint, tokenizer=str(dataset), dataset="typo")


def test_ids_of_another_vocabulary(checkpoint: Checkpoint, dataset: Path) -> None:
    """As a meta.pkl is that was left from a run before the data was prepared again."""
    text = "AB B" * 50
    (dataset / "input.txt").write_text(text)
    right = [CHARACTERS.index(c) for c in text]
    choice = choose_tokenizer(checkpoint, dataset=str(dataset))
    choice.write(dataset, checkpoint)
    (dataset / "val.bin").write_bytes(ids(*right[150:]))
    (dataset / "train.bin").write_bytes(ids(*right[:150]))
    assert check_choice(dataset, choice, ROWS).ok
    (dataset / "train.bin").write_bytes(ids(*right[149::-1]))  # shuffled
    assert check_choice(dataset, choice, ROWS).ok
    (dataset / "train.bin").write_bytes(ids(*(36 - i for i in right[:150])))
    wrong = check_choice(dataset, choice, ROWS).first_difference
    assert wrong == (
        "'B' is 100 times in input.txt, its id 3 25 times in val.bin and train.bin: "
        "that is another vocabulary"
    )
    (dataset / "train.bin").write_bytes(ids(1, 2, 3))  # of another text, or a part of it
    assert check_choice(dataset, choice, ROWS).ok
