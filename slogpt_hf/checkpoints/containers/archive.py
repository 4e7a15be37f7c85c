"""Archives of ``torch.save``, whole files or parts of one: plain values and mapped tensors.

The layout is that of ``torch.serialization._save``: ``<name>/data.pkl`` with a persistent id for
every storage, and its bytes as they are in ``<name>/data/<key>``. Nothing of ``torch`` is imported
before a tensor is read.
"""

from __future__ import annotations

import math
import mmap
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slogpt_hf.checkpoints.containers.settings_objects import (
    is_settings_class,
    with_settings_as_dicts,
)
from slogpt_hf.checkpoints.containers.torch_globals import (
    ITEM_BYTES,
    LIMIT,
    PLAIN,
    StorageType,
    sizes_of,
)
from slogpt_hf.checkpoints.containers.zip_slice import (
    AGAIN,
    LOCAL_MAGIC,
    Archive,
    Span,
    open_archive,
)
from slogpt_hf.checkpoints.tensors import Shape, Stored, numpy_dtype
from slogpt_hf.errors import CheckpointError
from slogpt_hf.files import require_file
from slogpt_hf.pickles import Unsupported, Wording, load

if TYPE_CHECKING:
    import numpy.typing as npt

MAX_PICKLE_BYTES = 16 * 2**20
MAX_TENSORS = 50_000
MOST_STRIDE = LIMIT // 16 - 1  # of values of up to 16 bytes, as a number of bytes
WORDING = Wording(
    forbidden="its pickle holds something that is not plain data ({}); nothing of it was run.",
    forbidden_hint="A checkpoint may hold tensors and plain values only."
    " Save it again without other objects.",
    damaged="cannot be read as a checkpoint ({}).",
    damaged_hint=AGAIN,
)


@dataclass(frozen=True, slots=True)
class _Storage:
    dtype: str | None
    span: Span


def map_file(path: Path) -> mmap.mmap:
    """Map a file for reading; it may be replaced later.

    A private mapping that may be written to counts as memory that the process can come to need:
    Linux refuses one of more than the machine has, and RLIMIT_DATA what is beyond it.

    Raises:
        CheckpointError: it cannot be mapped.
    """
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be mapped ({error}).", hint=AGAIN) from error


def read_archive(
    path: Path,
    start: int = 0,
    n_bytes: int | None = None,
    *,
    mapped: mmap.mmap | None = None,
    most_pickle_bytes: int = MAX_PICKLE_BYTES,
) -> Any:
    """The value of the ``torch.save`` archive in a part of a file.

    Args:
        path: the file.
        start: the archive's first byte.
        n_bytes: its length; None: up to the end of the file.
        mapped: what ``map_file(path)`` gave, for who reads many archives of one file; None maps it.
        most_pickle_bytes: refuse a longer description of the values.

    Returns:
        Dicts, lists, tuples, text, numbers, bytes and ``Stored`` tensors that are views of the
        mapped file where it holds them aligned. Sets are lists; dtypes, devices, layouts and
        paths are text. Tensors' own attributes and ``requires_grad`` are dropped.

    Raises:
        UsageError: ``path`` is not a file.
        CheckpointError: there is no whole archive of ``torch.save``, or its pickle holds anything
            but tensors and plain values.
    """
    require_file(path)
    mapped = map_file(path) if mapped is None else mapped
    try:
        with path.open("rb") as file:
            descriptor = file.fileno()
            n_file = min(os.fstat(descriptor).st_size, len(mapped))
            span = Span(start, n_file - start if n_bytes is None else n_bytes)
            if start < 0 or span.n_bytes < 0 or start + span.n_bytes > n_file:
                raise CheckpointError(
                    f"{path}: has {n_file} bytes, too few for an archive of {span.n_bytes} bytes"
                    f" from byte {start}.",
                    hint=AGAIN,
                )
            _require_magic(path, os.pread(descriptor, 4, start))
            return _read(open_archive(descriptor, span, str(path)), mapped, most_pickle_bytes)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}).", hint=AGAIN) from error


def _require_magic(path: Path, start: bytes) -> None:
    if start != LOCAL_MAGIC:
        legacy = start[:1] == b"\x80"
        raise CheckpointError(
            f"{path}: is not a checkpoint that torch.save wrote (its first bytes are {start!r}).",
            hint="It looks like a pickle of PyTorch before 1.6: load it there and save it again."
            if legacy
            else "Name the file that the trainer saved, e.g. out/ckpt.pt.",
        )


def _read(archive: Archive, mapped: mmap.mmap, most_pickle_bytes: int) -> Any:
    pickles = [name for name in archive.entries if name.endswith("/data.pkl")]
    roots = [name.removesuffix("data.pkl") for name in pickles if name.count("/") == 1]
    if not roots:
        raise CheckpointError(
            f"{archive.source}: is a zip archive without a data.pkl, not a checkpoint.",
            hint="Name the file that the trainer saved, e.g. out/ckpt.pt.",
        )
    if len(roots) > 1:
        raise archive.damaged("it has two data.pkl")
    (root,) = roots
    order = f"{root}byteorder"
    if order in archive.entries and archive.read(order, 16) != sys.byteorder.encode():
        raise CheckpointError(
            f"{archive.source}: was written by a machine of another byte order.",
            hint=f"Load and save it again on a {sys.byteorder}-endian machine.",
        )
    reader = _Reader(archive, root, mapped)
    value = load(
        archive.read(f"{root}data.pkl", most_pickle_bytes),
        archive.source,
        globals=_globals(reader),
        persistent=reader.storage,
        is_inert=is_settings_class,
        leaves=(Stored,),
        wording=WORDING,
    )
    return with_settings_as_dicts(value, archive.source, WORDING)


