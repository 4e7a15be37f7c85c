"""Adapters beside a weight: what fine-tuning added to a linear layer without touching it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from slogpt_hf.checkpoints.fields import SAVE_AGAIN, Fields, listed
from slogpt_hf.checkpoints.state_dict import ADAPTER
from slogpt_hf.checkpoints.tensors import Stored
from slogpt_hf.errors import CheckpointError


@dataclass(frozen=True)
class LowRank:
    """LoRA (https://arxiv.org/abs/2106.09685): the layer computes x W^T + factor * (x A^T) B^T.

    Attributes:
        a: name of the tensor A, (rank, in).
        b: name of the tensor B, (out, rank).
        factor: alpha / rank.
    """

    title: ClassVar[str] = "LoRA"
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

    title: ClassVar[str] = "IA3"
    s: str

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the adapter's tensors."""
        return (self.s,)


Adapter = LowRank | RowScale


def adapters_among(
    fields: Fields, tensors: Mapping[str, Stored]
) -> tuple[dict[str, Stored], dict[str, Adapter]]:
    """The weights alone, and the adapters by the weight that they belong to.

    Beside a projection's ``.weight`` stand ``.lora_A`` (rank, in) and ``.lora_B`` (out, rank), or
    ``.lora_s`` (out,). Where alpha is neither recorded nor given the factor is NaN.

    Raises:
        CheckpointError: an adapter is not whole, does not fit its weight, or has none.
    """
    found: dict[str, dict[str, str]] = {}
    for name in tensors:
        if match := ADAPTER.match(name):
            found.setdefault(match["module"], {})[match["kind"]] = name
    weights = {name: tensor for name, tensor in tensors.items() if not ADAPTER.match(name)}
    return weights, {
        f"{module}.weight": _adapter(fields, f"{module}.weight", names)
        for module, names in found.items()
    }


def _adapter(fields: Fields, weight: str, names: Mapping[str, str]) -> Adapter:
    shape = fields.shapes.get(weight, ())
    if len(shape) != 2:
        raise CheckpointError(
            f"{fields.path}: {listed(sorted(names.values()))} has no matrix {weight} to adapt.",
            hint="Save the weights with their adapter, or name them with --base CHECKPOINT.",
        )
    wanted: dict[str, tuple[int, ...]] = {"s": shape[:1]}
    if names.keys() != {"s"}:
        rank = (fields.shapes[names["A"]] or (0,))[0] if "A" in names else 0
        wanted = {"A": (rank, shape[1]), "B": (shape[0], rank)}
    if names.keys() != wanted.keys():
        raise CheckpointError(
            f"{fields.path}: the adapter of {weight} is {listed(sorted(names.values()))}, "
            "expected lora_A and lora_B, or lora_s alone.",
            hint=SAVE_AGAIN,
        )
    for kind, name in names.items():
        if fields.shapes[name] != wanted[kind] or 0 in wanted[kind]:
            raise CheckpointError(
                f"{fields.path}: {name} has shape {fields.shapes[name]}, expected {wanted[kind]} "
                f"beside {weight} of shape {shape}.",
                hint=SAVE_AGAIN,
            )
    if "s" in names:
        return RowScale(names["s"])
    recorded = fields.count("lora_rank")
    if recorded not in (None, rank):
        raise CheckpointError(
            f"{fields.path}: records the adapter's rank as {recorded}, but {names['A']} has "
            f"shape {fields.shapes[names['A']]}.",
            hint=SAVE_AGAIN,
        )
    alpha = fields.number("lora_alpha")
    return LowRank(names["A"], names["B"], math.nan if alpha is None else alpha / rank)
