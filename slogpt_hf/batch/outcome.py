"""What became of one checkpoint of several."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """What became of a checkpoint.

    Attributes:
        checkpoint: path, as it was named or found.
        status: ``converted`` or ``released``; ``known`` if it was before; ``failed``.
        facts: what the command prints of it as JSON; empty if it failed, but for what is published
            and does not load.
        output: folder of the artefact, or the release as NAMESPACE/NAME@TAG.
        message: why it failed.
        exit_code: of that.
        seconds: that it took.
        index: its place among the others.
    """

    checkpoint: str
    status: str
    facts: Mapping[str, Any]
    output: str = ""
    message: str = ""
    exit_code: int = 0
    seconds: float = 0.0
    index: int = 0

    def to_dict(self, keys: Iterable[str] = ()) -> dict[str, Any]:
        """As JSON has it; one that failed has None for each of ``keys`` that is not known."""
        if self.exit_code:
            error = {"error": self.message, "exit_code": self.exit_code}
            return {"checkpoint": self.checkpoint, **dict.fromkeys(keys), **self.facts, **error}
        return {"checkpoint": self.checkpoint, **self.facts}


def worst(outcomes: Iterable[Outcome]) -> int:
    """The exit code of a command that did all of them."""
    return max((outcome.exit_code for outcome in outcomes), default=0)
