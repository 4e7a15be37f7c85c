"""The opcodes of a pickle, each with what it may build and what that costs at most.

Meanings of the opcodes: ``pickletools.opcodes``. A container costs also what ``pickles`` notes
about it when it walks the result.
"""

from __future__ import annotations

import codecs
import re
import struct
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from slogpt_hf.pickles.machine import MAX_LINE, MAX_TEXT, ForbiddenError, Machine, Record, Unset

MAX_INTEGER = 1024  # bytes
MAX_KEY_ITEMS = 4
NOT_A_DICT = "items set on something that is not a dict"

_FLAT_KEYS = frozenset({type(None), bool, float, str, bytes})

Opcode = Callable[[Machine], None]


def _integer(digits: bytes) -> int:
    return int(digits.removesuffix(b"L"))


def _proto0_integer(digits: bytes) -> int | bool:
    return digits == b"01" if digits in (b"00", b"01") else int(digits)


# Of what repr() of bytes writes; escape_decode warns of any other.
UNKNOWN_ESCAPE = re.compile(rb"""(?<!\\)(?:\\\\)*\\(?:[^\\'"abfnrtvx0-7]|$)""")


def _escaped(quoted: bytes) -> str:
    if len(quoted) < 2 or quoted[:1] not in b"'\"" or quoted[:1] != quoted[-1:]:
        raise ValueError("text without its quotes")
    if UNKNOWN_ESCAPE.search(quoted):
        raise ValueError("text with an escape that no pickle has")
    return codecs.escape_decode(quoted[1:-1])[0].decode("ascii")


def _text(data: bytes) -> str:
    return str(data, "utf-8", "surrogatepass")


def _long(data: bytes) -> int:
    return int.from_bytes(data, "little", signed=True)


def _from_line(convert: Callable[[bytes], object], most: int = MAX_LINE) -> Opcode:
    def run(m: Machine) -> None:
        value = convert(m.line(most))
        m.free -= 96 + sys.getsizeof(value)
        m.stack.append(value)

    return run


def _number(layout: str, weight: int = 32) -> Opcode:
    number = struct.Struct(layout)
    unpack, size = number.unpack_from, number.size

    def run(m: Machine) -> None:
        m.stack.append(unpack(m.data, m.at)[0])
        m.at += size
        m.free -= weight

    return run


def _sized(layout: str, convert: Callable[[bytes], object], most: int = MAX_TEXT) -> Opcode:
    """A value whose length comes before it."""
    length = struct.Struct(layout)
    unpack, size = length.unpack_from, length.size

    def run(m: Machine) -> None:
        (count,) = unpack(m.data, m.at)
        m.at += size
        value = convert(m.take(count, most))
        m.free -= sys.getsizeof(value)
        m.stack.append(value)

    return run


def _constant(value: object) -> Opcode:
    return lambda m: m.stack.append(value)


def _empty(kind: Callable[[], object], weight: int) -> Opcode:
    def run(m: Machine) -> None:
        m.free -= weight
        m.stack.append(kind())

    return run


def _skip(count: int) -> Opcode:
    def run(m: Machine) -> None:
        m.take(count)

    return run


def _proto(m: Machine) -> None:
    version = m.take(1)[0]
    if version > 5:
        raise ValueError(f"pickle protocol {version}")


def _mark(m: Machine) -> None:
    m.free -= 40
    m.marks.append(len(m.stack))


def _push_tuple(m: Machine, items: list[Any]) -> None:
    m.free -= 216 + 8 * len(items)
    m.stack.append(tuple(items))


def _tuple(count: int) -> Opcode:
    def run(m: Machine) -> None:
        if len(m.stack) < count:
            raise LookupError
        items = m.stack[-count:]
        del m.stack[-count:]
        _push_tuple(m, items)

    return run


def _check_key(key: object) -> None:
    # The hash of a nested tuple recurses without limit and that of a long integer is never cached;
    # tuples of numbers can be made to collide, texts cannot.
    if isinstance(key, int):
        if key.bit_length() > 64:
            raise ValueError("an integer of more than 64 bits as a key")
    elif isinstance(key, tuple):
        if len(key) > MAX_KEY_ITEMS or set(map(type, key)) != {str}:
            raise ValueError("a tuple of other than a few texts as a key")
    elif type(key) not in _FLAT_KEYS and not isinstance(key, Record):
        raise ValueError(f"a {type(key).__name__} as a key")


def _set_items(m: Machine, target: Any, items: list[Any]) -> None:
    if not isinstance(target, dict):
        raise ValueError(NOT_A_DICT)
    if len(items) % 2:
        raise ValueError("a key without a value")
    m.free -= 48 * len(items)
    if m.free >= 0:
        keys = items[::2]
        if not _FLAT_KEYS.issuperset(map(type, keys)):
            for key in keys:
                _check_key(key)
        target.update(zip(keys, items[1::2], strict=True))


def _extend(m: Machine, target: Any, items: list[Any]) -> None:
    if not isinstance(target, list):
        raise ValueError("items appended to something that is not a list")
    m.free -= 16 * len(items)
    target.extend(items)


def _dict(m: Machine) -> None:
    items, result = m.pop_to_mark(), dict[Any, Any]()
    m.free -= 400
    _set_items(m, result, items)
    m.stack.append(result)


def _list(m: Machine) -> None:
    items = m.pop_to_mark()
    m.free -= 264 + 16 * len(items)
    m.stack.append(items)


def _set_item(m: Machine) -> None:
    value, key = m.stack.pop(), m.stack.pop()
    target = m.stack[-1]
    if not isinstance(target, dict):
        raise ValueError(NOT_A_DICT)
    if type(key) not in _FLAT_KEYS:
        _check_key(key)
    m.free -= 96
    target[key] = value


