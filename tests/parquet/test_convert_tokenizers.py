"""Datasets whose ids are parts of words: llama2.c's tokenised shards, and GPT-2's kind of BPE."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from slogpt_hf.dataset_build import convert_back, convert_dataset
from slogpt_hf.datasets.ids import find_id_files
from slogpt_hf.errors import CheckpointError, ParityError
from slogpt_hf.parquet import choice as choice_module
from slogpt_hf.settings import Settings
from slogpt_hf.tokenizers.piece_encoding import PieceCodec
from slogpt_hf.tokenizers.pieces import read_pieces

TOKENIZERS = Path(__file__).parents[1] / "data" / "tokenizers"
STORIES = (
    "Once upon a time, there was a girl.\nShe had a café — ∑ 😀.",
    "Tom and Sue play.",
    "The end.",
    "One day, the dog ran.\n\nIt was fun.",
)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def convert(dataset: str, **options: Any) -> dict[str, Any]:
    settings = Settings(tokenizer=options.pop("tokenizer", None))
    return convert_dataset(dataset, Path("out"), settings, **{"block_size": 16, **options})


def texts(split: str) -> list[str]:
    paths = sorted(Path("out/text").glob(f"{split}-*.parquet"))
    return [text for path in paths for text in pq.read_table(path)["text"].to_pylist()]


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """``tok512/data00.bin`` and so on, each of some stories that begin with bos (id 1)."""
    codec = PieceCodec(read_pieces(TOKENIZERS / "tokenizer.model"))
    folder = tmp_path / "tok512"
    folder.mkdir()
    for number in range(3):
        stories = STORIES[number:] + STORIES[:number]
        ids = [i for story in stories for i in [1, *codec.encode(story)]]
        np.array(ids, "<u2").tofile(folder / f"data{number:02}.bin")
    return folder


@pytest.mark.parametrize("name", ["tokenizer.model", "tokenizer.bin"])
@pytest.mark.parametrize("place", ["tok512/{}", "{}", "tok512.model"])
def test_shards_of_llama2c(name: str, place: str, shards: Path) -> None:
    Path(place.format(name)).write_bytes((TOKENIZERS / name).read_bytes())
    record = convert("tok512")
    files = record["data"]["files"]
    assert [(file["file"], file["split"]) for file in files] == [
        ("data01.bin", "train"),
        ("data02.bin", "train"),
        ("data00.bin", "validation"),
    ]
    assert {file["rows"] for file in files} == {"documents"}
    assert texts("validation") == list(STORIES)
    assert texts("train") == [*STORIES[1:], *STORIES[:1], *STORIES[2:], *STORIES[:2]]
    assert record["proof"]["rows_compared"] == 12
    assert convert_back(Path("out"), Path("back")) == ["data01.bin", "data02.bin", "data00.bin"]
    for path in shards.glob("data*.bin"):
        assert (Path("back") / path.name).read_bytes() == path.read_bytes()


def test_a_truncated_shard(shards: Path) -> None:
    (shards / "tokenizer.model").write_bytes((TOKENIZERS / "tokenizer.model").read_bytes())
    path = shards / "data02.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"data02\.bin: \d+ bytes is an odd number"):
        convert("tok512")
    assert not Path("out").exists()


def test_one_shard_is_of_no_split(shards: Path) -> None:
    for name in ("data01.bin", "data02.bin"):
        (shards / name).unlink()
    with pytest.raises(Exception, match="neither a train"):
        find_id_files("tok512", Path(), "uint16")


@pytest.fixture
def byte_level(tmp_path: Path) -> Path:
    """A folder with a small byte-level BPE like GPT-2's, whose <|endoftext|> ends documents."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(STORIES, trainer)
    folder = tmp_path / "bpe"
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    config |= {"bos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def test_byte_level_bpe(byte_level: Path) -> None:
    tokenizer = Tokenizer.from_file(str(byte_level / "tokenizer.json"))
    end = tokenizer.token_to_id("<|endoftext|>")
    ids = [i for story in STORIES for i in [*tokenizer.encode(story).ids, end]]
    Path("web").mkdir()
    np.array(ids, "<u2").tofile(Path("web/train.bin"))
    record = convert("web", tokenizer=str(byte_level))
    assert texts("train") == list(STORIES)
    assert record["proof"] == {
        "passed": True,
        "ids": "equal",
        "text": "tokenizer",
        "rows_compared": len(STORIES),
    }
    assert record["tokenizer"]["source"] == "bpe"
    assert "the other rows were not decoded by it" in Path("out/README.md").read_text("utf-8")
    assert convert_back(Path("out"), Path("back")) == ["train.bin"]
    assert Path("back/train.bin").read_bytes() == Path("web/train.bin").read_bytes()


def test_a_wrong_text_of_an_id_is_caught(byte_level: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = Tokenizer.from_file(str(byte_level / "tokenizer.json"))
    Path("web").mkdir()
    np.array(tokenizer.encode(STORIES[0]).ids, "<u2").tofile(Path("web/train.bin"))
    right = choice_module._byte_of_letter()
    wrong = right | {"a": right["b"]}
    monkeypatch.setattr(choice_module, "_byte_of_letter", lambda: wrong)
    with pytest.raises(ParityError, match="to its tokenizer"):
        convert("web", tokenizer=str(byte_level))
    assert not Path("out").exists()


def test_a_decoder_that_does_more_is_refused(byte_level: Path) -> None:
    path = byte_level / "tokenizer.json"
    content = json.loads(path.read_text("utf-8"))
    content["decoder"] = {"type": "WordPiece", "prefix": "##", "cleanup": True}
    path.write_text(json.dumps(content))
    Path("web").mkdir()
    np.zeros(4, "<u2").tofile(Path("web/train.bin"))
    with pytest.raises(CheckpointError, match="does more than join") as caught:
        convert("web", tokenizer=str(byte_level))
    assert "--tokenizer none" in caught.value.hint
