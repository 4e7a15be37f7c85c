"""Plain values from a pickle, by an interpreter that can build nothing else.

``pickletools.genops`` splits the file into opcodes without executing any; the table below
executes those that build containers, text, numbers and bytes. No name is ever imported: the few
globals that numpy integers need are looked up in ``_GLOBALS``, any other is an error.
The ``pickle`` module is not used because even with ``find_class`` closed it allocates whatever a
memo index claims and crashes on the hash of deeply nested tuples.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

from slogpt_hf.errors import CheckpointError

MAX_OPCODES = 2_000_000  # 65 536 numpy integers in both tables need about a million


class _ForbiddenError(Exception):
    """The pickle names a global; the argument is its dotted name."""


class _Mark:
    """Stands on the stack where a MARK opcode put it."""


@dataclass
class _Dtype:
    """A numpy integer type: its code (``i8``) and byte order, which a BUILD opcode sets."""

    code: str
    order: str = "<"


@dataclass(frozen=True)
class _Global:
    call: Callable[..., object]


@dataclass
class _Machine:
    stack: list[Any] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def pop_to_mark(self) -> list[Any]:
        start = next(
            i for i in range(len(self.stack) - 1, -1, -1) if isinstance(self.stack[i], _Mark)
        )
        items = self.stack[start + 1 :]
        del self.stack[start:]
        return items


def _dtype(code: str, _align: object = False, _copy: object = True) -> _Dtype:
    if code not in {f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)}:
        raise ValueError(f"a numpy value of type {code[:20]!r}, which is not an integer")
    return _Dtype(code)


def _scalar(dtype: _Dtype, data: bytes) -> int:
    if len(data) != int(dtype.code[1:]):
        raise ValueError("a numpy integer of the wrong length")
    return int.from_bytes(
        data, "big" if dtype.order == ">" else "little", signed=dtype.code.startswith("i")
    )


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1" or len(text) > 8:
        raise ValueError("bytes that are not those of a numpy integer")
    return text.encode("latin1")


# What numpy integers are pickled with (protocol 2 adds _codecs.encode for their bytes).
_GLOBALS = {
    "numpy.core.multiarray.scalar": _Global(_scalar),
    "numpy._core.multiarray.scalar": _Global(_scalar),
    "numpy.dtype": _Global(_dtype),
    "_codecs.encode": _Global(_encode),
}


def _lookup(name: str) -> _Global:
    if name not in _GLOBALS:
        raise _ForbiddenError(name)
    return _GLOBALS[name]


def _key(key: object) -> Hashable:
    # The hash of a nested tuple recurses without limit, that of a long integer is never cached.
    if isinstance(key, int) and key.bit_length() > 64:
        raise ValueError("an integer of more than 64 bits as a key")
    if not (key is None or isinstance(key, (str, int, float, bytes))):
        raise ValueError(f"a {type(key).__name__} as a key")
    return key


def _push(value: Callable[[Any], object]) -> Callable[[_Machine, Any], None]:
    return lambda m, arg: m.stack.append(value(arg))


def _collect(build: Callable[[list[Any]], object]) -> Callable[[_Machine, Any], None]:
    return lambda m, _: m.stack.append(build(m.pop_to_mark()))


def _tuple(count: int) -> Callable[[_Machine, Any], None]:
    def run(m: _Machine, _: object) -> None:
        items = tuple(m.stack.pop() for _ in range(count))[::-1]
        m.stack.append(items)

    return run


def _set_items(target: Any, items: list[Any]) -> None:
    if not isinstance(target, dict):
        raise ValueError("items set on something that is not a dict")
    target.update((_key(k), v) for k, v in zip(items[::2], items[1::2], strict=True))


def _extend(target: Any, items: list[Any]) -> None:
    if not isinstance(target, list):
        raise ValueError("items appended to something that is not a list")
    target.extend(items)


def _dict(items: list[Any]) -> dict[Any, Any]:
    result: dict[Any, Any] = {}
    _set_items(result, items)
    return result


def _set_item(m: _Machine, _: object) -> None:
    value, key = m.stack.pop(), m.stack.pop()
    _set_items(m.stack[-1], [key, value])


def _set_marked_items(m: _Machine, _: object) -> None:
    items = m.pop_to_mark()
    _set_items(m.stack[-1], items)


def _append(m: _Machine, _: object) -> None:
    item = m.stack.pop()
    _extend(m.stack[-1], [item])


def _append_marked(m: _Machine, _: object) -> None:
    items = m.pop_to_mark()
    _extend(m.stack[-1], items)


def _memoize(m: _Machine, arg: int | None) -> None:
    m.memo[len(m.memo) if arg is None else arg] = m.stack[-1]


def _stack_global(m: _Machine, _: object) -> None:
    name, module = m.stack.pop(), m.stack.pop()
    if not isinstance(module, str) or not isinstance(name, str):
        raise ValueError("a global whose name is not text")
    m.stack.append(_lookup(f"{module}.{name}"))


def _reduce(m: _Machine, _: object) -> None:
    args, function = m.stack.pop(), m.stack.pop()
    if not isinstance(function, _Global) or not isinstance(args, tuple):
        raise ValueError("a call of something that cannot be called")
    m.stack.append(function.call(*args))


def _build(m: _Machine, _: object) -> None:
    state, target = m.stack.pop(), m.stack.pop()
    if not isinstance(target, _Dtype) or not isinstance(state, tuple):
        raise ValueError("state for something that has none")
    target.order = state[1]
    m.stack.append(target)


def _ascii(value: str) -> str:
    return value.encode("latin1").decode("ascii")


# Opcode names and meanings: pickletools.opcodes.
_OPCODES: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME"), lambda m, arg: None),
    **dict.fromkeys(
        (
            *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
            *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
            *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
        ),
        _push(lambda arg: arg),
    ),
    **dict.fromkeys(("STRING", "BINSTRING", "SHORT_BINSTRING"), _push(_ascii)),
    "NONE": _push(lambda _: None),
    "NEWTRUE": _push(lambda _: True),
    "NEWFALSE": _push(lambda _: False),
    "MARK": _push(lambda _: _Mark()),
    "EMPTY_DICT": _push(lambda _: {}),
    **dict.fromkeys(("EMPTY_LIST", "EMPTY_SET"), _push(lambda _: [])),
    "EMPTY_TUPLE": _push(lambda _: ()),
    "DICT": _collect(_dict),
    **dict.fromkeys(("LIST", "FROZENSET"), _collect(list)),
    "TUPLE": _collect(tuple),
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "SETITEM": _set_item,
    "SETITEMS": _set_marked_items,
    "APPEND": _append,
    **dict.fromkeys(("APPENDS", "ADDITEMS"), _append_marked),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _memoize),
    **dict.fromkeys(
        ("GET", "BINGET", "LONG_BINGET"), lambda m, index: m.stack.append(m.memo[index])
    ),
    "GLOBAL": _push(lambda arg: _lookup(arg.replace(" ", ".", 1))),
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _reduce,
    "BUILD": _build,
}


def load_plain(data: bytes, source: str) -> object:
    """The value of a pickle made of dicts, lists, sets, tuples, text, numbers and bytes.

    Integers of numpy are given as int, sets as lists. Nothing in the pickle is executed.

    Args:
        data: the pickle, any protocol.
        source: begins every message.

    Raises:
        CheckpointError: it holds anything else, or is damaged.
    """
    machine = _Machine()
    try:
        for count, (opcode, arg, _) in enumerate(pickletools.genops(data)):
            if opcode.name == "STOP":
                if len(machine.stack) != 1:
                    raise LookupError("what STOP leaves is not one value")
                return machine.stack[0]
            if count >= MAX_OPCODES:
                raise ValueError(f"more than {MAX_OPCODES} opcodes")
            if opcode.name == "INST":
                raise _ForbiddenError(str(arg).replace(" ", ".", 1))
            if opcode.name not in _OPCODES:
                raise ValueError(f"the opcode {opcode.name}")
            _OPCODES[opcode.name](machine, arg)
    except _ForbiddenError as error:
        raise CheckpointError(
            f"{source}: would run code: {ascii(error.args[0])[1:-1][:80]}; nothing was run.",
            hint="A vocabulary holds only dicts, lists, text and numbers;"
            " do not use this file unless you trust who wrote it.",
        ) from None
    except (ValueError, TypeError, LookupError, StopIteration, AttributeError) as error:
        raise CheckpointError(
            f"{source}: is not a readable pickle of plain values: {_reason(error)}.",
            hint="Check that it is whole and was written by the dataset's prepare script.",
        ) from error
    raise AssertionError("genops ends with STOP or an exception")


def _reason(error: Exception) -> str:
    text = str(error) if isinstance(error, ValueError) else "its opcodes do not fit together"
    return ascii(text)[1:-1][:200].rstrip(".")
