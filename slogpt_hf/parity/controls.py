"""Negative controls: on every run the gate shows that it would have caught a fault."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import Tensor
from torch.nn import functional

from slogpt_hf.parity import decoder
from slogpt_hf.parity.comparing import deviation
from slogpt_hf.parity.decoder import Decoder
from slogpt_hf.parity.faults import BLOCK, FAULTS, SHUTTING, Fault, Patient
from slogpt_hf.parity.lockstep import layer_names, states_of
from slogpt_hf.parity.report import Control
from slogpt_hf.parity.shaken import TABLE_ROWS
from slogpt_hf.parity.streamed import Streamed

ROWS = 2
LOUD = 64.0


@dataclass(frozen=True)
class Shaking:
    """The comparison on shaken weights.

    Attributes:
        error: largest relative error in float64 over all layers and the logits.
        place: where it first is above the bound; None if nowhere.
        controls: what became of each fault.
    """

    error: float
    place: str | None
    controls: tuple[Control, ...]


def shake(original: Decoder, patient: Patient, ids: Tensor, bound: float) -> Shaking:
    """Compare both models on shaken weights, and then each fault planted in the artefact.

    Args:
        original: on shaken weights.
        patient: the artefact on shaken weights.
        ids: (B, T) token ids.
        bound: largest relative error in float64.
    """
    names = layer_names(original.spec.n_layer)
    theirs = _kept(decoder.hidden_states(original, ids, torch.float64), len(names))
    ours = _kept(states_of(patient.model, ids), len(names))
    head = original.tensors[original.head_name][:TABLE_ROWS]
    errors = {name: deviation(*pair) for name, *pair in zip(names, ours, theirs, strict=True)}
    if (loud := _loud(original, patient, ids, ours[BLOCK], theirs[BLOCK])) is not None:
        errors[f"layer {BLOCK}, its MLP loud"] = loud
    logits = functional.linear(theirs[-1], head)
    errors["head"] = deviation(_logits(patient, ours[-1]), logits)
    place = next((name for name, error in errors.items() if not error <= bound), None)
    controls = tuple(
        _control(fault, patient, ids, ours, theirs, logits, bound)
        if _shows(fault, original, patient, ids, theirs, bound)
        else Control(fault.name, "cannot occur", None)
        for fault in FAULTS
    )
    return Shaking(max(errors.values()), place, controls)


def _kept(states: Iterator[Tensor], count: int) -> Tensor:
    """The states (B, T, n) of all places, in one piece (count, B, T, n).

    Kept one by one, each would lie behind the weights of its block, and no allocator could use
    that memory for the weights of the next.
    """
    first = next(states)
    kept = first.new_empty((count, *first.shape))
    for place, state in zip(kept, chain((first,), states), strict=True):
        place.copy_(state)
    return kept


def _loud(
    original: Decoder, patient: Patient, ids: Tensor, ours: Tensor, theirs: Tensor
) -> float | None:
    """Error of a block whose MLP gets large values, which tell a clipped activation from GELU."""
    family, name = original.family, patient.name("norm2")
    source = f"{family.blocks.format(i=BLOCK)}{family.norm2}.weight"
    if name is None:
        return None
    louder = ChainMap({source: LOUD * original.tensors[source]}, original.tensors)  # type: ignore[arg-type]
    call = patient.model.enter(ids)[1][BLOCK]
    patient.planted[name] = LOUD * patient.fetch(name)
    try:
        found = patient.model.block(BLOCK, ours, call)
    finally:
        del patient.planted[name]
    return deviation(found, decoder.block(replace(original, tensors=louder), BLOCK, theirs))


def _control(
    fault: Fault,
    patient: Patient,
    ids: Tensor,
    ours: Tensor,
    theirs: Tensor,
    logits: Tensor,
    bound: float,
) -> Control:
    planted = fault.plant(patient)
    if planted is None:
        return Control(fault.name, "cannot occur", None)
    model: Streamed = patient.model
    calls = None if fault.enters_anew else model.enter(ids)[1]
    with planted:
        if fault.stage == "entry":
            error = deviation(model.enter(ids)[0], theirs[0])
        elif fault.stage == "block":
            call = (calls or model.enter(ids)[1])[BLOCK]
            error = deviation(model.block(BLOCK, ours[BLOCK], call), theirs[BLOCK + 1])
        elif fault.stage == "exit":
            error = deviation(model.leave(ids, ours[-2]), theirs[-1])
        else:
            error = deviation(_logits(patient, ours[-1]), logits)
    return Control(fault.name, "missed" if error <= bound else "caught", error)


def _shows(
    fault: Fault, original: Decoder, patient: Patient, ids: Tensor, theirs: Tensor, bound: float
) -> bool:
    """Whether the model has what a fault changes, and the original itself would show it."""
    if fault.changes == "scores" and not _scores_matter(patient, ids):
        return False
    if fault.changes == "hidden" and not _hidden_matters(original, theirs[BLOCK]):
        return False
    spec = fault.spec(original.spec) if fault.spec else None
    if spec is None or spec == original.spec:
        return True  # for the fault to say
    shown = decoder.block(replace(original, spec=spec), BLOCK, theirs[BLOCK])
    return deviation(shown, theirs[BLOCK + 1]) > 2 * bound


def _hidden_matters(original: Decoder, x: Tensor) -> bool:
    """Whether a ReLU lets anything through."""
    if original.spec.activation not in SHUTTING:
        return True
    prefix = original.family.blocks.format(i=BLOCK)
    hidden = decoder.hidden(original, prefix, decoder.block_parts(original, BLOCK, x)["norm 2"])
    return bool(hidden.any())


def _scores_matter(patient: Patient, ids: Tensor) -> bool:
    """Whether positions differ in what attention mixes."""
    alike = patient.spec.positions == "rotary" and bool((ids == ids[0, 0]).all())
    return ids.shape[1] > 1 and not alike


def _logits(patient: Patient, states: Tensor) -> Tensor:
    name = patient.model.head_name
    # Rows that were appended are not the original's.
    head = patient.model.raw(name)[: min(TABLE_ROWS, patient.spec.vocab_size)]
    return functional.linear(states, head.double())
