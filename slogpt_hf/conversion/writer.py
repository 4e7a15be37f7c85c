"""Executes a plan: one tensor at a time from the mapped checkpoint into safetensors files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from slogpt_hf.conversion.plan import Plan, check_plan
from slogpt_hf.conversion.safetensors_layout import INDEX_FILE, header, index, shards_for
from slogpt_hf.errors import CheckpointError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

PIECE_BYTES = 4 << 20  # small enough to stay in cache between the check and the write


def write_weights(
    plan: Plan,
    tensors: Mapping[str, Tensor],
    folder: Path,
    *,
    dtype: str,
    max_shard_bytes: int,
    advance: Callable[[int], None] = lambda n_bytes: None,
) -> tuple[Path, ...]:
    """Write every target tensor of ``plan`` below ``folder``, files synced to the disk.

    Args:
        plan: the conversion.
        tensors: the checkpoint's tensors, by source name.
        folder: existing folder for the safetensors files and, with several, their index.
        dtype: dtype of the written tensors, e.g. ``float32``.
        max_shard_bytes: largest file, in bytes of tensor data.
        advance: told the bytes written since its last call.

    Returns:
        The weight files in order.

    Raises:
        CheckpointError: the plan does not fit the tensors, or a weight is NaN or infinite.
    """
    import torch

    sources = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    check_plan(plan, sources)
    shapes = plan.target_shapes(sources)
    moves = {move.target: move for move in plan.moves}
    shards = shards_for(shapes, dtype, max_shard_bytes)
    target_dtype: torch.dtype = getattr(torch, dtype)

    def produce(name: str) -> Tensor:
        move = moves.get(name)
        return move.run(tensors[move.source]) if move else torch.zeros(shapes[name])

    largest = max(tensor.nbytes for tensor in tensors.values())
    scratch = torch.empty(largest, dtype=torch.uint8)  # pages that stay untouched cost nothing

    for shard in shards:
        with (folder / shard.file_name).open("wb") as file:
            file.write(header(shard, shapes, dtype))
            for name in shard.n_bytes:
                source = moves[name].source if name in moves else name
                for piece in _pieces(produce(name), target_dtype, source, scratch):
                    _write(file, piece)
                    advance(piece.nbytes)
            file.flush()
            os.fsync(file.fileno())
    if len(shards) > 1:
        (folder / INDEX_FILE).write_text(json.dumps(index(shards), indent=2) + "\n", "utf-8")
    return tuple(folder / shard.file_name for shard in shards)


def _pieces(tensor: Tensor, dtype: torch.dtype, source: str, scratch: Tensor) -> Iterator[Tensor]:
    """A tensor's values in row-major order as finite 1-d pieces of PIECE_BYTES in ``dtype``."""
    if tensor.is_contiguous():
        flat = tensor.view(-1)
    else:
        # One copy of the whole tensor into warm memory takes torch's blocked transposition.
        flat = scratch[: tensor.nbytes].view(tensor.dtype)
        flat.view(tensor.shape).copy_(tensor)
    for values in flat.split(PIECE_BYTES // flat.element_size()):
        piece = values.to(dtype)
        _require_finite(piece, source)
        yield piece


def _require_finite(piece: Tensor, source: str) -> None:
    import torch

    # The sum of finite numbers is finite but for overflow, and costs a tenth of isfinite.
    if torch.isfinite(piece.sum(dtype=torch.float32)) or bool(torch.isfinite(piece).all()):
        return
    kind = "NaN" if bool(piece.isnan().any()) else "infinity"
    raise CheckpointError(
        f"{source}: holds {kind} (in {str(piece.dtype).removeprefix('torch.')}).",
        hint="Training diverged, or the dtype is too narrow: release an earlier checkpoint or "
        "another --dtype.",
    )


def _write(file: BinaryIO, piece: Tensor) -> None:
    import torch

    file.write(memoryview(piece.view(torch.uint8).numpy()))
