"""A check of the gate, and what it finds: everything that the gate looks at is one of these."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

Subject = TypeVar("Subject")


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        failures: what differs, one sentence each; empty if nothing does.
        evidence: fields of the report that it fills, name to value.
        divergence: where the artefact leaves the original, as what follows "at"; None if nowhere,
            or where only the failures tell.
        notes: what else a person has to know, one sentence each.
        ends: nothing further can be looked at.
    """

    failures: tuple[str, ...] = ()
    evidence: Mapping[str, Any] = field(default_factory=dict)
    divergence: str | None = None
    notes: tuple[str, ...] = ()
    ends: bool = False


@dataclass(frozen=True)
class Check(Generic[Subject]):
    """One row of the gate.

    Attributes:
        name: of what is looked at.
        find: looks at a subject.
        after_failures: it is run although something before it failed.
    """

    name: str
    find: Callable[[Subject], Finding]
    after_failures: bool = True


@dataclass
class Judgement:
    """What all checks found, in their order.

    Attributes:
        failures: of all of them.
        evidence: fields of the report.
        divergence: the first.
        notes: of all of them.
    """

    failures: tuple[str, ...] = ()
    evidence: dict[str, Any] = field(default_factory=dict)
    divergence: str | None = None
    notes: tuple[str, ...] = ()


def judged(checks: tuple[Check[Subject], ...], subject: Subject) -> Judgement:
    """Run checks on a subject, one after the other."""
    judgement = Judgement()
    for check in checks:
        if judgement.failures and not check.after_failures:
            continue
        found = check.find(subject)
        judgement.failures += found.failures
        judgement.notes += found.notes
        judgement.evidence |= found.evidence
        if judgement.divergence is None:
            judgement.divergence = found.divergence
        if found.ends:
            break
    return judgement
