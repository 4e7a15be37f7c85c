"""The ``.metadata`` of a ``torch.distributed.checkpoint`` folder: which bytes hold which tensor.

It is a pickle of the classes in ``torch/distributed/checkpoint/metadata.py`` and of
``_StorageInfo`` in ``filesystem.py``. Nothing of it is believed: every slice lies in a file of
the folder and shares no byte with another, and the chunks of a tensor cover it exactly.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any, TypeGuard

from slogpt_hf import pickles
from slogpt_hf.checkpoints.containers.torch_globals import ANY_ITEM_BYTES
from slogpt_hf.checkpoints.fields import printable
from slogpt_hf.checkpoints.tensors import Shape
from slogpt_hf.errors import CheckpointError
from slogpt_hf.files import require_file

METADATA = ".metadata"
MOST_BYTES = 32 << 20
MOST_CHUNKS = 4096  # of one tensor
MOST_DIMENSIONS = 8
MOST_KEYS = 32  # from the top to a value
# What stands above the optimizer's and the schedule's state, which is never read.
OPTIMIZER = re.compile(r"(optim(izer)?s?|(lr_)?schedulers?)(_state)?(_dict)?")
DAMAGED = "Copy the whole folder again, or take the checkpoint before it."

CHECKPOINT = "torch.distributed.checkpoint"
RECORDS = {
    "Metadata": f"{CHECKPOINT}.metadata.Metadata",
    "Tensor": f"{CHECKPOINT}.metadata.TensorStorageMetadata",
    "Bytes": f"{CHECKPOINT}.metadata.BytesStorageMetadata",
    "Chunk": f"{CHECKPOINT}.metadata.ChunkStorageMetadata",
    "Properties": f"{CHECKPOINT}.metadata.TensorProperties",
    "Index": f"{CHECKPOINT}.metadata.MetadataIndex",
    "Storage": f"{CHECKPOINT}.filesystem._StorageInfo",
}
ENUMS = (
    f"{CHECKPOINT}.metadata._MEM_FORMAT_ENCODING",
    "torch.distributed._shard.sharded_tensor.metadata.MEM_FORMAT_ENCODING",
)
# Also there, but of no use here: where it was saved, how tensors lay in memory.
IGNORED = (
    *ENUMS,
    f"{CHECKPOINT}.metadata.StorageMeta",
    "torch.serialization._get_layout",
    *(f"pathlib{module}.{kind}Path" for module in ("", "._local") for kind in ("Posix", "Windows")),
)
OLD_PROPERTIES = "torch.distributed._shard.sharded_tensor.metadata.TensorProperties"  # before 2.3

Keys = tuple[str | int, ...]


@dataclass(frozen=True)
class Slice:
    """Consecutive bytes of a file, an archive that ``torch.save`` wrote."""

    file: Path
    start: int
    n_bytes: int


@dataclass(frozen=True)
class Chunk:
    """A box of a tensor and where it lies."""

    offsets: Shape
    sizes: Shape
    place: Slice


@dataclass(frozen=True)
class SavedTensor:
    """A tensor in chunks that cover it exactly; ``dtype`` as torch names it, e.g. ``float32``."""

    shape: Shape
    dtype: str
    chunks: tuple[Chunk, ...]


@dataclass(frozen=True)
class Saved:
    """What a checkpoint holds beside the state of the optimizer.

    Attributes:
        tensors: by flat name.
        values: likewise, the archive of each value that is no tensor.
        keys: flat name to the keys that lead to it from the top; empty if that was not recorded.
        skipped: number of entries of the optimizer and the schedule.
    """

    tensors: Mapping[str, SavedTensor]
    values: Mapping[str, Slice]
    keys: Mapping[str, Keys]
    skipped: int


def read_metadata(folder: Path) -> Saved:
    """What the ``.metadata`` of a folder says, checked against the files.

    Raises:
        UsageError: there is no ``.metadata``.
        CheckpointError: it is damaged, contradicts itself or the files, or leads out of the
            folder; a file that it names is missing or truncated.
    """
    path = folder / METADATA
    require_file(path)
    if (n_bytes := path.stat().st_size) > MOST_BYTES:
        raise _damaged(path, f"has {n_bytes} bytes, more than the {MOST_BYTES} that are read")
    root = _state(path, pickles.load(path.read_bytes(), str(path), globals=_globals()), "Metadata")
    entries, storage = root.get("state_dict_metadata"), root.get("storage_data")
    if not isinstance(entries, dict) or not isinstance(storage, dict):
        raise _damaged(path, "has no tables of entries and of where they lie")
    keys = _keys(path, root.get("planner_data"))
    places = _Places(folder, _storage(path, storage), {})
    tensors: dict[str, SavedTensor] = {}
    values: dict[str, Slice] = {}
    skipped = 0
    for name, entry in entries.items():
        if not isinstance(name, str):
            raise _damaged(path, "has an entry without a name")
        flat = keys.get(name, (name,)) == (name,)
        if _is_optimizer(name.split(".") if flat else keys[name]):
            skipped += 1
        elif isinstance(entry, pickles.Record) and entry.name == RECORDS["Bytes"]:
            values[name] = places.find(name, None)
        else:
            tensors[name] = _tensor(places, name, _state(path, entry, "Tensor"))
    slices = [chunk.place for tensor in tensors.values() for chunk in tensor.chunks]
    _check_disjoint(path, [*slices, *values.values()])
    return Saved(tensors, values, keys, skipped)


@dataclass(frozen=True)
class _Places:
    """Finds the slice of an entry; ``sizes`` gathers the lengths of the files seen."""

    folder: Path
    storage: Mapping[tuple[str, Shape | None], Mapping[Any, Any]]
    sizes: dict[str, tuple[Path, int]]

    @property
    def metadata(self) -> Path:
        return self.folder / METADATA

    def find(self, name: str, offsets: Shape | None) -> Slice:
        info = self.storage.get((name, offsets))
        if info is None:
            raise _damaged(self.metadata, f"does not say where {printable(name)} lies")
        if info.get("transform_descriptors"):
            raise CheckpointError(
                f"{self.metadata}: {printable(name)} is stored compressed or transformed.",
                hint="Save the checkpoint without stream extensions.",
            )
        relative, start, n_bytes = map(info.get, ("relative_path", "offset", "length"))
        if not isinstance(relative, str) or not _is_count(start) or not _is_count(n_bytes):
            raise _damaged(self.metadata, f"does not say where {printable(name)} lies")
        if relative not in self.sizes:
            self.sizes[relative] = self._file(relative)
        file, size = self.sizes[relative]
        if start + n_bytes > size:
            raise CheckpointError(
                f"{file}: is truncated: it has {size} bytes, and {printable(name)} lies at "
                f"{start} to {start + n_bytes}.",
                hint=DAMAGED,
            )
        return Slice(file, start, n_bytes)

    def _file(self, relative: str) -> tuple[Path, int]:
        parts = PurePosixPath(relative).parts
        file = self.folder / relative if "\0" not in relative else self.folder
        inside = file.resolve().is_relative_to(self.folder.resolve())
        if relative.startswith("/") or "\\" in relative or ".." in parts or not inside:
            raise CheckpointError(
                f"{self.metadata}: names the file {printable(relative)}, which is not in its "
                "folder.",
                hint="Do not use this checkpoint unless you trust who wrote it.",
            )
        try:
            found = file.stat().st_size if file.is_file() else None
        except OSError:
            found = None
        if found is None:
            raise CheckpointError(f"{file}: is missing from the checkpoint.", hint=DAMAGED)
        return file, found


def _globals() -> dict[str, object]:
    records = {name: pickles.record(name) for name in (*RECORDS.values(), *IGNORED)}
    return {
        **records,
        **{f"torch.{name}": name for name in ANY_ITEM_BYTES},
        OLD_PROPERTIES: pickles.record(RECORDS["Properties"]),
        "torch.Size": _size,
        "collections.OrderedDict": _ordered,
        **dict.fromkeys(("builtins.getattr", "__builtin__.getattr"), _member),
    }


def _member(kind: object, name: object) -> pickles.Record:
    """A member of an enum, which Python 3.11.0 to 3.11.3 pickle as ``getattr(kind, name)``."""
    if not isinstance(kind, pickles.Global) or kind.name not in ENUMS or not isinstance(name, str):
        raise TypeError
    return pickles.Record(kind.name, (name,))


def _size(items: object = ()) -> tuple[object, ...]:
    if not isinstance(items, tuple | list):
        raise TypeError
    return tuple(items)


def _ordered() -> dict[Any, Any]:
    return {}


def _damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path}: {what}.", hint=DAMAGED)


def _state(path: Path, value: object, kind: str) -> dict[Any, Any]:
    if not isinstance(value, pickles.Record) or value.name != RECORDS[kind]:
        found = value.name if isinstance(value, pickles.Record) else type(value).__name__
        expected = RECORDS[kind].rpartition(".")[2]
        raise _damaged(path, f"holds a {printable(found)} where a {expected} should be")
    return value.state


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62


def _shape(path: Path, value: object) -> Shape:
    if not isinstance(value, tuple) or not all(map(_is_count, value)):
        raise _damaged(path, "holds a shape that is none")
    if len(value) > MOST_DIMENSIONS:
        raise _damaged(path, f"holds a shape of {len(value)} dimensions")
    return value


def _keys(path: Path, planned: object) -> dict[str, Keys]:
    """Flat name to keys; what other planners than torch's own record is left out."""
    if not isinstance(planned, dict):
        return {}
    result: dict[str, Keys] = {}
    for name, keys in planned.items():
        if not isinstance(name, str) or not isinstance(keys, tuple | list):
            return {}
        if not 0 < len(keys) <= MOST_KEYS or not all(
            isinstance(key, str) or _is_count(key) for key in keys
        ):
            raise _damaged(path, f"holds keys to {printable(name)} that are none")
        result[name] = tuple(keys)
    return result


