"""llama2.c .bin files: golden ones, ones written here, and damaged ones."""

from __future__ import annotations

import math
import struct
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slogpt_hf.checkpoints.containers import llama2c_bin
from slogpt_hf.errors import CheckpointError, SloGPTError

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
MODELS = sorted(GOLDEN.glob("llama2c-*"))
PER_LAYER = {
    "wq": "attention.wq",
    "wk": "attention.wk",
    "wv": "attention.wv",
    "wo": "attention.wo",
    "w1": "feed_forward.w1",
    "w2": "feed_forward.w2",
    "w3": "feed_forward.w3",
}
Weights = dict[str, np.ndarray[Any, np.dtype[np.float32]]]
many = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def recognised(path: Path) -> bool:
    with path.open("rb") as file:
        return llama2c_bin.recognises(file.read(64), path.stat().st_size)


def weights_of(sizes: dict[str, int], shared: bool, seed: int = 0) -> Weights:
    random = np.random.default_rng(seed)
    d, h, v = sizes["dim"], sizes["hidden_dim"], sizes["vocab_size"]
    kv = d // sizes["n_heads"] * sizes["n_kv_heads"]
    shapes: dict[str, tuple[int, ...]] = {"tok_embeddings.weight": (v, d), "norm.weight": (d,)}
    for i in range(sizes["n_layers"]):
        of = {"wq": (d, d), "wk": (kv, d), "wv": (kv, d), "wo": (d, d)}
        of |= {"w1": (h, d), "w2": (d, h), "w3": (h, d)}
        shapes |= {f"layers.{i}.{PER_LAYER[k]}.weight": shape for k, shape in of.items()}
        shapes |= {f"layers.{i}.{k}.weight": (d,) for k in ("attention_norm", "ffn_norm")}
    if not shared:
        shapes["output.weight"] = (v, d)
    return {name: random.standard_normal(s).astype(np.float32) for name, s in shapes.items()}


def quantised(w: Any, group: int) -> tuple[Any, Any]:
    rows = w.reshape(-1, group)
    scale = (np.abs(rows).max(axis=1) / np.float32(127)).astype(np.float32)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.nan_to_num(np.round(rows / scale[:, None])).astype(np.int8), scale


