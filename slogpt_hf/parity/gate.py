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
from slogpt_hf.parity.comparing import Apply, Halves, Run, compare, distance, equal_rows
from slogpt_hf.parity.float64 import Float64Everywhere
from slogpt_hf.parity.inputs import Inputs, inputs_for
from slogpt_hf.parity.report import EMBEDDING_DIFFERS, HEAD_DIFFERS, Comparison, ParityReport

FP64_BOUND = 1e-10
FP32_NOISE_FACTOR = 4
FLOOR_ULPS = 2  # noise below this many float32 ulps of the largest logit is luck
PASSES_PER_BATCH = 4
PROBE_TOKENS = 8
ORACLE = "built-in plain-torch Slo model"
FLOAT32_ONLY = "the rounding of float32, float64 agrees everywhere"
UNPLACED = "a place that the artefact's class does not show"
SIZES = {
    "vocab_size": "vocabulary size",
    "block_size": "context length",
    "n_layer": "number of layers",
    "n_embd": "width",
}
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
    dtype = loading.stored_dtype(folder)
    loading.import_class(folder)
    started = time.perf_counter()
    spec = checkpoint.spec
    single = loading.load_artefact(folder, torch.float32, trust_remote_code)
    if failures := unlike(spec, single):
        return not_run(dtype, failures, time.perf_counter() - started)
    with Float64Everywhere():
        exact = loading.load_artefact(folder, torch.float64, trust_remote_code)
    original = {k: v.to(getattr(torch, dtype)) for k, v in checkpoint.tensors.items()}
    batches = inputs_for(spec, text_ids)
    forward_seconds = 0.0

    def timed(function: Apply) -> Apply:
        def run(x: Tensor) -> Tensor:
            nonlocal forward_seconds
            start = time.perf_counter()
            output = function(x)
            forward_seconds += time.perf_counter() - start
            return output

        return run

    split = loading.splits(single, batches[0].ids[:2, :PROBE_TOKENS])
    models = [
        halves.wrapped(timed)
        for halves in (
            oracle(spec, original, timed(torch.Tensor.double)(original[slo.HEAD])),
            oracle(spec, original, timed(torch.Tensor.float)(original[slo.HEAD])),
            loading.halves(exact, split).wrapped(lifted),
            loading.halves(single, split),
        )
    ]

    def run(model: Halves, ids: Tensor) -> Run:
        result = Run.of(model, ids)
        advance(1)
        return result

    comparisons = tuple(
        compare(batch, spec.vocab_size, *(run(model, batch.ids) for model in models))
        for batch in batches
    )
    embedding_equal = equal_rows(loading.embedding(exact), original[slo.EMBEDDING])
    head_equal = equal_rows(loading.head_weight(exact), original[slo.HEAD])
    bound = fp32_bound(comparisons)
    failures = judge(comparisons, bound, embedding_equal, head_equal)
    unequal = [
        batch
        for batch, c in zip(batches, comparisons, strict=True)
        if not c.fp64_error <= FP64_BOUND
    ]
    divergence = None
    if not embedding_equal:
        divergence = "embedding and positions"
    elif unequal:
        divergence = first_divergence(checkpoint, original, exact, unequal)
    elif not head_equal:
        divergence = "final norm or head"
    elif failures:
        divergence = FLOAT32_ONLY
    return ParityReport(
        passed=not failures,
        oracle=ORACLE,
        dtype=dtype,
        comparisons=comparisons,
        fp64_bound=FP64_BOUND,
        fp32_bound=bound,
        embedding_rows=spec.vocab_size,
        embedding_equal=embedding_equal,
        covered_ids=len({i for batch in batches for i in batch.ids.flatten().tolist()}),
        first_divergence=divergence,
        failures=failures,
        seconds=time.perf_counter() - started,
        forward_seconds=forward_seconds,
    )


def oracle(spec: Spec, original: Weights, head: Tensor) -> Halves:
    """The original in the dtype of ``head``, its head (V, n) cast once and not for every chunk."""
    return Halves(
        lambda ids: slo.final_state(spec, original, ids, head.dtype),
        lambda rows: slo.head({slo.HEAD: head}, rows),
    )


def lifted(function: Apply) -> Apply:
    """``function`` under ``Float64Everywhere``."""

    def run(x: Tensor) -> Tensor:
        with Float64Everywhere():
            return function(x)

    return run


def unlike(spec: Spec, model: nn.Module) -> tuple[str, ...]:
    """How the artefact's sizes differ from the original's, one sentence each; empty if not.

    Logits cannot tell all of it: with rotary positions another context length changes none.
    """
    sizes = loading.sizes(model)
    return tuple(
        f"The artefact's {what} is {sizes[name]}, the original's is {getattr(spec, name)}."
        for name, what in SIZES.items()
        if sizes[name] not in (None, getattr(spec, name))
    )


def not_run(dtype: str, failures: tuple[str, ...], seconds: float) -> ParityReport:
    """The report on an artefact whose sizes are not the original's."""
    return ParityReport(
        passed=False,
        oracle=ORACLE,
        dtype=dtype,
        comparisons=(),
        fp64_bound=FP64_BOUND,
        fp32_bound=math.nan,
        embedding_rows=0,
        embedding_equal=False,
        covered_ids=0,
        first_divergence="its sizes",
        failures=failures,
        seconds=seconds,
        forward_seconds=0.0,
    )


def fp32_bound(comparisons: Sequence[Comparison]) -> float:
    """4 x the original's rounding noise over all batches, with a floor of a few ulps."""
    noise = max(c.fp32_noise for c in comparisons)
    ulp = torch.finfo(torch.float32).eps * max(c.max_logit for c in comparisons)
    return FP32_NOISE_FACTOR * max(noise, FLOOR_ULPS * ulp)


def judge(
    comparisons: Sequence[Comparison], bound: float, embedding_equal: bool, head_equal: bool
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
        failures.append(EMBEDDING_DIFFERS)
    if not head_equal:
        failures.append(HEAD_DIFFERS)
    return tuple(failures)


def first_divergence(
    checkpoint: Checkpoint, original: Weights, exact: nn.Module, batches: Sequence[Inputs]
) -> str:
    """Where the artefact's residual stream first leaves the original's, in float64."""
    spec = checkpoint.spec
    for batch in batches:
        with Float64Everywhere():
            streams = loading.residual_stream(exact, spec.n_layer, batch.ids)
        if not streams:
            return UNPLACED
        sources = slo.hidden_states(spec, original, batch.ids, torch.float64)
        # The oracle's last state is behind the final norm; the streams end before it.
        for i, (ours, theirs) in enumerate(zip(streams, sources, strict=False)):
            if not distance(ours, theirs) <= FP64_BOUND * theirs.abs().max().item():
                return "embedding and positions" if i == 0 else f"layer {i - 1}"
    return "final norm or head"