def _is_optimizer(keys: Iterable[str | int]) -> bool:
    return any(isinstance(key, str) and OPTIMIZER.fullmatch(key) for key in keys)


def _storage(
    path: Path, storage: Mapping[Any, Any]
) -> dict[tuple[str, Shape | None], Mapping[Any, Any]]:
    result: dict[tuple[str, Shape | None], Mapping[Any, Any]] = {}
    for index, info in storage.items():
        key = _state(path, index, "Index")
        name, offsets = key.get("fqn"), key.get("offset")
        if not isinstance(name, str):
            raise _damaged(path, "says where something without a name lies")
        place = (name, None if offsets is None else _shape(path, offsets))
        if place in result:
            raise _damaged(path, f"says twice where {printable(name)} lies")
        result[place] = _state(path, info, "Storage")
    return result


def _tensor(places: _Places, name: str, entry: Mapping[Any, Any]) -> SavedTensor:
    path, shape = places.metadata, _shape(places.metadata, entry.get("size"))
    properties, boxes = entry.get("properties"), entry.get("chunks")
    _state(path, properties, "Properties")
    assert isinstance(properties, pickles.Record)
    dtype = next(iter(properties.items), None)
    if not isinstance(dtype, str) or dtype not in ANY_ITEM_BYTES:
        raise _damaged(path, f"gives {printable(name)} no dtype")
    if not isinstance(boxes, list) or len(boxes) > MOST_CHUNKS:
        raise _damaged(path, f"has no list of at most {MOST_CHUNKS} chunks of {printable(name)}")
    chunks = []
    for box in boxes:
        state = _state(path, box, "Chunk")
        offsets, sizes = _shape(path, state.get("offsets")), _shape(path, state.get("sizes"))
        if math.prod(sizes) == 0:  # a process without a share of the tensor
            continue
        place = places.find(name, offsets)
        if place.n_bytes < math.prod(sizes) * ANY_ITEM_BYTES[dtype]:
            raise _damaged(
                path,
                f"gives a chunk {sizes} of {printable(name)}, {dtype}, {place.n_bytes} bytes",
            )
        chunks.append(Chunk(offsets, sizes, place))
    if problem := _not_covered(shape, chunks):
        raise _damaged(path, f"holds chunks of {printable(name)} {shape} that {problem}")
    return SavedTensor(shape, dtype, tuple(chunks))


