"""What the proofs of a run rest on, as Markdown: the level, and each assumption with its value."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from slogpt_hf.ci.markup import details, span, table
from slogpt_hf.ci.outcome import Outcome
from slogpt_hf.parity.claims import short_claim
from slogpt_hf.parity.stated import Stated, as_setting

MOST_OPEN = 3  # that are not folded
MOST_PROOFS = 50
MOST_NAMES = 6
MOST_REASON = 400  # characters


def basis_of(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Blocks of Markdown, one for all checkpoints whose proofs rest on the same."""
    names: dict[Stated, list[str]] = {}
    for outcome in outcomes:
        if outcome.proof:
            names.setdefault(outcome.proof, []).append(outcome.name)
    if not names:
        return
    yield "### What the proof rests on"
    for i, (proof, checkpoints) in enumerate(list(names.items())[:MOST_PROOFS]):
        text = _told(proof, checkpoints)
        yield text if i < MOST_OPEN else details(checkpoints[0], text)


def _told(proof: Stated, checkpoints: Sequence[str]) -> str:
    rest = len(checkpoints) - MOST_NAMES
    named = ", ".join(map(span, checkpoints[:MOST_NAMES])) + (f" and {rest} more" * (rest > 0))
    text = f"{named}: level **{proof.shown_level}**, {span(short_claim(proof))}."
    if not proof.assumptions:
        return text
    rows = [
        (span(each.text), span(as_setting(each)), span(each.why, MOST_REASON))
        for each in proof.assumptions
    ]
    return f"{text} Assumed, since no file records it and no witness confirmed it:\n\n" + table(
        ("Assumed", "Value", "Why"), rows
    )
