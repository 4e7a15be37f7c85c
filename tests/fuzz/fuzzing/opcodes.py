"""Pickles changed opcode by opcode, and pieces of pickles that no honest program writes."""

from __future__ import annotations

import pickle
import pickletools
import struct
from random import Random

from fuzzing.raw import BOUNDARIES, BYTES

DANGEROUS = (
    *("os system", "posix system", "nt system", "builtins eval", "builtins exec"),
    *("builtins __import__", "builtins getattr", "builtins open", "builtins compile"),
    *("subprocess Popen", "subprocess check_output", "torch load", "torch.hub load", "this s"),
    *("importlib import_module", "runpy _run_code", "slogpt_fuzz_canary run", "antigravity x"),
    *("torch.serialization load", "numpy load", "pickle loads", "socket create_connection"),
    *("shutil rmtree", "pathlib Path.unlink", "operator attrgetter", "types FunctionType"),
    *("torch._utils _rebuild_sparse_tensor", "torch._utils _rebuild_qtensor", "torch Tensor"),
    *("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor_v3", "torch FloatStorage"),
    *("torch._utils _rebuild_parameter", "torch._utils _rebuild_parameter_with_state"),
    *("torch._tensor _rebuild_from_type_v2", "torch.storage UntypedStorage", "torch float32"),
    *("torch Size", "torch device", "collections OrderedDict", "collections defaultdict"),
    *("collections Counter", "builtins set", "builtins bytearray", "builtins complex"),
    *("numpy dtype", "numpy.core.multiarray scalar", "_codecs encode", "pathlib PosixPath"),
    *("numpy.core.multiarray _reconstruct", "torch.serialization _get_layout"),
)
ARGUMENT = b"X\x04\0\0\0true"  # a text


def split(data: bytes) -> list[bytes]:
    """The opcodes of a pickle with their arguments; what cannot be taken apart as one piece."""
    starts: list[int] = []
    try:
        for _, _, at in pickletools.genops(data):
            starts.append(at or 0)
    except Exception:  # whatever a damaged pickle makes pickletools raise
        pass
    ends = [*starts[1:], len(data)] if starts else []
    return [data[start:end] for start, end in zip(starts, ends, strict=True)] or [data]


def call(name: str, arguments: bytes = b"(" + ARGUMENT + b"t") -> bytes:
    """A call of a global, ``module name``, with a tuple."""
    module, _, attribute = name.partition(" ")
    return f"c{module}\n{attribute}\n".encode() + arguments + b"R"


def text(value: str) -> bytes:
    """A text."""
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def integer(value: int) -> bytes:
    """An integer of any size."""
    return pickle.dumps(value, 2)[2:-1]


def snippet(random: Random) -> bytes:
    """A piece of a pickle that leaves one value, or should not be there at all."""
    n = random.choice((1, 40, 100, 3000))
    size = random.choice((0, 1, 255, 2**31 - 1, 2**31, 2**32 - 1))
    huge = random.choice(BOUNDARIES)
    module, _, attribute = random.choice(DANGEROUS).partition(" ")
    makers = (
        lambda: call(random.choice(DANGEROUS)),
        lambda: call(
            random.choice(DANGEROUS), random.choice((b")", b"N", b"]", integer(huge) + b"\x85"))
        ),
        lambda: text(module) + text(attribute) + b"\x93" + b")R",
        lambda: f"(i{module}\n{attribute}\n".encode(),
        lambda: f"c{module}\n{attribute}\n".encode() + b")\x81",
        lambda: f"c{module}\n{attribute}\n".encode() + b")}\x92",
        lambda: f"c{module}\n{attribute}\n".encode(),
        lambda: b"(" * n + b"t" * n,
        lambda: b"(" * n + b"l" * n,
        lambda: b")" + b"\x85" * n,
        lambda: b"]" + b"]a" * n,
        lambda: b"]2a",  # a list that holds itself
        lambda: b"}q\xfaK\0h\xfas",  # a dict that holds itself
        lambda: b"Nr" + struct.pack("<I", size),
        lambda: b"j" + struct.pack("<I", size),
        lambda: b"Np" + str(huge).encode() + b"\n",
        lambda: b"g" + str(huge).encode() + b"\n",
        lambda: b"X" + struct.pack("<I", size) + b"x",
        lambda: b"\x8d" + struct.pack("<Q", huge % 2**64) + b"x",
        lambda: b"\x8e" + struct.pack("<Q", huge % 2**64) + b"x",
        lambda: b"\x96" + struct.pack("<Q", huge % 2**64) + b"x",
        lambda: b"\x8b" + struct.pack("<I", size) + b"1",
        lambda: b"\x8a\xff" + b"\x7f" * 255,
        lambda: b"I" + b"9" * n + b"\n",
        lambda: b"L" + b"9" * n + b"L\n",
        lambda: b"F" + random.choice((b"nan", b"inf", b"1e999", b"1_0", b"x")) + b"\n",
        lambda: b"S'" + b"\\x41" * n + b"'\n",
        lambda: b"V\\ud800\\U0010ffff\\u0000\n",
        lambda: text(random.choice(("\ud800", "\x1b[31m", "\n", "\u202e", "x" * n, "\0"))),
        lambda: integer(huge),
        lambda: b"G" + struct.pack(">d", random.choice((float("nan"), float("inf"), 1e308))),
        lambda: b"\x95" + struct.pack("<Q", huge % 2**64),
        lambda: b"\x80" + bytes([random.randrange(256)]),
        lambda: random.choice(
            (b"Pabc\n", b"Q", b"NQ", b")Q", b"\x82\1", b"\x83\1\0", b"\x97", b"\x98")
        ),
        lambda: call("torch._utils _rebuild_tensor_v2") * min(n, 100),
        lambda: random.choice((b"N", b"\x88", b"]", b"}", b")", b"\x8f", b"(\x91")),
        lambda: random.choice(
            (b".", b"0", b"1", b"2", b"(", b"R", b"b", b"s", b"u", b"a", b"e", b"t")
        ),
        lambda: b"h" + bytes([random.randrange(256)]),
    )
    return random.choice(makers)()


def mutate(random: Random, data: bytes) -> bytes:
    """A pickle with some of its opcodes changed."""
    if random.random() < 0.1:
        return random.choice(BYTES)(random, data)
    pieces = split(data)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        at = random.randrange(len(pieces))
        other = random.randrange(len(pieces))
        kind = random.randrange(8)
        if kind == 0:
            pieces[at], pieces[other] = pieces[other], pieces[at]
        elif kind == 1:
            pieces.insert(at, pieces[other])
        elif kind == 2 and len(pieces) > 1:
            del pieces[at]
        elif kind == 3:
            pieces[at:at] = pieces[at : at + 20] * random.choice((1, 2, 50))
        elif kind == 4:
            pieces[at] = bytes([random.randrange(256)]) + pieces[at][1:]
        elif kind == 5:
            pieces.insert(at, snippet(random))
        else:
            values = [i for i, p in enumerate(pieces) if p[:1] in b"KMJIX\x8c\x8aGN\x88\x89)]}c"]
            pieces[random.choice(values or [at])] = snippet(random)
    return b"".join(pieces)
