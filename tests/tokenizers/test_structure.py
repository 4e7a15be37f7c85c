from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from slogpt_hf.datasets.vocabulary import Vocabulary
from slogpt_hf.files import write_files
from slogpt_hf.tokenizers import TokenizerChoice
from slogpt_hf.tokenizers.characters import character_files, write_character_tokenizer
from slogpt_hf.tokenizers.check import check_choice, load_tokenizer
from slogpt_hf.tokenizers.special import SpecialTokens
from slogpt_hf.tokenizers.structure import structure_difference

VOCABULARY = Vocabulary(("a", "b", "?", "\n", " ", "<pad>"), "here")
CONTEXT = 8
ADDED = {
    "id": 5,
    "content": "<pad>",
    "single_word": False,
    "lstrip": False,
    "rstrip": False,
    "normalized": False,
    "special": True,
}
REPLACE = {"type": "Replace", "pattern": {"String": "bba"}, "content": "aaa"}
TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [
        {"SpecialToken": {"id": "<pad>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ],
    "pair": [],
    "special_tokens": {"<pad>": {"id": "<pad>", "ids": [5], "tokens": ["<pad>"]}},
}
TRUNCATION = {
    "direction": "Right",
    "max_length": 4,
    "strategy": "LongestFirst",
    "stride": 0,
}
PADDING = {
    "strategy": "BatchLongest",
    "direction": "Right",
    "pad_to_multiple_of": None,
    "pad_id": 0,
    "pad_type_id": 0,
    "pad_token": "a",
}
# What is changed in a file, field to value, and which words the difference has.
FIELDS: dict[str, tuple[str, str, Any]] = {
    "normalizer": ("tokenizer.json", "normalizer", REPLACE),
    "pre-tokenizer": ("tokenizer.json", "pre_tokenizer", {"type": "WhitespaceSplit"}),
    "post-processor": ("tokenizer.json", "post_processor", TEMPLATE),
    "decoder that rewrites": (
        "tokenizer.json",
        "decoder",
        {"type": "Sequence", "decoders": [{"type": "Fuse"}, REPLACE]},
    ),
    "no decoder": ("tokenizer.json", "decoder", None),
    "truncation": ("tokenizer.json", "truncation", TRUNCATION),
    "padding": ("tokenizer.json", "padding", PADDING),
    "added token": ("tokenizer.json", "added_tokens", [ADDED]),
    "unknown token": ("tokenizer.json", "model.unk_token", "a"),
    "no unknown token": ("tokenizer.json", "model.unk_token", None),
    "dropout": ("tokenizer.json", "model.dropout", 0.1),
    "dropout of nothing": ("tokenizer.json", "model.dropout", 0),
    "fused unknowns": ("tokenizer.json", "model.fuse_unk", True),
    "bytes": ("tokenizer.json", "model.byte_fallback", True),
    "merges": ("tokenizer.json", "model.merges", [["a", "b"]]),
    "ignored merges": ("tokenizer.json", "model.ignore_merges", True),
    "another model": ("tokenizer.json", "model.type", "WordLevel"),
    "no model": ("tokenizer.json", "model", None),
    "a further field": ("tokenizer.json", "model.evil", 1),
    "a further section": ("tokenizer.json", "evil", {"a": 1}),
    "another id": ("tokenizer.json", "model.vocab.a", 1),
    "a further entry": ("tokenizer.json", "model.vocab.ab", 6),
    "chat template": ("tokenizer_config.json", "chat_template", "{{ messages }}"),
    "auto_map": ("tokenizer_config.json", "auto_map", {"AutoTokenizer": ["x.X", None]}),
    "class": ("tokenizer_config.json", "tokenizer_class", "BertTokenizer"),
    "special token": ("tokenizer_config.json", "eos_token", "<pad>"),
    "further special tokens": ("tokenizer_config.json", "extra_special_tokens", ["a"]),
    "bos": ("tokenizer_config.json", "add_bos_token", True),
    "context": ("tokenizer_config.json", "model_max_length", 4),
    "clean up": ("tokenizer_config.json", "clean_up_tokenization_spaces", True),
    "special tokens in texts": ("tokenizer_config.json", "split_special_tokens", False),
    "sides": ("tokenizer_config.json", "truncation_side", "left"),
    "another file": ("tokenizer_config.json", "fast_tokenizer_files", ["tokenizer.4.json"]),
    "vocab.json": ("vocab.json", "a", 1),
    "class of the model": ("config.json", "tokenizer_class", "LlamaTokenizer"),
    "code of the model": ("config.json", "auto_map", {"AutoTokenizer": ["x.X", None]}),
}
BESIDE: dict[str, bytes] = {
    "added_tokens.json": b'{"ab": 6}',
    "special_tokens_map.json": b'{"eos_token": "a"}',
    "tokenizer.model": b"pieces",
    "tokenizer.4.0.0.json": b"{}",
    "tokenization_own.py": b"",
    "vocab.txt": b"a\n",
    "merges.txt": b"a b\n",
    "chat_template.jinja": b"{{ messages }}",
    "chat_template.json": b"{}",
    "additional_chat_templates/tool.jinja": b"{{ messages }}",
}


def said(folder: Path, unknown: str = "error") -> str | None:
    choice = TokenizerChoice(VOCABULARY, unknown=unknown)
    report = check_choice(folder, choice, VOCABULARY.size, model_max_length=CONTEXT)
    return report.first_difference


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_character_tokenizer(VOCABULARY, tmp_path, model_max_length=CONTEXT)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    return tmp_path


@pytest.fixture
def change(folder: Path) -> Callable[[str, str, Any], None]:
    def write(file: str, field: str, value: Any) -> None:
        content = inner = json.loads((folder / file).read_text("utf-8"))
        *outer, last = field.split(".")
        for key in outer:
            inner = inner[key]
        inner[last] = value
        (folder / file).write_text(json.dumps(content), "utf-8")

    return write


@pytest.mark.parametrize("name", FIELDS)
def test_a_changed_field_is_named(
    folder: Path, change: Callable[[str, str, Any], None], name: str
) -> None:
    file, field, value = FIELDS[name]
    assert said(folder) is None
    change(file, field, value)
    found = said(folder)
    assert found is not None
    assert found.startswith(f"{file}: ")
    assert file == "vocab.json" or field.split(".")[0] in found


@pytest.mark.parametrize("name", BESIDE)
def test_a_file_beside_is_named(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(BESIDE[name])
    found = said(folder)
    assert found is not None
    assert found.startswith(f"{name}: ")


@pytest.mark.parametrize("unknown", ["error", "?", "\n", "<pad>"])
def test_untouched_files_pass(tmp_path: Path, unknown: str) -> None:
    write_character_tokenizer(VOCABULARY, tmp_path, model_max_length=CONTEXT, unknown=unknown)
    assert said(tmp_path, unknown) is None
    if unknown == "error":
        return
    found = said(tmp_path)
    assert found is not None
    assert "added_tokens" in found
    # Whoever verifies later need not know what was asked for then: the artefact's record does.
    record = tmp_path / "release.json"
    record.write_text(json.dumps({"tokenizer": {"unknown": unknown}}))
    assert said(tmp_path) is None
    record.write_text(json.dumps({"tokenizer": {"unknown": "b"}}))
    assert said(tmp_path) is not None


def test_spare_rows_change_no_file(folder: Path) -> None:
    choice = TokenizerChoice(VOCABULARY)
    report = check_choice(folder, choice, VOCABULARY.size + 3, model_max_length=CONTEXT)
    assert report.ok


def test_a_record_that_is_none_says_nothing(folder: Path) -> None:
    for content in ("[", "[]", '{"tokenizer": 1}', '{"tokenizer": {"unknown": 1}}'):
        (folder / "release.json").write_text(content)
        assert said(folder) is None


def test_what_transformers_saves_again_passes(folder: Path) -> None:
    again = folder / "again"
    load_tokenizer(folder).save_pretrained(again)
    (again / "added_tokens.json").write_text("{}")
    (again / "special_tokens_map.json").write_text("{}")
    # It leaves out what keeps a character that stands in from being dropped from texts.
    assert "is decoded without special tokens as ''" in str(said(again))
    path = again / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"added_tokens_decoder": {}}))
    assert said(again) is None


