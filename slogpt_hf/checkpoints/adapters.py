"""Adapters beside a weight: what fine-tuning added to a linear layer without touching it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LowRank:
    """LoRA (https://arxiv.org/abs/2106.09685): the layer computes x W^T + factor * (x A^T) B^T.

    Attributes:
        a: name of the tensor A, (rank, in).
        b: name of the tensor B, (out, rank).
        factor: alpha / rank.
    """

    a: str
    b: str
    factor: float

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the adapter's tensors."""
        return (self.a, self.b)


@dataclass(frozen=True)
class RowScale:
    """IA3 (https://arxiv.org/abs/2205.05638): the layer computes s * (x W^T).

    Attributes:
        s: name of the tensor of scales, (out,).
    """

    s: str

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the adapter's tensors."""
        return (self.s,)


Adapter = LowRank | RowScale
