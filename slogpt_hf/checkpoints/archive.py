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

from slogpt_hf.checkpoints.tensors import Shape, Stored
from slogpt_hf.checkpoints.zip_slice import AGAIN, LOCAL_MAGIC, Archive, Span, open_archive
from slogpt_hf.errors import CheckpointError
from slogpt_hf.files import require_file
from slogpt_hf.pickles import NUMPY, Global, Unsupported, Wording, load

if TYPE_CHECKING:
    from torch import Tensor

MAX_PICKLE_BYTES = 16 * 2**20
MAX_TENSORS = 50_000
MAX_DIMENSIONS = 64
LIMIT = 2**63

# Bytes of one value, by torch's name of the dtype.
ITEM_BYTES = {
    **dict.fromkeys(("bool", "uint8", "int8"), 1),
    **dict.fromkeys(("float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu"), 1),
    **dict.fromkeys(("float8_e4m3fnuz", "float8_e5m2fnuz"), 1),
    **dict.fromkeys(("int16", "uint16", "float16", "bfloat16"), 2),
    **dict.fromkeys(("int32", "uint32", "float32", "complex32"), 4),
    **dict.fromkeys(("int64", "uint64", "float64", "complex64"), 8),
    "complex128": 16,
}
STORAGES = {
    **{"Bool": "bool", "Byte": "uint8", "Char": "int8", "Short": "int16", "Int": "int32"},
    **{"Long": "int64", "Half": "float16", "BFloat16": "bfloat16", "Float": "float32"},
    **{"Double": "float64", "ComplexFloat": "complex64", "ComplexDouble": "complex128"},
}
QUANTISED_STORAGES = ("QInt8", "QUInt8", "QInt32", "QUInt4x2", "QUInt2x4")
# torch._utils' functions for what is no block of numbers.
NOT_DENSE = {
    "_rebuild_sparse_tensor": "a sparse tensor",
    "_rebuild_sparse_csr_tensor": "a sparse tensor",
    "_rebuild_qtensor": "a quantised tensor",
    "_rebuild_nested_tensor": "a nested tensor",
    "_rebuild_meta_tensor_no_storage": "a tensor on the meta device, without values",
    "_rebuild_wrapper_subclass": "a tensor of a subclass of torch.Tensor",
}
WORDING = Wording(
    forbidden="its pickle holds something that is not plain data ({}); nothing of it was run.",
    forbidden_hint="A checkpoint may hold tensors and plain values only."
    " Save it again without other objects.",
    damaged="cannot be read as a checkpoint ({}).",
    damaged_hint=AGAIN,
)


@dataclass(frozen=True, slots=True)
class _StorageType:
    """``torch.FloatStorage`` and its kind: the dtype's name, None where the tensor knows it."""

    dtype: str | None


@dataclass(frozen=True, slots=True)
class _Storage:
    dtype: str | None
    span: Span


def map_file(path: Path) -> mmap.mmap:
    """Map a file so that its bytes can be seen and, privately, written; it may be replaced later.

    Raises:
        CheckpointError: it cannot be mapped.
    """
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be mapped ({error}).", hint=AGAIN) from error


