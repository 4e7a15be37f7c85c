"""Values by numpy against the same values by torch: dtypes, single numbers, tied matrices."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from slogpt_hf.checkpoints import read_checkpoint
from slogpt_hf.checkpoints.containers.archive import read_archive
from slogpt_hf.checkpoints.containers.torch_globals import ANY_ITEM_BYTES, ITEM_BYTES
from slogpt_hf.checkpoints.reading import FLOAT_DTYPES
from slogpt_hf.checkpoints.tensors import numpy_dtype

some = settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
EDGES = (0.0, -0.0, 1.0, 1.0078125, math.nan, math.inf, -math.inf, 6e-8)


def test_the_dtypes_are_torchs() -> None:
    found = {
        str(dtype).removeprefix("torch."): dtype.itemsize
        for dtype in vars(torch).values()
        if isinstance(dtype, torch.dtype)
    }
    assert {"float32", "bfloat16", "qint8"} < found.keys() <= ANY_ITEM_BYTES.keys()
    assert found == {name: ANY_ITEM_BYTES[name] for name in found}
    assert {name: numpy_dtype(name).itemsize for name in ITEM_BYTES} == ITEM_BYTES


@some
@given(name=st.sampled_from(sorted(ITEM_BYTES)), raw=st.binary(min_size=16, max_size=16))
def test_single_numbers_are_torchs(tmp_path: Path, name: str, raw: bytes) -> None:
    if name == "bool":
        raw = bytes([raw[0] & 1])
    values = torch.frombuffer(bytearray(raw[: ITEM_BYTES[name]]), dtype=getattr(torch, name))
    torch.save({"flat": values, "0-d": values[0]}, tmp_path / "a.pt")
    for stored in read_archive(tmp_path / "a.pt").values():
        number, expected = stored.item(), values.item()
        assert type(number) is type(expected)
        assert repr(number) == repr(expected)  # of NaN and -0.0 too


@some
@given(
    dtype=st.sampled_from(FLOAT_DTYPES),
    places=st.dictionaries(
        st.integers(0, 37 * 32 - 1),
        st.tuples(st.sampled_from(EDGES), st.sampled_from(EDGES)),
        max_size=3,
    ),
    turned=st.booleans(),
)
@example(dtype="bfloat16", places={37 * 32 - 1: (1.0, 1.0078125)}, turned=False)
@example(dtype="bfloat16", places={5: (0.0, -0.0)}, turned=True)
@example(dtype="float16", places={5: (math.nan, math.nan)}, turned=False)
def test_heads_are_tied_where_torch_finds_them_equal(
    slo_content: Callable[..., dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dtype: str,
    places: dict[int, tuple[float, float]],
    turned: bool,
) -> None:
    monkeypatch.setattr("slogpt_hf.checkpoints.reading.PIECE_VALUES", 100)
    content = slo_content(dtype=dtype, n_layer=1)
    embed = content["model"]["transformer.wte.weight"].clone()
    head = embed.clone()
    for place, (one, other) in places.items():
        embed.view(-1)[place], head.view(-1)[place] = one, other
    content["model"]["transformer.wte.weight"] = embed
    content["model"]["lm_head.weight"] = head.t().contiguous().t() if turned else head
    torch.save(content, tmp_path / "ckpt.pt")
    assert read_checkpoint(tmp_path / "ckpt.pt").spec.tied == torch.equal(head, embed)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
def test_one_matrix_is_tied_whatever_it_holds(
    slo_content: Callable[..., dict[str, Any]], tmp_path: Path, dtype: str
) -> None:
    content = slo_content(dtype=dtype, n_layer=1)
    shared: Tensor = content["model"]["transformer.wte.weight"]
    shared[0, 0] = math.nan
    torch.save(content, tmp_path / "ckpt.pt")
    assert read_checkpoint(tmp_path / "ckpt.pt").spec.tied


def test_the_stride_of_a_single_row_may_be_any_number(tmp_path: Path) -> None:
    for dtype in (torch.float32, torch.complex128):
        row = torch.arange(3).to(dtype)
        torch.save(row.as_strided((1, 3), (2**62, 1)), tmp_path / "a.pt")
        assert torch.equal(read_archive(tmp_path / "a.pt").read(), row[None])
