"""``torch.distributed.checkpoint`` folders: sharded tensors, read one at a time.

A folder holds ``.metadata`` and ``__{rank}_{n}.distcp`` files, in which archives of
``torch.save`` follow one another: one for each chunk of a tensor and for each other value.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from slogpt_hf.checkpoints.containers.archive import map_file, read_archive
from slogpt_hf.checkpoints.containers.distributed_metadata import (
    DAMAGED,
    METADATA,
    Chunk,
    Keys,
    Saved,
    SavedTensor,
    read_metadata,
)
from slogpt_hf.checkpoints.containers.folder import MODELS
from slogpt_hf.checkpoints.contents import Contents
from slogpt_hf.checkpoints.fields import printable
from slogpt_hf.checkpoints.tensors import Stored, numpy_dtype
from slogpt_hf.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    import numpy.typing as npt

NAME = "torch.distributed.checkpoint folder"
# One mapping for each file, for as long as a tensor in it is in use.
Maps = WeakValueDictionary[Path, mmap.mmap]
PREFIX = "model."  # of names that were saved flat
# Of all values that are no tensors: bytes of their archives, and items as a tree.
MOST_VALUE_BYTES = 4 << 20
MOST_VALUES_BYTES = 12 << 20
MOST_CHUNK_PICKLE_BYTES = 1 << 16  # one tensor takes a few hundred
MOST_ITEMS = 1 << 20


def recognises(path: Path) -> bool:
    """Whether ``path`` is a folder of such a checkpoint, even one not saved to its end."""
    return path.is_dir() and ((path / METADATA).is_file() or _has_shards(path))


def read(path: Path) -> Contents:
    """The nested dict that was saved, without the state of the optimizer.

    A tensor in one chunk is a view of the mapped file where its bytes are aligned, which archives
    that follow one another do not see to; any other is made anew by every ``read``.
    Keys that are no text are text in the result, as ``torch.distributed.checkpoint`` saves them.

    Raises:
        UsageError: ``path`` is no such folder.
        CheckpointError: ``.metadata`` is missing, damaged, or does not fit the files; an archive
            holds something else than it says; there is another checkpoint in the folder.
    """
    if other := next((name for name in MODELS if (path / name).exists()), None):
        raise CheckpointError(
            f"{path}: holds two checkpoints: {other} and a torch.distributed.checkpoint; name one.",
            hint=f"Name {path / other}, or move it out of the folder.",
        )
    if not (path / METADATA).is_file():
        if not _has_shards(path):
            raise UsageError(f"{path}: is not a {NAME}.", hint="Check the path.")
        raise CheckpointError(
            f"{path}: holds .distcp files, but no {METADATA}: it was not saved to its end.",
            hint="Take the checkpoint before it.",
        )
    saved, maps = read_metadata(path), Maps()
    entries: dict[str, Any] = {
        name: Stored(tensor.shape, tensor.dtype, partial(_read_tensor, name, tensor, maps))
        for name, tensor in saved.tensors.items()
    }
    entries |= _values(path, saved)
    places = [chunk.place for tensor in saved.tensors.values() for chunk in tensor.chunks]
    files = {place.file for place in (*places, *saved.values.values())}
    n_split = sum(len(tensor.chunks) > 1 for tensor in saved.tensors.values())
    notes = (
        (f"{n_split} of its {len(saved.tensors)} tensors lie in several pieces.",)
        if n_split
        else ()
    )
    return Contents(
        path,
        NAME,
        _nested(path / METADATA, entries, _keys(saved)),
        (path / METADATA, *sorted(files)),
        notes,
    )


def _has_shards(path: Path) -> bool:
    return next(path.glob("*.distcp"), None) is not None


def _values(path: Path, saved: Saved) -> dict[str, Any]:
    n_bytes = sum(place.n_bytes for place in saved.values.values())
    largest = max((place.n_bytes for place in saved.values.values()), default=0)
    if n_bytes > MOST_VALUES_BYTES or largest > MOST_VALUE_BYTES:
        raise CheckpointError(
            f"{path}: holds {len(saved.values)} values beside its tensors in {n_bytes} bytes, the "
            f"largest of {largest}; at most {MOST_VALUES_BYTES} and {MOST_VALUE_BYTES} are read.",
            hint="Save the model without what is not about it.",
        )
    result, n_items = {}, 0
    mapped = {file: map_file(file) for file in {place.file for place in saved.values.values()}}
    for name, place in saved.values.items():
        result[name] = read_archive(
            place.file, place.start, place.n_bytes, mapped=mapped[place.file]
        )
        n_items += _count(result[name])
        if n_items > MOST_ITEMS:
            raise CheckpointError(
                f"{path}: holds more than {MOST_ITEMS} values beside its tensors.",
                hint="Save the model without what is not about it.",
            )
    return result


def _count(value: Any) -> int:
    items = value.values() if isinstance(value, dict) else value
    return 1 + sum(map(_count, items)) if isinstance(value, dict | list | tuple) else 1


def _read_tensor(name: str, tensor: SavedTensor, maps: Maps) -> npt.NDArray[Any]:
    import numpy as np

    if len(tensor.chunks) == 1:
        return _read_chunk(name, tensor, tensor.chunks[0], maps)
    result = np.empty(tensor.shape, numpy_dtype(tensor.dtype))
    for chunk in tensor.chunks:
        box = tuple(
            slice(offset, offset + size)
            for offset, size in zip(chunk.offsets, chunk.sizes, strict=True)
        )
        result[box] = _read_chunk(name, tensor, chunk, maps)
    return result


def _read_chunk(name: str, tensor: SavedTensor, chunk: Chunk, maps: Maps) -> npt.NDArray[Any]:
    place = chunk.place
    mapped = maps.get(place.file)
    if mapped is None:
        mapped = maps[place.file] = map_file(place.file)
    found = read_archive(
        place.file,
        place.start,
        place.n_bytes,
        mapped=mapped,
        most_pickle_bytes=MOST_CHUNK_PICKLE_BYTES,
    )
    if not isinstance(found, Stored) or found.shape != chunk.sizes or found.dtype != tensor.dtype:
        what = (
            f"a {found.dtype} tensor of shape {found.shape}"
            if isinstance(found, Stored)
            else f"a {type(found).__name__}"
        )
        raise CheckpointError(
            f"{place.file}: holds {what} at byte {place.start}, where {METADATA} says "
            f"that a chunk {chunk.sizes} of {printable(name)}, {tensor.dtype}, lies.",
            hint=DAMAGED,
        )
    return found.values()


def _keys(saved: Saved) -> Mapping[str, Keys]:
    if any(keys != (name,) for name, keys in saved.keys.items()):
        return saved.keys
    if saved.tensors and all(name.startswith(PREFIX) for name in saved.tensors):
        return {
            name: (PREFIX[:-1], name.removeprefix(PREFIX))
            for name in (*saved.tensors, *saved.values)
            if name.startswith(PREFIX)
        }
    return saved.keys


class _Branch(dict[str | int, Any]):
    """A level of the result, as distinct from a value that was saved."""


def _nested(path: Path, entries: Mapping[str, Any], keys: Mapping[str, Keys]) -> Any:
    top = _Branch()
    for name, entry in entries.items():
        *outer, last = keys.get(name, (name,))
        holder: Any = top
        for key in outer:
            holder = holder.setdefault(key, _Branch())
            if not isinstance(holder, _Branch):
                break
        if not isinstance(holder, _Branch) or last in holder:
            raise CheckpointError(
                f"{path}: leads to {printable(name)} and to another entry by the same keys.",
                hint=DAMAGED,
            )
        holder[last] = entry
    return {key: _plain(value) for key, value in top.items()}


def _plain(value: Any) -> Any:
    """Branches as dicts, or as lists where the keys are 0, 1, 2...: keys of dicts are text."""
    if not isinstance(value, _Branch):
        return value
    items = {key: _plain(item) for key, item in value.items()}
    numbers = range(len(items))
    return [items[n] for n in numbers] if all(n in items for n in numbers) else items
