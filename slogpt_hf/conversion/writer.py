"""Executes a plan: one tensor at a time from the mapped checkpoint into safetensors files."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from slogpt_hf.checkpoints.tensors import Tensors
from slogpt_hf.conversion.operations import merged
from slogpt_hf.conversion.overlapped import OverlappedFile
from slogpt_hf.conversion.plan import Plan, check_plan
from slogpt_hf.conversion.safetensors_layout import INDEX_FILE, header, index, shards_for
from slogpt_hf.errors import CheckpointError
from slogpt_hf.threads import one_torch_thread

if TYPE_CHECKING:
    import torch
    from torch import Tensor

PIECE_BYTES = 4 << 20  # small enough to stay in cache between the check and the write


def write_weights(
    plan: Plan,
    tensors: Tensors,
    folder: Path,
    *,
    dtype: str,
    max_shard_bytes: int,
    advance: Callable[[int], None] = lambda n_bytes: None,
) -> tuple[Path, ...]:
    """Write every target tensor of ``plan`` below ``folder``, files synced to the disk.

    Args:
        plan: the conversion.
        tensors: the checkpoint's tensors, by source name; each is read when it is its turn.
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

    check_plan(plan, tensors.shapes)
    shapes = plan.target_shapes(tensors.shapes)
    moves = plan.made
    shards = shards_for(shapes, dtype, max_shard_bytes)
    target_dtype: torch.dtype = getattr(torch, dtype)

    merges = {merge.source: merge.adapter for merge in plan.merges}

    @lru_cache(maxsize=1)  # q, k and v of one stack follow each other
    def effective(source: str) -> Tensor:
        weight = tensors[source]
        return merged(weight, merges[source], tensors) if source in merges else weight

    def produce(name: str) -> Tensor:
        move = moves.get(name)
        return move.run(effective(move.source)) if move else torch.zeros(shapes[name])

    layouts = itertools.cycle((_Layout(), _Layout()))  # one is written while the other is filled
    for shard in shards:
        with one_torch_thread(), OverlappedFile(folder / shard.file_name) as file:
            file.write(header(shard, shapes, dtype))
            for name in shard.n_bytes:
                tensor, layout = produce(name), None
                if not tensor.is_contiguous():
                    layout = next(layouts)
                    tensor = layout.fill(tensor)
                source = moves[name].source if name in moves else name
                for piece in _pieces(tensor, target_dtype):
                    check, data = partial(_require_finite, piece, source), _bytes(piece)
                    # Whoever has less to do checks: laying out costs more than writing.
                    if layout:
                        layout.in_use_until = file.write(data, before=check)
                    else:
                        check()
                        file.write(data)
                    advance(piece.nbytes)
    if len(shards) > 1:
        (folder / INDEX_FILE).write_text(json.dumps(index(shards), indent=2) + "\n", "utf-8")
    return tuple(folder / shard.file_name for shard in shards)


class _Layout:
    """Warm memory in which a strided tensor is laid out in row-major order."""

    def __init__(self) -> None:
        self.memory: Tensor | None = None
        self.in_use_until: Future[None] | None = None

    def fill(self, tensor: Tensor) -> Tensor:
        """A contiguous copy of ``tensor``, valid until the next call."""
        import torch

        if self.in_use_until is not None:
            self.in_use_until.result()
        if self.memory is None or self.memory.nbytes < tensor.nbytes:
            self.memory = torch.empty(tensor.nbytes, dtype=torch.uint8)
        # Copying a whole matrix takes torch's blocked transposition; pieces of it would not.
        return self.memory[: tensor.nbytes].view(tensor.dtype).view(tensor.shape).copy_(tensor)


def _pieces(tensor: Tensor, dtype: torch.dtype) -> Iterator[Tensor]:
    """The values of a contiguous tensor as 1-d pieces of PIECE_BYTES, cast to ``dtype``."""
    import torch

    for values in torch.split(tensor.view(-1), PIECE_BYTES // tensor.element_size()):
        yield values.to(dtype)


def _bytes(piece: Tensor) -> memoryview:
    import torch

    data: memoryview = piece.view(torch.uint8).numpy().data
    return data


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
