"""The parity gate: the artefact, reloaded from disk, against the original.

Bounds (docs/parity.md derives them): float64 relative error at most 1e-10 with the internal
float32 casts lifted on both sides; float32 error at most 4 times the original's own rounding
noise, max |original_fp32 - original_fp64| over the same inputs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from slogpt_hf.checkpoints import Checkpoint, Spec
from slogpt_hf.parity import loading, slo
from slogpt_hf.parity.float64 import Float64Everywhere
from slogpt_hf.parity.inputs import Inputs, inputs_for
from slogpt_hf.parity.report import Comparison, ParityReport

FP64_BOUND = 1e-10
FP32_NOISE_FACTOR = 4
FLOOR_ULPS = 2  # noise below this many float32 ulps of the largest logit is luck
PASSES_PER_BATCH = 4
Weights = Mapping[str, Tensor]


def n_passes(spec: Spec, text_ids: Sequence[int] = ()) -> int:
    """Forward passes of ``verify_artefact``: two models in two precisions on every batch."""
    return PASSES_PER_BATCH * len(inputs_for(spec, text_ids))


@torch.no_grad()
def verify_artefact(
    checkpoint: Checkpoint,
    folder: Path,
    *,
    text_ids: Sequence[int] = (),
    trust_remote_code: bool = False,
    advance: Callable[[int], None] = lambda passes: None,
) -> ParityReport:
    """Compare the artefact in ``folder`` with the checkpoint that it was made from.

    Args:
        checkpoint: the original.
        folder: the artefact, as ``from_pretrained`` loads it.
        text_ids: token ids of real text to run as well.
        trust_remote_code: run a modeling file that is not the one of this package.
        advance: told the forward passes done since its last call; ``n_passes`` is their number.

    Returns:
        The report; ``passed`` is the verdict. A failed one names the first diverging layer.

    Raises:
        CheckpointError: the artefact does not load, or its tensors are not the model's.
    """
    started = time.perf_counter()
    dtype = loading.stored_dtype(folder)
    original = {k: v.to(getattr(torch, dtype)) for k, v in checkpoint.tensors.items()}
    with Float64Everywhere():
        exact = loading.load_artefact(folder, torch.float64, trust_remote_code)
    single = loading.load_artefact(folder, torch.float32, trust_remote_code)
    batches = inputs_for(checkpoint.spec, text_ids)
    forward_seconds = 0.0

    def timed(forward: Callable[[], Tensor]) -> Tensor:
        nonlocal forward_seconds
        start = time.perf_counter()
        output = forward()
        forward_seconds += time.perf_counter() - start
        advance(1)
        return output

    def run(ids: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        spec = checkpoint.spec
        source_64 = timed(lambda: slo.logits(spec, original, ids, torch.float64))
        source_32 = timed(lambda: slo.logits(spec, original, ids, torch.float32))
        with Float64Everywhere():
            artefact_64 = timed(lambda: loading.logits(exact, ids))
        return source_64, source_32, artefact_64, timed(lambda: loading.logits(single, ids))

    comparisons = tuple(compare(batch, *run(batch.ids)) for batch in batches)
    embedding_equal = torch.equal(
        _embedding(single), original["transformer.wte.weight"].to(torch.float32)
    )
    bound = fp32_bound(comparisons)
    failures = judge(comparisons, bound, embedding_equal)
    divergence = None
    if not embedding_equal:
        divergence = "embedding and positions"
    elif not all(c.fp64_error <= FP64_BOUND for c in comparisons):
        divergence = first_divergence(checkpoint, original, exact, batches)
    elif failures:
        divergence = "nowhere in float64; only float32 rounding differs"
    return ParityReport(
        passed=not failures,
        oracle="built-in plain-torch Slo model",
        dtype=dtype,
        comparisons=comparisons,
        fp64_bound=FP64_BOUND,
        fp32_bound=bound,
        embedding_rows=checkpoint.spec.vocab_size,
        embedding_equal=embedding_equal,
        covered_ids=len({i for batch in batches for i in batch.ids.flatten().tolist()}),
        first_divergence=divergence,
        failures=failures,
        seconds=time.perf_counter() - started,
        forward_seconds=forward_seconds,
    )


def compare(
    batch: Inputs, source_64: Tensor, source_32: Tensor, artefact_64: Tensor, artefact_32: Tensor
) -> Comparison:
    """Errors and noise of one batch from its four logits (B, T, V)."""
    max_logit = source_64.abs().max().item()
    return Comparison(
        name=batch.name,
        batch=batch.ids.shape[0],
        length=batch.ids.shape[1],
        max_logit=max_logit,
        fp64_error=_distance(artefact_64, source_64) / max(max_logit, torch.finfo().tiny),
        fp32_error=_distance(artefact_32, source_32),
        fp32_noise=_distance(source_32, source_64),
        top1=(artefact_32.argmax(-1) == source_32.argmax(-1)).double().mean().item(),
    )


def fp32_bound(comparisons: Sequence[Comparison]) -> float:
    """4 x the original's rounding noise over all batches, with a floor of a few ulps."""
    noise = max(c.fp32_noise for c in comparisons)
    ulp = torch.finfo(torch.float32).eps * max(c.max_logit for c in comparisons)
    return FP32_NOISE_FACTOR * max(noise, FLOOR_ULPS * ulp)


def judge(
    comparisons: Sequence[Comparison], bound: float, embedding_equal: bool
) -> tuple[str, ...]:
    """Why the artefact is not equal to the original, one sentence a reason; empty if it is."""
    failures = []
    for c in comparisons:
        # Written so that a NaN fails.
        if not c.fp64_error <= FP64_BOUND:
            failures.append(
                f"{c.name}: float64 relative error {c.fp64_error:.2e} > {FP64_BOUND:.0e}."
            )
        if not c.fp32_error <= bound:
            failures.append(f"{c.name}: float32 error {c.fp32_error:.2e} > {bound:.2e}.")
    if not embedding_equal:
        failures.append("The embedding's rows differ from the original's.")
    return tuple(failures)


def first_divergence(
    checkpoint: Checkpoint, original: Weights, exact: nn.Module, batches: Sequence[Inputs]
) -> str:
    """Where the artefact's residual stream first leaves the original's, in float64."""
    spec = checkpoint.spec
    for batch in batches:
        with Float64Everywhere():
            streams = loading.residual_stream(exact, spec.n_layer, batch.ids)
        sources = slo.hidden_states(spec, original, batch.ids, torch.float64)
        # The oracle's last state is behind the final norm; the streams end before it.
        for i, (ours, theirs) in enumerate(zip(streams, sources, strict=False)):
            if not _distance(ours, theirs) <= FP64_BOUND * theirs.abs().max().item():
                return "embedding and positions" if i == 0 else f"layer {i - 1}"
    return "final norm or head"


def _distance(a: Tensor, b: Tensor) -> float:
    """max |a - b| in float64; infinite if shapes differ or a value is NaN.

    It goes row by row so that memory stays small.
    """
    if a.shape != b.shape:
        return math.inf
    rows = zip(*(torch.split(tensor.flatten(0, 1), 64) for tensor in (a, b)), strict=True)
    worst = torch.stack([(x.double() - y.double()).abs().max() for x, y in rows]).max().item()
    return math.inf if math.isnan(worst) else worst


def _embedding(model: nn.Module) -> Tensor:
    weight: Tensor = model.get_input_embeddings().weight  # type: ignore[operator]
    return weight
