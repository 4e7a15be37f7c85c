from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from slogpt_hf.datasets.meta import read_meta
from slogpt_hf.datasets.vocabulary import Vocabulary
from slogpt_hf.errors import CheckpointError
from slogpt_hf.tokenizers import TokenizerChoice, check
from slogpt_hf.tokenizers.characters import write_character_tokenizer
from slogpt_hf.tokenizers.check import check_choice, check_tokenizer, load_tokenizer
from slogpt_hf.tokenizers.special import SpecialTokens

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "slo-classic" / "meta.pkl"
ALL = Vocabulary((*dict.fromkeys("".join(check.ADVERSARIAL)), "<pad>"), "here")


def change(folder: Path, file: str, *path: str, value: Any) -> None:
    content = json.loads((folder / file).read_text("utf-8"))
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    (folder / file).write_text(json.dumps(content), "utf-8")


def test_golden_vocabulary_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "PIECE", 100)
    vocabulary = read_meta(GOLDEN)
    write_character_tokenizer(vocabulary, tmp_path, model_max_length=8)
    short = check_tokenizer(load_tokenizer(tmp_path), vocabulary)
    report = check_tokenizer(load_tokenizer(tmp_path), vocabulary, ["To be, or not to be.\n"] * 100)
    assert report.ok and report.first_difference is None
    assert report.characters == 65
    assert report.code_points == short.code_points + 2100
    assert report.unknown == "error"


def test_special_tokens_and_unknown_pass(tmp_path: Path) -> None:
    write_character_tokenizer(
        ALL, tmp_path, model_max_length=8, special_tokens={"pad": 0, "eos": ALL.size}, unknown="a"
    )
    tokenizer = load_tokenizer(tmp_path)
    report = check_tokenizer(tokenizer, ALL, ["a b"], {0, ALL.size})
    assert report.ok
    assert report.unknown == "a"
    assert not check_tokenizer(tokenizer, ALL, ["a b"]).ok  # what is dropped has to be known


def test_a_stand_in_that_is_dropped_from_texts_is_seen(tmp_path: Path) -> None:
    write_character_tokenizer(Vocabulary(("a", "$"), "x"), tmp_path, model_max_length=8)
    assert check_tokenizer(load_tokenizer(tmp_path), Vocabulary(("a", "$"), "x")).ok
    path = tmp_path / "tokenizer_config.json"
    config = json.loads(path.read_text())
    del config["added_tokens_decoder"]
    path.write_text(json.dumps(config))
    report = check_tokenizer(load_tokenizer(tmp_path), Vocabulary(("a", "$"), "x"))
    assert "is decoded without special tokens as ''" in str(report.first_difference)


def test_ids_that_only_the_models_files_name_are_seen(tmp_path: Path) -> None:
    """A character that stands in for an end ends no text; an entry that is called so does."""
    cases: tuple[tuple[tuple[str, ...], dict[str, int], Any, Any], ...] = (
        (("a", "$"), {}, (None,), (0, 1, [1], [0, 1])),
        (("a", "</s>"), {"eos": 1}, (None, 1, [1]), (0, [0, 1])),
    )
    for entries, special, fits, others in cases:
        vocabulary = Vocabulary(entries, "x")
        choice = TokenizerChoice(vocabulary, special=SpecialTokens(special, 2))
        write_character_tokenizer(vocabulary, tmp_path, model_max_length=8, special_tokens=special)
        for name in ("config.json", "generation_config.json"):
            for good in fits:
                (tmp_path / name).write_text(json.dumps({"eos_token_id": good}))
                assert check_choice(tmp_path, choice, 2).ok
            for bad in others:
                (tmp_path / name).write_text(json.dumps({"eos_token_id": bad}))
                found = check_choice(tmp_path, choice, 2).first_difference
                its = special.get("eos", "none")
                assert found == f"{name} has {bad} as eos_token_id, the tokenizer has {its}"
            (tmp_path / name).unlink()


def test_the_record_makes_no_character_the_end_of_texts(tmp_path: Path) -> None:
    vocabulary = Vocabulary(("a", "$", "</s>"), "x")
    for special, fits in (({"eos": 0}, False), ({"pad": 2}, False), ({"eos": 2}, True)):
        write_character_tokenizer(vocabulary, tmp_path, model_max_length=8, special_tokens=special)
        record = {"tokenizer": {"special_tokens": special}}
        (tmp_path / "release.json").write_text(json.dumps(record))
        assert check_choice(tmp_path, TokenizerChoice(vocabulary), 3).ok == fits


FAULTS: dict[str, tuple[str, tuple[str, ...], Any]] = {
    "normalised": ("tokenizer.json", ("normalizer",), {"type": "NFC"}),
    "lower case": ("tokenizer.json", ("normalizer",), {"type": "Lowercase"}),
    "stripped": (
        "tokenizer.json",
        ("normalizer",),
        {"type": "Strip", "strip_left": True, "strip_right": True},
    ),
    "split at spaces": ("tokenizer.json", ("pre_tokenizer",), {"type": "WhitespaceSplit"}),
    "joined by spaces": ("tokenizer.json", ("decoder",), None),
    "byte decoder": (
        "tokenizer.json",
        ("decoder",),
        {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    ),
    "merged": ("tokenizer.json", ("model", "merges"), [["\r", "\n"]]),
    "special": (
        "tokenizer.json",
        ("added_tokens",),
        [
            {
                "id": ALL.ids["<pad>"],
                "content": "<pad>",
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": False,
            }
        ],
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_caught(tmp_path: Path, name: str) -> None:
    file, path, value = FAULTS[name]
    vocabulary = Vocabulary((*ALL.characters, "\r\n"), "here")
    write_character_tokenizer(vocabulary, tmp_path, model_max_length=8)
    assert check_tokenizer(load_tokenizer(tmp_path), vocabulary).ok
    change(tmp_path, file, *path, value=value)
    report = check_tokenizer(load_tokenizer(tmp_path), vocabulary)
    assert not report.ok
    assert report.first_difference


def test_exchanged_ids_are_caught(tmp_path: Path) -> None:
    write_character_tokenizer(Vocabulary(("b", "a"), "x"), tmp_path, model_max_length=8)
    report = check_tokenizer(load_tokenizer(tmp_path), Vocabulary(("a", "b"), "x"))
    assert report.first_difference == "[0] is decoded as 'b', the original has 'a'"


def test_missing_character_is_caught(tmp_path: Path) -> None:
    write_character_tokenizer(Vocabulary(("a",), "x"), tmp_path, model_max_length=8)
    assert not check_tokenizer(load_tokenizer(tmp_path), Vocabulary(("a", "b"), "x")).ok


def test_text_outside_the_vocabulary_is_said(tmp_path: Path) -> None:
    vocabulary = Vocabulary(("a",), "x")
    write_character_tokenizer(vocabulary, tmp_path, model_max_length=8)
    report = check_tokenizer(load_tokenizer(tmp_path), vocabulary, ["aab"])
    assert report.first_difference == "the text holds 'b', which the vocabulary does not have"


def test_files_that_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        check_tokenizer(load_tokenizer(tmp_path), ALL)
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "TokenizersBackend"}')
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        check_tokenizer(load_tokenizer(tmp_path), ALL)
