"""Reversible tensor operations, the vocabulary of a plan. Every one knows its inverse.

They take numpy arrays as well as tensors of torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from slogpt_hf.checkpoints.adapters import Adapter, RowScale

if TYPE_CHECKING:
    from torch import Tensor

MERGE_VALUES = 1 << 20  # merged at a time, in float64

Shape = tuple[int, ...]


class Operation(Protocol):
    """A bijection between tensors of one shape and tensors of another."""

    def shape(self, shape: Shape) -> Shape:
        """The shape that ``forward`` gives for an input of ``shape``."""
        ...

    def forward(self, tensor: Tensor) -> Tensor:
        """The target's tensor; a view where that is possible."""
        ...

    def inverse(self, tensor: Tensor) -> Tensor:
        """The source's tensor, bit for bit."""
        ...


@dataclass(frozen=True)
class Transpose:
    """(out, in) to (in, out): the layout of GPT-2's Conv1D."""

    def shape(self, shape: Shape) -> Shape:
        """Dimensions swapped."""
        return (shape[1], shape[0])

    def forward(self, tensor: Tensor) -> Tensor:
        """A transposed view."""
        return tensor.T

    def inverse(self, tensor: Tensor) -> Tensor:
        """A transposed view."""
        return tensor.T


@dataclass(frozen=True)
class PairsToHalves:
    """Rows of q or k from interleaved rotary pairs to half-split, head by head.

    Within a head of size d, row 2j goes to j and row 2j+1 to j + d/2, so that the pairs
    (x0, x1), (x2, x3)... that the original rotates become (x0, x_{d/2})... . Weights (rows, in)
    and biases (rows,) alike.

    Attributes:
        n_head: heads among the rows: the key's own count for k.
    """

    n_head: int

    def shape(self, shape: Shape) -> Shape:
        """Unchanged."""
        return shape

    def forward(self, tensor: Tensor) -> Tensor:
        """Rows reordered, pairs to halves."""
        pairs = tensor.reshape(self.n_head, -1, 2, *tensor.shape[1:])  # (heads, d/2, 2, ...)
        return pairs.swapaxes(1, 2).reshape(tensor.shape)

    def inverse(self, tensor: Tensor) -> Tensor:
        """Rows reordered, halves to pairs."""
        halves = tensor.reshape(self.n_head, 2, -1, *tensor.shape[1:])  # (heads, 2, d/2, ...)
        return halves.swapaxes(1, 2).reshape(tensor.shape)


@dataclass(frozen=True)
class AppendRows:
    """Rows of zeros behind those of a table: ids that the original does not have.

    The inverse is one for tables that end in these zeros.

    Attributes:
        n_rows: how many.
    """

    n_rows: int

    def shape(self, shape: Shape) -> Shape:
        """More rows."""
        return (shape[0] + self.n_rows, *shape[1:])

    def forward(self, tensor: Tensor) -> Tensor:
        """A copy with more rows."""
        import numpy as np

        if isinstance(tensor, np.ndarray):
            return np.pad(tensor, ((0, self.n_rows), (0, 0)))
        import torch

        return torch.cat((tensor, tensor.new_zeros((self.n_rows, *tensor.shape[1:]))))

    def inverse(self, tensor: Tensor) -> Tensor:
        """A view of the rows that were there."""
        return tensor[: len(tensor) - self.n_rows]


def merged(weight: Tensor, adapter: Adapter, tensors: Mapping[str, Tensor]) -> Tensor:
    """The one matrix that computes what a weight and its adapter compute together.

    LoRA: W + factor * (B[:, 0] A[0, :] + B[:, 1] A[1, :] + ...), element by element and in this
    order, so that the result depends on no number of threads and no BLAS. IA3: s[:, None] * W.
    Each step is done in float64.

    Args:
        weight: (out, in), of any floating-point dtype.
        adapter: what stands beside it.
        tensors: has the adapter's tensors.

    Returns:
        (out, in) in the dtype of ``weight``, rounded once.
    """
    import torch

    result = torch.empty(weight.shape, dtype=weight.dtype)
    factors = [tensors[name].double() for name in adapter.sources]
    step = max(1, MERGE_VALUES // weight.shape[1])
    for start in range(0, weight.shape[0], step):
        rows = slice(start, start + step)
        exact = weight[rows].double()
        if isinstance(adapter, RowScale):
            exact *= factors[0][rows, None]
        else:
            a, b = factors[0], factors[1][rows]
            total = torch.zeros_like(exact)
            for r in range(a.shape[0]):
                total += b[:, r : r + 1] * a[r]
            exact += adapter.factor * total
        result[rows] = exact.to(weight.dtype)
    return result
