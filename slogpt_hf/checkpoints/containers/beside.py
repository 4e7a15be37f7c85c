"""Settings as JSON beside weights: Meta's ``params.json``, ``config.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from slogpt_hf.checkpoints.containers import llama2c_bin
from slogpt_hf.checkpoints.containers.sou import parse_object
from slogpt_hf.checkpoints.contents import Contents
from slogpt_hf.checkpoints.fields import (
    ALIASES,
    MODEL_ARGS,
    SHOWN_BY_SHAPES,
    places_in,
    scalar,
)
from slogpt_hf.checkpoints.tensors import Stored

NAMES = ("params.json", "config.json")
SIZES = (*ALIASES["n_layer"], *ALIASES["n_head"], *ALIASES["n_embd"])
MOST_BYTES = 1 << 20


def with_settings_beside(contents: Contents, folder: Path) -> Contents:
    """Contents with what ``NAMES`` in a folder record.

    Each file that records a size stands at the top of the value under its own name. Where the
    contents record sizes too, it counts only if all that both record agree; beside a trainer's
    ``model_args``, from which it builds its model, nothing is looked for.
    """
    value = contents.value
    trainers = contents.container != llama2c_bin.NAME  # whose sizes are of its header
    if not isinstance(value, Mapping) or (MODEL_ARGS in value and trainers):
        return contents
    own = _sizes_in(value)
    found: dict[str, Any] = {}
    notes = []
    for name in NAMES:
        try:
            if not (folder / name).is_file():
                continue
            with (folder / name).open("rb") as file:
                text = file.read(MOST_BYTES + 1)
            if len(text) > MOST_BYTES:
                raise ValueError(f"more than {MOST_BYTES} bytes")
            settings = parse_object(text)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            notes.append(f"{name} is not read ({ascii(reason)[1:-1][:160]}).")
            continue
        if (sizes := _sizes_in(settings)) and (differing := _differing(own, sizes)) is None:
            found[name] = settings
        elif sizes and differing:
            notes.append(f"{name} is not read: its {differing} is another model's.")
    files = tuple(sorted({*contents.files, *(folder / name for name in found)}))
    return replace(
        contents,
        value={**value, **found} if found else value,
        files=files if found else contents.files,
        notes=(*contents.notes, *notes),
    )


def _sizes_in(value: Mapping[Any, Any]) -> dict[str, set[float]]:
    """Every size that is recorded, if any of SIZES is, by our name."""
    settings = {key: entry for key, entry in value.items() if not isinstance(entry, Stored)}
    holders = [holder for _, holder in places_in(settings)]
    if not any(scalar(holder.get(name)) is not None for holder in holders for name in SIZES):
        return {}
    found = {
        size: {n for h in holders for each in ALIASES[size] if (n := scalar(h.get(each))) and n > 0}
        for size in SHOWN_BY_SHAPES
    }
    return {size: values for size, values in found.items() if values}


def _differing(own: Mapping[str, set[float]], other: Mapping[str, set[float]]) -> str | None:
    """The first size of which the contents record another; None if there is none."""
    return next((size for size in own if other.get(size) and not own[size] & other[size]), None)
