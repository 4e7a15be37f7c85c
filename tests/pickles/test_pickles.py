"""Pickles of plain values: read as pickle reads them, and nothing else, at a bounded cost."""

from __future__ import annotations

import builtins
import operator
import os
import pickle
import pickletools
import struct
import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slogpt_hf.errors import CheckpointError
from slogpt_hf.pickles import NUMPY, Record, Unsupported, Wording, load, record
from slogpt_hf.pickles import interpreter as pickles
from slogpt_hf.pickles import machine as pickle_machine

TEXT = st.text(max_size=8)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**90), 2**90)
    | st.floats(allow_nan=False)
    | TEXT
    | st.binary(max_size=300)
)
KEYS = TEXT | st.integers(-(2**63), 2**63) | st.tuples(TEXT, TEXT) | st.none() | st.binary()
PLAIN = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.lists(inner, max_size=5).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=5)
    ),
    max_leaves=20,
)
GLOBALS = {**NUMPY, "__builtin__.bytes": bytes, "copyreg._reconstructor": lambda *_: {}}


def read(data: bytes, **options: Any) -> Any:
    return load(data, "x.pkl", **{"globals": GLOBALS, **options})


@given(PLAIN, st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_plain_values_are_what_pickle_reads(value: object, protocol: int) -> None:
    got = read(pickle.dumps(value, protocol))
    assert got == value
    assert type(got) is type(value)


@given(PLAIN)
def test_optimised_pickles(value: object) -> None:
    assert read(pickletools.optimize(pickle.dumps(value, 4))) == value


def test_shared_values_stay_shared() -> None:
    shared = [1]
    got = read(pickle.dumps([shared, {"a": shared}]))
    assert got[0] is got[1]["a"]


def test_python_2_counts_memo_indices_from_one() -> None:
    assert read(b"(lp1\nS'a'\np2\nag2\na.") == ["a", "a"]


@pytest.mark.parametrize("line", [b"I01\n", b"I1\n", b"L12L\n", b"F1.5\n", b"S'a\\n'\n", b"Va\n"])
def test_values_as_lines_of_text(line: bytes) -> None:
    assert read(line + b".") == pickle.loads(line + b".")


class Colour(Enum):
    RED = 1


@dataclass(frozen=True)
class Index:
    name: str
    offset: tuple[int, ...] | None = None


@dataclass
class Slotted:
    __slots__ = ("size",)
    size: int


@dataclass
class Sheet:
    colour: Colour = Colour.RED
    where: dict[Index, Slotted] = field(default_factory=dict)

    def __getnewargs_ex__(self) -> tuple[tuple[int, ...], dict[str, int]]:
        return (1, 2), {"three": 3}

    def __new__(cls, *_: object, **__: object) -> Sheet:
        return object.__new__(cls)


BUILTIN_GETATTR = ("builtins.getattr", "__builtin__.getattr")
RECORDS = {f"{__name__}.{kind.__name__}": kind for kind in (Colour, Index, Slotted, Sheet)}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_records(protocol: int, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {name: record(name) for name in RECORDS} | {
        # What NEWOBJ_EX is written as before protocol 4.
        "copyreg.__newobj_ex__": lambda kind, items, state: kind.call(*items, **state),
        "copy_reg.__newobj_ex__": lambda kind, items, state: kind.call(*items, **state),
        "functools.partial": lambda *_: None,
        # What Python 3.11.0 to 3.11.3 write for a member of an enum.
        **dict.fromkeys(BUILTIN_GETATTR, lambda kind, name: kind.call(Colour[name].value)),
    }
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or _module())
    value = Sheet(where={Index("w", (0, 8)): Slotted(4), Index("w", (0, 8)): Slotted(5)})
    if protocol < 4:
        value = [value.colour, value.where]  # type: ignore[assignment]
    got = read(pickle.dumps(value, protocol), globals=names)
    if protocol >= 4:
        assert got.name == f"{__name__}.Sheet"
        assert got.items == (1, 2)
        colour, where = got.state["colour"], got.state["where"]
    else:
        colour, where = got
    assert (colour.name, colour.items) == (f"{__name__}.Colour", (1,))
    ((key, size),) = where.items()
    assert key.state == {"name": "w", "offset": (0, 8)}
    assert size.items == (5,) or size.state == {"size": 5}


def _module() -> Any:
    import types

    module = types.ModuleType(__name__)
    module.__dict__.update(globals())
    return module


def test_state_that_is_a_tuple_is_the_records_items() -> None:
    got = read(b"\x80\x02ca\nB\n)\x81(K\x01K\x02K\x03tb.", globals={"a.B": record("a.B")})
    assert got.items == (1, 2, 3)
    with pytest.raises(CheckpointError, match="as state of"):
        read(b"\x80\x02ca\nB\n)\x81K\x01b.", globals={"a.B": record("a.B")})


def test_constants_stand_for_themselves() -> None:
    assert read(b"ctorch\nfloat32\n.", globals={"torch.float32": "float32"}) == "float32"


def test_persistent_ids() -> None:
    assert read(b"(K\x01K\x02tQ.", persistent=lambda ident: ["got", ident]) == ["got", (1, 2)]
    for data in (b"NQ.", b"Pa\n."):
        with pytest.raises(CheckpointError, match=r"the opcode (BIN)?PERSID"):
            read(data)


def test_leaves_must_be_named() -> None:
    globals_ = {"a.b": lambda: 1.5 + 0j, "a.c": Path, "a.d": lambda: Unsupported("a sparse thing")}
    assert read(b"ca\nb\n)R.", globals=globals_) == 1.5
    assert read(b"ca\nc\n)R.", globals=globals_, leaves=(type(Path()),)) == Path()
    with pytest.raises(CheckpointError, match=r"\[0\] is no plain value \(PosixPath\)"):
        read(b"](ca\nc\n)Re.", globals=globals_)
    with pytest.raises(CheckpointError, match=r"\['w'\]\[1\] is a sparse thing"):
        read(b"}X\x01\x00\x00\x00wNca\nd\n)R\x86s.", globals=globals_)
    with pytest.raises(CheckpointError, match=r"is no plain value \(a\.b\)"):
        read(b"ca\nb\n.", globals=globals_)


def test_wording() -> None:
    wording = Wording("FORBIDDEN {}", "h1", "DAMAGED {}", "h2")
    for data, words, hint in (
        (b"cos\nsystem\n.", "FORBIDDEN os.system", "h1"),
        (b"}", "DAM", "h2"),
    ):
        with pytest.raises(CheckpointError) as caught:
            read(data, wording=wording)
        assert caught.value.message.startswith(f"x.pkl: {words}")
        assert caught.value.hint == hint


class Runs:
    def __init__(self, function: Callable[..., object], *args: object) -> None:
        self.parts = function, args

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.parts


CALLS: dict[str, Callable[[Path], Any]] = {
    "os.mkdir": lambda path: Runs(os.mkdir, str(path)),
    "eval": lambda path: Runs(builtins.eval, f"__import__('os').mkdir({str(path)!r})"),
    "exec": lambda path: Runs(builtins.exec, f"__import__('os').mkdir({str(path)!r})"),
    "getattr": lambda path: Runs(Runs(getattr, os, "mkdir"), str(path)),  # type: ignore[arg-type]
    "attrgetter": lambda path: Runs(operator.attrgetter("mkdir"), os),
    "import": lambda path: Runs(builtins.__import__, "antigravity"),
    "open": lambda path: Runs(builtins.open, str(path), "w"),
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("call", CALLS)
def test_nothing_is_run(tmp_path: Path, call: str, protocol: int) -> None:
    victim = tmp_path / "made"
    try:
        data = pickle.dumps({"model": CALLS[call](victim)}, protocol)
    except (TypeError, pickle.PicklingError):
        data = f"c{'os' if call == 'os.mkdir' else 'builtins'}\n{call}\n(V{victim}\ntR.".encode()
    with pytest.raises(CheckpointError, match="would run code"):
        read(data)
    assert not victim.exists()
    assert "antigravity" not in sys.modules


RAW_CALLS = {
    "INST": b"(S'true'\nios\nsystem\n.",
    "OBJ": b"(cos\nsystem\nS'true'\no.",
    "STACK_GLOBAL": b"\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
    "NEWOBJ": b"csubprocess\nPopen\n\x8c\x04true\x85\x81.",
    "chain of attributes": b"\x8c\x08builtins\x8c\x10object.__class__\x93.",
    "torch.load": b"ctorch\nload\n\x8c\x04a.pt\x85R.",
    "set_state": b"cbuiltins\nobject\n)\x81}b.",
}


@pytest.mark.parametrize("name", RAW_CALLS)
def test_nothing_is_run_by_any_opcode(name: str) -> None:
    with pytest.raises(CheckpointError, match=r"would run code: [a-z]"):
        read(RAW_CALLS[name])


REFUSED = {
    "EXT1": (b"\x82\x01.", "the opcode EXT1"),
    "EXT4": (b"\x84\x01\x00\x00\x00.", "the opcode EXT4"),
    "no opcode": (b"\xff.", "an unknown opcode, 0xff"),
    "protocol 6": (b"\x80\x06N.", "pickle protocol 6"),
    "call of text": (b"\x8c\x01a)R.", "cannot be called"),
    "call of a result": (b"c_codecs\nencode\n\x8c\x01a\x8c\x06latin1\x86R)R.", "cannot be called"),
    "memo gap": (b"Nr\xff\xff\xff\x7f.", "the memo index 2147483647 out of order"),
    "negative memo": (b"Np-1\n.", "a negative memo index"),
    "unset memo": (b"Nq\x01h\x00.", "do not fit together"),
    "empty": (b"", "ends before its STOP"),
    "half an integer": (b"J\x01.", "do not fit together"),
    "digits": (b"L" + b"9" * 5000 + b"L\n.", "does not end"),
    "bytes of an integer": (b"\x8b\x01\x10\x00\x00" + bytes(4097) + b".", "of 4097 bytes"),
    "long text": (b"X\x01\x00\x40\x00" + b"a" * (2**22 + 1) + b".", "of 4194305 bytes"),
    "claimed text": (b"\x8d" + struct.pack("<Q", 2**63) + b"a.", "only 2 remain"),
    "key of lists": (b"}]Ns.", "a list as a key"),
    "key of tuples": (b"})\x85Ns.", "a tuple of other than a few texts"),
    "key of numbers": (b"}K\x01K\x02\x86Ns.", "a tuple of other than a few texts"),
    "long key": (b"}\x8a\x09" + b"\x01" * 9 + b"Ns.", "more than 64 bits"),
    "holds itself": (b"]q\x00h\x00a.", "holds itself"),
    "holds itself by way of a tuple": (b"]q\x00h\x00\x85a.", "holds itself"),
    "deep lists": (b"]" * 65 + b"a" * 64 + b".", "more than 64 deep"),
    "deep tuples": (b")" + b"\x85" * 64 + b".", "more than 64 deep"),
    "deep by sharing": (b")" + b"\x85" * 40 + b"q\x01h\x01" + b"\x85" * 40 + b"\x86.", "64 deep"),
    "state for a list": (b"]}b.", "state for something that has none"),
    "no value left": (b"N0.", "the opcode POP"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_the_reason(name: str) -> None:
    data, reason = REFUSED[name]
    with pytest.raises(CheckpointError) as caught:
        read(data)
    assert reason in caught.value.message
    assert len(str(caught.value)) < 400


def test_as_deep_as_is_read() -> None:
    assert read(b"]" * 64 + b"a" * 63 + b".")


def laughs(levels: int, leaf: bytes) -> bytes:
    """Lists of two references to the list before."""
    doubled = b"".join(
        b"](h" + bytes([i, ord("h"), i]) + b"eq" + bytes([i + 1]) for i in range(levels)
    )
    return leaf + b"q\x00" + doubled + b"\x86" * levels + b"."


def batches(items: bytes, count: int, before: bytes = b"]") -> bytes:
    """A list that ``items`` are appended to ``count`` times."""
    return before + (b"(" + items + b"e") * count + b"."


TENTH = {"MAX_OPCODES": pickles.MAX_OPCODES // 10, "MAX_STACK": pickles.MAX_STACK // 10}
BUDGET = pickle_machine.MAX_BUILT // 10
LONG_TEXT = b"X\x00\x00\x40\x00" + b"a" * 2**22
COSTLY = {
    "nulls on the stack": b"N" * 1_600_000,
    "marks": b"(" * 1_600_000,
    "deep lists": b"]" * 100_000 + b"a" * 99_999 + b".",
    "empty lists": batches(b"]" * 1000, 390),
    "empty dicts": batches(b"}" * 1000, 390),
    "dicts of a mark": batches(b"(d" * 500, 390),
    "dicts of one": batches(b"}NNs" * 250, 390),
    "tuples": batches(b"N\x85" * 500, 390),
    "integers": batches(b"J\x00\x10\x00\x00" * 1000, 390),
    "long integers": batches(b"\x8a\xff" + b"\x7f" * 255, 60_000),
    "memo": b"N" + b"\x94" * 500_000 + b".",
    "wide text": batches(b"X\x00\x00\x10\x00" + b"a" * (2**20 - 4) + "😀".encode(), 4),
    "copies of text": b"]c_codecs\nencode\n\x94a"
    + LONG_TEXT
    + b"\x94aX\x06\x00\x00\x00latin1\x94a"
    + b"h\x00h\x01h\x02\x86Ra" * 30_000
    + b".",
    "references to text": b"]" + LONG_TEXT + b"\x94a" + b"(" + b"h\x00" * 90_000 + b"e.",
    "laughs": laughs(30, b"]"),
    "laughs of text": laughs(30, LONG_TEXT),
    "globals": batches(b"c_codecs\nencode\n" * 1000, 100),
    "lines": batches(b"V\\U0001F600\n" * 1000, 130),
    "colliding keys": b"}"
    + b"".join(b"\x8a\x08%bNs" % struct.pack("<Q", i << 41) for i in range(110_000))
    + b".",
}


@pytest.mark.parametrize("name", COSTLY)
def test_costs_are_bounded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of every limit, which 10 s and 256 MB of the whole are more than ten times."""
    machine = pickles.Machine
    monkeypatch.setattr(pickles, "Machine", lambda *args: machine(*args, free=BUDGET))
    for limit, value in TENTH.items():
        monkeypatch.setattr(pickles, limit, value)
    started = time.thread_time()
    with pytest.raises(CheckpointError):
        read(COSTLY[name])
    assert time.thread_time() - started < 1


@pytest.mark.parametrize("name", ["empty dicts", "dicts of one", "copies of text", "lines"])
def test_memory_is_bounded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = pickles.Machine
    monkeypatch.setattr(pickles, "Machine", lambda *args: machine(*args, free=BUDGET))
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match="would build too much"):
            read(COSTLY[name])
        assert tracemalloc.get_traced_memory()[1] < BUDGET * 1.1
    finally:
        tracemalloc.stop()


def test_a_large_vocabulary_is_read() -> None:
    characters = [chr(0x10000 + i) for i in range(200_000)]
    value = {
        "stoi": {c: i for i, c in enumerate(characters)},
        "itos": dict(enumerate(characters)),
        "chars": characters,
    }
    assert read(pickle.dumps(value, 2)) == value


@settings(max_examples=200)
@given(st.binary(max_size=80))
def test_random_bytes_are_read_or_refused(data: bytes) -> None:
    refused_or_walked(data)


@settings(max_examples=200)
@given(PLAIN, st.integers(0, 5), st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255))))
def test_changed_bytes_are_read_or_refused(
    value: object, protocol: int, changes: list[tuple[float, int]]
) -> None:
    data = bytearray(pickle.dumps(value, protocol))
    for where, byte in changes:
        data[int(where * len(data))] = byte
    refused_or_walked(bytes(data))


OPCODES = [
    b"](}).NQ)\x85\x86\x87RaseuVbt0q\x00h\x00K\x01\x94\x81\x92"[i : i + 1] for i in range(28)
] + [
    b"q\x00",
    b"h\x00",
    b"K\x05",
    b"X\x01\x00\x00\x00a",
    b"ca\nB\n",
    b"ca\nC\n",
    b"c_codecs\nencode\n",
]


@settings(max_examples=300)
@given(st.lists(st.sampled_from(OPCODES), max_size=60))
def test_random_opcodes_are_read_or_refused(opcodes: list[bytes]) -> None:
    refused_or_walked(b"".join(map(bytes, opcodes)) + b".")


def refused_or_walked(data: bytes) -> None:
    globals_ = {**GLOBALS, "a.B": record("a.B"), "a.C": "constant"}
    try:
        value = read(data, globals=globals_, persistent=lambda ident: ident)
    except CheckpointError as error:
        assert str(error).isprintable()
        assert len(str(error)) < 400
    else:
        assert len(repr(value)) < 2**20


def test_a_record_is_equal_to_itself_only() -> None:
    assert len({Record("a"), Record("a")}) == 2
