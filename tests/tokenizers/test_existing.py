from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, ByT5Tokenizer, PreTrainedTokenizerFast

from slogpt_hf.errors import CheckpointError, UsageError
from slogpt_hf.files import write_files
from slogpt_hf.tokenizers.existing import load_existing, required_tokenizer, tokenizer_files


def files_of(source: str, *, vocab_size: int, model_max_length: int | None) -> dict[str, bytes]:
    return tokenizer_files(
        load_existing(source), source, vocab_size=vocab_size, model_max_length=model_max_length
    )


def copy_tokenizer(
    source: str, folder: Path, *, vocab_size: int, model_max_length: int | None
) -> None:
    files = files_of(source, vocab_size=vocab_size, model_max_length=model_max_length)
    write_files(folder, files)


TEXT = "Speak,  speak.\n\nYou are all resolved 🎉"


@pytest.fixture(scope="module")
def bpe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a byte-level BPE tokenizer of 300 ids, as GPT-2's."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([TEXT * 20 + "the thing that then this " * 50], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>")
    folder = tmp_path_factory.mktemp("bpe")
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("form", ["folder", "file", "file alone", "gpt2 class"])
def test_copied_tokenizer_is_the_same(bpe: Path, tmp_path: Path, form: str) -> None:
    original = AutoTokenizer.from_pretrained(bpe)
    source = bpe / "tokenizer.json" if form == "file" else bpe
    if form == "file alone":
        source = tmp_path / "mine.json"
        source.write_bytes((bpe / "tokenizer.json").read_bytes())
    elif form == "gpt2 class":
        source = tmp_path / "gpt2"
        source.mkdir()
        (source / "tokenizer.json").write_bytes((bpe / "tokenizer.json").read_bytes())
        (source / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    out = tmp_path / "out"
    copy_tokenizer(str(source), out, vocab_size=304, model_max_length=77)
    copied = AutoTokenizer.from_pretrained(out)
    assert copied.encode(TEXT) == original.encode(TEXT)
    assert copied.decode(copied.encode(TEXT)) == TEXT
    assert copied.model_max_length == 77
    assert len(copied) == len(original)
    if form != "file alone":
        assert copied.eos_token_id == original.eos_token_id == 0
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_its_config_is_in_words_that_transformers_4_reads_too(bpe: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(bpe)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|im_start|>"]})
    tokenizer.save_pretrained(tmp_path / "source")
    copy_tokenizer(
        str(tmp_path / "source"), tmp_path / "out", vocab_size=304, model_max_length=None
    )
    config = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert config["additional_special_tokens"] == ["<|im_start|>"]
    assert "extra_special_tokens" not in config
    copied = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert copied.extra_special_tokens == ["<|im_start|>"]


def test_tokenizer_must_fit(bpe: Path, tmp_path: Path) -> None:
    size = len(AutoTokenizer.from_pretrained(bpe))
    copy_tokenizer(str(bpe), tmp_path / "fits", vocab_size=size, model_max_length=None)
    with pytest.raises(CheckpointError, match=f"needs {size} ids but the model has {size - 1}"):
        copy_tokenizer(str(bpe), tmp_path / "out", vocab_size=size - 1, model_max_length=None)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("source", ["no/such/tokenizer", "a b", "", "/nowhere/tokenizer.json"])
def test_no_such_tokenizer(tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((UsageError, CheckpointError)) as caught:
        copy_tokenizer(source, tmp_path / "out", vocab_size=9, model_max_length=9)
    assert caught.value.hint
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"config.json": '{"model_type": "gpt2"}'},
        {"tokenizer.json": "{}", "tokenizer_config.json": "{}"},
        {"tokenizer.json": "version https://git-lfs.github.com/spec/v1\n"},
        {"tokenizer_config.json": "not json"},
    ],
)
def test_folder_without_a_tokenizer(tmp_path: Path, files: dict[str, str]) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name, content in files.items():
        (source / name).write_text(content)
    with pytest.raises(CheckpointError) as caught:
        copy_tokenizer(str(source), tmp_path / "out", vocab_size=50257, model_max_length=9)
    assert str(source) in caught.value.message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("local_class", ["PreTrainedTokenizerFast", "OwnTokenizer"])
def test_remote_code_is_not_run(bpe: Path, tmp_path: Path, local_class: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "tokenizer.json").write_bytes((bpe / "tokenizer.json").read_bytes())
    (source / "own.py").write_text("open('ran', 'w')\nclass OwnTokenizer: pass\n")
    config = {"tokenizer_class": local_class, "auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]}}
    (source / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError):
        copy_tokenizer(str(source), tmp_path / "out", vocab_size=304, model_max_length=9)
    assert not Path("ran").exists()
    assert not (tmp_path / "out").exists()


def test_published_config_says_nothing_of_this_machine(bpe: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(bpe, source)
    config = json.loads((source / "tokenizer_config.json").read_text())
    config |= {"name_or_path": str(source), "vocab_file": str(source / "vocab.json")}
    (source / "tokenizer_config.json").write_text(json.dumps(config))
    files = files_of(str(source), vocab_size=304, model_max_length=9)
    written = json.loads(files["tokenizer_config.json"])
    for key in ("is_local", "local_files_only", "name_or_path", "vocab_file"):
        assert key not in written
    assert written["eos_token"] == "<|endoftext|>" and written["model_max_length"] == 9
    assert not any(str(tmp_path).encode() in content for content in files.values())


def test_same_tokenizer_same_files_wherever_it_lies(bpe: Path, tmp_path: Path) -> None:
    shutil.copytree(bpe, tmp_path / "elsewhere")
    here, there = (
        files_of(str(folder), vocab_size=304, model_max_length=9)
        for folder in (bpe, tmp_path / "elsewhere")
    )
    assert here == there


def test_slow_tokenizer_is_refused(tmp_path: Path) -> None:
    ByT5Tokenizer().save_pretrained(tmp_path / "source")
    with pytest.raises(CheckpointError, match=r"ByT5Tokenizer has no tokenizer\.json") as caught:
        files_of(str(tmp_path / "source"), vocab_size=384, model_max_length=9)
    assert "fast tokenizer" in caught.value.hint


@pytest.mark.parametrize("size", [50257, 50304])
def test_gpt2_is_asked_for(size: int) -> None:
    message = required_tokenizer(size)
    for words in (str(size), "GPT-2's BPE", "--tokenizer", "openai-community/gpt2", "--dataset"):
        assert words in message


def test_other_sizes_are_asked_for() -> None:
    assert "sentencepiece" in required_tokenizer(32000)
    assert "--dataset" in required_tokenizer(65) and "GPT-2" not in required_tokenizer(65)


@pytest.mark.parametrize("name", ["none.model", "none.bin", "none/tokenizer.json"])
def test_file_that_is_not_there_is_not_looked_for_on_the_hub(name: str) -> None:
    with pytest.raises(UsageError, match="no such tokenizer"):
        files_of(name, vocab_size=10, model_max_length=None)
