"""safetensors files: their tensors and metadata, and headers that lie."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from slogpt_hf.checkpoints.containers import safetensors_file
from slogpt_hf.errors import CheckpointError, SloGPTError

many = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
GOOD = {"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}


def recognised(path: Path) -> bool:
    with path.open("rb") as file:
        return safetensors_file.recognises(file.read(64), path.stat().st_size)


def raw(path: Path, header: Any, data: bytes = bytes(16), length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


@many
@given(
    sizes=st.lists(st.lists(st.integers(0, 4), max_size=3), min_size=1, max_size=4),
    name=st.sampled_from(sorted(set(safetensors_file.DTYPES.values()))),
    metadata=st.dictionaries(st.text(max_size=5), st.text(max_size=9), max_size=3),
)
def test_any_tensors_come_back(
    tmp_path: Path, sizes: list[list[int]], name: str, metadata: dict[str, str]
) -> None:
    dtype = getattr(torch, name)
    tensors = {f"t.{i}": (torch.randn(s) * 5).to(dtype) for i, s in enumerate(sizes)}
    path = tmp_path / "m.safetensors"
    save_file(tensors, path, metadata)
    contents = safetensors_file.read(path)
    found = contents.value["model"]
    assert recognised(path)
    assert contents.files == (path,)
    assert {k: (v.shape, v.dtype) for k, v in found.items()} == {
        k: (tuple(v.shape), name) for k, v in tensors.items()
    }
    assert all(torch.equal(found[k].read(), v) for k, v in tensors.items())
    assert contents.value["metadata"].keys() == metadata.keys()


def test_text_that_is_json_becomes_its_value(tmp_path: Path) -> None:
    texts = {
        "8": 8,
        "-2.5e3": -2500.0,
        "true": True,
        "null": None,
        '{"n_head": 4, "chars": ["a", "\\u00e9"]}': {"n_head": 4, "chars": ["a", "é"]},
        '"quoted"': "quoted",
        "NaN": "NaN",
        '{"loss": Infinity}': '{"loss": Infinity}',
        "plain text": "plain text",
        "": "",
        "{'n_head': 4}": "{'n_head': 4}",
        "9" * 5000: "9" * 5000,
        "[" * 100_000: "[" * 100_000,
    }
    path = tmp_path / "m.safetensors"
    save_file({"a": torch.ones(1)}, path, {str(i): text for i, text in enumerate(texts)})
    found = safetensors_file.read(path).value["metadata"]
    assert [found[str(i)] for i in range(len(texts))] == list(texts.values())


def test_tensors_are_views_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"a": torch.zeros(4)}, path)
    tensor = safetensors_file.read(path).value["model"]["a"].read()
    with path.open("r+b") as file:
        file.seek(-4, 2)
        file.write(struct.pack("<f", 77.0))
    assert tensor[3] == 77.0


def entry(**fields: Any) -> dict[str, Any]:
    return {"a": GOOD["a"] | fields}


REFUSED: dict[str, tuple[Any, str]] = {
    "float8": (entry(dtype="F8_E4M3", shape=[4, 4]), "'a' has dtype F8_E4M3"),
    "unknown dtype": (entry(dtype="F31"), "not a whole safetensors file"),
    "offsets beyond the end": (entry(data_offsets=[0, 1 << 40]), "not a whole"),
    "offsets backwards": (entry(data_offsets=[16, 0]), "not a whole"),
    "offsets negative": (entry(data_offsets=[-16, 0]), "not a whole"),
    "shape of other bytes": (entry(shape=[2, 3]), "not a whole"),
    "shape that overflows": (entry(shape=[1 << 62, 1 << 62]), "not a whole"),
    "shape negative": (entry(shape=[-2, -2]), "not a whole"),
    "many dimensions": (entry(shape=[2, 2, *[1] * 99]), "101 dimensions"),
    "overlap": ({**GOOD, "b": GOOD["a"]}, "not a whole"),
    "hole": (entry(shape=[1, 2], data_offsets=[8, 16]), "not a whole"),
    "twice": (
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
        b'"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}',
        "not a whole",
    ),
    "nothing of the data": (b"{}", "not a whole"),
    "NaN": (b'{"a": NaN}', "not a whole"),
    "deep": (b'{"a":' + b"[" * 100_000, "not a whole"),
    "no text": (b'{"\xff\xfe": 1}', "not a whole"),
    "metadata of numbers": ({"__metadata__": {"a": 8}, **GOOD}, "not a whole"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_headers_that_lie(tmp_path: Path, case: str) -> None:
    header, message = REFUSED[case]
    path = raw(tmp_path / "m.safetensors", header)
    assert recognised(path)
    with pytest.raises(CheckpointError, match=message):
        safetensors_file.read(path)


def test_lengths_that_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = raw(tmp_path / "m.safetensors", GOOD, length=99_999)
    with pytest.raises(CheckpointError, match="is truncated: its safetensors header says 99999"):
        safetensors_file.read(path)
    path.write_bytes(b"\x02\0")
    with pytest.raises(CheckpointError, match="is truncated"):
        safetensors_file.read(path)
    raw(path, GOOD)
    monkeypatch.setattr(safetensors_file, "MOST_HEADER_BYTES", 10)
    with pytest.raises(CheckpointError, match="more than 10"):
        safetensors_file.read(path)
    monkeypatch.undo()
    monkeypatch.setattr(safetensors_file, "MOST_TENSORS", 0)
    with pytest.raises(CheckpointError, match="1 tensors, more than 0"):
        safetensors_file.read(path)


def test_other_files_are_not_taken_for_it() -> None:
    for start in (b"", b"{", bytes(64), b"PK\x03\x04" + bytes(60), b"\xff" * 8 + b"{"):
        assert not safetensors_file.recognises(start, 1000)


@many
@given(data=st.data())
def test_mutated_files_cost_one_message(tmp_path: Path, data: st.DataObject) -> None:
    path = raw(tmp_path / "m.safetensors", {**GOOD, "__metadata__": {"n_head": "4"}})
    found = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        found[data.draw(st.integers(0, len(found) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(found[: data.draw(st.none() | st.integers(0, len(found)))])
    try:
        for stored in safetensors_file.read(path).value["model"].values():
            assert stored.read().shape == stored.shape
    except SloGPTError as error:
        assert str(path) in str(error)
