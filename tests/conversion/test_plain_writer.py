"""Without torch the same bytes are written: by numpy, for every architecture, dtype and adapter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slogpt_hf.checkpoints import Checkpoint, read_checkpoint
from slogpt_hf.checkpoints.tensors import Stored, Tensors
from slogpt_hf.conversion import plan_conversion
from slogpt_hf.conversion.plain_writer import rounded_to, write_weights_plain
from slogpt_hf.conversion.writer import write_weights
from slogpt_hf.errors import CheckpointError, UsageError
from slogpt_hf.tokenizers.special import SpecialTokens

DATA = Path(__file__).parents[1] / "data"
DTYPES = ("float64", "float32", "float16", "bfloat16")
SWITCHES = [
    dict(zip(("use_rope", "use_swiglu", "use_rmsnorm", "bias"), values, strict=True))
    for values in product((False, True), repeat=4)
]


def written(
    checkpoint: Checkpoint, folder: Path, dtype: str | None, **more: Any
) -> dict[str, bytes]:
    """The weight files of both writers, which must be equal."""
    conversion = plan_conversion(checkpoint, dtype, **more)
    files = []
    for write in (write_weights, write_weights_plain):
        place = folder / write.__name__
        place.mkdir(parents=True)
        told: list[int] = []
        write(
            conversion.plan, checkpoint.tensors, place, dtype=conversion.dtype,
            max_shard_bytes=40_000, advance=told.append,
        )  # fmt: skip
        assert sum(told) == conversion.n_bytes
        files.append({path.name: path.read_bytes() for path in sorted(place.iterdir())})
    assert files[0].keys() == files[1].keys()
    assert all(files[0][name] == files[1][name] for name in files[0])
    return files[0]


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_every_architecture(
    slo_checkpoint: Callable[..., Path], tmp_path: Path, switches: dict[str, bool]
) -> None:
    checkpoint = read_checkpoint(slo_checkpoint(n_layer=2, **switches))
    assert len(written(checkpoint, tmp_path, None)) > 2  # several shards and their index


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_and_rows_behind(
    slo_checkpoint: Callable[..., Path], tmp_path: Path, dtype: str
) -> None:
    checkpoint = read_checkpoint(slo_checkpoint(n_layer=1, use_rope=True, use_swiglu=True))
    special = SpecialTokens({"pad": 37, "eos": 38}, 37)
    written(checkpoint, tmp_path, dtype, special=special)


GOLDEN = [path for kind in ("pt", "bin", "sou") for path in DATA.glob(f"golden/*/*.{kind}")]


@pytest.mark.parametrize("path", sorted(GOLDEN), ids=lambda path: f"{path.parent.name}-{path.name}")
def test_every_golden_checkpoint(path: Path, tmp_path: Path) -> None:
    given = {"n_head": 4, "block_size": 48} if path.suffix == ".sou" else {}
    written(read_checkpoint(path, given), tmp_path, None)


@settings(deadline=None)
@given(
    bits=st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=64),
    kind=st.sampled_from(DTYPES),
    dtype=st.sampled_from(DTYPES),
)
def test_rounding_is_torchs(bits: list[int], kind: str, dtype: str) -> None:
    source = torch.from_numpy(np.array(bits, dtype=np.uint64).view(np.int64)).view(
        getattr(torch, kind)
    )
    source = source[torch.isfinite(source)]
    held = source.view(torch.uint16).numpy() if kind == "bfloat16" else source.numpy()
    theirs = source.to(getattr(torch, dtype))
    ours = rounded_to(held, kind, dtype)
    expected = theirs.view(torch.uint16).numpy() if dtype == "bfloat16" else theirs.numpy()
    assert ours.tobytes() == expected.tobytes()


def test_what_is_not_finite_is_refused_by_name(
    slo_content: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    content = slo_content(n_layer=1)
    content["model"]["transformer.h.0.mlp.c_fc.weight"][3, 1] = float("nan")
    torch.save(content, tmp_path / "ckpt.pt")
    checkpoint = read_checkpoint(tmp_path / "ckpt.pt")
    plan = plan_conversion(checkpoint).plan
    with pytest.raises(CheckpointError, match=r"mlp\.c_fc\.weight: holds NaN"):
        write_weights_plain(
            plan, checkpoint.tensors, tmp_path, dtype="float32", max_shard_bytes=10**9
        )


def test_bits_that_numpy_does_not_know_take_torch(
    slo_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint = read_checkpoint(slo_checkpoint(n_layer=1))
    plan = plan_conversion(checkpoint).plan
    name = "transformer.wte.weight"
    stored = dict(checkpoint.tensors.stored)
    shape = stored[name].shape
    stored[name] = Stored(shape, "float8_e5m2", lambda: np.zeros(shape, np.uint8))
    odd = replace(checkpoint, tensors=Tensors(stored))
    with pytest.raises(UsageError, match="is float8_e5m2, which takes torch"):
        write_weights_plain(plan, odd.tensors, tmp_path, dtype="float32", max_shard_bytes=10**9)
