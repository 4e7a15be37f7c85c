"""Facts of the function that no file records, with the value that was taken for each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Assumption:
    """A fact that the function rests on and that no file records.

    Attributes:
        name: of the fact, as ``--set`` takes it where it can be set, e.g. ``activation``.
        value: what was taken for it, JSON-ready.
        why: why it is not known and where the value comes from, one sentence.
        text: the fact and its value for people, e.g. ``exact (erf) GELU``.
    """

    name: str
    value: bool | int | float | str | None
    why: str
    text: str