def _set_marked_items(m: Machine) -> None:
    items = m.pop_to_mark()
    _set_items(m, m.stack[-1], items)


def _append(m: Machine) -> None:
    item = m.stack.pop()
    _extend(m, m.stack[-1], [item])


def _append_marked(m: Machine) -> None:
    items = m.pop_to_mark()
    _extend(m, m.stack[-1], items)


def _store(m: Machine, index: int) -> None:
    # Every pickler counts up, Python 2's from 1.
    if index == len(m.memo) + 1:
        m.memo.append(Unset)
    if index > len(m.memo):
        raise ValueError(f"the memo index {index} out of order")
    m.free -= 16
    m.memo[index : index + 1] = [m.stack[-1]]


def _put(index: Callable[[Machine], int]) -> Opcode:
    return lambda m: _store(m, index(m))


def _memoize(m: Machine) -> None:
    m.free -= 16
    m.memo.append(m.stack[-1])


def _get(index: Callable[[Machine], int]) -> Opcode:
    def run(m: Machine) -> None:
        value = m.memo[index(m)]
        if value is Unset:
            raise LookupError
        m.stack.append(value)

    return run


def _line_index(m: Machine) -> int:
    index = int(m.line())
    if index < 0:
        raise ValueError("a negative memo index")
    return index


def _byte_index(m: Machine) -> int:
    m.at += 1
    return m.data[m.at - 1]


def _long_index(m: Machine) -> int:
    return int.from_bytes(m.take(4), "little")


def _global(m: Machine) -> None:
    m.stack.append(m.lookup(f"{_text(m.line())}.{_text(m.line())}"))


def _instance(m: Machine) -> NoReturn:
    raise ForbiddenError(f"{_text(m.line())}.{_text(m.line())}")


def _stack_global(m: Machine) -> None:
    name, module = m.stack.pop(), m.stack.pop()
    if not isinstance(module, str) or not isinstance(name, str):
        raise ValueError("a global whose name is not text")
    if len(module) + len(name) > MAX_LINE:
        raise ValueError("a global whose name is too long")
    m.stack.append(m.lookup(f"{module}.{name}"))


def _reduce(m: Machine) -> None:
    args, function = m.stack.pop(), m.stack.pop()
    m.call(function, args, {})


def _new_object_ex(m: Machine) -> None:
    keywords, args, function = m.stack.pop(), m.stack.pop(), m.stack.pop()
    m.call(function, args, keywords)


def _build(m: Machine) -> None:
    state, target = m.stack.pop(), m.stack[-1]
    # What torch keeps on a state dict (``_metadata``) is no part of its values.
    if isinstance(target, dict) and isinstance(state, dict):
        return
    if not hasattr(target, "set_state"):
        raise ValueError("state for something that has none")
    m.free -= sys.getsizeof(state)
    target.set_state(state)


def _persistent(m: Machine) -> None:
    if m.persistent is None:
        raise ValueError("the opcode BINPERSID")
    m.free -= 256
    m.stack.append(m.persistent(m.stack.pop()))


OPCODES: dict[str, Opcode] = {
    "PROTO": _proto,
    "FRAME": _skip(8),
    "INT": _from_line(_proto0_integer),
    "LONG": _from_line(_integer),
    "FLOAT": _from_line(float),
    "STRING": _from_line(_escaped, MAX_TEXT),
    "UNICODE": _from_line(lambda line: str(line, "raw-unicode-escape"), MAX_TEXT),
    "BININT": _number("<i"),
    "BININT1": _number("<B", 0),
    "BININT2": _number("<H"),
    "BINFLOAT": _number(">d"),
    "LONG1": _sized("<B", _long),
    "LONG4": _sized("<i", _long, MAX_INTEGER),
    "BINSTRING": _sized("<i", lambda data: data.decode("ascii")),
    "SHORT_BINSTRING": _sized("<B", lambda data: data.decode("ascii")),
    "SHORT_BINUNICODE": _sized("<B", _text),
    "BINUNICODE": _sized("<I", _text),
    "BINUNICODE8": _sized("<Q", _text),
    "SHORT_BINBYTES": _sized("<B", bytes),
    "BINBYTES": _sized("<I", bytes),
    "BINBYTES8": _sized("<Q", bytes),
    "BYTEARRAY8": _sized("<Q", bytes),
    "NONE": _constant(None),
    "NEWTRUE": _constant(True),
    "NEWFALSE": _constant(False),
    "MARK": _mark,
    "EMPTY_DICT": _empty(dict, 400),
    "EMPTY_LIST": _empty(list, 264),
    "EMPTY_SET": _empty(list, 264),
    "EMPTY_TUPLE": _constant(()),
    "DICT": _dict,
    "LIST": _list,
    "FROZENSET": _list,
    "TUPLE": lambda m: _push_tuple(m, m.pop_to_mark()),
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "SETITEM": _set_item,
    "SETITEMS": _set_marked_items,
    "APPEND": _append,
    "APPENDS": _append_marked,
    "ADDITEMS": _append_marked,
    "PUT": _put(_line_index),
    "BINPUT": _put(_byte_index),
    "LONG_BINPUT": _put(_long_index),
    "MEMOIZE": _memoize,
    "GET": _get(_line_index),
    "BINGET": _get(_byte_index),
    "LONG_BINGET": _get(_long_index),
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    "INST": _instance,
    "REDUCE": _reduce,
    "NEWOBJ": _reduce,
    "NEWOBJ_EX": _new_object_ex,
    "BUILD": _build,
    "BINPERSID": _persistent,
}
