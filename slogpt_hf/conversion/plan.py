"""A conversion as data: for every target tensor, the source rows and operations that give it.

Nothing here reads a weight. The writer runs a plan forwards, ``restore`` runs it backwards.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from slogpt_hf.checkpoints.adapters import Adapter
from slogpt_hf.conversion.operations import Operation, Shape
from slogpt_hf.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Move:
    """One target tensor from consecutive rows of one source tensor.

    Attributes:
        target: name in the artefact.
        source: name in the checkpoint.
        rows: first row and the row after the last; None takes the whole tensor.
        operations: applied in order to the rows.
    """

    target: str
    source: str
    rows: tuple[int, int] | None = None
    operations: tuple[Operation, ...] = ()

    def taken(self, source_shape: Shape) -> Shape:
        """Shape of the rows before any operation."""
        if self.rows is None:
            return source_shape
        return (self.rows[1] - self.rows[0], *source_shape[1:])

    def shape(self, source_shape: Shape) -> Shape:
        """Shape of the target tensor."""
        shape = self.taken(source_shape)
        for operation in self.operations:
            shape = operation.shape(shape)
        return shape

    def run(self, source: Tensor) -> Tensor:
        """The target tensor, a view of ``source`` where every operation allows it."""
        tensor = source if self.rows is None else source[self.rows[0] : self.rows[1]]
        for operation in self.operations:
            tensor = operation.forward(tensor)
        return tensor

    def undo(self, target: Tensor) -> Tensor:
        """The source rows that gave ``target``."""
        for operation in reversed(self.operations):
            target = operation.inverse(target)
        return target


@dataclass(frozen=True)
class Zeros:
    """A target tensor that the original does not have and that adds nothing."""

    target: str
    shape: Shape


@dataclass(frozen=True)
class Copy:
    """A source tensor that equals another one and is not written a second time."""

    source: str
    of: str


@dataclass(frozen=True)
class Merge:
    """A source tensor into which an adapter's tensors go before its rows are moved.

    Attributes:
        source: name of the weight.
        adapter: what is merged into it; its tensors lie beside the weight.
    """

    source: str
    adapter: Adapter


@dataclass(frozen=True)
class Plan:
    """Everything a conversion does.

    Attributes:
        moves: the target tensors with a source, in file order.
        zeros: the target tensors without one.
        copies: the source tensors that repeat another (a tied head).
        merges: what happens to source tensors before anything is moved.
        repeats: target tensors that hold again what one of the moves gives (a tied head).
    """

    moves: tuple[Move, ...]
    zeros: tuple[Zeros, ...] = ()
    copies: tuple[Copy, ...] = ()
    merges: tuple[Merge, ...] = ()
    repeats: tuple[Move, ...] = ()

    @property
    def made(self) -> dict[str, Move]:
        """Target to the move that makes it, of all that have a source."""
        return {move.target: move for move in (*self.moves, *self.repeats)}

    def target_shapes(self, sources: Mapping[str, Shape]) -> dict[str, Shape]:
        """Name to shape of every target tensor, for source tensors of the given shapes."""
        shapes = {name: move.shape(sources[move.source]) for name, move in self.made.items()}
        return shapes | {zeros.target: zeros.shape for zeros in self.zeros}


def check_plan(plan: Plan, sources: Mapping[str, Shape]) -> None:
    """Prove that a plan uses every source row exactly once and makes every target once.

    Repeats are whole moves a second time, under another name.

    Raises:
        CheckpointError: a source tensor is unknown, left over, used twice or in part; or a
            target is made twice or repeats no move. The message names it.
    """
    targets = [move.target for move in (*plan.moves, *plan.repeats)]
    targets += [zeros.target for zeros in plan.zeros]
    for name in sorted(name for name, count in Counter(targets).items() if count > 1):
        raise CheckpointError(f"The plan makes {name} more than once.")
    used: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for move in plan.moves:
        if move.source not in sources:
            raise CheckpointError(f"The plan needs {move.source}, which the checkpoint lacks.")
        used[move.source].append(move.rows or (0, sources[move.source][0]))
    for merge in plan.merges:
        if merge.source not in used:
            raise CheckpointError(f"The plan merges into {merge.source}, which it does not move.")
        for name in merge.adapter.sources:
            if name not in sources:
                raise CheckpointError(f"The plan merges {name}, which the checkpoint lacks.")
            used[name].append((0, sources[name][0]))
    for copy in plan.copies:
        if copy.source not in sources or copy.of not in used:
            raise CheckpointError(f"The plan takes {copy.source} for a copy of {copy.of}.")
        used[copy.source].append((0, sources[copy.source][0]))
    for name, shape in sources.items():
        end, n_rows = 0, shape[0]
        if name not in used:
            raise CheckpointError(f"The plan leaves {name} over.")
        for start, stop in [*sorted(used[name]), (n_rows, n_rows)]:
            if stop > n_rows:
                raise CheckpointError(
                    f"The plan uses rows {start} to {stop} of {n_rows} of {name}."
                )
            if start != end:
                raise CheckpointError(
                    f"The plan {'leaves out' if start > end else 'uses twice'} rows "
                    f"{min(start, end)} to {max(start, end)} of {name}."
                )
            end = stop
    for repeat in plan.repeats:
        if all(replace(move, target=repeat.target) != repeat for move in plan.moves):
            raise CheckpointError(f"The plan repeats as {repeat.target} what it does not move.")


def restore(plan: Plan, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Run a plan backwards: the checkpoint's tensors from the artefact's, bit for bit.

    What an adapter was merged into comes back merged: addition rounds and has no exact inverse.

    Args:
        plan: a plan that ``check_plan`` accepts.
        targets: every tensor of the artefact.

    Returns:
        Source name to tensor.
    """
    import torch

    pieces: dict[str, list[tuple[int, Tensor]]] = defaultdict(list)
    for move in plan.moves:
        first = move.rows[0] if move.rows else 0
        pieces[move.source].append((first, move.undo(targets[move.target])))
    sources = {
        name: torch.cat([tensor for _, tensor in sorted(parts, key=lambda part: part[0])])
        for name, parts in pieces.items()
    }
    return sources | {copy.source: sources[copy.of] for copy in plan.copies}
