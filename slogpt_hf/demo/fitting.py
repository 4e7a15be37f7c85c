"""Fitting a Slo to token ids: nanoGPT's recipe on the plain-torch model.

Shapes: B batch, T tokens (``block_size``), N ids.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from slogpt_hf.checkpoints.dialects import slo
from slogpt_hf.checkpoints.parts import tensor_shapes
from slogpt_hf.checkpoints.spec import Spec
from slogpt_hf.parity.decoder import Decoder, logits
from slogpt_hf.parity.families import SLO
from slogpt_hf.threads import one_torch_thread

EMBEDDING, HEAD = "transformer.wte.weight", "lm_head.weight"
INITIAL_STD = 0.02
RESIDUAL_PROJECTIONS = ("c_proj.weight", "mlp.w2.weight")


@dataclass(frozen=True)
class Recipe:
    """How to train; the fields are named as in nanoGPT's ``train.py``.

    Attributes:
        batch_size: sequences of ``block_size`` tokens in one step.
        learning_rate: highest learning rate, reached after ``warmup_iters`` steps.
        min_lr: learning rate that the cosine ends at.
        warmup_iters: steps of linear warm-up.
        weight_decay: of the matrices; vectors have none.
        beta1: AdamW's decay of the mean of the gradient.
        beta2: AdamW's decay of the mean of its square.
        grad_clip: largest norm of the whole gradient.
    """

    batch_size: int = 8
    learning_rate: float = 8e-3
    min_lr: float = 4e-4
    warmup_iters: int = 20
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.99
    grad_clip: float = 1.0


@dataclass(frozen=True)
class Fit:
    """A trained model.

    Attributes:
        tensors: the state dict; the head shares the embedding's storage.
        optimizer: AdamW's state dict.
    """

    tensors: Mapping[str, Tensor]
    optimizer: Mapping[str, Any]


def fit(
    spec: Spec,
    ids: Tensor,
    recipe: Recipe,
    steps: int,
    seed: int,
    advance: Callable[[int, float], None],
) -> Fit:
    """Train from scratch; the same arguments give the same bits on the same machine.

    Args:
        spec: the architecture, with a tied head.
        ids: (N,) int64, N greater than ``spec.block_size``.
        recipe: how to train.
        steps: optimizer steps.
        seed: of the initial weights and of the batches.
        advance: called after each step with 1 and the step's loss, nats per token.
    """
    random = torch.Generator().manual_seed(seed)
    tensors = initial_tensors(spec, random)
    weights = [tensor for name, tensor in tensors.items() if name != HEAD]
    optimizer = torch.optim.AdamW(
        [
            {
                "params": [weight for weight in weights if weight.dim() >= 2],
                "weight_decay": recipe.weight_decay,
            },
            {"params": [weight for weight in weights if weight.dim() < 2], "weight_decay": 0.0},
        ],
        lr=recipe.learning_rate,
        betas=(recipe.beta1, recipe.beta2),
    )
    with one_torch_thread():
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(recipe, step, steps)
            starts = torch.randint(
                len(ids) - spec.block_size, (recipe.batch_size,), generator=random
            )
            windows = ids[starts[:, None] + torch.arange(spec.block_size + 1)]  # (B, T + 1)
            loss = cross_entropy(spec, tensors, windows[:, :-1], windows[:, 1:])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(weights, recipe.grad_clip)
            optimizer.step()
            advance(1, loss.item())
    return Fit({name: tensor.detach() for name, tensor in tensors.items()}, optimizer.state_dict())


def initial_tensors(spec: Spec, random: torch.Generator) -> dict[str, Tensor]:
    """nanoGPT's initial weights: norms one, biases zero, matrices normal with std 0.02.

    The two projections into the residual stream have std 0.02 / sqrt(2 n_layer). The head is
    the embedding.
    """
    tensors: dict[str, Tensor] = {}
    for name, shape in tensor_shapes(slo.names(spec), spec).items():
        if name == HEAD:
            tensors[name] = tensors[EMBEDDING]
        elif len(shape) == 1:
            value = 0.0 if name.endswith(".bias") else 1.0
            tensors[name] = torch.full(shape, value, requires_grad=True)
        else:
            residual = name.endswith(RESIDUAL_PROJECTIONS)
            std = INITIAL_STD / math.sqrt(2 * spec.n_layer) if residual else INITIAL_STD
            tensors[name] = (torch.randn(shape, generator=random) * std).requires_grad_()
    return tensors


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """Linear warm-up, then a cosine down to ``min_lr`` at ``steps``."""
    if step < recipe.warmup_iters:
        return recipe.learning_rate * (step + 1) / (recipe.warmup_iters + 1)
    progress = (step - recipe.warmup_iters) / (steps - recipe.warmup_iters)
    share = 0.5 * (1 + math.cos(math.pi * progress))
    return recipe.min_lr + share * (recipe.learning_rate - recipe.min_lr)


def cross_entropy(
    spec: Spec, tensors: Mapping[str, Tensor], inputs: Tensor, targets: Tensor
) -> Tensor:
    """Mean loss in nats per token of ids (B, T) against the ids that follow them (B, T)."""
    predicted = logits(Decoder(SLO, spec, tensors), inputs, torch.float32)  # (B, T, V)
    return F.cross_entropy(predicted.flatten(0, 1), targets.flatten())


def validation_loss(spec: Spec, tensors: Mapping[str, Tensor], ids: Tensor) -> Tensor:
    """Loss over the consecutive blocks of ids (N,), a last incomplete one left out; 0-d fp32."""
    n_blocks = (len(ids) - 1) // spec.block_size
    length = n_blocks * spec.block_size
    inputs, targets = (ids[i : i + length].view(n_blocks, spec.block_size) for i in (0, 1))
    with torch.no_grad(), one_torch_thread():
        return cross_entropy(spec, tensors, inputs, targets)