@pytest.mark.parametrize("special", [{}, {"pad": 5}])
def test_files_of_earlier_versions_pass(tmp_path: Path, special: dict[str, int]) -> None:
    files = character_files(
        VOCABULARY, model_max_length=CONTEXT, special_tokens=special, stand_ins=False
    )
    assert b"eos_token" not in files["tokenizer_config.json"]
    write_files(tmp_path, files)
    record = {"tokenizer": {"special_tokens": special} if special else {}}
    (tmp_path / "release.json").write_text(json.dumps(record))
    assert said(tmp_path) is None
    asked = replace(TokenizerChoice(VOCABULARY), special=SpecialTokens({"eos": 1, **special}, 9))
    assert check_choice(tmp_path, asked, 9, model_max_length=CONTEXT).ok


def test_the_context_is_compared_where_it_is_known(folder: Path) -> None:
    assert structure_difference(folder, VOCABULARY, "error") is None
    assert structure_difference(folder, VOCABULARY, "error", CONTEXT) is None
    found = structure_difference(folder, VOCABULARY, "error", 9)
    assert found == "tokenizer_config.json: model_max_length is 8, the original implies 9"


def test_a_key_that_stands_there_twice_is_seen(folder: Path) -> None:
    path = folder / "tokenizer.json"
    text = path.read_text("utf-8")
    path.write_text(text.replace('"padding": null,', '"padding": null, "padding": null,'), "utf-8")
    assert said(folder) == "tokenizer.json: is not a JSON object, or says something twice"


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert said(folder) == f"{name}: is missing"
