"""Plain values from a pickle, by an interpreter that can build nothing else.

No name is ever imported: what a global stands for is looked up in the caller's table, any other
global is an error. The ``pickle`` module is not used because even with ``find_class`` closed it
allocates whatever a memo index claims and crashes on the hash of deeply nested tuples. Opcodes,
the bytes that they build and the size of the result as a tree are bounded, so that neither
reading a value nor walking it can explode.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from slogpt_hf.errors import CheckpointError
from slogpt_hf.pickles.machine import ForbiddenError, Global, Machine, Record
from slogpt_hf.pickles.opcodes import OPCODES, Opcode

MAX_OPCODES = 4_000_000  # a vocabulary of 200 000 entries in three tables needs 1.8 million
MAX_STACK = 1_000_000
MAX_DEPTH = 64
MAX_EXPANDED = 2**28  # bytes; the size as a tree, where a value counts wherever it is referred to

_TABLE: list[Opcode | None] = [None] * 256
for _code in pickletools.opcodes:
    _TABLE[ord(_code.code)] = OPCODES.get(_code.name)
_STOP = ord(".")

_LEAVES = frozenset({type(None), bool, int, float, complex, str, bytes})
_CONTAINERS = frozenset({dict, list, tuple, Record})


@dataclass(frozen=True)
class Wording:
    """How errors are put; ``{}`` stands for the global's name or for what is wrong."""

    forbidden: str = "would run code: {}; nothing was run."
    forbidden_hint: str = "Do not use this file unless you trust who wrote it."
    damaged: str = "is not a readable pickle of plain values: {}."
    damaged_hint: str = "Check that it is whole and as its program wrote it."


@dataclass(frozen=True, slots=True)
class Unsupported:
    """What a global gives in place of an object that cannot be read.

    Where it is part of the result, it is refused under the name that it has there.
    """

    what: str


def load(
    data: bytes,
    source: str,
    *,
    globals: Mapping[str, object],
    persistent: Callable[[object], object] | None = None,
    is_inert: Callable[[str], bool] | None = None,
    leaves: Iterable[type] = (),
    wording: Wording = Wording(),
) -> Any:
    """The value of a pickle made of dicts, lists, sets, tuples, text, numbers and bytes.

    Nothing in the pickle is executed. Sets are given as lists; the result is a tree of at most
    ``MAX_DEPTH`` levels, in which a value may stand at several places but never in itself.

    Args:
        data: the pickle, of any protocol up to 5.
        source: begins every message.
        globals: by dotted name, a function for what a call of that global gives, or, where it is
            not callable, the value that the global itself stands for. A function gets arguments
            that it must not trust, raises ValueError or TypeError for wrong ones, and gives
            nothing that is larger than them. A result with ``set_state`` takes a BUILD opcode.
        persistent: gives the object of a persistent id.
        is_inert: says of a global that is not in the table whether calls of it give a ``Record``.
        leaves: types beside None, bool, int, float, complex, str, bytes and ``Record`` that may
            be part of the result.
        wording: how errors are put.

    Raises:
        CheckpointError: it holds anything else, is damaged, or costs too much.
    """
    try:
        value = _run(Machine(data, globals, persistent, is_inert))
        _measure(value, _LEAVES.union(leaves), {}, 0)
    except ForbiddenError as error:
        raise CheckpointError(
            f"{source}: {wording.forbidden.format(_printable(error.args[0], 80))}",
            hint=wording.forbidden_hint,
        ) from None
    except _UnsupportedError as error:
        where = "".join(f"[{key}]" for key in reversed(error.path))
        raise CheckpointError(
            f"{source}: {where + ' ' if where else ''}is {error.what}.", hint=wording.forbidden_hint
        ) from None
    except (ValueError, TypeError, LookupError, OverflowError, struct.error) as error:
        text = str(error) if isinstance(error, ValueError) else "its opcodes do not fit together"
        raise CheckpointError(
            f"{source}: {wording.damaged.format(_printable(text, 200).rstrip('.'))}",
            hint=wording.damaged_hint,
        ) from error
    return value


def _run(machine: Machine) -> Any:
    stack, data = machine.stack, machine.data
    for _ in range(MAX_OPCODES):
        if machine.at >= len(data):
            raise ValueError("it ends before its STOP opcode")
        code = data[machine.at]
        machine.at += 1
        run = _TABLE[code]
        if run is None:
            if code == _STOP:
                if len(stack) != 1:
                    raise LookupError("what STOP leaves is not one value")
                return stack[0]
            raise ValueError(_unknown(code))
        run(machine)
        if machine.free < 0:
            raise ValueError("it would build too much")
        if len(stack) > MAX_STACK:
            raise ValueError("it holds too much at once")
    raise ValueError(f"more than {MAX_OPCODES} opcodes")


