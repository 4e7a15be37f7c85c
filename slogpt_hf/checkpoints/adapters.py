"""Adapters beside a weight: what fine-tuning added to a linear layer without touching it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from slogpt_hf.checkpoints.fields import (
    SAVE_AGAIN,
    Fields,
    listed,
    places_in,
    printable,
    same_value,
    scalar,
    shown,
)
from slogpt_hf.checkpoints.state_dict import ADAPTER
from slogpt_hf.checkpoints.tensors import Stored
from slogpt_hf.errors import CheckpointError, UsageError


@dataclass(frozen=True)
class LowRank:
    """LoRA (https://arxiv.org/abs/2106.09685): the layer computes x W^T + factor * (x A^T) B^T.

    Attributes:
        a: name of the tensor A, (rank, in).
        b: name of the tensor B, (out, rank).
        factor: alpha / rank.
    """

    title: ClassVar[str] = "A LoRA"
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

    title: ClassVar[str] = "An IA3"
    s: str

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the adapter's tensors."""
        return (self.s,)


Adapter = LowRank | RowScale
ADAPTER_PLACE = re.compile(r"lora|adapter|peft", re.I)
RANKS = ("rank", "r")
# Recorded facts under which an adapter is what LowRank says.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "use_rslora": (False,),
    "rslora": (False,),
    "use_dora": (False,),
    "fan_in_fan_out": (False,),
    "alpha_pattern": ({},),
    "rank_pattern": ({},),
    "lora_scaling": (),
}


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


def recorded_alpha(fields: Fields, rank: int) -> float | None:
    """LoRA's alpha, recorded beside the adapter itself or given; None if it is neither.

    ``lora_alpha`` says it anywhere, ``alpha`` only in a dict that describes an adapter.

    Raises:
        CheckpointError: two alphas, another rank than the tensors', or a kind of LoRA that
            computes something else.
        UsageError: the file records another alpha than the user gave.
    """
    found: dict[str, Any] = {}
    for place, holder in places_in(fields.own):
        describes = ADAPTER_PLACE.search(place) or any(holder.get(k) for k in RANKS)
        for key in ("lora_alpha", *(("alpha",) if describes else ())):
            if holder.get(key) is not None:
                found[f"{place}.{key}" if place else key] = holder[key]
        ranks = ("lora_rank", "lora_r", *(RANKS if describes else ()))
        for key in (key for key in ranks if holder.get(key) is not None):
            if not same_value(holder[key], rank):
                raise _unlike(fields, key, holder[key], f"the tensors have rank {rank}")
        for key, neutral in NEUTRAL.items():
            if (value := holder.get(key)) is not None and value not in neutral:
                raise _unlike(fields, key, value, "only plain LoRA is merged")
    given = fields.given.get("lora_alpha")
    values = [*found.items(), *((("--set lora_alpha", given),) if given is not None else ())]
    for where, value in values[1:]:
        if given is not None and where.startswith("--set") and not same_value(value, values[0][1]):
            raise UsageError(
                f"--set lora_alpha={given}: but {fields.path} records {values[0][0]} = "
                f"{shown(values[0][1])}.",
                hint="Leave it out: what the trainer recorded counts.",
            )
        if not same_value(value, values[0][1]):
            raise _unlike(fields, where, value, f"{values[0][0]} is {shown(values[0][1])}")
    if not values:
        return None
    where, value = values[0]
    alpha = scalar(value)
    if alpha is None or alpha <= 0:
        raise _unlike(fields, where, value, "alpha is a positive number")
    return alpha


def _unlike(fields: Fields, where: str, value: Any, but: str) -> CheckpointError:
    return CheckpointError(
        f"{fields.path}: {where} is {shown(value)}, but {but}.",
        hint="Merge the adapter with the program that trained it, or correct what is recorded.",
    )


def _adapter(fields: Fields, weight: str, names: Mapping[str, str]) -> Adapter:
    shape = fields.shapes.get(weight, ())
    if len(shape) != 2:
        raise CheckpointError(
            f"{fields.path}: there is no matrix {printable(weight)} for its adapter "
            f"{listed(sorted(names.values()))}.",
            hint="Name the checkpoint that the adapter was trained on.",
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
    alpha = recorded_alpha(fields, rank)
    return LowRank(names["A"], names["B"], math.nan if alpha is None else alpha / rank)
