"""What a witness in float32 cannot tell: facts of which another value moves no logit by enough."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from slogpt_hf.checkpoints.assumptions import Assumption
from slogpt_hf.checkpoints.spec import Spec
from slogpt_hf.parity.comparing import absolute_error, run_of
from slogpt_hf.parity.decoder import ACTIVATIONS, Decoder

MARGIN = 2.0  # of the witness's bound: another value has to show beyond it and its own rounding


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
    names = [each.name for each in assumptions if each.name in OTHERS]
    if not names:
        return ()
    own = run_of(source, ids, torch.float64)

    def shows(spec: Spec) -> bool:
        other = run_of(replace(source, spec=spec), ids, torch.float64)
        return not absolute_error(spec.vocab_size, other, own)[0] <= MARGIN * bound

    return tuple(
        name
        for name in names
        if not all(shows(spec) for spec in OTHERS[name](source.spec) if spec != source.spec)
    )
