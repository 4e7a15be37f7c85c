"""Adapters merged into their weights, as the conversion documents it and apart from its code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from slogpt_hf.checkpoints.adapters import Adapter, LowRank


class Merged(Mapping[str, Tensor]):
    """Tensors in which no adapter is left: each adapted weight is merged when it is asked for."""

    def __init__(self, tensors: Mapping[str, Tensor], adapters: Mapping[str, Adapter]) -> None:
        sources = {source for adapter in adapters.values() for source in adapter.sources}
        self.tensors, self.adapters = tensors, adapters
        self.names = tuple(name for name in tensors if name not in sources)

    def __getitem__(self, name: str) -> Tensor:
        if (adapter := self.adapters.get(name)) is None:
            return self.tensors[name]
        return merge(self.tensors, name, adapter)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def merge(tensors: Mapping[str, Tensor], name: str, adapter: Adapter) -> Tensor:
    """The weight (out, in) that computes alone what weight and adapter compute, in float64.

    LoRA: W + factor * (B[:, 0:1] * A[0:1] + B[:, 1:2] * A[1:2] + ...), element by element and in
    this order, so that the result depends on no number of threads and no BLAS. IA3: s[:, None] * W.
    """
    weight = tensors[name].double()
    if isinstance(adapter, LowRank):
        a, b = tensors[adapter.a].double(), tensors[adapter.b].double()
        total = torch.zeros_like(weight)
        for r in range(a.shape[0]):
            total += b[:, r : r + 1] * a[r : r + 1]
        return weight + adapter.factor * total
    return tensors[adapter.s].double()[:, None] * weight
