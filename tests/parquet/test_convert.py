"""``slogpt-hf convert``: what is written, that it is proven, and what is refused."""

from __future__ import annotations

import errno
import json
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from slogpt_hf import dataset_build
from slogpt_hf.cli import run
from slogpt_hf.dataset_build import convert_back, convert_dataset
from slogpt_hf.datasets import Vocabulary, read_meta
from slogpt_hf.errors import CheckpointError, ParityError, UsageError
from slogpt_hf.parquet import proof, shards
from slogpt_hf.parquet.back import meta_of
from slogpt_hf.parquet.proof import plain_text
from slogpt_hf.settings import Settings

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "slo-classic" / "meta.pkl"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def convert(dataset: str | Path, output: str = "out", **options: Any) -> dict[str, Any]:
    settings = options.pop("settings", Settings())
    return convert_dataset(str(dataset), Path(output), settings, **options)


def column(pattern: str, name: str) -> list[Any]:
    paths = sorted(Path("out").glob(pattern))
    return [value for path in paths for value in pq.read_table(path)[name].to_pylist()]


def test_by_name_and_back(
    character_dataset: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = character_dataset()
    assert run(["convert", "small", "out", "--block-size", "100", "-q"]) == 0
    assert "train.bin, val.bin come back byte for byte" in capsys.readouterr().out
    assert run(["convert", "out", "back", "--back", "-q"]) == 0
    assert sorted(p.name for p in Path("back").iterdir()) == ["meta.pkl", "train.bin", "val.bin"]
    for name in ("train.bin", "val.bin"):
        assert (Path("back") / name).read_bytes() == (folder / name).read_bytes()
    old, new = read_meta(folder / "meta.pkl"), read_meta(Path("back/meta.pkl"))
    assert old.characters == new.characters


def test_what_is_written(character_dataset: Callable[..., Path]) -> None:
    folder = character_dataset()
    record = convert("small", block_size=100)
    vocabulary = read_meta(folder / "meta.pkl")
    for split, name in (("train", "train.bin"), ("validation", "val.bin")):
        ids = np.fromfile(folder / name, "<u2")
        rows = column(f"tokens/{split}-*.parquet", "input_ids")
        assert [len(row) for row in rows[:-1]] == [100] * (len(rows) - 1)
        assert [i for row in rows for i in row] == ids.tolist()
        texts = column(f"text/{split}-*.parquet", "text")
        assert "".join(texts) == "".join(vocabulary.characters[i] for i in ids)
        assert all(text.endswith("\n\n") for text in texts[:-1])
        assert record["data"]["configs"]["text"][split]["n_rows"] == len(texts)
    held = json.loads(Path("out/vocab.json").read_text("utf-8"))
    assert held == vocabulary.ids
    assert json.loads(Path("out/release.json").read_text("utf-8")) == record
    assert set(record["files"]) == {
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.json",
        *(f"{c}/{s}-00000-of-00001.parquet" for c in ("text", "tokens") for s in shards_of(record)),
    }


def shards_of(record: dict[str, Any]) -> list[str]:
    return [file["split"] for file in record["data"]["files"]]


def test_the_card(character_dataset: Callable[..., Path]) -> None:
    character_dataset()
    record = convert("small", block_size=100, settings=Settings(license="mit", language="en"))
    card = Path("out/README.md").read_text("utf-8")
    metadata = yaml.safe_load(card.split("---")[1])
    assert [config["config_name"] for config in metadata["configs"]] == ["text", "tokens"]
    assert metadata["license"] == "mit"
    (text, tokens) = metadata["dataset_info"]
    assert tokens["features"] == [{"name": "input_ids", "sequence": "uint16"}]
    for info, config in ((text, "text"), (tokens, "tokens")):
        table = pa.concat_tables(
            pq.read_table(p) for p in sorted(Path("out", config).glob("*.parquet"))
        )
        assert sum(split["num_examples"] for split in info["splits"]) == table.num_rows
    for file in record["data"]["files"]:
        assert file["sha256"] in card
    assert f"{len(record['data']['characters'])} unique characters" in card


def test_several_shards_and_the_same_bytes_again(character_dataset: Callable[..., Path]) -> None:
    folder = character_dataset()
    one = convert("small", block_size=64, most_shard_ids=1000)
    names = one["data"]["files"][0]["shards"]
    assert len(names) > 3
    texts = column("text/train-*.parquet", "text")
    ids = np.fromfile(folder / "train.bin", "<u2")
    assert "".join(texts).encode() == plain_text(read_meta(folder / "meta.pkl"), ids)
    assert convert("small", "again", block_size=64, most_shard_ids=1000)["files"] == one["files"]
    assert convert_back(Path("out"), Path("back")) == ["train.bin", "val.bin", "meta.pkl"]
    assert Path("back/train.bin").read_bytes() == (folder / "train.bin").read_bytes()


def test_ids_of_32_bits(character_dataset: Callable[..., Path]) -> None:
    folder = character_dataset(dtype="<u4")
    with pytest.raises(CheckpointError, match="32 bits") as caught:
        convert("small")
    assert "--id-type uint32" in caught.value.hint
    record = convert("small", id_type="uint32")
    assert record["data"]["dtype"] == "uint32"
    convert_back(Path("out"), Path("back"))
    assert Path("back/val.bin").read_bytes() == (folder / "val.bin").read_bytes()


def test_more_than_65536_entries_are_ids_of_32_bits(character_dataset: Callable[..., Path]) -> None:
    characters = [chr(c) for c in range(0x20, 0x12000) if not 0xD800 <= c < 0xE000]
    folder = character_dataset(characters[-1] * 200, characters=characters, dtype="<u4")
    assert convert("small")["data"]["dtype"] == "uint32"
    convert_back(Path("out"), Path("back"))
    assert Path("back/train.bin").read_bytes() == (folder / "train.bin").read_bytes()


def test_ids_alone(character_dataset: Callable[..., Path]) -> None:
    folder = character_dataset(meta=False)
    with pytest.raises(UsageError, match=r"no meta\.pkl") as caught:
        convert("small")
    assert "--tokenizer none" in caught.value.hint
    record = convert("small", settings=Settings(tokenizer="none"))
    assert set(record["data"]["configs"]) == {"tokens"}
    assert record["proof"]["text"] is None
    assert "nothing is known of what the ids mean" in Path("out/README.md").read_text("utf-8")
    assert convert_back(Path("out"), Path("back")) == ["train.bin", "val.bin"]
    assert Path("back/train.bin").read_bytes() == (folder / "train.bin").read_bytes()


@hypothesis_settings(max_examples=12)
@given(st.data())
def test_any_ids_come_back(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    characters = data.draw(
        st.lists(
            st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=3),
            unique=True,
            min_size=1,
            max_size=6,
        )
    )
    dtype = data.draw(st.sampled_from(["uint16", "uint32"]))
    folder = tmp_path_factory.mktemp("any")
    (folder / "in").mkdir()
    stoi = {c: i for i, c in enumerate(characters)}
    (folder / "in" / "meta.pkl").write_bytes(meta_of(Vocabulary(tuple(characters), "x")))
    for name in ("train.bin", "val.bin"):
        ids = data.draw(st.lists(st.integers(0, len(stoi) - 1), min_size=1, max_size=60))
        np.array(ids, dtype).tofile(folder / "in" / name)
    convert_dataset(
        str(folder / "in"),
        folder / "out",
        Settings(),
        block_size=data.draw(st.integers(1, 50)),
        id_type=dtype,
        most_shard_ids=data.draw(st.integers(1, 50)),
    )
    convert_back(folder / "out", folder / "back")
    for name in ("train.bin", "val.bin"):
        assert (folder / "back" / name).read_bytes() == (folder / "in" / name).read_bytes()


@given(st.lists(st.integers(0, 2), max_size=40))
def test_the_other_way_to_make_text_is_the_original_s(ids: list[int]) -> None:
    for entries in (("a", "b", "\n"), ("é", "∑", "😀"), ("<pad>", "b", "é")):
        got = plain_text(Vocabulary(entries, "x"), np.array(ids, "<u2"))
        assert got.decode() == "".join(entries[i] for i in ids)


def test_a_fault_in_the_ids_is_caught(
    character_dataset: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    character_dataset()
    write = shards.write_tokens

    def wrong(shard: Any, path: Path, *rest: Any) -> Any:
        written = write(shard, path, *rest)
        table = pq.read_table(path)
        rows = table["input_ids"].to_pylist()
        rows[-1][-1] ^= 1
        pq.write_table(pa.table([pa.array(rows, table.schema[0].type)], schema=table.schema), path)
        return written

    monkeypatch.setattr(dataset_build, "write_tokens", wrong)
    with pytest.raises(ParityError, match="do not give it back"):
        convert("small")
    assert not Path("out").exists()


def test_a_fault_in_the_text_is_caught(
    character_dataset: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    character_dataset()
    monkeypatch.setattr(
        proof, "plain_text", lambda vocabulary, ids: plain_text(vocabulary, ids[::-1])
    )
    with pytest.raises(ParityError, match="are not its text"):
        convert("small")
    assert [path.name for path in Path().iterdir()] == ["datasets"]


@pytest.mark.parametrize(
    ("harm", "code", "said"),
    [
        ("beyond", 3, "id 70 at place 5, but the vocabulary has 65 entries"),
        ("odd", 3, "an odd number"),
        ("empty", 3, "is empty"),
        ("gone", 2, "holds neither a train.bin"),
        ("pointer", 3, "Git LFS pointer"),
        ("meta", 3, "'vocab_size' is 9"),
        ("exists", 2, "exists already"),
        ("unknown", 2, "no dataset 'nothing'"),
    ],
)
def test_bad_input_is_one_message(
    harm: str, code: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "datasets" / "bad"
    folder.mkdir(parents=True)
    (folder / "meta.pkl").write_bytes(GOLDEN.read_bytes())
    ids = np.arange(60, dtype="<u2")
    if harm == "beyond":
        ids[5] = 70
    data = {"odd": ids.tobytes()[:-1], "empty": b"", "pointer": b"version https://git-lfs.x\n"}
    if harm != "gone":
        (folder / "train.bin").write_bytes(data.get(harm, ids.tobytes()))
    if harm == "meta":
        content = {"vocab_size": 9, "itos": {0: "a"}, "stoi": {"a": 0}}
        (folder / "meta.pkl").write_bytes(pickle.dumps(content))
    if harm == "exists":
        Path("out").mkdir()
    before = sorted(Path().iterdir())
    name = "nothing" if harm == "unknown" else "bad"
    assert run(["convert", name, "out", "-q"]) == code
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert sorted(Path().iterdir()) == before


def test_a_full_disk(
    character_dataset: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    character_dataset()

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(dataset_build, "write_text", full)
    assert run(["convert", "small", "out", "-q"]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert [path.name for path in Path().iterdir()] == ["datasets"]


@pytest.mark.parametrize("harm", ["truncated", "other", "missing", "record", "model", "more"])
def test_a_damaged_dataset_does_not_come_back(
    harm: str, character_dataset: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    character_dataset()
    convert("small")
    (path,) = Path("out/tokens").glob("train-*.parquet")
    record = json.loads(Path("out/release.json").read_text("utf-8"))
    if harm == "truncated":
        path.write_bytes(path.read_bytes()[:-20])
    elif harm == "other":
        pq.write_table(pa.table({"input_ids": pa.array([["a"]])}), path)
    elif harm == "missing":
        path.unlink()
    elif harm == "record":
        record["data"]["files"][0]["file"] = "../train.bin"
    elif harm == "model":
        record = {"model": {}}
    else:
        table = pq.read_table(path)
        pq.write_table(pa.concat_tables([table, table]), path)
    Path("out/release.json").write_text(json.dumps(record), "utf-8")
    assert run(["convert", "out", "back", "--back", "-q"]) == (4 if harm == "more" else 3)
    assert capsys.readouterr().err.count("\n") == 1
    assert not Path("back").exists()


@pytest.mark.parametrize(("harm", "code"), [("vocabulary", 4), ("pipe", 3)])
def test_another_vocabulary_or_a_pipe_does_not_come_back(
    harm: str,
    code: int,
    character_dataset: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    character_dataset()
    convert("small")
    if harm == "vocabulary":  # as whole as before, and of other characters
        stoi = json.loads(Path("out/vocab.json").read_text("utf-8"))
        first, second = list(stoi)[:2]
        stoi[first], stoi[second] = stoi[second], stoi[first]
        Path("out/vocab.json").write_text(json.dumps(stoi), "utf-8")
    else:
        (path,) = Path("out/tokens").glob("train-*.parquet")
        path.unlink()
        os.mkfifo(path)
    assert run(["convert", "out", "back", "--back", "-q"]) == code
    assert capsys.readouterr().err.count("\n") == 1
    assert not Path("back").exists()


def test_a_link_that_leads_nowhere_is_no_missing_split(
    character_dataset: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = character_dataset()
    (folder / "val.bin").unlink()
    (folder / "val.bin").symlink_to("annexed")
    assert run(["convert", "small", "out", "-q"]) == 2
    assert "val.bin" in capsys.readouterr().err and not Path("out").exists()


def test_back_takes_no_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["convert", "--back", "out", "back", "--block-size", "5"]) == 2
    assert run(["convert", "--back", "nothing", "back"]) == 2
    assert "release.json" in capsys.readouterr().err


def test_without_pyarrow(
    character_dataset: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    character_dataset()
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    assert run(["convert", "small", "out"]) == 2
    assert "pip install 'pyarrow>=21'" in capsys.readouterr().err
