"""What a witness in float32 cannot tell: facts of which another value moves no logit by enough."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from slogpt_hf.checkpoints.assumptions import Assumption
from slogpt_hf.checkpoints.fields import scalar
from slogpt_hf.checkpoints.naming import name_words
from slogpt_hf.checkpoints.spec import Spec
from slogpt_hf.checkpoints.unknown import Unknown
from slogpt_hf.parity.comparing import absolute_error, run_of
from slogpt_hf.parity.decoder import ACTIVATIONS, Decoder

MARGIN = 2.0  # of the witness's bound: another value has to show beyond it and its own rounding

USUAL_CAPS = {"attention_softcap": 50.0, "logit_softcap": 30.0}  # Gemma 2's


def _activations(spec: Spec) -> Iterator[Spec]:
    if spec.mlp == "plain":
        yield from (replace(spec, activation=name) for name in ACTIVATIONS)


def _epsilons(spec: Spec) -> Iterator[Spec]:
    yield from (replace(spec, norm_eps=spec.norm_eps * share) for share in (0.1, 10.0))


def _thetas(spec: Spec) -> Iterator[Spec]:
    if spec.rope_theta is not None:
        yield from (replace(spec, rope_theta=spec.rope_theta * share) for share in (0.5, 2.0))


OTHERS: Mapping[str, Callable[[Spec], Iterable[Spec]]] = {
    "activation": _activations,
    "norm_eps": _epsilons,
    "rope_theta": _thetas,
}
"""Name of an assumption to the specs with its nearest other values."""


def untold(
    source: Decoder, ids: Tensor, bound: float, assumptions: Iterable[Assumption]
) -> tuple[str, ...]:
    """Names of the assumptions that logits in float32 do not confirm.

    Args:
        source: the model that agrees with the witness.
        ids: (B, T) token ids of the witness.
        bound: largest difference with which a witness agrees.
        assumptions: what no file records.
    """
    names = [each.name for each in assumptions]
    if not {*names} & {*OTHERS, *USUAL_CAPS}:
        return ()
    own = run_of(source, ids, torch.float64)

    def shows(spec: Spec) -> bool:
        other = run_of(replace(source, spec=spec), ids, torch.float64)
        return not absolute_error(spec.vocab_size, other, own)[0] <= MARGIN * bound

    def is_told(name: str) -> bool:
        if name in USUAL_CAPS:
            return not cap_effect(source, ids, name, USUAL_CAPS[name]) <= MARGIN * bound
        others = OTHERS[name](source.spec) if name in OTHERS else ()
        return all(shows(spec) for spec in others if spec != source.spec)

    return tuple(name for name in names if not is_told(name))


def untold_entries(
    source: Decoder, ids: Tensor, bound: float, unknown: Iterable[Unknown]
) -> tuple[str, ...]:
    """Recorded soft caps that would not show in logits in float32; arguments as above.

    Returns:
        Place and name of each.
    """
    return tuple(
        entry.where
        for entry in unknown
        if (kind := _cap_of(entry.name)) is not None
        and not (
            (cap := scalar(entry.value) or 0.0) > 0
            and cap_effect(source, ids, kind, cap) > MARGIN * bound
        )
    )


def _cap_of(name: str) -> str | None:
    """Which scores an entry of this name caps; None if it is of no cap."""
    said = name_words(name)
    if not said & {"softcap", "softcapping", "cap", "capping"}:
        return None
    return "attention_softcap" if said & {"attn", "attention"} else "logit_softcap"


def cap_effect(source: Decoder, ids: Tensor, name: str, cap: float) -> float:
    """By how much ``cap * tanh(x / cap)`` of the scores or logits would move a logit at most."""
    own = run_of(source, ids, torch.float64)
    vocabulary = source.spec.vocab_size
    if name == "logit_softcap":
        largest = absolute_error(vocabulary, own, own)[1]
        return largest - cap * math.tanh(largest / cap)
    with _Capped(cap):
        other = run_of(source, ids, torch.float64)
    return absolute_error(vocabulary, other, own)[0]


class _Capped(TorchFunctionMode):
    """While active, the scores of fused attention are capped."""

    def __init__(self, cap: float) -> None:
        super().__init__()
        self.cap = cap

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run ``func``; the scores of attention are capped on the way."""
        if func is not functional.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        q, k, v = args
        scale = (kwargs or {}).get("scale") or q.shape[-1] ** -0.5
        scores = self.cap * torch.tanh(q @ k.transpose(-2, -1) * scale / self.cap)
        future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        return scores.masked_fill(future, -math.inf).softmax(-1) @ v
