"""What a ``parity.json``, or the part of a ``release.json`` on it, states of a proof.

Both may come from a hub and be anyone's: what is not as slogpt-hf writes it is not known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slogpt_hf.checkpoints.assumptions import Assumption
from slogpt_hf.parity.claims import LEVELS
from slogpt_hf.parity.report import Level

LEVEL_NOT_KNOWN = "not known (proven by an earlier version)"
MOST_ASSUMPTIONS = 64


@dataclass(frozen=True)
class Stated:
    """What is stated of a proof; claims are made from it as from a report.

    Attributes:
        verdict: ``passed``, ``failed`` or ``invalid``.
        level: what the proof rests on; None where an earlier version proved.
        family: whose function the built-in model computes; empty where it is not stated.
        assumptions: what no file records and no witness confirmed; ``why`` may be empty.
    """

    verdict: str
    level: Level | None
    family: str
    assumptions: tuple[Assumption, ...]

    @property
    def shown_level(self) -> str:
        """The level, or that it is not known."""
        return self.level or LEVEL_NOT_KNOWN


def stated(parity: Mapping[str, Any] | None) -> Stated:
    """What the content of ``parity.json``, or ``parity`` of ``release.json``, states."""
    parity = parity or {}
    known: dict[str, Level] = {level: level for level in LEVELS}
    level, family = parity.get("level"), parity.get("family")
    verdict = parity.get("verdict")
    if verdict not in ("passed", "failed", "invalid"):  # of schema 1, which had no third one
        verdict = "passed" if parity.get("passed") is True else "failed"
    return Stated(
        verdict,
        known.get(level) if isinstance(level, str) else None,
        family if isinstance(family, str) else "",
        assumptions_in(parity.get("assumptions")),
    )


def assumptions_in(found: Any) -> tuple[Assumption, ...]:
    """The assumptions of a list of JSON; entries that are none are left out."""
    entries = found if isinstance(found, list | tuple) else ()
    return tuple(
        Assumption(each["name"], each["value"], str(each.get("why", "")), each["text"])
        for each in entries[:MOST_ASSUMPTIONS]
        if isinstance(each, Mapping)
        and isinstance(each.get("name"), str)
        and isinstance(each.get("text"), str)
        and (each.get("value", ...) is None or isinstance(each.get("value"), str | int | float))
    )


def as_setting(assumption: Assumption) -> str:
    """An assumption as ``--set`` takes it: ``activation=gelu``; its name where it has no value."""
    value = assumption.value
    if value is None:
        return assumption.name
    return f"{assumption.name}={str(value).lower() if isinstance(value, bool) else value}"


def told(assumption: Assumption) -> dict[str, Any]:
    """An assumption as ``release.json`` has it; why it is one is in ``parity.json``."""
    return {"name": assumption.name, "value": assumption.value, "text": assumption.text}
