"""Whatever is put in: one message, the designed exit code, nothing written, nothing published."""

from __future__ import annotations

import errno
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

Cli = Callable[..., Any]
Content = Callable[..., dict[str, Any]]
Spoil = Callable[[dict[str, Any]], None]
Write = Callable[..., Path]

SMALL = {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 12}
WTE = "transformer.wte.weight"
C_FC = "transformer.h.0.mlp.c_fc.weight"


class RunsCode:
    """Unpickles to a call of ``os.system``."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


@pytest.fixture
def refused(
    cli: Cli, characters: Path, hub_view: Callable[[Path], Any], tmp_path: Path
) -> Callable[..., str]:
    """Releases what must be refused; checks that nothing is left, and gives the message."""

    def call(path: Path, code: int, *options: Any, repo_id: str = "me/model") -> str:
        hub, output = tmp_path / "hub", tmp_path / "artefact"
        dataset = () if "--dataset" in options else ("--dataset", characters)
        if "--output" not in options:
            options = ("--output", output, *options)
        before = {p: p.is_file() and p.read_bytes() for p in tmp_path.rglob("*")}
        arguments = ("--repo-id", repo_id, "--hub", hub, *dataset, *options)
        outcome = cli("release", path, *arguments)
        assert outcome.code == code, outcome.text
        assert outcome.out == ""
        # One message, and it is the last thing said.
        lines = outcome.err.splitlines()
        assert [line for line in lines if line.startswith("error: ")] == lines[-1:]
        assert hub_view(hub) == {}
        after = {p: p.is_file() and p.read_bytes() for p in tmp_path.rglob("*")}
        left = {p for p in after if p not in before and hub not in (p, *p.parents)}
        assert left == set()
        assert before.items() <= after.items()
        return str(lines[-1])

    return call


FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "LFS pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 9\n",
        "git lfs pull",
    ),
    "text": (b"not a checkpoint at all", "is not a checkpoint"),
    "other zip": (b"PK\x03\x04" + bytes(64), "truncated or damaged"),
}


@pytest.mark.parametrize("kind", FILES)
def test_file_that_is_no_checkpoint(refused: Callable[..., str], tmp_path: Path, kind: str) -> None:
    content, fragment = FILES[kind]
    path = tmp_path / "ckpt.pt"
    path.write_bytes(content)
    message = refused(path, 3)
    assert str(path) in message and fragment in message


def test_truncated_file(refused: Callable[..., str], slo_checkpoint: Write, tmp_path: Path) -> None:
    path = tmp_path / "ckpt.pt"
    path.write_bytes(slo_checkpoint(**SMALL).read_bytes()[:-5000])
    assert f"{path}: is truncated or damaged" in refused(path, 3)


def test_missing_file(refused: Callable[..., str], tmp_path: Path) -> None:
    assert f"{tmp_path / 'ckpt.pt'}: no such checkpoint" in refused(tmp_path / "ckpt.pt", 2)


def test_directory(refused: Callable[..., str], tmp_path: Path) -> None:
    assert f"{tmp_path}: is a folder" in refused(tmp_path, 2)


def reshaped(content: dict[str, Any]) -> None:
    content["model"][C_FC] = content["model"][C_FC].t()


def missing(content: dict[str, Any]) -> None:
    del content["model"][C_FC]


def unknown(content: dict[str, Any]) -> None:
    content["model"]["transformer.h.0.mlp.c_gate.weight"] = torch.ones(2)


def with_value(value: float) -> Spoil:
    def spoil(content: dict[str, Any]) -> None:
        content["model"][C_FC][3, 5] = value

    return spoil


def without_sizes(content: dict[str, Any]) -> None:
    del content["model_args"]["n_head"]


def running_code(content: dict[str, Any]) -> None:
    content["config"]["x"] = RunsCode("touch ran")


SPOILED: dict[str, tuple[Spoil, tuple[str, ...]]] = {
    "wrong shape": (reshaped, (C_FC, "(16, 64), expected")),
    "missing tensor": (missing, ("missing", C_FC)),
    "unknown tensor": (unknown, ("transformer.h.0.mlp.c_gate.weight",)),
    "NaN": (with_value(float("nan")), (C_FC, "NaN")),
    "infinity": (with_value(float("inf")), (C_FC, "infinity")),
    "minus infinity": (with_value(float("-inf")), (C_FC, "infinity")),
    "missing field": (without_sizes, ("does not record n_head",)),
    "code in the pickle": (running_code, ("system", "nothing of it was run")),
    "another dialect": (lambda content: content.pop("model"), ("of no known dialect",)),
}


@pytest.mark.parametrize("kind", SPOILED)
def test_spoiled_checkpoint(
    refused: Callable[..., str], slo_content: Content, tmp_path: Path, kind: str
) -> None:
    spoil, fragments = SPOILED[kind]
    content = slo_content(**SMALL)
    spoil(content)
    path = tmp_path / "ckpt.pt"
    torch.save(content, path)
    message = refused(path, 3)
    assert not Path("ran").exists()
    for fragment in fragments:
        assert fragment in message


def test_weights_that_the_dtype_cannot_hold(
    refused: Callable[..., str], slo_content: Content, tmp_path: Path
) -> None:
    content = slo_content(**SMALL)
    content["model"][C_FC][0, 0] = 1e30
    path = tmp_path / "ckpt.pt"
    torch.save(content, path)
    message = refused(path, 3, "--dtype", "float16")
    assert C_FC in message and "float16" in message and "--dtype" in message


def test_code_in_the_vocabulary(
    refused: Callable[..., str], slo_checkpoint: Write, tmp_path: Path
) -> None:
    meta = tmp_path / "meta.pkl"
    meta.write_bytes(pickle.dumps({"itos": RunsCode("touch ran"), "stoi": {}}))
    message = refused(slo_checkpoint(**SMALL), 3, "--dataset", meta)
    assert str(meta) in message
    assert not Path("ran").exists()


def test_missing_dataset(refused: Callable[..., str], slo_checkpoint: Write) -> None:
    message = refused(slo_checkpoint(**SMALL), 2, "--dataset", "nowhere")
    assert "nowhere" in message and "meta.pkl" in message


def test_vocabulary_that_does_not_fit(
    refused: Callable[..., str],
    write_meta: Callable[..., Path],
    golden: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    meta = write_meta(tmp_path / "other", "".join(map(chr, range(32, 96))))
    message = refused(golden("slo-classic") / "ckpt.pt", 3, "--dataset", meta)
    assert f"{meta}: has 64 entries" in message and "65 rows" in message


def test_vocabulary_of_gpt2_asks_for_the_tokenizer(
    cli: Cli, slo_checkpoint: Write, tmp_path: Path
) -> None:
    path = slo_checkpoint(**SMALL, vocab_size=50304)
    outcome = cli("release", path, "--repo-id", "me/model", "--hub", tmp_path / "hub")
    assert outcome.code == 2
    assert "50304" in outcome.err and "--tokenizer PATH_OR_REPO" in outcome.err
    assert "openai-community/gpt2" in outcome.err


REPO_IDS = (
    "model",
    "me/",
    "/model",
    "me/my model",
    "me/a/b",
    "me/..",
    "../x",
    "me/x--y",
    "me/x.git",
)


@pytest.mark.parametrize("repo_id", REPO_IDS)
def test_repo_id_that_is_none(
    refused: Callable[..., str], slo_checkpoint: Write, repo_id: str
) -> None:
    message = refused(slo_checkpoint(**SMALL), 2, repo_id=repo_id)
    assert repr(repo_id) in message and "NAMESPACE/NAME" in message


def test_no_repo_id(cli: Cli, slo_checkpoint: Write, tmp_path: Path) -> None:
    outcome = cli("release", slo_checkpoint(**SMALL), "--hub", tmp_path / "hub")
    assert outcome.code == 2
    assert "--repo-id" in outcome.err


@pytest.mark.parametrize("kind", ["folder", "file", "dangling link"])
def test_output_that_exists(
    refused: Callable[..., str], slo_checkpoint: Write, tmp_path: Path, kind: str
) -> None:
    output = tmp_path / "mine"
    if kind == "folder":
        output.mkdir()
        (output / "work.txt").write_text("mine")
    elif kind == "file":
        output.write_text("mine")
    else:
        output.symlink_to(tmp_path / "nowhere")
    message = refused(slo_checkpoint(**SMALL), 2, "--output", output)
    assert f"{output}: exists already" in message


@pytest.mark.parametrize("size", ["5 bananas", "0", "-1GB", ""])
def test_bad_size(refused: Callable[..., str], slo_checkpoint: Write, size: str) -> None:
    assert repr(size) in refused(slo_checkpoint(**SMALL), 2, "--max-shard-size", size)


def test_hub_in_place_of_a_file(cli: Cli, slo_checkpoint: Write, characters: Path) -> None:
    Path("hub").write_text("a file")
    arguments = ("--dataset", characters, "--repo-id", "me/model", "--hub", "hub")
    outcome = cli("release", slo_checkpoint(**SMALL), *arguments)
    assert outcome.code == 2, outcome.text
    assert "hub" in outcome.err
    assert Path("hub").read_text() == "a file"


@pytest.mark.parametrize("where", ["write", "fsync"])
def test_disk_full(
    refused: Callable[..., str],
    slo_checkpoint: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    from slogpt_hf.conversion.overlapped import OverlappedFile

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = slo_checkpoint(**SMALL)
    if where == "write":
        monkeypatch.setattr(OverlappedFile, "_write", full)
    else:
        monkeypatch.setattr(os, "fsync", full)
    message = refused(path, 2)
    assert str(tmp_path / "artefact") in message and "No space left on device" in message


def test_interrupted_conversion(
    cli: Cli,
    slo_checkpoint: Write,
    characters: Path,
    hub_view: Callable[[Path], Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from slogpt_hf.conversion import writer

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(writer, "_require_finite", interrupted)
    hub, output = tmp_path / "hub", tmp_path / "artefact"
    arguments = ("--dataset", characters, "--repo-id", "me/model", "--hub", hub)
    outcome = cli("release", slo_checkpoint(**SMALL), *arguments, "--output", output)
    assert outcome.code == 130
    assert outcome.err.splitlines()[-1].startswith("Interrupted")
    assert hub_view(hub) == {}
    assert {path.name for path in tmp_path.iterdir()} == {"hub", "here"}


def test_spare_ids(
    cli: Cli, refused: Callable[..., str], write_meta: Any, slo_checkpoint: Write, tmp_path: Path
) -> None:
    meta = write_meta(tmp_path / "other", "\nabcdefghijklmnopqrstuvwxyz ")
    path = slo_checkpoint(**SMALL)
    message = refused(path, 3, "--dataset", meta)
    assert "28 entries" in message and "--allow-spare-ids" in message
    outcome = cli("convert-model", meta, path, tmp_path / "artefact", "--allow-spare-ids")
    assert outcome.code == 0, outcome.err
    config = json.loads((tmp_path / "artefact" / "config.json").read_text())
    assert config["vocab_size"] == 37


def test_existing_tokenizer(cli: Cli, slo_checkpoint: Write, tmp_path: Path) -> None:
    """A small byte-level BPE stands for GPT-2's; the model's rows are padded beyond it."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    bpe = ByteLevelBPETokenizer()
    text = "to be or not to be that is the question " * 20
    bpe.train_from_iterator([text], vocab_size=270, show_progress=False)
    PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer).save_pretrained(tmp_path / "bpe")
    path = slo_checkpoint(**SMALL, vocab_size=288)
    outcome = cli(
        "release",
        path,
        "--tokenizer",
        tmp_path / "bpe",
        "--repo-id",
        "me/bpe",
        "--hub",
        tmp_path / "hub",
        "--output",
        tmp_path / "artefact",
        "--json",
    )
    assert outcome.code == 0, outcome.err
    assert outcome.json[0]["record"]["tokenizer"]["kind"] == "existing"
    assert str(tmp_path) not in json.dumps(outcome.json[0]["record"])
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "artefact")
    assert tokenizer.encode("to be") == bpe.encode("to be").ids
    outcome = cli(
        "convert-model",
        "-",
        slo_checkpoint(**SMALL, vocab_size=260),
        tmp_path / "b",
        "--tokenizer",
        tmp_path / "bpe",
    )
    assert outcome.code == 3
    assert "270 ids but the model has 260" in outcome.err