def read_archive(
    path: Path, start: int = 0, n_bytes: int | None = None, *, mapped: mmap.mmap | None = None
) -> Any:
    """The value of the ``torch.save`` archive in a part of a file.

    Args:
        path: the file.
        start: the archive's first byte.
        n_bytes: its length; None: up to the end of the file.
        mapped: what ``map_file(path)`` gave, for who reads many archives of one file; None maps it.

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
            found = file.fileno()
            n_file = min(os.fstat(found).st_size, len(mapped))
            span = Span(start, n_file - start if n_bytes is None else n_bytes)
            if start < 0 or span.n_bytes < 0 or start + span.n_bytes > n_file:
                raise CheckpointError(
                    f"{path}: has {n_file} bytes, too few for an archive of {span.n_bytes} bytes"
                    f" from byte {start}.",
                    hint=AGAIN,
                )
            _require_magic(path, os.pread(found, 4, start))
            return _read(open_archive(found, span, str(path)), mapped)
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


def _read(archive: Archive, mapped: mmap.mmap) -> Any:
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
    if f"{root}constants.pkl" in archive.entries:
        raise CheckpointError(
            f"{archive.source}: is a TorchScript program, not a checkpoint.",
            hint="Name the file that the trainer saved, e.g. out/ckpt.pt.",
        )
    order = f"{root}byteorder"
    if order in archive.entries and archive.read(order, 16) != sys.byteorder.encode():
        raise CheckpointError(
            f"{archive.source}: was written by a machine of another byte order.",
            hint=f"Load and save it again on a {sys.byteorder}-endian machine.",
        )
    reader = _Reader(archive, root, mapped)
    return load(
        archive.read(f"{root}data.pkl", MAX_PICKLE_BYTES),
        archive.source,
        globals=_globals(reader),
        persistent=reader.storage,
        leaves=(Stored,),
        wording=WORDING,
    )


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
        if not isinstance(kind, _StorageType) or not isinstance(key, str):
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
        shape, strides = _sizes(size, "shape"), _sizes(stride, "strides")
        (first,) = _sizes((offset,), "offset")
        if len(shape) != len(strides):
            raise ValueError("a tensor with more dimensions than strides, or fewer")
        count = math.prod(shape)
        if math.prod(d for d in shape if d) >= LIMIT:
            raise ValueError("a tensor of no possible size")
        last = first + sum((d - 1) * s for d, s in zip(shape, strides, strict=True))
        item, span = ITEM_BYTES[dtype], storage.span
        if first * item > span.n_bytes or (count and (last + 1) * item > span.n_bytes):
            raise ValueError("a tensor that runs beyond its storage")
        if count * item > span.n_bytes:
            return Unsupported("an expanded tensor, whose values repeat")
        bytes_ = Span(span.start + first * item, (last + 1 - first) * item if count else 0)
        return Stored(shape, dtype, partial(_view, self.mapped, bytes_, dtype, shape, strides))


def _sizes(values: object, what: str) -> Shape:
    if not isinstance(values, (tuple, list)) or len(values) > MAX_DIMENSIONS:
        raise ValueError(f"a tensor whose {what} is not a few numbers")
    if not all(type(value) is int and 0 <= value < LIMIT for value in values):
        raise ValueError(f"a tensor whose {what} holds an impossible number")
    return tuple(values)


def _view(mapped: mmap.mmap, span: Span, dtype: str, shape: Shape, strides: Shape) -> Tensor:
    """The tensor whose values lie in ``span``: a view, or a copy where they are not aligned."""
    import torch

    kind = getattr(torch, dtype)
    if not span.n_bytes:
        return torch.empty(shape, dtype=kind)
    values = torch.frombuffer(mapped, dtype=torch.uint8, count=span.n_bytes, offset=span.start)
    if values.data_ptr() % ITEM_BYTES[dtype]:
        values = values.clone()
    return values.view(kind).as_strided(shape, strides)


def _parameter(data: object, *_: object) -> object:
    if not isinstance(data, (Stored, Unsupported)):
        raise ValueError("a parameter that is no tensor")
    return data


def _from_type(function: object, kind: object, args: object, _state: object) -> object:
    """A tensor with attributes of its own, which are dropped, or of a subclass."""
    if not isinstance(function, Global) or not isinstance(args, tuple):
        raise ValueError("a tensor that is not built by a call")
    if not isinstance(kind, Global) or kind.name not in _TENSOR_TYPES:
        return Unsupported("a tensor of a subclass of torch.Tensor")
    return _parameter(function.call(*args))


_TENSOR_TYPES = ("torch.Tensor", "torch.nn.parameter.Parameter")


def _text(value: object, *_: object) -> str:
    if not isinstance(value, str):
        raise ValueError("a name that is not text")
    return value


def _path(*parts: object) -> str:
    return "/".join(_text(part) for part in parts).replace("//", "/")


def _sequence(values: object = ()) -> object:
    if not isinstance(values, (list, tuple)):
        raise ValueError("a sequence that is none")
    return values


def _counter(values: object = None) -> object:
    if values is not None and not isinstance(values, dict):
        raise ValueError("a counter that is no dict")
    return {} if values is None else values


def _ordered(*items: object) -> object:
    if items:
        raise ValueError("an OrderedDict of another layout")
    return {}


def _bytes(value: object = b"", *_: object) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("bytes of another layout")
    return value


def _complex(real: object, imaginary: object) -> complex:
    if not isinstance(real, float) or not isinstance(imaginary, float):
        raise ValueError("a complex number of another layout")
    return complex(real, imaginary)


def _never(*_: object) -> object:
    raise ValueError("a call of what torch.save only names")


def _not_dense(what: str, *_: object) -> Unsupported:
    return Unsupported(what)


_BUILTINS: dict[str, object] = {
    **dict.fromkeys(("set", "frozenset"), _sequence),
    **dict.fromkeys(("bytes", "bytearray"), _bytes),
    "complex": _complex,
    **dict.fromkeys(("list", "dict", "int", "float", "str", "bool"), _never),
}

_PLAIN: dict[str, object] = {
    **NUMPY,
    **{f"builtins.{name}": make for name, make in _BUILTINS.items()},
    **{f"__builtin__.{name}": make for name, make in _BUILTINS.items()},
    "collections.OrderedDict": _ordered,
    "collections.defaultdict": lambda *_: {},
    "collections.Counter": _counter,
    "torch.Size": lambda sizes=(): _sizes(sizes, "shape"),
    "torch.device": lambda kind, *index: ":".join([_text(kind), *(str(int(i)) for i in index)]),
    "torch.serialization._get_layout": _text,
    **dict.fromkeys(("torch.Tensor", "torch.nn.parameter.Parameter"), _never),
    **{f"torch.{name}": f"torch.{name}" for name in ITEM_BYTES},
    **{f"torch.{name}Storage": _StorageType(dtype) for name, dtype in STORAGES.items()},
    **{f"torch.{name}Storage": _StorageType(name.lower()) for name in QUANTISED_STORAGES},
    "torch.storage.UntypedStorage": _StorageType(None),
    **{f"torch._utils.{name}": partial(_not_dense, what) for name, what in NOT_DENSE.items()},
    **dict.fromkeys(("pathlib.PosixPath", "pathlib.WindowsPath", "pathlib.PurePosixPath"), _path),
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _from_type,
}


def _globals(reader: _Reader) -> Mapping[str, object]:
    return _PLAIN | {
        "torch._utils._rebuild_tensor": reader.tensor,
        "torch._utils._rebuild_tensor_v2": reader.tensor,
        "torch._utils._rebuild_tensor_v3": reader.typed_tensor,
    }
