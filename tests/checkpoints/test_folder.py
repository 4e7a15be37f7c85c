"""Run folders: a model file with metadata.json beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from slogpt_hf.checkpoints.containers import folder
from slogpt_hf.checkpoints.contents import Contents
from slogpt_hf.checkpoints.state_dict import find_state_dict
from slogpt_hf.checkpoints.tensors import Stored
from slogpt_hf.errors import CheckpointError, SloGPTError, UsageError

TENSOR = Stored((2,), "float32", lambda: torch.ones(2))
BARE = {"tok_emb.weight": TENSOR, "norm.weight": TENSOR}


def run(tmp_path: Path, metadata: Any = None, model: str = "model.pt") -> Path:
    path = tmp_path / "checkpoint_step_40_20250101"
    path.mkdir()
    (path / model).write_bytes(b"x")
    if metadata is not None:
        text = metadata if isinstance(metadata, bytes) else json.dumps(metadata).encode()
        (path / "metadata.json").write_bytes(text)
    return path


def read(path: Path, value: Any) -> Contents:
    return folder.read(path, lambda file: Contents(file, "file", value, (file,), ("inner.",)))


@pytest.mark.parametrize("model", folder.MODELS)
def test_bare_state_dict_with_metadata(tmp_path: Path, model: str) -> None:
    recorded = {"step": 40, "loss": float("nan"), "config": {"n_head": 4}, "model": {"x": 1}}
    path = run(tmp_path, recorded, model)
    contents = read(path, BARE)
    assert folder.recognises(path)
    assert contents.path == path
    assert contents.files == tuple(sorted((path / "metadata.json", path / model)))
    assert contents.notes == ("inner.",)
    assert contents.value["model"] == BARE
    assert contents.value["config"] == {"n_head": 4}
    assert contents.value["metadata"]["step"] == 40
    assert find_state_dict(contents.value) == ("model", BARE)


def test_a_structured_checkpoint_keeps_its_place_and_goes_first(tmp_path: Path) -> None:
    recorded = {"step": 40, "alpha": 2, "config": {"n_head": 4}, "model": {"not": "tensors"}}
    inner = {
        "model_state_dict": BARE,
        "config": {"n_head": 8},
        "metadata": {"step": 41, "rank": 3},
    }
    contents = read(run(tmp_path, recorded), inner)
    assert find_state_dict(contents.value) == ("model_state_dict", BARE)
    assert contents.value["config"] == {"n_head": 8}
    assert contents.value["metadata"] == {
        "step": 41,
        "rank": 3,
        "alpha": 2,
        "config": {"n_head": 4},
        "model": {"not": "tensors"},
    }
    assert contents.notes[1:] == (
        "metadata.json and model.pt differ in config.n_head, step: what model.pt says counts.",
    )


def test_objects_in_both_files_are_merged(tmp_path: Path) -> None:
    recorded = {"config": {"n_head": 4, "n_layer": 2, "a": 1}, "training_info": {"a": 1}, "x\n": 1}
    inner = {
        "model": BARE,
        "config": {"n_head": 8, "a": 1},
        "training_info": 3,
        "metadata": {"x\n": 2},
    }
    contents = read(run(tmp_path, recorded), inner)
    assert contents.value["config"] == {"n_head": 8, "n_layer": 2, "a": 1}
    assert contents.value["training_info"] == 3
    assert contents.notes[1:] == (
        "metadata.json and model.pt differ in config.n_head, training_info, 'x\\n': what model.pt "
        "says counts.",
    )


def test_without_metadata(tmp_path: Path) -> None:
    path = run(tmp_path)
    contents = read(path, BARE)
    assert contents.value == {"model": BARE}
    assert contents.files == (path / "model.pt",)
    assert contents.notes[1:] == ("There is no metadata.json beside model.pt.",)


@pytest.mark.parametrize("value", [None, 3, [TENSOR], {}, {"step": 3}])
def test_a_file_without_tensors_is_left_to_the_dialects(tmp_path: Path, value: Any) -> None:
    assert read(run(tmp_path, {"step": 1}), value).value["model"] == value


def test_a_mixed_state_dict_keeps_its_fields_at_the_top(tmp_path: Path) -> None:
    inner = {**BARE, "vocab_size": 9}
    assert read(run(tmp_path, {"step": 1}), inner).value["vocab_size"] == 9


def test_folders_without_a_model(tmp_path: Path) -> None:
    assert not folder.recognises(tmp_path)
    with pytest.raises(UsageError, match="found nothing"):
        read(tmp_path, BARE)
    for i in range(12):
        (tmp_path / f"file{i:02}.txt").touch()
    with pytest.raises(UsageError, match=r"Looked for model\.pt.*found file00\.txt.*file07\.txt, "):
        read(tmp_path, BARE)
    with pytest.raises(UsageError, match="is not a folder"):
        read(tmp_path / "file00.txt", BARE)


def test_two_models_are_not_chosen_between(tmp_path: Path) -> None:
    path = run(tmp_path)
    (path / "model.safetensors").touch()
    with pytest.raises(UsageError, match=r"holds model\.pt and model\.safetensors, and"):
        read(path, BARE)


REFUSED = {
    "no JSON": (b"{step: 4}", "is not JSON"),
    "truncated": (b'{"step": 4', "is not JSON"),
    "no object": (b"[1, 2]", "holds a list, not an object"),
    "empty": (b"", "is empty"),
    "no text": (b"\xff\xfe\xfd", "is not JSON"),
    "deep": (b'{"a":' + b"[" * 200_000, "is not JSON"),
    "digits": (b'{"a":' + b"9" * 5000 + b"}", "is not JSON"),
    "large": (b" " * (folder.MOST_METADATA_BYTES + 1), "more than"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_metadata_that_is_none(tmp_path: Path, case: str) -> None:
    content, message = REFUSED[case]
    with pytest.raises(SloGPTError, match=rf"metadata\.json: .*{message}"):
        read(run(tmp_path, content), BARE)


def test_what_the_file_reader_says_stands(tmp_path: Path) -> None:
    def refuse(path: Path) -> Contents:
        raise CheckpointError(f"{path}: is damaged.")

    with pytest.raises(CheckpointError, match=r"model\.pt: is damaged"):
        folder.read(run(tmp_path, {}), refuse)


def test_several_model_files_are_not_chosen_from(tmp_path: Path) -> None:
    path = run(tmp_path, model="checkpoint.pt")
    (path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(UsageError, match=r"holds checkpoint\.pt and pytorch_model\.bin, and"):
        read(path, BARE)
