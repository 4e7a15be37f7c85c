"""What the gate looks at, one row each: the table ``CHECKS``. Adding a check is adding a row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from slogpt_hf.conversion import configs
from slogpt_hf.parity import loading
from slogpt_hf.parity.appended import appended_failures
from slogpt_hf.parity.behaviour import behaviours
from slogpt_hf.parity.comparing import Compared, Run, absolute_error, run_of
from slogpt_hf.parity.explaining import explained
from slogpt_hf.parity.finding import Check, Finding
from slogpt_hf.parity.judging import (
    FP64_BOUND,
    judge,
    judge_behaviours,
    judge_merging,
    judge_published,
    judge_shaking,
    judge_witnesses,
    noise_bound,
)
from slogpt_hf.parity.lockstep import ENTRY, EXIT, first_part, worst_layers
from slogpt_hf.parity.oracles import notes_of, witnesses
from slogpt_hf.parity.report import TENSORS_DIFFER, Layer, Position, Published
from slogpt_hf.parity.untouched import TOUCHED
from slogpt_hf.parity.validation_loss import loss_of

if TYPE_CHECKING:
    from slogpt_hf.parity.gate import Examination

STRETCHES = 64
FLOAT32_ONLY = "the rounding of float32, float64 agrees everywhere"
UNPLACED = "a place that the artefact's class does not show"
SIZES = {
    "vocab_size": "vocabulary size",
    "block_size": "context length",
    "n_layer": "number of layers",
    "n_embd": "width",
}
NOTHING_RUN = {
    "comparisons": (),
    "fp32_bound": math.nan,
    "embedding_rows": 0,
    "embedding_equal": False,
    "covered_ids": 0,
    "forward_seconds": 0.0,
}


def sizes(subject: Examination) -> Finding:
    """Logits cannot tell all of it: with rotary positions another context length changes none."""
    spec, own = subject.checkpoint.spec, subject.single.sizes
    behind = subject.appended
    own["vocab_size"] = (own["vocab_size"] or 0) - behind
    failures = tuple(
        f"The artefact's {what} is {own[name]}, the original's is {getattr(spec, name)}."
        for name, what in SIZES.items()
        if own[name] not in (None, getattr(spec, name))
    )
    if behind:
        failures += appended_failures(subject.single, spec.vocab_size)
    if not failures:
        return Finding((), {"appended_rows": behind})
    return Finding(failures, NOTHING_RUN, "its sizes", ends=True)


def earlier_words(subject: Examination) -> Finding:
    """What transformers 4 reads in config.json is what newer versions read, and were proven by."""
    config = loading.config_of(subject.folder)
    # Where the newer words leave it out, the whole head is rotated; transformers 4 asks the top.
    usual = {"partial_rotary_factor": 1.0} if config.get("rope_parameters") else {}
    failures = tuple(
        f"config.json: {name} is {config[name]!r}, but newer versions of transformers read "
        f"{value!r} elsewhere: transformers 4 would load another model."
        for name, value in (usual | configs.earlier_words(config)).items()
        if config.get(name, value) != value
    )
    return Finding(failures)


def logits(subject: Examination) -> Finding:
    """Every layer, every logit and every row of embedding and head, in two precisions."""
    compared, layers = zip(*subject.lockstep, strict=True)
    comparisons = tuple(each.comparison for each in compared)
    embedding_equal, head_equal = subject.rows_equal
    bound = subject.fp32_bound
    evidence = {
        "comparisons": comparisons,
        "fp32_bound": bound,
        "embedding_rows": subject.checkpoint.spec.vocab_size,
        "embedding_equal": embedding_equal,
        "covered_ids": len({i for b in subject.batches for i in b.ids.flatten().tolist()}),
        "forward_seconds": subject.models.clock.seconds,
        "layers": worst_layers(list(layers)),
        "positions": stretches(compared[0]),
    }
    failures = judge(comparisons, bound, embedding_equal, head_equal)
    return Finding(failures, evidence, _divergence(subject, layers))


def adapters(subject: Examination) -> Finding:
    """Merged adapters compute what the adapters beside the weights compute."""
    error = subject.merge_error
    failures = judge_merging(error)
    return Finding(failures, {"merge_error": error}, "its merged adapters" if failures else None)


def shaken_weights(subject: Examination) -> Finding:
    """The comparison on weights of which none is special, and the planted faults."""
    if (shaking := subject.shaking) is None:
        return Finding()
    evidence = {"shaken_error": shaking.error, "controls": shaking.controls}
    place = f"{shaking.place}, on shaken weights" if shaking.place is not None else None
    return Finding(judge_shaking(shaking), evidence, place)


def tensors(subject: Examination) -> Finding:
    """Every stored tensor is, value for value, what the conversion's plan makes."""
    subject.tensors_were_equal = not (unequal := subject.unequal_tensors())
    if not unequal:
        return Finding()
    more = f" and {len(unequal) - 6} more" if len(unequal) > 6 else ""
    return Finding((f"{TENSORS_DIFFER}: {', '.join(unequal[:6])}{more}.",), {}, unequal[0])


