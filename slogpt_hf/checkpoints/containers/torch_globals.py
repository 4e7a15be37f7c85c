"""What the names in a ``torch.save`` pickle stand for, where they need no file.

The names are those that ``torch.load(weights_only=True)`` knows, without tensor subclasses, and
those of plain Python and numpy values. Functions get what a hostile pickle may give them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from slogpt_hf.checkpoints.tensors import Shape, Stored
from slogpt_hf.pickles import NUMPY, Global, Unsupported

MAX_DIMENSIONS = 32  # of an array of numpy 1
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
# Likewise, of every dtype that a tensor can be said to have, though it is not read.
ANY_ITEM_BYTES = {
    **ITEM_BYTES,
    **dict.fromkeys(("qint8", "quint8", "quint4x2", "quint2x4", "float4_e2m1fn_x2"), 1),
    **dict.fromkeys(("bits1x8", "bits2x4", "bits4x2", "bits8"), 1),
    **{f"{sign}int{n_bits}": 1 for sign in ("", "u") for n_bits in range(1, 8)},
    "bits16": 2,
    "qint32": 4,
}
STORAGES = {
    **{"Bool": "bool", "Byte": "uint8", "Char": "int8", "Short": "int16", "Int": "int32"},
    **{"Long": "int64", "Half": "float16", "BFloat16": "bfloat16", "Float": "float32"},
    **{"Double": "float64", "ComplexFloat": "complex64", "ComplexDouble": "complex128"},
}
QUANTISED_STORAGES = ("QInt8", "QUInt8", "QInt32", "QUInt4x2", "QUInt2x4")
QUANTISATIONS = ("tensor_affine", "tensor_symmetric", "channel_affine", "channel_symmetric")
# torch._utils' functions for what is no block of numbers.
NOT_DENSE = {
    "_rebuild_sparse_tensor": "a sparse tensor",
    "_rebuild_sparse_csr_tensor": "a sparse tensor",
    "_rebuild_qtensor": "a quantised tensor",
    "_rebuild_nested_tensor": "a nested tensor",
    "_rebuild_meta_tensor_no_storage": "a tensor on the meta device, without values",
    "_rebuild_wrapper_subclass": "a tensor of a subclass of torch.Tensor",
}


@dataclass(frozen=True, slots=True)
class StorageType:
    """``torch.FloatStorage`` and its kind: the dtype's name, None where the tensor knows it."""

    dtype: str | None


def sizes_of(values: object, what: str) -> Shape:
    if not isinstance(values, (tuple, list)) or len(values) > MAX_DIMENSIONS:
        raise ValueError(f"a tensor whose {what} is not a few numbers")
    if not all(type(value) is int and 0 <= value < LIMIT for value in values):
        raise ValueError(f"a tensor whose {what} holds an impossible number")
    return tuple(values)


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


def _device(kind: object, index: object = None) -> str:
    if index is not None and not isinstance(index, int):
        raise ValueError("a device of another layout")
    return _text(kind) if index is None else f"{_text(kind)}:{index}"


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

PLAIN: dict[str, object] = {
    **NUMPY,
    **{f"builtins.{name}": make for name, make in _BUILTINS.items()},
    **{f"__builtin__.{name}": make for name, make in _BUILTINS.items()},
    "collections.OrderedDict": _ordered,
    "collections.defaultdict": lambda *_: {},
    "collections.Counter": _counter,
    "torch.Size": lambda sizes=(): sizes_of(sizes, "shape"),
    "torch.device": _device,
    "torch.serialization._get_layout": _text,
    **dict.fromkeys(("torch.Tensor", "torch.nn.parameter.Parameter"), _never),
    **{f"torch.{name}": f"torch.{name}" for name in ITEM_BYTES},
    **{f"torch.{name}Storage": StorageType(dtype) for name, dtype in STORAGES.items()},
    **{f"torch.{name}Storage": StorageType(name.lower()) for name in QUANTISED_STORAGES},
    **{f"torch.per_{name}": f"torch.per_{name}" for name in QUANTISATIONS},
    "torch.storage.UntypedStorage": StorageType(None),
    **{f"torch._utils.{name}": partial(_not_dense, what) for name, what in NOT_DENSE.items()},
    **dict.fromkeys(("pathlib.PosixPath", "pathlib.WindowsPath", "pathlib.PurePosixPath"), _path),
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _from_type,
}
