"""The parity gate: the artefact, reloaded from disk, against the original.

Bounds (docs/parity.md derives them): float64 relative error at most 1e-10 with the internal
float32 casts lifted on both sides; float32 error at most 4 times the original's own rounding
noise, max |original_fp32 - original_fp64| over the same inputs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from slogpt_hf.checkpoints import Checkpoint, Spec
from slogpt_hf.parity import decoder, loading
from slogpt_hf.parity.behaviour import Subject, behaviours, long_sequence, sequence_for
from slogpt_hf.parity.comparing import Compared, Run, absolute_error, equal_rows, relative_error
from slogpt_hf.parity.controls import ROWS, Shaking, shake
from slogpt_hf.parity.decoder import Decoder
from slogpt_hf.parity.families import FAMILIES, family_title
from slogpt_hf.parity.faults import TOKENS, Patient
from slogpt_hf.parity.inputs import Inputs, inputs_for
from slogpt_hf.parity.judging import (
    FP32_NOISE_FACTOR,
    FP64_BOUND,
    fp32_bound,
    judge,
    judge_further,
    merges,
    noise_bound,
    only_single_differs,
)
from slogpt_hf.parity.lockstep import (
    ENTRY,
    EXIT,
    Models,
    first_part,
    in_lockstep,
    splits,
    steps,
    worst_layers,
)
from slogpt_hf.parity.merging import Merged
from slogpt_hf.parity.noise import redrawn_noise
from slogpt_hf.parity.oracles import Testimony, recorded_beside, witnesses
from slogpt_hf.parity.reference import ask_reference
from slogpt_hf.parity.report import (
    TENSORS_DIFFER,
    Comparison,
    Layer,
    ParityReport,
    Position,
    Published,
)
from slogpt_hf.parity.rounding import rounded
from slogpt_hf.parity.shaken import (
    TABLE_ROWS,
    Noise,
    Route,
    Shaken,
    route_to,
    shaken_fetch,
    unequal_tensors,
)
from slogpt_hf.parity.streamed import StoredTensors, Streamed, stream_artefact

PASSES_PER_BATCH = 4
MERGE_PASSES_PER_BATCH = 2
PROBE_TOKENS = 8
STRETCHES = 64
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
    reference: str | None = None,
    trust_remote_code: bool = False,
    advance: Callable[[int], None] = lambda passes: None,
) -> ParityReport:
    """Compare the artefact in ``folder`` with the checkpoint that it was made from.

    Args:
        checkpoint: the original.
        folder: the artefact, as ``from_pretrained`` loads it.
        text_ids: token ids of real text to run as well.
        reference: ``path/model.py:Class`` of the training repository, to be asked as well.
        trust_remote_code: run a modeling file that is not the one of this package.
        advance: told the forward passes done since its last call; ``n_passes`` is their number.

    Returns:
        The report; ``passed`` is the verdict. A failed one names the first diverging layer, and
        one whose gate is invalid the fault that it would not have caught.

    Raises:
        CheckpointError: the artefact does not load, or its tensors are not the model's.
    """
    dtype = loading.stored_dtype(folder)
    loading.import_class(folder)
    started = time.perf_counter()
    spec, stored = checkpoint.spec, StoredTensors(folder)
    exact, single = (
        stream_artefact(folder, each, stored, trust_remote_code)
        for each in (torch.float64, torch.float32)
    )
    if failures := unlike(spec, single):
        seconds = time.perf_counter() - started
        return not_run(oracle_name(checkpoint, dtype), dtype, failures, seconds)
    original = rounded(checkpoint, getattr(torch, dtype))
    batches = inputs_for(spec, text_ids)
    # Foreign code may treat long sequences in another way.
    probe = batches[0].ids[:2, : None if trust_remote_code else PROBE_TOKENS]
    if not steps(single, probe):
        exact, single = (replace(model, blocks=()) for model in (exact, single))
    whole = splits(single, probe)
    models = Models(original, exact, single, whole, advance)
    compared, layers = zip(*(in_lockstep(models, batch) for batch in batches), strict=True)
    comparisons = tuple(each.comparison for each in compared)
    merge_error = _merge_error(checkpoint, batches, models) if checkpoint.adapters else None
    embedding_equal = equal_rows(
        original.tensors[original.embedding_name], exact.raw(exact.embedding_name)
    )
    head_equal = equal_rows(original.tensors[original.head_name], exact.raw(exact.head_name))
    route = route_to(checkpoint, type(exact.model).__name__, stored) if exact.blocks else None
    shaking = _shaken(
        original, checkpoint, route, folder, stored, batches[0].ids, trust_remote_code
    )
    redrawn = redrawn_noise(original, batches) if only_single_differs(comparisons) else 0.0
    bound = fp32_bound(comparisons, redrawn)
    published = None
    if getattr(torch, dtype).itemsize < 4:
        published = _published(original, folder, stored, batches, dtype, trust_remote_code)
    subject = Subject(
        folder,
        stored,
        exact,
        stream_artefact(folder, torch.float64, stored, trust_remote_code, attention="eager"),
        single,
        original,
        sequence_for(batches[0].ids, spec.block_size),
        tuple(text_ids[: spec.block_size]),
        bound / FP32_NOISE_FACTOR,
        trust_remote_code,
        long_sequence(batches[0].ids, spec.vocab_size) if trust_remote_code else None,
    )
    failures = judge(comparisons, bound, embedding_equal, head_equal, merge_error, shaking)
    unequal = unequal_tensors(stored, route, original.tensors) if route and not failures else []
    if unequal:
        more = f" and {len(unequal) - 6} more" if len(unequal) > 6 else ""
        failures = (f"{TENSORS_DIFFER}: {', '.join(unequal[:6])}{more}.",)
    acts = behaviours(subject, FP64_BOUND) if not failures else ()
    said = _testimonies(checkpoint, reference, subject.ids)
    source = Decoder(original.family, spec, checkpoint.tensors, checkpoint.adapters)
    heard = tuple(witnesses(said, source, original, exact, single))
    failures += judge_further(acts, published, heard)
    divergence = _divergence(
        original, exact, batches, layers, comparisons, embedding_equal, head_equal
    )
    if divergence is None and not merges(merge_error):
        divergence = "its merged adapters"
    if divergence is None and shaking is not None and shaking.place is not None:
        divergence = f"{shaking.place}, on shaken weights"
    if divergence is None and unequal:
        divergence = unequal[0]
    if divergence is None and any("float32 error" in failure for failure in failures):
        divergence = FLOAT32_ONLY
    if divergence is None and failures:
        divergence = failures[0].partition(": ")[0]
    return ParityReport(
        failures=failures,
        oracle=oracle_name(checkpoint, dtype),
        dtype=dtype,
        comparisons=comparisons,
        fp64_bound=FP64_BOUND,
        fp32_bound=bound,
        embedding_rows=spec.vocab_size,
        embedding_equal=embedding_equal,
        covered_ids=len({i for batch in batches for i in batch.ids.flatten().tolist()}),
        first_divergence=divergence,
        seconds=time.perf_counter() - started,
        forward_seconds=models.clock.seconds,
        merge_error=merge_error,
        layers=worst_layers(list(layers)),
        positions=stretches(compared[0]),
        shaken_error=shaking.error if shaking else None,
        controls=shaking.controls if shaking else (),
        behaviours=acts,
        witnesses=heard,
        published=published,
    )


def _published(
    original: Decoder,
    folder: Path,
    stored: StoredTensors,
    batches: Sequence[Inputs],
    dtype: str,
    trust_remote_code: bool,
) -> Published:
    """Both models in the artefact's own dtype, each batch; the original's error says how far."""
    kind = getattr(torch, dtype)
    model = stream_artefact(folder, kind, stored, trust_remote_code)
    head, vocabulary = original.tensors[original.head_name], original.spec.vocab_size
    error = noise = largest = 0.0
    for batch in batches:
        exact, own = (
            Run(decoder.final_state(original, batch.ids, each).flatten(0, 1), head)
            for each in (torch.float64, kind)
        )
        ours = Run(model.final_state(batch.ids).flatten(0, 1), model.raw(model.head_name))
        error = max(error, absolute_error(vocabulary, ours, own)[0])
        off, most = absolute_error(vocabulary, own, exact)
        noise, largest = max(noise, off), max(largest, most)
    return Published(dtype, error, noise, noise_bound(noise, largest, kind))


def _testimonies(checkpoint: Checkpoint, reference: str | None, ids: Tensor) -> Iterator[Testimony]:
    if reference is not None:
        yield ask_reference(checkpoint, reference, ids)
    if (recorded := recorded_beside(checkpoint)) is not None:
        yield recorded


def stretches(compared: Compared) -> tuple[Position, ...]:
    """The positions of a comparison in at most STRETCHES pieces, the worst of each."""
    length = len(compared.fp32_error)
    step = math.ceil(length / STRETCHES)
    return tuple(
        Position(
            start,
            min(start + step, length) - 1,
            compared.fp32_error[start : start + step].max().item(),
            compared.fp32_noise[start : start + step].max().item(),
        )
        for start in range(0, length, step)
    )


def _merge_error(checkpoint: Checkpoint, batches: Sequence[Inputs], models: Models) -> float:
    """How far merged adapters are from adapters beside their weights, in float64."""
    family, spec = FAMILIES[checkpoint.dialect], checkpoint.spec
    tensors, adapters = checkpoint.tensors, checkpoint.adapters
    pair = (
        Decoder(family, spec, Merged(tensors, adapters)),
        Decoder(family, spec, tensors, adapters),
    )

    def run(model: Decoder, ids: Tensor) -> Run:
        states = decoder.final_state(model, ids, torch.float64).flatten(0, 1)
        models.advance(1)
        if model.head_name in model.adapters:
            return Run(decoder.head(model, states), None)
        return Run(states, model.tensors[model.head_name])

    return max(
        relative_error(spec.vocab_size, *(run(model, batch.ids) for model in pair))
        for batch in batches
    )


def _shaken(
    original: Decoder,
    checkpoint: Checkpoint,
    route: Route | None,
    folder: Path,
    stored: StoredTensors,
    ids: Tensor,
    trust_remote_code: bool,
) -> Shaking | None:
    """The comparison on shaken weights with its controls; None where the way there is not known."""
    if route is None:
        return None
    tables = route.tables((original.embedding_name, original.head_name))
    noise = Noise(original.tensors, route.same, tables)
    fetch = shaken_fetch(stored, route, noise)
    planted: dict[str, Tensor] = {}

    def fetch_planted(name: str) -> Tensor:
        return planted[name] if name in planted else fetch(name)

    # Some faults are planted in this implementation, whatever the config prefers.
    model = stream_artefact(
        folder, torch.float64, stored, trust_remote_code, fetch_planted, attention="sdpa"
    )
    patient = Patient(checkpoint.spec, route, model, fetch, stored, planted)
    shaken = Decoder(original.family, original.spec, Shaken(noise))
    length = min(TOKENS, checkpoint.spec.block_size, ids.numel())
    rows = max(1, min(ROWS, ids.numel() // length))
    some = ids.flatten()[: rows * length].view(rows, length) % TABLE_ROWS
    return shake(shaken, patient, some, FP64_BOUND)


def _divergence(
    original: Decoder,
    exact: Streamed,
    batches: Sequence[Inputs],
    layers: Sequence[Sequence[Layer]],
    comparisons: Sequence[Comparison],
    embedding_equal: bool,
    head_equal: bool,
) -> str | None:
    """Where the artefact first leaves the original in float64: a layer, and the part of it."""
    if not embedding_equal:
        return ENTRY
    for batch, places in zip(batches, layers, strict=True):
        for index, layer in enumerate(places):
            if layer.fp64_error <= FP64_BOUND:
                continue
            if layer.name in (ENTRY, EXIT):
                return ENTRY if layer.name == ENTRY else "final norm or head"
            part = first_part(original, exact, batch.ids, index - 1, FP64_BOUND)
            return f"{layer.name}, {part}" if part else layer.name
    if not head_equal or not all(c.fp64_error <= FP64_BOUND for c in comparisons):
        return "final norm or head" if any(layers) else UNPLACED
    return None


def oracle_name(checkpoint: Checkpoint, dtype: str) -> str:
    """What stands for the original of an artefact in ``dtype``, for the report."""
    model = f"built-in plain-torch {family_title(checkpoint)} model"
    if not checkpoint.adapters:
        return model
    return (
        f"{model}; its adapters merged and rounded to {dtype}, merged and unmerged compared apart"
    )


def unlike(spec: Spec, model: Streamed) -> tuple[str, ...]:
    """How the artefact's sizes differ from the original's, one sentence each; empty if not.

    Logits cannot tell all of it: with rotary positions another context length changes none.
    """
    sizes = model.sizes
    return tuple(
        f"The artefact's {what} is {sizes[name]}, the original's is {getattr(spec, name)}."
        for name, what in SIZES.items()
        if sizes[name] not in (None, getattr(spec, name))
    )


def not_run(oracle: str, dtype: str, failures: tuple[str, ...], seconds: float) -> ParityReport:
    """The report on an artefact whose sizes are not the original's."""
    return ParityReport(
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
