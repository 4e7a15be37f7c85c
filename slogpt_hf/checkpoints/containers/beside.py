"""Settings as JSON beside weights that record none: Meta's ``params.json``, ``config.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from slogpt_hf.checkpoints.containers.sou import parse_object
from slogpt_hf.checkpoints.contents import Contents
from slogpt_hf.checkpoints.fields import ALIASES, places_in, scalar
from slogpt_hf.checkpoints.tensors import Stored

NAMES = ("params.json", "config.json")
SIZES = (*ALIASES["n_layer"], *ALIASES["n_head"], *ALIASES["n_embd"])
MOST_BYTES = 1 << 20


def with_settings_beside(contents: Contents, folder: Path) -> Contents:
    """Contents that record no size of their model, with what ``NAMES`` in a folder record.

    Each file that records a size stands at the top of the value under its own name. What the
    contents record themselves is never mixed with it: then nothing is looked for.
    """
    value = contents.value
    if not isinstance(value, Mapping) or _records_sizes(value):
        return contents
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
        if _records_sizes(settings):
            found[name] = settings
    files = tuple(sorted({*contents.files, *(folder / name for name in found)}))
    return replace(
        contents,
        value={**value, **found} if found else value,
        files=files if found else contents.files,
        notes=(*contents.notes, *notes),
    )


def _records_sizes(value: Mapping[Any, Any]) -> bool:
    settings = {key: entry for key, entry in value.items() if not isinstance(entry, Stored)}
    return any(
        scalar(holder.get(name)) is not None for _, holder in places_in(settings) for name in SIZES
    )
