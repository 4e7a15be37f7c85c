"""Bounds and verdict: what the gate found, judged. docs/parity.md derives every bound."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from slogpt_hf.parity.controls import Shaking
from slogpt_hf.parity.report import (
    EMBEDDING_DIFFERS,
    HEAD_DIFFERS,
    MERGE_DIFFERS,
    SHAKEN_DIFFERS,
    Behaviour,
    Comparison,
    Published,
    Witness,
)

FP64_BOUND = 1e-10
FP32_NOISE_FACTOR = 4
FLOOR_ULPS = 2  # noise below this many ulps of the largest logit is luck


def noise_bound(noise: float, largest: float, dtype: torch.dtype) -> float:
    """4 x a rounding noise, with a floor of a few ulps of the largest logit."""
    return FP32_NOISE_FACTOR * max(noise, FLOOR_ULPS * torch.finfo(dtype).eps * largest)


def fp32_bound(comparisons: Sequence[Comparison], redrawn: float = 0.0) -> float:
    """Largest error allowed in float32: by the original's noise over all batches and draws."""
    noise = max(redrawn, *(c.fp32_noise for c in comparisons))
    return noise_bound(noise, max(c.max_logit for c in comparisons), torch.float32)


def only_single_differs(comparisons: Sequence[Comparison]) -> bool:
    """Whether float64 agrees everywhere and float32, by the noise of one draw, does not."""
    bound = fp32_bound(comparisons)
    exact = all(c.fp64_error <= FP64_BOUND for c in comparisons)
    return exact and not all(c.fp32_error <= bound for c in comparisons)


def merges(merge_error: float | None) -> bool:
    """Whether merged adapters compute what the original computes; NaN is not."""
    return merge_error is None or merge_error <= FP64_BOUND


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


def judge_merging(merge_error: float | None) -> tuple[str, ...]:
    """Why merged adapters are not the adapters; empty if they are, or there are none."""
    if merges(merge_error):
        return ()
    return (f"{MERGE_DIFFERS}: float64 relative error {merge_error:.2e} > {FP64_BOUND:.0e}.",)


def judge_shaking(shaking: Shaking) -> tuple[str, ...]:
    """Why the artefact is not equal to the original on shaken weights; empty if it is."""
    if shaking.error <= FP64_BOUND:
        return ()
    return (f"{SHAKEN_DIFFERS}: float64 relative error {shaking.error:.2e} > {FP64_BOUND:.0e}.",)


def judge_behaviours(acts: Sequence[Behaviour]) -> tuple[str, ...]:
    """What the artefact computes otherwise in another way, one sentence each; empty if nothing."""
    return tuple(
        f"{act.name}: {act.error:.2e} > {act.bound:.0e}." for act in acts if not act.passed
    )


def judge_published(published: Published) -> tuple[str, ...]:
    """Why the artefact in its own dtype is not the original in that dtype; empty if it is."""
    if published.error <= published.bound:
        return ()
    return (f"{published.dtype}: error {published.error:.2e} > {published.bound:.2e}.",)


def judge_witnesses(heard: Sequence[Witness]) -> tuple[str, ...]:
    """Who disagrees, one sentence each; empty if nobody does."""
    return tuple(_disagreement(witness) for witness in heard if not witness.agrees)


def _disagreement(witness: Witness) -> str:
    who = "the artefact"
    if not witness.built_in_error <= witness.bound:
        who = "the built-in model, so this is another model or another recording,"
    exact = "" if witness.fp64_error is None else f"; float64 {witness.fp64_error:.2e} relative"
    error, allowed = witness.built_in_error, witness.bound
    if error <= allowed:
        error, allowed = witness.error, allowed + witness.rounding
    first = f", first at {witness.place}" if witness.place else ""
    remedy = f" With {witness.remedy} it agrees: --set {witness.remedy}." if witness.remedy else ""
    by = f"differs by {error:.2e} (allowed {allowed:.2e}{exact})"
    return f"{witness.name}: {who} {by}{first}.{remedy}"