def written(
    path: Path,
    version: int,
    sizes: dict[str, int],
    weights: Weights,
    group: int = 0,
    scales_last: bool = False,
) -> Path:
    """The bytes that llama2.c's export.py writes for these weights."""
    shared = "output.weight" not in weights
    layers = range(sizes["n_layers"])

    def each(kind: str) -> list[str]:
        return [f"layers.{i}.{PER_LAYER.get(kind, kind)}.weight" for i in layers]

    head = [] if shared else ["output.weight"]
    matrices = [name for kind in PER_LAYER for name in each(kind)]
    norms = [*each("attention_norm"), *each("ffn_norm"), "norm.weight"]
    ints = [sizes[k] for k in ("dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads")]
    out = bytearray()
    if version == 0:
        vocab = sizes["vocab_size"] if shared else -sizes["vocab_size"]
        out += struct.pack("<7i", *ints, vocab, sizes["max_seq_len"])
        order = ["tok_embeddings.weight", *each("attention_norm")]
        order += [name for kind in ("wq", "wk", "wv", "wo") for name in each(kind)]
        order += each("ffn_norm")
        order += [name for kind in ("w1", "w2", "w3") for name in each(kind)]
        for name in [*order, "norm.weight"]:
            out += weights[name].tobytes()
        out += b"\xff" * (4 * sizes["max_seq_len"] * (sizes["dim"] // sizes["n_heads"]))
        out += b"".join(weights[name].tobytes() for name in head)
    else:
        out += struct.pack("<Ii7iB", 0x616B3432, version, *ints, sizes["vocab_size"],
                           sizes["max_seq_len"], shared)  # fmt: skip
        out += struct.pack("<i", group) if version == 2 else b""
        out += bytes(256 - len(out))
        out += b"".join(weights[name].tobytes() for name in norms)
        scales = bytearray()
        for name in ["tok_embeddings.weight", *matrices, *head]:
            if version == 1:
                out += weights[name].tobytes()
                continue
            values, scale = quantised(weights[name], group)
            out += values.tobytes()
            if scales_last:
                scales += scale.tobytes()
            else:
                out += scale.tobytes()
        out += scales
    path.write_bytes(out)
    return path


@st.composite
def any_sizes(draw: st.DrawFn) -> dict[str, int]:
    n_kv_heads = draw(st.integers(1, 3))
    n_heads = n_kv_heads * draw(st.integers(1, 3))
    return {
        "dim": n_heads * 2 * draw(st.integers(1, 3)),
        "hidden_dim": draw(st.integers(1, 20)),
        "n_layers": draw(st.integers(1, 3)),
        "n_heads": n_heads,
        "n_kv_heads": n_kv_heads,
        "vocab_size": draw(st.integers(1, 20)),
        "max_seq_len": draw(st.integers(1, 12)),
    }


def group_sizes(weights: Weights) -> list[int]:
    most = math.gcd(*(w.size for w in weights.values() if w.ndim == 2))
    return [size for size in range(1, most + 1) if most % size == 0]


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize("folder", MODELS, ids=lambda p: p.name)
def test_golden_fp32_equals_the_pt_file_bit_for_bit(folder: Path, version: int) -> None:
    path = folder / f"model_v{version}.bin"
    contents = llama2c_bin.read(path)
    saved = torch.load(folder / "ckpt.pt", weights_only=True)
    expected = dict(saved["model"])
    if torch.equal(expected["output.weight"], expected["tok_embeddings.weight"]):
        del expected["output.weight"]
    assert recognised(path)
    assert contents.value["format"] == {
        "version": version,
        "shared_classifier": "output.weight" not in expected,
    }
    model = contents.value["model"]
    assert model.keys() == expected.keys()
    for name, tensor in expected.items():
        assert model[name].shape == tuple(tensor.shape)
        assert torch.equal(model[name].read(), tensor), name
    args = contents.value["model_args"]
    same = set(saved["model_args"]) & set(args)
    assert {k: args[k] for k in same} == {k: saved["model_args"][k] for k in same}
    assert args["hidden_dim"] == expected["layers.0.feed_forward.w1.weight"].shape[0]
    assert llama2c_bin.quantisation_error(contents) is None


@pytest.mark.parametrize("folder", MODELS, ids=lambda p: p.name)
def test_golden_q80_is_int8_times_scale_and_near_the_original(folder: Path) -> None:
    path = folder / "model_v2_q80.bin"
    contents = llama2c_bin.read(path)
    saved = torch.load(folder / "ckpt.pt", weights_only=True)["model"]
    model, form = contents.value["model"], contents.value["format"]
    assert recognised(path)
    largest = 0.0
    for name, stored in model.items():
        tensor, original = stored.read(), saved[name]
        assert (tensor.dtype, tensor.shape) == (torch.float32, original.shape)
        if name not in form["quantised"]:
            assert torch.equal(tensor, original)
            continue
        values, scale = quantised(original.numpy(), form["group_size"])
        assert np.array_equal(form["scales"][name].read().numpy(), scale)
        expected = (values.astype(np.float32) * scale[:, None]).reshape(original.shape)
        assert np.array_equal(tensor.numpy(), expected)
        largest = max(largest, (tensor - original).abs().max().item())
    bound = llama2c_bin.quantisation_error(contents)
    assert bound is not None
    assert 0 < largest <= bound * 1.0001 <= largest * 1.1


@many
@given(data=st.data(), sizes=any_sizes(), shared=st.booleans(), version=st.integers(0, 2))
def test_any_sizes_come_back(
    tmp_path: Path, data: st.DataObject, sizes: dict[str, int], shared: bool, version: int
) -> None:
    weights = weights_of(sizes, shared)
    group = data.draw(st.sampled_from(group_sizes(weights))) if version == 2 else 0
    path = written(tmp_path / "m.bin", version, sizes, weights, group)
    contents = llama2c_bin.read(path)
    model = contents.value["model"]
    assert recognised(path)
    assert contents.value["model_args"] == sizes
    assert contents.files == (path,)
    assert model.keys() == weights.keys()
    for name, expected in weights.items():
        if version == 2 and expected.ndim == 2:
            values, scale = quantised(expected, group)
            expected = (values.astype(np.float32) * scale[:, None]).reshape(expected.shape)
        assert model[name].shape == expected.shape
        assert np.array_equal(model[name].read().numpy(), expected), name
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole + b"\0"):
        path.write_bytes(damaged)
        assert recognised(path)
        with pytest.raises(CheckpointError, match=rf"{len(damaged)} bytes where {len(whole)} "):
            llama2c_bin.read(path)


def small() -> dict[str, int]:
    return dict(zip(("dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size",
                     "max_seq_len"), (8, 12, 2, 2, 1, 10, 4), strict=True))  # fmt: skip


def test_first_layout_of_v2_with_all_scales_last(tmp_path: Path) -> None:
    weights = weights_of(small(), shared=False)
    now = llama2c_bin.read(written(tmp_path / "now.bin", 2, small(), weights, 4))
    first = llama2c_bin.read(written(tmp_path / "first.bin", 2, small(), weights, 4, True))
    assert [len(now.notes), len(first.notes)] == [1, 2]
    for name, stored in now.value["model"].items():
        assert torch.equal(first.value["model"][name].read(), stored.read())


@pytest.mark.parametrize("scales_last", [False, True])
@pytest.mark.parametrize("not_negative", ["tok_embeddings", "attention.wq", ".weight"])
def test_layout_of_v2_where_values_look_like_scales(
    tmp_path: Path, not_negative: str, scales_last: bool
) -> None:
    """int8 values >= 0 read as fp32 are finite and >= 0."""
    weights = weights_of(small(), shared=True)
    changed = {name: np.abs(w) for name, w in weights.items() if not_negative in name}
    changed["tok_embeddings.weight"] = np.abs(weights["tok_embeddings.weight"])
    changed["tok_embeddings.weight"][3] = 0
    path = written(tmp_path / "m.bin", 2, small(), weights | changed, 4, scales_last)
    contents = llama2c_bin.read(path)
    assert len(contents.notes) == 1 + scales_last
    for name, w in (weights | changed).items():
        if w.ndim == 2:
            values, scale = quantised(w, 4)
            w = (values.astype(np.float32) * scale[:, None]).reshape(w.shape)
        assert np.array_equal(contents.value["model"][name].read().numpy(), w), name


def test_scales_that_no_group_fills_are_taken_as_they_lie_now(tmp_path: Path) -> None:
    weights = {name: np.abs(w) for name, w in weights_of(small(), shared=True).items()}
    path = written(tmp_path / "m.bin", 2, small(), weights, 4)
    path.write_bytes(path.read_bytes().replace(b"\x7f", b"\x70"))
    assert len(llama2c_bin.read(path).notes) == 1


@pytest.mark.parametrize("scales_last", [False, True])
@pytest.mark.parametrize("scale", [math.inf, math.nan, -1.0])
def test_a_last_scale_that_is_none_is_refused(
    tmp_path: Path, scale: float, scales_last: bool
) -> None:
    weights = weights_of(small(), shared=True)
    path = written(tmp_path / "m.bin", 2, small(), weights, 4, scales_last)
    path.write_bytes(path.read_bytes()[:-4] + struct.pack("<f", scale))
    with pytest.raises(CheckpointError, match="scales of its quantised values are not all finite"):
        llama2c_bin.read(path)


def test_groups_of_zeros_are_zeros(tmp_path: Path) -> None:
    weights = weights_of(small(), shared=True)
    weights["tok_embeddings.weight"][3] = 0
    contents = llama2c_bin.read(written(tmp_path / "m.bin", 2, small(), weights, 8))
    assert contents.value["model"]["tok_embeddings.weight"].read()[3].eq(0).all()


def test_scales_that_are_none_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "m.bin", 2, small(), weights_of(small(), shared=True), 4)
    found = bytearray(path.read_bytes())
    found[256:] = b"\xff" * len(found[256:])
    path.write_bytes(found)
    with pytest.raises(CheckpointError, match="scales"):
        llama2c_bin.read(path)


