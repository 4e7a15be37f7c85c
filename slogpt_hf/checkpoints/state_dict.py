"""Finding the state dict in what a trainer saved, and its tensors under their own names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slogpt_hf.checkpoints.fields import listed, shown
from slogpt_hf.checkpoints.tensors import Stored
from slogpt_hf.errors import CheckpointError

KEYS = ("model", "model_state_dict", "state_dict", "app")  # app: of PyTorch's DCP tutorial
DEEPEST = 3  # state dicts in dicts in dicts
WRAPPERS = re.compile(r"^(?:_orig_mod\.|module\.)+")
ADAPTER = re.compile(r"^(?P<module>.+)\.lora_(?P<kind>[ABs])$")


@dataclass(frozen=True)
class StateDict:
    """The tensors of one model.

    Attributes:
        place: where they lie, e.g. ``model``; empty for the top.
        tensors: name without wrappers to tensor.
        fields: the value around them: everything but the tensors of a bare state dict.
        history: of the fields, those that tell of the training that led to these very weights.
    """

    place: str
    tensors: Mapping[str, Stored]
    fields: Mapping[Any, Any]
    history: Mapping[Any, Any]


def find_state_dict(value: Any) -> tuple[str, Mapping[Any, Any]] | None:
    """Where in a checkpoint's value a dict of tensors lies, and that dict; None if nowhere."""
    place: list[str] = []
    for _ in range(DEEPEST):
        if not isinstance(value, Mapping):
            return None
        keys = [k for k in KEYS if isinstance(value.get(k), Mapping) and value[k]]
        key = next(iter(keys), None)
        if key is None:
            return (".".join(place), value) if _has_tensors(value) else None
        place.append(key)
        value = value[key]
    return None


def read_state_dict(path: Path, value: Any) -> StateDict | None:
    """The state dict in a checkpoint's value; None if it holds none.

    Raises:
        CheckpointError: an entry of it is no tensor, or is there twice.
    """
    found = find_state_dict(value)
    if found is None:
        return None
    several = [
        key for key in KEYS if isinstance(value.get(key), Mapping) and _has_tensors(value[key])
    ]
    if len(several) > 1:
        raise CheckpointError(
            f"{path}: holds a state dict under each of {', '.join(several)}.",
            hint="Save only the one that is to be released.",
        )
    place, entries = found
    # A bare state dict shares its dict with whatever else was saved.
    strict = bool(place)
    tensors: dict[str, Stored] = {}
    for name, tensor in entries.items():
        problem = ""
        if not isinstance(name, str):
            problem = f"has a {type(name).__name__} for a name"
        elif not isinstance(tensor, Stored):
            problem = f"is a {type(tensor).__name__}, not a tensor"
        if problem and strict:
            raise CheckpointError(
                f"{path}: {place}[{shown(name)}] {problem}.",
                hint=f"Save model.state_dict() and nothing else under '{place}'.",
            )
        if problem:
            continue
        bare = WRAPPERS.sub("", name)
        if bare in tensors:
            raise CheckpointError(
                f"{path}: {place or 'it'} holds {listed([bare])} twice, with and without a prefix.",
                hint="Save the state dict of one model only.",
            )
        tensors[bare] = tensor
    around = value if strict else {k: v for k, v in value.items() if not isinstance(v, Stored)}
    return StateDict(place, tensors, around, around)


def _has_tensors(value: Mapping[Any, Any]) -> bool:
    return any(isinstance(entry, Stored) for entry in value.values())
