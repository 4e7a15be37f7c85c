"""What a daemon remembers between its looks. Losing any of it costs work, and nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from slogpt_hf.errors import UsageError
from slogpt_hf.files import write_atomically
from slogpt_hf.version import __version__

SCHEMA = 1
MOST_ENTRIES = 10_000  # of a kind; the oldest are forgotten
MOST_BYTES = 32_000_000
SHA256 = re.compile(r"[0-9a-f]{64}")
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Verdict:
    """What became of a checkpoint that is not to be tried again.

    Attributes:
        reason: why, for people.
        tool: version of slogpt-hf that found it; another one tries again.
    """

    reason: str
    tool: str = __version__


@dataclass
class Memory:
    """Verdicts by an id of checkpoint and settings, and SHA-256 by an id of a stored object."""

    verdicts: dict[str, Verdict] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)

    def verdict(self, identity: str) -> Verdict | None:
        """What this version found about a checkpoint, if it did."""
        found = self.verdicts.get(identity)
        return found if found and found.tool == __version__ else None


def load_memory(path: Path | None, tell: Tell) -> Memory:
    """The memory in a file; an empty one where it is not there, or is none.

    Args:
        path: of the file; None to begin empty.
        tell: told why a file that is there is not used.
    """
    if path is None:
        return Memory()
    try:
        if path.stat().st_size > MOST_BYTES or not path.is_file():
            raise ValueError("it is too large, or no file")
        return _memory(json.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        return Memory()
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        tell(f"{path}: cannot be read as a state file; beginning without.")
        return Memory()


def save_memory(memory: Memory, path: Path | None) -> str | None:
    """Write the memory; why it could not be written, None if it was."""
    if path is None:
        return None
    content = {
        "schema": SCHEMA,
        "verdicts": {key: asdict(verdict) for key, verdict in _last(memory.verdicts).items()},
        "digests": _last(memory.digests),
    }
    try:
        write_atomically(path, json.dumps(content, indent=1) + "\n")
    except UsageError as error:
        return str(error)
    return None


def _memory(content: Mapping[str, Any]) -> Memory:
    if content["schema"] != SCHEMA:
        raise ValueError("it is of another schema")
    verdicts = {key: Verdict(**facts) for key, facts in content["verdicts"].items()}
    digests = dict(content["digests"])
    texts = [*digests.values(), *(v.reason for v in verdicts.values())]
    texts += [verdict.tool for verdict in verdicts.values()]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("it holds something else")
    if not all(map(SHA256.fullmatch, digests.values())):
        raise ValueError("it holds what is no SHA-256")
    return Memory(verdicts, digests)


def _last(entries: Mapping[str, Any]) -> dict[str, Any]:
    return dict(list(entries.items())[-MOST_ENTRIES:])