def test_fp32_is_mapped_and_q80_is_made_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = weights_of(small(), shared=True)
    name = "layers.1.feed_forward.w1.weight"
    path = written(tmp_path / "m.bin", 1, small(), weights)
    with path.open("r+b") as file:
        model = llama2c_bin.read(path).value["model"]
        tensor = model["norm.weight"].read()
        file.seek(256 + 4 * 4 * 8)
        file.write(struct.pack("<f", 77.0))
        file.flush()
        assert tensor[0] == 77.0  # the page is the file's
    monkeypatch.setattr(llama2c_bin, "PIECE_VALUES", 10)
    pieces = llama2c_bin.read(written(path, 2, small(), weights, 4)).value["model"][name].read()
    values, scale = quantised(weights[name], 4)
    assert np.array_equal(pieces.numpy().reshape(-1, 4), values * scale[:, None])


def test_a_file_that_shrinks_while_it_is_read_is_said(tmp_path: Path) -> None:
    path = written(tmp_path / "m.bin", 1, small(), weights_of(small(), shared=True))
    stored = llama2c_bin.read(path).value["model"]["norm.weight"]
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(CheckpointError, match="cannot be read any more"):
        stored.read()


HEADERS = {
    "version 7": (struct.pack("<Ii", 0x616B3432, 7) + bytes(300), "version 7"),
    "version -1": (struct.pack("<Ii", 0x616B3432, -1) + bytes(300), "version -1"),
    "short": (struct.pack("<Ii", 0x616B3432, 1) + bytes(30), "38 bytes of the 256"),
    "zero": (struct.pack("<Ii7i", 0x616B3432, 1, *[0] * 7) + bytes(300), "dim is 0"),
    "negative": (
        struct.pack("<Ii7i", 0x616B3432, 1, 8, 8, 1, 2, 2, -5, 4) + bytes(300),
        "vocab_size is -5",
    ),
    "enormous": (
        struct.pack("<Ii7i", 0x616B3432, 1, *[2**31 - 1] * 7) + bytes(300),
        "dim is 2147483647",
    ),
    "largest": (
        struct.pack("<Ii7i", 0x616B3432, 1, 2**20, 2**24, 4096, 2, 1, 2**26, 2**26) + bytes(300),
        f"336 bytes where {256 + 2**22 * (2**27 + 4096 * (3 * 2**20 + 3 * 2**24 + 2) + 1)} follow",
    ),
    "heads": (
        struct.pack("<Ii7i", 0x616B3432, 1, 8, 8, 1, 3, 1, 5, 4) + bytes(300),
        "dim 8 is not a multiple of n_heads 3",
    ),
    "kv heads": (
        struct.pack("<Ii7i", 0x616B3432, 1, 8, 8, 1, 4, 3, 5, 4) + bytes(300),
        "n_heads 4 is not a multiple of n_kv_heads 3",
    ),
    "odd head": (
        struct.pack("<Ii7i", 0x616B3432, 1, 6, 8, 1, 2, 1, 5, 4) + bytes(300),
        "is odd",
    ),
    "flag": (
        struct.pack("<Ii7iB", 0x616B3432, 1, 8, 8, 1, 4, 4, 5, 4, 9) + bytes(300),
        "flag of the shared head is 9",
    ),
    "padding": (
        struct.pack("<Ii7iB", 0x616B3432, 1, 8, 8, 1, 4, 4, 5, 4, 1) + b"x" + bytes(300),
        "not all zero",
    ),
    "group 0": (
        struct.pack("<Ii7iBi", 0x616B3432, 2, 8, 8, 1, 4, 4, 5, 4, 1, 0) + bytes(300),
        "group_size is 0",
    ),
    "group -4": (
        struct.pack("<Ii7iBi", 0x616B3432, 2, 8, 8, 1, 4, 4, 5, 4, 1, -4) + bytes(300),
        "group_size is -4",
    ),
    "group 16": (
        struct.pack("<Ii7iBi", 0x616B3432, 2, 8, 8, 1, 4, 4, 5, 4, 1, 16) + bytes(300),
        "group_size 16 does not divide the 40 values of a tok_embeddings",
    ),
    "v0 short": (b"\x08\0\0\0", "has 4 bytes"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_headers_that_no_model_has(tmp_path: Path, case: str) -> None:
    content, message = HEADERS[case]
    path = tmp_path / "m.bin"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        llama2c_bin.read(path)


def test_other_files_are_not_taken_for_v0(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 65, 2000).astype(np.uint16).tobytes()
    others = [p for p in islice(GOLDEN.rglob("*"), 100) if p.is_file() and p.suffix != ".bin"]
    assert len(others) > 20
    assert not any(recognised(other) for other in others)
    text = b"Friends, Romans, countrymen, lend me your ears\n" * 9
    tokenizer = struct.pack("<ifi", 27, 0.0, 5) + b"<unk>" + bytes(100)
    for content in (ids, text, bytes(4000), tokenizer, b"", b"\x80\x02\x8a\nl\xfc\x9c" * 9):
        assert not llama2c_bin.recognises(content[:64], len(content))


def test_a_v0_header_in_a_file_of_quite_another_length_is_chance(tmp_path: Path) -> None:
    path = written(tmp_path / "m.bin", 0, small(), weights_of(small(), shared=True))
    start, n_bytes = path.read_bytes()[:28], path.stat().st_size
    assert [llama2c_bin.recognises(start, n) for n in (n_bytes // 2, n_bytes * 2)] == [True, True]
    assert [llama2c_bin.recognises(start, n) for n in (n_bytes // 17, n_bytes * 17)] == [False] * 2


@many
@given(data=st.data(), version=st.integers(0, 2))
def test_mutated_files_cost_one_message(tmp_path: Path, data: st.DataObject, version: int) -> None:
    path = written(tmp_path / "m.bin", version, small(), weights_of(small(), shared=True), 4)
    found = bytearray(path.read_bytes())
    interesting = st.sampled_from([0, 1, -1, 2**31 - 1, -(2**31), 256, 2**16])
    for _ in range(data.draw(st.integers(1, 3))):
        at = 4 * data.draw(st.integers(0, 11))
        struct.pack_into("<i", found, at, data.draw(interesting | st.integers(-100, 100)))
    path.write_bytes(found[: data.draw(st.integers(0, len(found)) | st.just(len(found)))])
    try:
        contents = llama2c_bin.read(path)
        for stored in contents.value["model"].values():
            assert stored.read().shape == stored.shape
    except SloGPTError as error:
        assert str(path) in str(error)
