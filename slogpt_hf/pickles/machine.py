"""What the opcodes of a pickle work on, and what they may cost.

Costs are bytes that CPython allocates, rounded up.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_BUILT = 120 * 2**20  # bytes
MAX_TEXT = 4 * 2**20  # bytes of one text or bytes value
MAX_LINE = 1024  # bytes of a number or name that is written as a line of text


@dataclass(eq=False, slots=True)
class Record:
    """An object of a class that is known by name only; equal to nothing but itself, hashable.

    Attributes:
        name: the dotted name of its class.
        items: what it was called with, or its state where that is a tuple or a list.
        state: its fields by name.
    """

    name: str
    items: tuple[Any, ...] = ()
    state: dict[Any, Any] = field(default_factory=dict)

    def set_state(self, state: object) -> None:
        """Take what a BUILD opcode gives: a dict, ``(None, dict)`` or field values in order."""
        if isinstance(state, tuple) and len(state) == 2 and state[0] is None:
            state = state[1]
        if isinstance(state, dict):
            self.state = state
        elif isinstance(state, (tuple, list)):
            self.items = tuple(state)
        else:
            raise ValueError(f"a {type(state).__name__} as state of {self.name}")


def record(name: str) -> Callable[..., Record]:
    """What a table of globals has for the class ``name``: calls of it give a ``Record``."""
    return lambda *items, **state: Record(name, items, state)


@dataclass(frozen=True, slots=True)
class Global:
    """A name of the table, before it is called."""

    name: str
    call: Callable[..., object]


class ForbiddenError(Exception):
    """The pickle names a global; the argument is its dotted name."""


class Unset:
    """A memo index that nothing was stored under."""


@dataclass(slots=True)
class Machine:
    """A pickle that is being read: where, what it has built, and how much more it may."""

    data: bytes
    globals: Mapping[str, object]
    persistent: Callable[[object], object] | None
    is_inert: Callable[[str], bool] | None = None
    at: int = 0
    free: int = MAX_BUILT
    stack: list[Any] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: list[Any] = field(default_factory=list)

    def take(self, count: int, most: int = MAX_TEXT) -> bytes:
        if not 0 <= count <= len(self.data) - self.at:
            raise ValueError(f"expected {count} bytes, but only {len(self.data) - self.at} remain")
        if count > most:
            raise ValueError(f"a value of {count} bytes (at most {most} are read)")
        self.at += count
        return self.data[self.at - count : self.at]

    def line(self, most: int = MAX_LINE) -> bytes:
        end = self.data.find(b"\n", self.at, self.at + most + 1)
        if end < 0:
            raise ValueError("a line of text that does not end")
        return self.take(end + 1 - self.at, most + 1)[:-1]

    def pop_to_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def lookup(self, name: str) -> object:
        self.free -= 400
        if name in self.globals:
            value = self.globals[name]
        elif self.is_inert is not None and self.is_inert(name):
            value = record(name)
        else:
            raise ForbiddenError(name)
        return Global(name, value) if callable(value) else value

    def call(self, function: object, args: object, keywords: object) -> None:
        if not (
            isinstance(function, Global) and isinstance(args, tuple) and isinstance(keywords, dict)
        ):
            raise ValueError("a call of something that cannot be called")
        if not all(isinstance(name, str) for name in keywords):
            raise ValueError("an argument whose name is not text")
        # A call may give a copy of an argument: it must be paid for before it is made.
        self.free -= 256 + sum(map(sys.getsizeof, (args, keywords, *args)))
        if self.free >= 0:
            self.stack.append(function.call(*args, **keywords))
