"""Weights on which nothing can be shown: all zeros, or so large that the model overflows."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from slogpt_hf.checkpoints import Checkpoint
from slogpt_hf.errors import CheckpointError
from slogpt_hf.parity.report import ParityReport

LARGEST_GAIN = 50.0  # of a matrix, rms x sqrt(inputs); trained ones are between 0.1 and 10
LARGEST_VALUE = 1e3  # of a vector; trained ones stay below 1e2
LEAST_VALUE = 1e-4  # of the largest of a tensor; initial weights are about 0.02
MOST_NAMED = 3
Odd = dict[str, float]  # name of a tensor to its largest value


def require_usable_weights(checkpoint: Checkpoint, report: ParityReport) -> None:
    """Raise if nothing can be shown on the checkpoint's weights.

    A matrix of zeros is no such thing: fresh adapters and projections are, and pass.

    Args:
        checkpoint: the original.
        report: of the proof.

    Raises:
        CheckpointError: the original itself gives no finite logits in float32, planted faults
            cannot show, or every matrix is zero; the message names the tensors.
    """
    batches = report.comparisons
    if any(not math.isfinite(c.max_logit + c.fp32_noise) for c in batches):
        effect = "its own logits are not finite in float32"
    elif batches and all(c.max_logit == 0 for c in batches) and _only_zeros(checkpoint.tensors):
        effect = "every logit is zero"
    elif report.verdict == "invalid":
        effect = f"planted faults do not show ({', '.join(report.missed)})"
    else:
        return
    large, small, zeros = _odd(checkpoint.tensors)
    found = [
        f"{_named(names)} {verb}{f' {values[names[0]]:.1e}' if values[names[0]] else ''}"
        for verb, values in (
            ("hold values up to", large),
            ("hold only zeros", zeros),
            ("hold no value above", small),
        )
        if (names := sorted(values, key=lambda name: -values[name]))
    ]
    if found:
        raise CheckpointError(
            f"{checkpoint.path}: nothing can be proven on these weights, {effect}: "
            f"{'; '.join(found)}.",
            hint="Training diverged, or they were saved before it began: release another save.",
        )


def _only_zeros(tensors: Mapping[str, Tensor]) -> bool:
    """Whether no matrix holds anything."""
    return not any(tensors[name].dim() > 1 and tensors[name].any() for name in tensors)


def _odd(tensors: Mapping[str, Tensor]) -> tuple[Odd, Odd, Odd]:
    """The tensors with values larger than training makes them, hardly any, and only zeros."""
    large: Odd = {}
    small: Odd = {}
    zeros: Odd = {}
    for name in tensors:
        values = tensors[name]
        largest = max(map(abs, torch.stack(values.aminmax()).tolist())) if values.numel() else 0.0
        norm = torch.linalg.vector_norm(values, dtype=torch.float64).item()
        gain = norm / values.shape[0] ** 0.5 if values.dim() == 2 else 0.0
        if not (largest <= LARGEST_VALUE and gain <= LARGEST_GAIN):
            large[name] = largest
        elif largest == 0:
            zeros[name] = largest
        elif largest < LEAST_VALUE:
            small[name] = largest
    return large, small, zeros


def _named(names: list[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more tensors" if len(names) > MOST_NAMED else ""
    return f"{', '.join(names[:MOST_NAMED])}{more}"
