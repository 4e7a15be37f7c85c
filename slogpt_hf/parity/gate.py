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
from torch.nn import functional

from slogpt_hf.checkpoints import Checkpoint, Spec
from slogpt_hf.parity import decoder, loading
from slogpt_hf.parity.comparing import (
    Apply,
    Halves,
    Run,
    compare,
    distance,
    equal_rows,
    relative_error,
)
from slogpt_hf.parity.decoder import Decoder
from slogpt_hf.parity.families import FAMILIES
from slogpt_hf.parity.float64 import Float64Everywhere
from slogpt_hf.parity.inputs import Inputs, inputs_for
from slogpt_hf.parity.merging import Merged
from slogpt_hf.parity.report import (
    EMBEDDING_DIFFERS,
    HEAD_DIFFERS,
    MERGE_DIFFERS,
    Comparison,
    ParityReport,
)

FP64_BOUND = 1e-10
FP32_NOISE_FACTOR = 4
FLOOR_ULPS = 2  # noise below this many float32 ulps of the largest logit is luck
PASSES_PER_BATCH = 4
MERGE_PASSES_PER_BATCH = 2
PROBE_TOKENS = 8
FLOAT32_ONLY = "the rounding of float32, float64 agrees everywhere"
UNPLACED = "a place that the artefact's class does not show"
SIZES = {
    "vocab_size": "vocabulary size",
    "block_size": "context length",
    "n_layer": "number of layers",
    "n_embd": "width",
}


def n_passes(spec: Spec, text_ids: Sequence[int] = (), *, adapted: bool = False) -> int:
    """Forward passes of ``verify_artefact``: two models in two precisions on every batch.

    ``adapted``, a checkpoint with adapters, adds the original with and without them merged.
    """
    a_batch = PASSES_PER_BATCH + (MERGE_PASSES_PER_BATCH if adapted else 0)
    return a_batch * len(inputs_for(spec, text_ids))


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
        return not_run(
            oracle_name(checkpoint, dtype), dtype, failures, time.perf_counter() - started
        )
    with Float64Everywhere():
        exact = loading.load_artefact(folder, torch.float64, trust_remote_code)
    original = rounded(checkpoint, getattr(torch, dtype))
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

    embedding, head = (original.tensors[n] for n in (original.embedding_name, original.head_name))
    split = loading.splits(single, batches[0].ids[:2, :PROBE_TOKENS])
    models = [
        halves.wrapped(timed)
        for halves in (
            oracle(original, timed(torch.Tensor.double)(head)),
            oracle(original, timed(torch.Tensor.float)(head)),
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
    merge_error = None
    if checkpoint.adapters:
        merged, unmerged = (model.wrapped(timed) for model in with_adapters(checkpoint))
        merge_error = max(
            relative_error(spec.vocab_size, run(merged, batch.ids), run(unmerged, batch.ids))
            for batch in batches
        )
    embedding_equal = equal_rows(loading.embedding(exact), embedding)
    head_equal = equal_rows(loading.head_weight(exact), head)
    bound = fp32_bound(comparisons)
    failures = judge(comparisons, bound, embedding_equal, head_equal, merge_error)
    unequal = [
        batch
        for batch, c in zip(batches, comparisons, strict=True)
        if not c.fp64_error <= FP64_BOUND
    ]
    divergence = None
    if not embedding_equal:
        divergence = "embedding and positions"
    elif unequal:
        divergence = first_divergence(original, exact, unequal)
    elif not head_equal:
        divergence = "final norm or head"
    elif not merges(merge_error):
        divergence = "its merged adapters"
    elif failures:
        divergence = FLOAT32_ONLY
    return ParityReport(
        passed=not failures,
        oracle=oracle_name(checkpoint, dtype),
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
        merge_error=merge_error,
    )


def oracle_name(checkpoint: Checkpoint, dtype: str) -> str:
    """What stands for the original of an artefact in ``dtype``, for the report."""
    model = f"built-in plain-torch {FAMILIES[checkpoint.dialect].title} model"
    if not checkpoint.adapters:
        return model
    return (
        f"{model}; its adapters merged and rounded to {dtype}, merged and unmerged compared apart"
    )


def rounded(checkpoint: Checkpoint, dtype: torch.dtype) -> Decoder:
    """The original with its weights, adapters merged, in the artefact's dtype.

    Every tensor is fetched once; one that is mapped and of that dtype is not copied.
    """
    tensors: Mapping[str, Tensor] = checkpoint.tensors
    if checkpoint.adapters:
        tensors = Merged(tensors, checkpoint.adapters)
    return Decoder(
        FAMILIES[checkpoint.dialect],
        checkpoint.spec,
        {name: tensors[name].to(dtype) for name in tensors},
    )


def with_adapters(checkpoint: Checkpoint) -> tuple[Halves, Halves]:
    """The original in float64 with its adapters merged, nothing rounded, and as it is."""
    family, spec = FAMILIES[checkpoint.dialect], checkpoint.spec
    tensors, adapters = checkpoint.tensors, checkpoint.adapters
    merged = Decoder(family, spec, Merged(tensors, adapters))
    return float64(merged), float64(Decoder(family, spec, tensors, adapters))


def float64(model: Decoder) -> Halves:
    """A model in float64 whose tensors are cast where they are used."""
    return Halves(
        lambda ids: decoder.final_state(model, ids, torch.float64),
        lambda rows: decoder.head(model, rows),
    )


def oracle(original: Decoder, head: Tensor) -> Halves:
    """The original in the dtype of ``head``, its head (V, n) cast once and not for every chunk."""
    return Halves(
        lambda ids: decoder.final_state(original, ids, head.dtype),
        lambda rows: functional.linear(rows, head),
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


def not_run(oracle: str, dtype: str, failures: tuple[str, ...], seconds: float) -> ParityReport:
    """The report on an artefact whose sizes are not the original's."""
    return ParityReport(
        passed=False,
        oracle=oracle,
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


def merges(merge_error: float | None) -> bool:
    """Whether merged adapters compute what the original computes; NaN is not."""
    return merge_error is None or merge_error <= FP64_BOUND


def judge(
    comparisons: Sequence[Comparison],
    bound: float,
    embedding_equal: bool,
    head_equal: bool,
    merge_error: float | None = None,
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
    if not merges(merge_error):
        failures.append(
            f"{MERGE_DIFFERS}: float64 relative error {merge_error:.2e} > {FP64_BOUND:.0e}."
        )
    return tuple(failures)


def first_divergence(original: Decoder, exact: nn.Module, batches: Sequence[Inputs]) -> str:
    """Where the artefact's residual stream first leaves the original's, in float64."""
    for batch in batches:
        with Float64Everywhere():
            streams = loading.residual_stream(exact, original.spec.n_layer, batch.ids)
        if not streams:
            return UNPLACED
        sources = decoder.hidden_states(original, batch.ids, torch.float64)
        # The oracle's last state is behind the final norm; the streams end before it.
        for i, (ours, theirs) in enumerate(zip(streams, sources, strict=False)):
            if not distance(ours, theirs) <= FP64_BOUND * theirs.abs().max().item():
                return "embedding and positions" if i == 0 else f"layer {i - 1}"
    return "final norm or head"