@dataclass
class _Reader:
    """What the pickle's persistent ids and tensors stand for."""

    archive: Archive
    root: str
    mapped: mmap.mmap
    n_tensors: int = 0
    spans: dict[str, Span] = field(default_factory=dict)

    def storage(self, ident: object) -> _Storage:
        """The storage of ``("storage", type, key, device, number of values)``."""
        if not isinstance(ident, tuple) or len(ident) != 5 or ident[0] != "storage":
            raise ValueError("a persistent id that is not a storage's")
        _, kind, key, _, count = ident
        if not isinstance(kind, StorageType) or not isinstance(key, str):
            raise ValueError("a storage without type and key")
        if type(count) is not int or not 0 <= count < LIMIT:
            raise ValueError("a storage of no possible size")
        if key not in self.spans:
            self.spans[key] = self.archive.locate(f"{self.root}data/{key}")
        span = self.spans[key]
        quantised = kind.dtype is not None and kind.dtype not in ITEM_BYTES
        item = 1 if kind.dtype is None or quantised else ITEM_BYTES[kind.dtype]
        if count * item != span.n_bytes and not quantised:
            raise ValueError(
                f"storage {key} has {span.n_bytes} bytes, not {count} values of {item} bytes"
            )
        return _Storage(kind.dtype, span)

    def tensor(
        self,
        storage: object,
        offset: object,
        size: object,
        stride: object,
        _requires_grad: object = False,
        _hooks: object = None,
        metadata: object = None,
    ) -> Stored | Unsupported:
        """A tensor as ``torch._utils._rebuild_tensor_v2`` makes it; the offset is in values."""
        return self._tensor(storage, offset, size, stride, None, metadata)

    def typed_tensor(
        self,
        storage: object,
        offset: object,
        size: object,
        stride: object,
        _requires_grad: object,
        _hooks: object,
        dtype: object,
        metadata: object = None,
    ) -> Stored | Unsupported:
        """A tensor as ``torch._utils._rebuild_tensor_v3`` makes it, of an untyped storage."""
        if not isinstance(dtype, str):
            raise ValueError("a tensor without a dtype")
        return self._tensor(storage, offset, size, stride, dtype.removeprefix("torch."), metadata)

    def _tensor(
        self,
        storage: object,
        offset: object,
        size: object,
        stride: object,
        dtype: str | None,
        metadata: object,
    ) -> Stored | Unsupported:
        if not isinstance(storage, _Storage):
            raise ValueError("a tensor without a storage")
        dtype = dtype or storage.dtype or "uint8"
        if dtype not in ITEM_BYTES:
            return Unsupported(f"a tensor of dtype {dtype[:40]}")
        if isinstance(metadata, Mapping) and metadata:
            return Unsupported("a conjugated or negated tensor")
        self.n_tensors += 1
        if self.n_tensors > MAX_TENSORS:
            raise ValueError(f"more than {MAX_TENSORS} tensors")
        shape, strides = sizes_of(size, "shape"), sizes_of(stride, "strides")
        (first,) = sizes_of((offset,), "offset")
        if len(shape) != len(strides):
            raise ValueError("a tensor with more dimensions than strides, or fewer")
        count = math.prod(shape)
        if math.prod(d for d in shape if d) >= LIMIT:
            raise ValueError("a tensor of no possible size")
        last = first + sum((d - 1) * s for d, s in zip(shape, strides, strict=True))
        item, span = ITEM_BYTES[dtype], storage.span
        if not count:  # a slice of nothing may begin beyond its storage
            return Stored(shape, dtype, partial(_empty, dtype, shape))
        if (last + 1) * item > span.n_bytes:
            raise ValueError("a tensor that runs beyond its storage")
        if count * item > span.n_bytes:
            return Unsupported("an expanded tensor, whose values repeat")
        bytes_ = Span(span.start + first * item, (last + 1 - first) * item)
        return Stored(shape, dtype, Mapped(self.mapped, bytes_, dtype, shape, strides))


@dataclass(frozen=True)
class Mapped:
    """Values that lie in a mapped file as they are; called, it gives them.

    Attributes:
        mapped: the whole file.
        span: the bytes of it from the first value to the last.
        dtype: as torch names it.
        shape: dimensions.
        strides: values from one to the next, in each dimension.
    """

    mapped: mmap.mmap
    span: Span
    dtype: str
    shape: Shape
    strides: Shape

    def __call__(self) -> npt.NDArray[Any]:
        """The values: a view, or a copy where they are not aligned.

        Writing to a view through torch ends the process (SIGSEGV).
        """
        import numpy as np

        if not self.span.n_bytes:
            return _empty(self.dtype, self.shape)
        data = np.frombuffer(self.mapped, np.uint8, self.span.n_bytes, self.span.start)
        dtype = numpy_dtype(self.dtype)
        if self.span.start % dtype.itemsize:
            data = data.copy()
        # The stride of a dimension of one value may be any number.
        strides = [min(stride, MOST_STRIDE) * dtype.itemsize for stride in self.strides]
        return np.ndarray(self.shape, dtype, data, strides=strides)


def _empty(dtype: str, shape: Shape) -> npt.NDArray[Any]:
    import numpy as np

    return np.empty(shape, numpy_dtype(dtype))


def _globals(reader: _Reader) -> Mapping[str, object]:
    return PLAIN | {
        "torch._utils._rebuild_tensor": reader.tensor,
        "torch._utils._rebuild_tensor_v2": reader.tensor,
        "torch._utils._rebuild_tensor_v3": reader.typed_tensor,
    }
