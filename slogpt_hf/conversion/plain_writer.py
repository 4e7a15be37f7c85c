"""Executes a plan with numpy alone, where torch is not installed.

The files are those of ``writer.py``, byte for byte: operations only move values, and what is cast
or merged is rounded as torch does.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from slogpt_hf.checkpoints.adapters import Adapter, RowScale
from slogpt_hf.checkpoints.tensors import BITS, Tensors, numpy_dtype, widened
from slogpt_hf.conversion.operations import MERGE_VALUES
from slogpt_hf.conversion.overlapped import OverlappedFile
from slogpt_hf.conversion.plan import Plan, check_plan
from slogpt_hf.conversion.safetensors_layout import INDEX_FILE, header, index, shards_for
from slogpt_hf.errors import CheckpointError, UsageError
from slogpt_hf.libraries import TO_PROVE

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

PIECE_VALUES = 1 << 20  # cast and checked at a time


def write_weights_plain(
    plan: Plan,
    tensors: Tensors,
    folder: Path,
    *,
    dtype: str,
    max_shard_bytes: int,
    advance: Callable[[int], None] = lambda n_bytes: None,
) -> tuple[Path, ...]:
    """Write every target tensor as ``write_weights`` does; arguments and errors are its own.

    Raises:
        UsageError: a tensor has a dtype that numpy does not know.
    """
    import numpy as np

    check_plan(plan, tensors.shapes)
    shapes = plan.target_shapes(tensors.shapes)
    moves = plan.made
    merges = {merge.source: merge.adapter for merge in plan.merges}
    shards = shards_for(shapes, dtype, max_shard_bytes)

    @lru_cache(maxsize=1)  # q, k and v of one stack follow each other
    def effective(source: str) -> Array:
        stored = tensors.stored[source]
        if stored.dtype in BITS and stored.dtype != "bfloat16":
            raise UsageError(f"{source}: is {stored.dtype}, which takes torch.", hint=TO_PROVE)
        values = stored.values()
        return merged_plain(values, merges[source], tensors, source) if source in merges else values

    for shard in shards:
        with OverlappedFile(folder / shard.file_name) as file:
            file.write(header(shard, shapes, dtype))
            for name in shard.n_bytes:
                if (move := moves.get(name)) is None:
                    file.write(bytes(shard.n_bytes[name]))
                    advance(shard.n_bytes[name])
                    continue
                made = cast(Any, move).run(effective(move.source))
                flat = np.ascontiguousarray(made).reshape(-1)
                kind = tensors.stored[move.source].dtype
                for start in range(0, len(flat), PIECE_VALUES):
                    piece = rounded_to(flat[start : start + PIECE_VALUES], kind, dtype)
                    _require_finite(piece, dtype, move.source)
                    file.write(piece.tobytes())
                    advance(piece.nbytes)
    if len(shards) > 1:
        (folder / INDEX_FILE).write_text(json.dumps(index(shards), indent=2) + "\n", "utf-8")
    return tuple(folder / shard.file_name for shard in shards)


def rounded_to(values: Array, kind: str, dtype: str) -> Array:
    """Values of one dtype in another, rounded to the nearest as torch does.

    Args:
        values: in ``numpy_dtype(kind)``.
        kind: their dtype as torch names it.
        dtype: float64, float32, float16 or bfloat16.

    Returns:
        In ``numpy_dtype(dtype)``; what is too large is infinite.
    """
    import numpy as np

    if kind == dtype:
        return values
    wide = widened(values, kind)
    with np.errstate(over="ignore", invalid="ignore"):
        if dtype in ("float16", "bfloat16"):
            wide = wide.astype(np.float32)  # torch, too, comes from float64 by way of float32
        if dtype != "bfloat16":
            return wide.astype(numpy_dtype(dtype))
        bits = wide.view(np.uint32)
        even = (bits >> 16) & 1
        nearest = ((bits + (0x7FFF + even)) >> 16).astype(np.uint16)
        return np.where(np.isfinite(wide), nearest, (bits >> 16).astype(np.uint16))


def merged_plain(values: Array, adapter: Adapter, tensors: Tensors, source: str) -> Array:
    """The weight (out, in) with its adapter, each step in float64, as ``operations.merged``."""
    import numpy as np

    kind = tensors.stored[source].dtype
    result = np.empty(values.shape, dtype=values.dtype)
    factors = [
        widened(tensors.stored[name].values(), tensors.stored[name].dtype).astype(np.float64)
        for name in adapter.sources
    ]
    step = max(1, MERGE_VALUES // values.shape[1])
    for start in range(0, values.shape[0], step):
        rows = slice(start, start + step)
        exact = widened(values[rows], kind).astype(np.float64)
        if isinstance(adapter, RowScale):
            exact *= factors[0][rows, None]
        else:
            a, b = factors[0], factors[1][rows]
            total = np.zeros_like(exact)
            for r in range(a.shape[0]):
                total += b[:, r : r + 1] * a[r]
            exact += adapter.factor * total
        result[rows] = rounded_to(exact, "float64", kind)
    return result


def _require_finite(piece: Array, dtype: str, source: str) -> None:
    import numpy as np

    numbers = widened(piece, dtype)
    if np.isfinite(numbers).all():
        return
    kind = "NaN" if np.isnan(numbers).any() else "infinity"
    raise CheckpointError(
        f"{source}: holds {kind} (in {dtype}).",
        hint="Training diverged, or the dtype is too narrow: release an earlier checkpoint or "
        "another --dtype.",
    )