def behaviour(subject: Examination) -> Finding:
    """Caches, padding, generation and so on."""
    acts = behaviours(subject.behaving, FP64_BOUND)
    return Finding(judge_behaviours(acts), {"behaviours": acts})


def published_dtype(subject: Examination) -> Finding:
    """Both models in the artefact's own dtype; the original's error says how far they may be."""
    kind = getattr(torch, subject.dtype)
    if kind.itemsize >= 4:
        return Finding()  # these are compared anyway
    original, model = subject.original, subject.artefact_in(kind)
    vocabulary = original.spec.vocab_size
    error = noise = largest = 0.0
    for batch in subject.batches:
        exact, own = (run_of(original, batch.ids, each) for each in (torch.float64, kind))
        ours = Run(model.final_state(batch.ids).flatten(0, 1), model.raw(model.head_name))
        error = max(error, absolute_error(vocabulary, ours, own)[0])
        off, most = absolute_error(vocabulary, own, exact)
        noise, largest = max(noise, off), max(largest, most)
    found = Published(subject.dtype, error, noise, noise_bound(noise, largest, kind))
    return Finding(judge_published(found), {"published": found})


def other_witnesses(subject: Examination) -> Finding:
    """What the trainer's own class, or its recorded logits, say that the original computes."""
    said = tuple(subject.testimonies())
    if subject.touched:
        names = ", ".join(subject.touched[:6])
        why = f"{TOUCHED}: {names}; what it says is not heard."
        return Finding((why,), {"witnesses": ()}, TOUCHED)
    checkpoint = subject.checkpoint
    answers = witnesses(
        iter(said), subject.source, subject.models, checkpoint.assumptions, checkpoint.unknown
    )
    open_names = {each.name for each in checkpoint.assumptions}
    heard = tuple(
        explained(witness, each, subject.source, open_names)
        for witness, each in zip(answers, said, strict=True)
    )
    notes = notes_of(heard, checkpoint.spec)
    return Finding(judge_witnesses(heard), {"witnesses": heard}, notes=notes)


def validation_loss(subject: Examination) -> Finding:
    """The loss that the trainer recorded is that of the artefact on the same data."""
    found = loss_of(subject.checkpoint, subject.validation, subject.models, subject.dtype)
    notes = (found.note,) if found.note else ()
    return Finding(found.failures, {"loss": found.loss}, notes=notes)


CHECKS: tuple[Check[Examination], ...] = (
    Check("sizes", sizes),
    Check("logits, layers and rows", logits),
    Check("merged adapters", adapters),
    Check("shaken weights and planted faults", shaken_weights),
    Check("words of transformers 4", earlier_words),
    Check("stored tensors", tensors, after_failures=False),
    Check("behaviour", behaviour, after_failures=False),
    Check("published dtype", published_dtype),
    Check("other witnesses", other_witnesses),
    Check("recorded validation loss", validation_loss, after_failures=False),
)


def place_of(failures: Sequence[str]) -> str | None:
    """Where the artefact leaves the original as far as the failures alone tell it."""
    if any("float32 error" in failure for failure in failures):
        return FLOAT32_ONLY
    return failures[0].partition(": ")[0] if failures else None


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


def _divergence(subject: Examination, layers: Sequence[Sequence[Layer]]) -> str | None:
    """Where the artefact first leaves the original in float64: a layer, and the part of it."""
    embedding_equal, head_equal = subject.rows_equal
    if not embedding_equal:
        return ENTRY
    for batch, places in zip(subject.batches, layers, strict=True):
        for index, layer in enumerate(places):
            if layer.fp64_error <= FP64_BOUND:
                continue
            if layer.name in (ENTRY, EXIT):
                return ENTRY if layer.name == ENTRY else "final norm or head"
            part = first_part(subject.original, subject.exact, batch.ids, index - 1, FP64_BOUND)
            return f"{layer.name}, {part}" if part else layer.name
    equal = all(found.comparison.fp64_error <= FP64_BOUND for found, _ in subject.lockstep)
    if head_equal and equal:
        return None
    return "final norm or head" if any(layers) else UNPLACED
