"""How far a quantised checkpoint is from the original that it was quantised from."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from slogpt_hf.checkpoints import Checkpoint
from slogpt_hf.errors import UsageError
from slogpt_hf.parity import decoder
from slogpt_hf.parity.comparing import distance
from slogpt_hf.parity.decoder import Decoder
from slogpt_hf.parity.families import FAMILIES
from slogpt_hf.parity.inputs import inputs_for

POSITIONS = 256  # compared at a time
ROUNDING = 1e-4  # of the bound: the fp32 arithmetic of quantising and dequantising


@dataclass(frozen=True)
class Difference:
    """Largest absolute differences.

    Attributes:
        weight: of any weight.
        logit: of any logit over the gate's inputs, both models in float64.
        max_logit: largest absolute logit of the original, for comparison.
    """

    weight: float
    logit: float
    max_logit: float


@torch.no_grad()
def difference(checkpoint: Checkpoint, original: Checkpoint) -> Difference:
    """Compare a quantised checkpoint with the one that it was made from.

    Tensors are read, and cast to float64, where they are used and let go.

    Raises:
        UsageError: they are not of one architecture and size, or they differ by more than the
            quantisation can have changed a weight.
    """
    ours, theirs = (_weights(each) for each in (checkpoint, original))
    if replace(checkpoint.spec, tied=False) != replace(original.spec, tied=False):
        raise UsageError(
            f"--unquantised {original.path}: is no model of the sizes of {checkpoint.path}.",
            hint="Name the checkpoint that it was quantised from.",
        )
    weight = max(
        distance(checkpoint.tensors[ours[role]].float(), original.tensors[theirs[role]].float())
        for role in ours
    )
    bound = checkpoint.quantisation.max_error if checkpoint.quantisation else 0.0
    if weight > bound * (1 + ROUNDING):
        raise UsageError(
            f"--unquantised {original.path}: differs by {weight:.2e} in a weight, more than "
            f"rounding can ({bound:.2e}); it is not the original of {checkpoint.path}.",
            hint="Name the checkpoint that it was quantised from.",
        )
    logit = max_logit = 0.0
    models = [_decoder(each) for each in (checkpoint, original)]
    for batch in inputs_for(checkpoint.spec):
        states = [decoder.final_state(m, batch.ids, torch.float64).flatten(0, 1) for m in models]
        for start in range(0, batch.ids.numel(), POSITIONS):
            rows = slice(start, start + POSITIONS)
            a, b = (decoder.head(m, x[rows]) for m, x in zip(models, states, strict=True))
            logit = max(logit, distance(a, b))
            max_logit = max(max_logit, b.abs().max().item())
    return Difference(weight, logit, max_logit)


def _weights(checkpoint: Checkpoint) -> dict[str, str]:
    """Role to tensor name; a shared head has the embedding's."""
    return {role: part.source for role, part in checkpoint.parts.items() if part.rows is None}


def _decoder(checkpoint: Checkpoint) -> Decoder:
    family, spec = FAMILIES[checkpoint.dialect], checkpoint.spec
    return Decoder(family, spec, checkpoint.tensors, checkpoint.adapters)
