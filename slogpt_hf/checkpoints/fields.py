"""Fields of a model: what its file records, what the user gives with ``--set``, what is missing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from reprlib import Repr
from typing import Any

from slogpt_hf.checkpoints.tensors import Shape, Stored
from slogpt_hf.errors import CheckpointError, UsageError

# Where trainers record fields, the nearest to the weights first.
PLACES = ("model_args", "config", "metadata", "training_info", "meta", "profile", "")
# Our name to the names under which trainers record it; one with a place counts only there.
ALIASES = {
    "n_layer": ("n_layer", "n_layers"),
    "n_head": ("n_head", "n_heads"),
    "n_kv_head": ("n_kv_head", "n_kv_heads"),
    "n_embd": ("n_embd", "n_embed", "dim"),
    "n_hidden": ("n_hidden", "hidden_dim"),
    "vocab_size": ("vocab_size",),
    "block_size": ("block_size", "max_seq_len"),
    "norm_eps": ("norm_eps",),
    "rope_theta": ("rope_theta",),
    "lora_alpha": ("lora_alpha", "metadata.alpha"),
    "lora_rank": ("lora_rank", "metadata.rank"),
}
SHORT = Repr()
SHORT.maxlevel, SHORT.maxlist, SHORT.maxdict, SHORT.maxstring, SHORT.maxother = 3, 20, 8, 80, 80
LARGEST_COUNT = 2**53  # whole numbers below are exact as floats
SAVE_AGAIN = "Save the checkpoint with the settings that it was trained with."


@dataclass(frozen=True)
class Fields:
    """What is known of a model beside its tensors' values.

    Attributes:
        path: the file that messages name.
        value: the checkpoint's value, tensors as ``Stored``.
        shapes: of the tensors, wrappers removed.
        given: what the user said with ``--set``.
    """

    path: Path
    value: Mapping[Any, Any]
    shapes: Mapping[str, Shape]
    given: Mapping[str, Any] = field(default_factory=dict)

    def recorded(self, name: str) -> tuple[str, Any] | None:
        """Where a field is recorded and its value; None if it is nowhere or None."""
        for place in PLACES:
            holder = self.value.get(place) if place else self.value
            if not isinstance(holder, Mapping):
                continue
            for alias in ALIASES.get(name, (name,)):
                only_in, _, key = alias.rpartition(".")
                if only_in in ("", place) and (value := holder.get(key)) is not None:
                    return (f"{place}.{key}" if place else key), value
        return None

    def count(self, name: str) -> int | None:
        """A positive whole number, recorded or given; None if it is neither.

        Raises:
            CheckpointError: what is recorded is no such number.
            UsageError: the user gave another number than the file records.
        """
        found = self._agreed(name)
        if found is None:
            return None
        where, value = found
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self._refused(where, value, "not a positive whole number")
        return value

    def number(self, name: str) -> float | None:
        """A positive number, recorded or given; None if it is neither. Raises as ``count``."""
        found = self._agreed(name)
        if found is None:
            return None
        where, value = found
        number = scalar(value)
        if number is None or number <= 0:
            raise self._refused(where, value, "not a positive number")
        return number

    def flag(self, name: str) -> bool | None:
        """A switch, recorded or given; None if it is neither. Raises as ``count``."""
        found = self._agreed(name)
        if found is None:
            return None
        where, value = found
        if not isinstance(value, int) or value not in (0, 1):
            raise self._refused(where, value, "neither True nor False")
        return bool(value)

    def _agreed(self, name: str) -> tuple[str, Any] | None:
        recorded, given = self.recorded(name), self.given.get(name)
        if given is None:
            return recorded
        if recorded is not None and recorded[1] != given:
            raise UsageError(
                f"--set {name}={given}: but {self.path} records {recorded[0]} = "
                f"{shown(recorded[1])}.",
                hint="Leave it out: what the trainer recorded counts.",
            )
        return f"--set {name}", given

    def _refused(self, where: str, value: Any, problem: str) -> CheckpointError:
        return CheckpointError(
            f"{self.path}: {where} is {shown(value)}, {problem}.", hint=SAVE_AGAIN
        )


def scalar(value: Any) -> float | None:
    """A plain or 0-d tensor number; None for anything else, NaN and infinities included."""
    if isinstance(value, Stored) and math.prod(value.shape) == 1:
        value = value.read().item()
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST_COUNT:
        value = float(value)
    return value if isinstance(value, float) and math.isfinite(value) else None


def shown(value: Any, most: int = 60) -> str:
    """A value of a checkpoint as it may stand in a message: one short line."""
    if isinstance(value, Stored):
        return f"a tensor of shape {value.shape}"
    try:
        text = " ".join(SHORT.repr(value).split())
    except ValueError:  # an integer of too many digits
        return f"a {type(value).__name__}"
    return text if len(text) <= most else f"{text[:most]}..."


def readable(text: str) -> str:
    """Text that can be written: half characters (surrogates) become question marks."""
    return text.encode("utf-8", "replace").decode()


def listed(names: list[str], most: int = 6) -> str:
    """The first of some names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(printable, names[:most])) + more


def printable(name: str) -> str:
    """A name as it may stand in a message."""
    return name if name.isprintable() and len(name) <= 120 else shown(name, 120)


def head_counts(n_embd: int, kv_rows: int, rotary: bool) -> Iterator[int]:
    """The numbers of heads that fit a width and the rows of k, ascending."""
    for n_head in range(1, min(n_embd, 1 << 16) + 1):
        head_dim, rest = divmod(n_embd, n_head)
        if rest or (rotary and head_dim % 2) or kv_rows % head_dim:
            continue
        if n_head % (kv_rows // head_dim) == 0:
            yield n_head