def _not_covered(shape: Shape, chunks: list[Chunk]) -> str:
    """How the chunks fail to cover the tensor exactly, or nothing."""
    import numpy as np

    for chunk in chunks:
        if len(chunk.offsets) != len(shape) or len(chunk.sizes) != len(shape):
            return "have other dimensions"
        if any(o + s > n for o, s, n in zip(chunk.offsets, chunk.sizes, shape, strict=True)):
            return f"reach out of it: {chunk.sizes} at {chunk.offsets}"
    # Inside, not overlapping, and of the same volume: then nothing is left out.
    starts = np.array([chunk.offsets for chunk in chunks], dtype=np.int64)
    stops = starts + np.array([chunk.sizes for chunk in chunks], dtype=np.int64)
    for i, chunk in enumerate(chunks):
        shared = (starts[i + 1 :] < stops[i]) & (starts[i] < stops[i + 1 :])
        if shared.all(axis=-1).any():
            return f"overlap at {chunk.offsets}"
    if sum(math.prod(chunk.sizes) for chunk in chunks) != math.prod(shape):
        return "leave some of it out"
    return ""


def _check_disjoint(path: Path, slices: list[Slice]) -> None:
    """Raise where slices share bytes, which lets a small file claim to hold a large model."""
    by_file: dict[Path, list[Slice]] = {}
    for each in slices:
        by_file.setdefault(each.file, []).append(each)
    for earlier, later in _neighbours(by_file.values()):
        if earlier.start + earlier.n_bytes > later.start:
            raise _damaged(path, f"has two entries that share bytes of {earlier.file.name}")


def _neighbours(groups: Iterable[list[Slice]]) -> Iterator[tuple[Slice, Slice]]:
    for group in groups:
        yield from pairwise(sorted(group, key=lambda each: (each.start, each.n_bytes)))
