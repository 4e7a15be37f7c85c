"""What a proof claims, in words that cannot be misread; the one place where they are.

Command line, card, job summary and the action's output take them from here, so that none of
them claims more than the report shows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from slogpt_hf.checkpoints.assumptions import Assumption
    from slogpt_hf.parity.report import Level

LEVELS: tuple[Level, ...] = ("assumed", "corroborated", "witnessed")  # each more than those before
NOT_EQUAL = "NOT equal to the original"
NOT_PROVEN = "NOT PROVEN, a planted fault was not caught"
WITNESSED = "equal to the trainer's own model"
MOST_ASSUMED = 4  # named where there is not room for all
UNKNOWN_LEVEL = "of a version that did not say what its proof rests on"


class Proof(Protocol):
    """What a claim is made from: a report, or what a record says of one."""

    @property
    def verdict(self) -> str: ...
    @property
    def level(self) -> Level | None: ...
    @property
    def family(self) -> str: ...
    @property
    def assumptions(self) -> tuple[Assumption, ...]: ...


def meets(level: str | None, required: str | None) -> bool:
    """Whether a proof of this level is as much as is required.

    Args:
        level: of a report; None, of an earlier version's, is less than any.
        required: the least that is accepted; None if nothing is required.
    """
    if required is None:
        return True
    return level is not None and LEVELS.index(level) >= LEVELS.index(required)


def short_claim(report: Proof) -> str:
    """What was proven and to what level, without the assumptions; for a line or a badge."""
    if report.verdict != "passed":
        return NOT_PROVEN if report.verdict == "invalid" else NOT_EQUAL
    if report.level == "witnessed":
        return f"proven {WITNESSED}"
    known = f"proven equal to {report.family or 'the original'} as slogpt-hf knows it"
    if report.level is None:
        return f"{known} ({UNKNOWN_LEVEL})"
    if report.level == "corroborated":
        return f"{known}, which reproduces the recorded validation loss"
    return known


def claim(report: Proof, most: int | None = None) -> str:
    """What was proven, to what level, and what it rests on; one phrase without a full stop.

    Args:
        report: the proof.
        most: how many assumptions are named, the most doubtful first; None for all.
    """
    words = short_claim(report)
    if report.verdict != "passed" or report.level is None or not report.assumptions:
        return words
    return f"{words}; assumed: {assumed(report, most)}"


def assumed(report: Proof, most: int | None = None) -> str:
    """The assumptions that no witness has confirmed, for people: ``exact GELU, eps 1e-05``."""
    texts = [assumption.text for assumption in report.assumptions]
    shown = texts if most is None or len(texts) <= most + 1 else texts[:most]
    more = f" and {len(texts) - len(shown)} more" if len(shown) < len(texts) else ""
    return ", ".join(shown) + more
