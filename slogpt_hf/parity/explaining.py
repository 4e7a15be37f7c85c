"""Why a witness disagrees: the first part that differs, and the one setting that would mend it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from slogpt_hf.parity import decoder
from slogpt_hf.parity.comparing import deviation
from slogpt_hf.parity.decoder import Decoder
from slogpt_hf.parity.judging import FP64_BOUND
from slogpt_hf.parity.oracles import Testimony
from slogpt_hf.parity.report import Witness
from slogpt_hf.parity.searching import Evidence, Search, as_options, loaded_once

SECONDS, PASSES = 20.0, 400
PARTS = ("norm 1", "attention", "norm 2", "MLP")


def explained(
    witness: Witness, said: Testimony, source: Decoder, open_names: Collection[str]
) -> Witness:
    """A witness that disagrees, with where and, if one setting alone would mend it, which.

    Args:
        witness: as it was judged.
        said: what it says.
        source: the built-in model with the checkpoint's weights as they are.
        open_names: settings that no file records.
    """
    exactly = witness.fp64_error is None or witness.fp64_error <= FP64_BOUND
    if witness.agrees or (exactly and witness.built_in_error <= witness.bound):
        return witness
    evidence = Evidence(said, loaded_once(source), SECONDS, PASSES)
    found = Search(evidence, open_names).run(most_changes=1)
    remedy = " ".join(as_options(found.changes)) if found.agrees and len(found.changes) == 1 else ""
    return replace(witness, place=first_place(source, said), remedy=remedy)


def first_place(model: Decoder, said: Testimony) -> str:
    """Where the built-in model first leaves a class in float64; empty where its parts are hidden.

    Each part is compared on what the class itself gave to it.
    """
    parts = said.parts
    if "embedding" not in parts:
        return ""
    ids = said.ids[:1, : parts["embedding"].shape[1]]
    before, *states, last = decoder.hidden_states(model, ids, torch.float64)
    if _differs(before, parts["embedding"]):
        return "the embedding"
    for i, state in enumerate(states):
        theirs = parts.get(str(i))
        if theirs is None:
            return ""
        if _differs(state, theirs):
            entered = parts["embedding"] if i == 0 else parts[str(i - 1)]
            return f"layer {i}{_part(model, i, entered, parts)}"
    if "norm" in parts and _differs(last, model.spec.logit_multiplier * parts["norm"]):
        return "the final norm"
    return "the head"


def _part(model: Decoder, i: int, entered: Tensor, parts: Mapping[str, Tensor]) -> str:
    ours = decoder.block_parts(model, i, entered)
    for name in PARTS:
        theirs = parts.get(f"{i} {name}")
        if theirs is not None and _differs(ours[name], theirs):
            return f", {name}"
    return ""


def _differs(ours: Tensor, theirs: Tensor) -> bool:
    return ours.shape != theirs.shape or not deviation(ours, theirs.double()) <= FP64_BOUND
