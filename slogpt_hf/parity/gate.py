"""The parity gate: the artefact, reloaded from disk, against the original.

What it looks at is the table ``CHECKS``; here is the subject of those checks, and the report.
Bounds (docs/parity.md derives them): float64 relative error at most 1e-10 with the internal
float32 casts lifted on both sides; float32 error at most 4 times the original's own rounding
noise, max |original_fp32 - original_fp64| over the same inputs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from slogpt_hf.checkpoints import Checkpoint, Spec
from slogpt_hf.parity import loading
from slogpt_hf.parity.appended import appended_rows
from slogpt_hf.parity.behaviour import Subject, long_sequence, sequence_for
from slogpt_hf.parity.checks import CHECKS, place_of
from slogpt_hf.parity.comparing import Compared, equal_rows, relative_error, run_of
from slogpt_hf.parity.controls import ROWS, Shaking, shake
from slogpt_hf.parity.decoder import Decoder
from slogpt_hf.parity.families import FAMILIES, family_title
from slogpt_hf.parity.faults import TOKENS, Patient
from slogpt_hf.parity.finding import judged
from slogpt_hf.parity.inputs import Inputs, inputs_for
from slogpt_hf.parity.judging import (
    FP32_NOISE_FACTOR,
    FP64_BOUND,
    fp32_bound,
    only_single_differs,
)
from slogpt_hf.parity.levels import family_of, resting
from slogpt_hf.parity.lockstep import Models, in_lockstep, splits, steps
from slogpt_hf.parity.merging import Merged
from slogpt_hf.parity.noise import redrawn_noise
from slogpt_hf.parity.oracles import WITNESS_TOKENS, Testimony, recorded_beside
from slogpt_hf.parity.reference import Hearing, hear_reference
from slogpt_hf.parity.reference_name import asks
from slogpt_hf.parity.report import Layer, ParityReport
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
from slogpt_hf.parity.strange import require_usable_weights
from slogpt_hf.parity.streamed import StoredTensors, Streamed, stream_artefact
from slogpt_hf.parity.unchanged import changed_meanwhile, require_unchanged, stamps_of
from slogpt_hf.parity.untouched import digests, touched
from slogpt_hf.parity.validation_data import ValidationData
from slogpt_hf.progress import quiet_transformers

PASSES_PER_BATCH = 4
MERGE_PASSES_PER_BATCH = 2
PROBE_TOKENS = 8
WITNESS_ROWS = 2
WITNESS_LOGITS = 1 << 24  # of all rows but the first: 128 MiB in float64


def n_passes(spec: Spec, text_ids: Sequence[int] = (), *, adapted: bool = False) -> int:
    """Forward passes of ``verify_artefact``: two models in two precisions on every batch.

    ``adapted``, a checkpoint with adapters, adds the original with and without them merged.
    """
    a_batch = PASSES_PER_BATCH + (MERGE_PASSES_PER_BATCH if adapted else 0)
    return a_batch * len(inputs_for(spec, text_ids))


@torch.no_grad()
@quiet_transformers()  # which would warn of pads that the checks pass without a mask
def verify_artefact(
    checkpoint: Checkpoint,
    folder: Path,
    *,
    text_ids: Sequence[int] = (),
    reference: str | None = None,
    validation: ValidationData | str | None = None,
    trust_remote_code: bool = False,
    advance: Callable[[int], None] = lambda passes: None,
) -> ParityReport:
    """Compare the artefact in ``folder`` with the checkpoint that it was made from.

    Args:
        checkpoint: the original.
        folder: the artefact, as ``from_pretrained`` loads it.
        text_ids: token ids of real text to run as well.
        reference: ``path/model.py:Class`` of the training repository, to be asked as well.
        validation: what the trainer's validation loss was computed on, or why that is not known;
            None to compute none.
        trust_remote_code: run a modeling file that is not the one of this package.
        advance: told the forward passes done since its last call; ``n_passes`` is their number.

    Returns:
        The report; ``passed`` is the verdict. A failed one names the first diverging layer, and
        one whose gate is invalid the fault that it would not have caught.

    Raises:
        CheckpointError: the artefact does not load, its tensors are not the model's, or it changed
            meanwhile; or the checkpoint's weights are such that nothing can be shown on them.
    """
    dtype = loading.stored_dtype(folder)
    loading.import_class(folder)
    started = time.perf_counter()
    subject = Examination(
        checkpoint, folder, dtype, text_ids, reference, validation, trust_remote_code, advance
    )
    found = judged(CHECKS, subject)
    report = ParityReport(
        failures=found.failures,
        oracle=oracle_name(checkpoint, dtype),
        dtype=dtype,
        fp64_bound=FP64_BOUND,
        first_divergence=found.divergence or place_of(found.failures),
        seconds=time.perf_counter() - started,
        family=family_of(checkpoint),
        notes=found.notes,
        witness_note=subject.hearing.note,
        **found.evidence,
    )
    if not report.passed and not subject.touched:
        subject.require_unchanged()
    require_usable_weights(checkpoint, report)
    return resting(report, checkpoint)


class Examination:
    """Original and artefact, and what several checks want to know of them, found out once.

    Attributes:
        checkpoint: the original as it is.
        folder: the artefact.
        dtype: of its weights.
        text_ids: token ids of real text; may be empty.
        reference: class of the training repository to be asked; None for none.
        validation: what the recorded validation loss was computed on, or why that is not known.
        trust_remote_code: run a modeling file that is not the one of this package.
        advance: told the forward passes done since its last call.
        stored: the artefact's tensors.
        exact: the artefact in float64.
        single: the artefact in float32.
        hearing: what came of asking the trainer's class.
        touched: files that the trainer's class changed while it was asked.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        folder: Path,
        dtype: str,
        text_ids: Sequence[int],
        reference: str | None,
        validation: ValidationData | str | None,
        trust_remote_code: bool,
        advance: Callable[[int], None],
    ) -> None:
        self.checkpoint, self.folder, self.dtype = checkpoint, folder, dtype
        self.text_ids, self.reference, self.validation = text_ids, reference, validation
        self.trust_remote_code, self.advance = trust_remote_code, advance
        self.stamps = stamps_of(folder)
        self.stored = StoredTensors(folder)
        self.exact, self.single = map(self.artefact_in, (torch.float64, torch.float32))
        self.tensors_were_equal = False
        self.hearing, self.touched = Hearing(), tuple[str, ...]()

    def artefact_in(self, dtype: torch.dtype, attention: str | None = None) -> Streamed:
        """The artefact as a model that computes in ``dtype``."""
        return stream_artefact(
            self.folder, dtype, self.stored, self.trust_remote_code, attention=attention
        )

    @cached_property
    def original(self) -> Decoder:
        """The built-in model with the weights that the artefact must have."""
        return rounded(self.checkpoint, getattr(torch, self.dtype))

    @cached_property
    def source(self) -> Decoder:
        """The built-in model with the checkpoint's weights as they are, adapters beside them."""
        checkpoint = self.checkpoint
        return Decoder(
            self.original.family, checkpoint.spec, checkpoint.tensors, checkpoint.adapters
        )

    @cached_property
    def batches(self) -> tuple[Inputs, ...]:
        """What runs through the models."""
        return inputs_for(self.checkpoint.spec, self.text_ids)

    @cached_property
    def models(self) -> Models:
        """Both models, the artefact block by block where its class runs them so."""
        # Foreign code may treat long sequences in another way.
        probe = self.batches[0].ids[:2, : None if self.trust_remote_code else PROBE_TOKENS]
        if not steps(self.single, probe):
            self.exact, self.single = (
                replace(model, blocks=()) for model in (self.exact, self.single)
            )
        whole = splits(self.single, probe)
        return Models(self.original, self.exact, self.single, whole, self.advance)

    @cached_property
    def appended(self) -> int:
        """Rows that the artefact has behind the original's."""
        return appended_rows(self.single, self.checkpoint.spec.vocab_size)

    @cached_property
    def lockstep(self) -> tuple[tuple[Compared, list[Layer]], ...]:
        """Of every batch the comparison of the logits and of the layers."""
        return tuple(in_lockstep(self.models, batch) for batch in self.batches)

    @cached_property
    def fp32_bound(self) -> float:
        """Largest error allowed in float32, its noise drawn again where one draw is too small."""
        comparisons = [compared.comparison for compared, _ in self.lockstep]
        again = only_single_differs(comparisons)
        redrawn = redrawn_noise(self.original, self.batches) if again else 0.0
        return fp32_bound(comparisons, redrawn)

    @cached_property
    def rows_equal(self) -> tuple[bool, bool]:
        """Whether the original's rows of embedding and head have the original's values."""
        original, exact = self.original, self.exact
        pairs = (
            (original.embedding_name, exact.embedding_name),
            (original.head_name, exact.head_name),
        )
        n_rows = self.checkpoint.spec.vocab_size
        embedding, head = (equal_rows(original.tensors[a], exact.raw(b)[:n_rows]) for a, b in pairs)
        return embedding, head

    @cached_property
    def route(self) -> Route | None:
        """The way from the checkpoint's tensors to the artefact's; None if it is not known."""
        if not (self.models and self.exact.blocks):
            return None
        return route_to(self.checkpoint, type(self.exact.model).__name__, self.stored)

    @cached_property
    def shaking(self) -> Shaking | None:
        """The comparison on shaken weights with its controls; None where there is no route."""
        if (route := self.route) is None:
            return None
        original, ids = self.original, self.batches[0].ids
        tables = route.tables((original.embedding_name, original.head_name))
        noise = Noise(original.tensors, route.same, tables)
        fetch = shaken_fetch(self.stored, route, noise)
        planted: dict[str, Tensor] = {}

        def fetch_planted(name: str) -> Tensor:
            return planted[name] if name in planted else fetch(name)

        # Some faults are planted in this implementation, whatever the config prefers.
        model = stream_artefact(
            self.folder,
            torch.float64,
            self.stored,
            self.trust_remote_code,
            fetch_planted,
            attention="sdpa",
        )
        patient = Patient(self.checkpoint.spec, route, model, fetch, self.stored, planted)
        shaken = Decoder(original.family, original.spec, Shaken(noise))
        length = min(TOKENS, self.checkpoint.spec.block_size, ids.numel())
        rows = max(1, min(ROWS, ids.numel() // length))
        some = ids.flatten()[: rows * length].view(rows, length) % TABLE_ROWS
        return shake(shaken, patient, some, FP64_BOUND)

    @property
    def merge_error(self) -> float | None:
        """How far merged adapters are from adapters beside their weights; None without any."""
        return _merge_error(self) if self.checkpoint.adapters else None

    @cached_property
    def behaving(self) -> Subject:
        """What the checks of behaviour look at."""
        spec, ids, foreign = self.checkpoint.spec, self.batches[0].ids, self.trust_remote_code
        return Subject(
            self.folder,
            self.stored,
            self.exact,
            self.artefact_in(torch.float64, attention="eager"),
            self.single,
            self.original,
            sequence_for(ids, spec.block_size),
            tuple(self.text_ids[: spec.block_size]),
            self.fp32_bound / FP32_NOISE_FACTOR,
            foreign,
            long_sequence(ids, spec.vocab_size) if foreign else None,
        )

    def testimonies(self) -> Iterator[Testimony]:
        """What other witnesses say that the original computes; the trainer's class is asked."""
        if asks(self.reference):
            before = digests(self.checkpoint, self.folder)
            self.hearing = hear_reference(self.checkpoint, self.reference, self.witness_ids)
            self.touched = touched(before, self.checkpoint, self.folder)
        if self.hearing.testimony is not None:
            yield self.hearing.testimony
        if (recorded := recorded_beside(self.checkpoint)) is not None:
            yield recorded

    @property
    def witness_ids(self) -> Tensor:
        """Ids (B, T) that a class is asked about: of the whole context, or WITNESS_TOKENS of it."""
        ids = self.batches[0].ids[:, :WITNESS_TOKENS]
        most = WITNESS_LOGITS // (ids.shape[1] * self.checkpoint.spec.vocab_size)
        return ids[: max(1, min(WITNESS_ROWS, most))]

    def unequal_tensors(self) -> list[str]:
        """Names of stored tensors that are not what the plan makes; none where it is not known."""
        if (route := self.route) is None:
            return []
        return unequal_tensors(self.stored, route, self.original.tensors)

    def require_unchanged(self) -> None:
        """Raise if the artefact is not the one that it was when this was made.

        Raises:
            CheckpointError: a file, or a tensor that was the original's, is another one now.
        """
        require_unchanged(self.folder, self.stamps)
        if self.tensors_were_equal and (changed := self.unequal_tensors()):
            raise changed_meanwhile(self.folder, changed)


def _merge_error(subject: Examination) -> float:
    """How far merged adapters are from adapters beside their weights, in float64."""
    checkpoint, spec = subject.checkpoint, subject.checkpoint.spec
    family = FAMILIES[checkpoint.dialect]
    merged = Decoder(family, spec, Merged(checkpoint.tensors, checkpoint.adapters))
    worst = 0.0
    for batch in subject.batches:
        pair = [run_of(model, batch.ids, torch.float64) for model in (merged, subject.source)]
        subject.advance(MERGE_PASSES_PER_BATCH)
        worst = max(worst, relative_error(spec.vocab_size, *pair))
    return worst


def oracle_name(checkpoint: Checkpoint, dtype: str) -> str:
    """What stands for the original of an artefact in ``dtype``, for the report."""
    model = f"built-in plain-torch {family_title(checkpoint)} model"
    if not checkpoint.adapters:
        return model
    return (
        f"{model}; its adapters merged and rounded to {dtype}, merged and unmerged compared apart"
    )
