"""What a container (a file layout) gives before anyone knows whose model it holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Contents:
    """The values of a checkpoint as its trainer saved them, tensors as ``Stored``.

    Attributes:
        path: what the user named: a file or a folder.
        container: what it is, for people, e.g. ``torch.save file``.
        value: nested dicts, lists, text, numbers and ``Stored`` tensors. A state dict is a dict
            of names to tensors, at the top or under a name such as ``model``.
        files: the files whose bytes decide the value, ``path`` itself or those below it, sorted.
        notes: what its reader decided that a person may want to know, one sentence each.
    """

    path: Path
    container: str
    value: Any
    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()
