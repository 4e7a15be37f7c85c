"""What became of a check, and how figures and text of anyone are taken and shown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

OK, FAILED, NOT_CHECKED, NONE = "ok", "FAILED", "not checked", "none"
MOST_NAMED = 5  # problems in a message
FP64_BOUND = 1e-10  # docs/parity.md; slogpt_hf.parity.gate has it too, but imports torch
LARGEST_NUMBER = 2**63


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: of the check.
        status: ``ok``, ``FAILED``, ``not checked`` or ``none``.
        detail: what was compared, or what is wrong.
    """

    name: str
    status: str
    detail: str


def check(name: str, problems: Sequence[str], detail: str) -> Check:
    """A check that is well where there are no problems; ``detail`` says what was compared."""
    if not problems:
        return Check(name, OK, detail)
    more = [f"and {len(problems) - MOST_NAMED} more"] if len(problems) > MOST_NAMED else []
    return Check(name, FAILED, "; ".join([*problems[:MOST_NAMED], *more]))


def is_figure(value: Any) -> TypeGuard[float]:
    """Whether a value of JSON is a finite number."""
    if isinstance(value, float):
        return math.isfinite(value)
    return type(value) is int and abs(value) < LARGEST_NUMBER


def shown(value: Any) -> str:
    """Any value as short text."""
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
