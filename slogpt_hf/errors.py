"""Errors that a user can cause: one message each, and the exit code that goes with it.

A message says what is wrong, where (file, tensor, field) and what to do about it.
The command line prints it without a traceback; the Python API raises it.
"""

from __future__ import annotations


class SloGPTError(Exception):
    """Base of every error that a user can cause.

    Args:
        message: what is wrong and where.
        hint: what to do about it, one sentence; empty where the message says it all.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class UsageError(SloGPTError):
    """An option, a setting or a path that cannot be what was meant."""

    exit_code = 2


class CheckpointError(SloGPTError):
    """A checkpoint, vocabulary or artefact that cannot be read or is not supported."""

    exit_code = 3


class ParityError(SloGPTError):
    """The artefact does not compute what the original computes."""

    exit_code = 4


class GateInvalidError(SloGPTError):
    """The parity gate could not show that it would catch a fault."""

    exit_code = 5


class HubError(SloGPTError):
    """The hub refused a request or could not be reached."""

    exit_code = 6


class TagConflictError(HubError):
    """The tag exists and names other content."""

    exit_code = 7


def first_line(error: object, most: int = 200) -> str:
    """What another library's error says, as far as it fits into a message of one line."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    line = lines[0][:most]
    return line if line.isprintable() else ascii(line)[1:-1]