def _unknown(code: int) -> str:
    known = pickletools.code2op.get(chr(code))  # type: ignore[attr-defined]
    return f"the opcode {known.name}" if known else f"an unknown opcode, {code:#04x}"


class _UnsupportedError(Exception):
    """Part of the result is no plain value; ``path`` gathers the keys to it, innermost first."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what
        self.path: list[str] = []


def _measure(value: Any, leaves: frozenset[type], seen: dict[int, int], depth: int) -> int:
    """The size of a value as a tree times 128, plus its height; each container is walked once."""
    if type(value) not in _CONTAINERS:
        return _measure_leaf(value, leaves) * 128
    known = seen.get(id(value))
    if known == 0:
        raise ValueError("a value that holds itself")
    if known is None and depth < MAX_DEPTH:
        seen[id(value)] = 0
        known = seen[id(value)] = _measure_items(value, leaves, seen, depth)
    if known is None or depth + known % 128 > MAX_DEPTH:
        raise ValueError(f"values nested more than {MAX_DEPTH} deep")
    return known


def _measure_items(value: Any, leaves: frozenset[type], seen: dict[int, int], depth: int) -> int:
    size, height = 64, 0
    for names, items in _groups(value):
        size += 32 * len(items)
        types = set(map(type, items))
        if types <= leaves:
            if not types.isdisjoint((str, bytes)):
                size += sum(len(item) for item in items if isinstance(item, (str, bytes)))
            continue
        for name, item in zip(names, items, strict=True):
            try:
                known = _measure(item, leaves, seen, depth + 1)
            except _UnsupportedError as error:
                error.path.append(_printable(_key_name(name), 80))
                raise
            size += known // 128
            height = max(height, known % 128)
    if size > MAX_EXPANDED:
        raise ValueError("values that refer to each other so often that they cannot be walked")
    return size * 128 + height + 1


def _groups(value: Any) -> Iterable[tuple[Iterable[object], Collection[Any]]]:
    """The names of a container's parts beside the parts."""
    if isinstance(value, Record):
        return *_groups(value.items), *_groups(value.state)
    if isinstance(value, dict):
        return (value, value.keys()), (value, value.values())
    return ((range(len(value)), value),)


def _measure_leaf(value: Any, leaves: frozenset[type]) -> int:
    if isinstance(value, Unsupported):
        raise _UnsupportedError(value.what)
    if type(value) not in leaves:
        what = value.name if isinstance(value, Global) else type(value).__name__.strip("_")
        raise _UnsupportedError(f"no plain value ({_printable(what, 80)})")
    return 32 + (len(value) if isinstance(value, (str, bytes)) else 0)


def _key_name(key: object) -> str:
    if isinstance(key, str):
        return repr(key[:80])
    return str(key) if isinstance(key, (int, float)) else f"a {type(key).__name__}"


def _printable(text: str, most: int) -> str:
    return ascii(text)[1:-1][:most]


@dataclass(eq=False, slots=True)
class _Dtype:
    """A numpy number type: its code (``i8``) and byte order, which a BUILD opcode sets."""

    code: str
    order: str = "<"

    def set_state(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise ValueError("a numpy type of unknown byte order")
        self.order = ">" if state[1] == ">" else "<"


# struct's letters for numpy's type codes.
_NUMPY_LAYOUTS = {
    **{"b1": "?", "i1": "b", "i2": "h", "i4": "i", "i8": "q"},
    **{"u1": "B", "u2": "H", "u4": "I", "u8": "Q", "f2": "e", "f4": "f", "f8": "d"},
}


def _dtype(code: object, _align: object = False, _copy: object = True) -> _Dtype:
    if not isinstance(code, str) or code not in _NUMPY_LAYOUTS:
        raise ValueError(f"a numpy value of type {_key_name(code)}, which is not a number")
    return _Dtype(code)


def _scalar(dtype: object, data: object) -> object:
    if not isinstance(dtype, _Dtype) or not isinstance(data, bytes):
        raise ValueError("a numpy number without its type or bytes")
    if len(data) != int(dtype.code[1:]):
        raise ValueError("a numpy number of the wrong length")
    return struct.unpack(dtype.order + _NUMPY_LAYOUTS[dtype.code], data)[0]


def _encode(text: object, encoding: object) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise ValueError("bytes in an unknown encoding")
    return text.encode("latin1")


# What numbers of numpy are pickled with (protocols below 3 add _codecs.encode for any bytes).
NUMPY: Mapping[str, object] = {
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    "numpy.dtype": _dtype,
    "_codecs.encode": _encode,
}
