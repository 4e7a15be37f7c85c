"""Run folders: a model file and ``metadata.json`` beside it, read as one checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from slogpt_hf.checkpoints.contents import Contents
from slogpt_hf.checkpoints.fields import listed, printable
from slogpt_hf.checkpoints.state_dict import KEYS, find_state_dict
from slogpt_hf.checkpoints.tensors import Stored
from slogpt_hf.errors import CheckpointError, UsageError, first_line
from slogpt_hf.files import require_file

NAME = "run folder"
MODELS = ("model.pt", "model.safetensors", "checkpoint.pt", "pytorch_model.bin")
METADATA = "metadata.json"
MOST_METADATA_BYTES = 4 << 20  # a value made from JSON takes up to 25 times its text
SHOWN = 8
MOST_ENTRIES = 10_000  # of a folder, looked at for a message


def recognises(path: Path) -> bool:
    """Whether ``path`` is a folder with a model file."""
    return any((path / name).is_file() for name in MODELS)


def read(path: Path, read_file: Callable[[Path], Contents]) -> Contents:
    """The value of the model file with ``metadata``, what ``metadata.json`` holds, beside it.

    A bare state dict stands under ``model``. Objects in ``metadata.json``, such as ``config``,
    stand at the top too, where a checkpoint of one file has them. What the model file says
    itself goes before both, key by key.

    Args:
        path: the folder.
        read_file: what reads the model file.

    Raises:
        UsageError: no folder, no model file in it, or several.
        CheckpointError: ``metadata.json`` is damaged; and what ``read_file`` raises.
    """
    inner = read_file(_model_in(path))
    recorded = _metadata(path / METADATA)
    value = _structured(inner.value)
    if recorded is None:
        note = f"There is no {METADATA} beside {inner.path.name}."
        return Contents(path, NAME, value, inner.files, (*inner.notes, note))
    own = value.get("metadata")
    own = own if isinstance(own, Mapping) else {}
    objects = {
        k: v
        for k, v in recorded.items()
        if isinstance(v, dict) and k not in KEYS and k != "metadata"
    }
    differing = _differing(own, recorded)
    merged = objects | dict(value) | {"metadata": recorded | dict(own)}
    for name in objects.keys() & value.keys():
        found = value[name]
        if isinstance(found, Mapping):
            merged[name] = objects[name] | dict(found)
            differing += [f"{name}.{key}" for key in _differing(found, objects[name])]
        else:
            differing.append(name)
    notes = inner.notes
    if differing:
        keys = listed(sorted(set(differing)), SHOWN)
        notes += (
            f"{METADATA} and {inner.path.name} differ in {keys}: what {inner.path.name} says "
            "counts.",
        )
    return Contents(path, NAME, merged, tuple(sorted({*inner.files, path / METADATA})), notes)


def _differing(own: Mapping[Any, Any], recorded: Mapping[str, Any]) -> list[str]:
    return [key for key in recorded if key in own and own[key] != recorded[key]]


def _model_in(path: Path) -> Path:
    if not path.is_dir():
        raise UsageError(f"{path}: is not a folder.", hint="Check the path.")
    there = [path / name for name in MODELS if (path / name).exists()]
    if len(there) == 1:
        return there[0]
    if there:
        found = " and ".join(file.name for file in there)
        raise UsageError(
            f"{path}: holds {found}, and nothing says which one is meant.",
            hint="Name one of these files.",
        )
    try:
        names = sorted(entry.name for entry in islice(path.iterdir(), MOST_ENTRIES))
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be read: {error.strerror}.", hint="Check its permissions."
        ) from error
    found = ", ".join(map(printable, names[:SHOWN])) or "nothing"
    more = ", ..." if len(names) > SHOWN else ""
    raise UsageError(
        f"{path}: is a folder without a checkpoint. Looked for {', '.join(MODELS)} and .metadata "
        f"(torch.distributed.checkpoint); found {found}{more}.",
        hint="Name the checkpoint in it, e.g. ckpt.pt.",
    )


def _metadata(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    require_file(path)
    if (n_bytes := path.stat().st_size) > MOST_METADATA_BYTES:
        raise CheckpointError(
            f"{path}: has {n_bytes} bytes, more than the {MOST_METADATA_BYTES} that are read.",
            hint="Remove what is not about the model.",
        )
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: is not JSON ({first_line(error)}).",
            hint="Write it again, or remove it: the model can be read without it.",
        ) from error
    if not isinstance(found, dict):
        raise CheckpointError(
            f"{path}: holds a {type(found).__name__}, not an object.",
            hint="Write it again, or remove it: the model can be read without it.",
        )
    return found


def _structured(value: Any) -> Mapping[Any, Any]:
    """A checkpoint's value with its state dict under a name; a bare one comes under ``model``."""
    bare = isinstance(value, Mapping) and all(isinstance(v, Stored) for v in value.values())
    if not isinstance(value, Mapping) or bare or find_state_dict(value) is None:
        return {"model": value}
    return value
