"""Mutations that know nothing of a format: bytes, integers, JSON as text."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from random import Random

BOUNDARIES = (
    *(0, 1, -1, 2, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**24),
    *(2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**62, 2**63 - 1, -(2**63), 2**64 - 1),
)
EDGE = 400  # bytes at both ends of a file, where headers lie

Mutation = Callable[[Random, bytes], bytes]


def _place(random: Random, data: bytes) -> int:
    """A byte, mostly one near an end."""
    if random.random() < 0.4:
        return random.randrange(min(len(data), EDGE) + 1)
    if random.random() < 0.5:
        return len(data) - random.randrange(min(len(data), EDGE) + 1)
    return random.randrange(len(data) + 1)


def flip(random: Random, data: bytes) -> bytes:
    """Some bytes changed."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 8))):
        at = _place(random, data)
        if at < len(changed):
            changed[at] ^= 1 << random.randrange(8) if random.random() < 0.7 else 0xFF
    return bytes(changed)


def insert(random: Random, data: bytes) -> bytes:
    """Some bytes more."""
    at = _place(random, data)
    return data[:at] + random.randbytes(random.choice((1, 4, 100))) + data[at:]


def delete(random: Random, data: bytes) -> bytes:
    """Some bytes less."""
    at = _place(random, data)
    return data[:at] + data[at + random.choice((1, 4, 100)) :]


def duplicate(random: Random, data: bytes) -> bytes:
    """A part twice."""
    at, end = sorted((_place(random, data), _place(random, data)))
    return data[:end] + data[at:end] * random.choice((1, 1, 3)) + data[end:]


def truncate(random: Random, data: bytes) -> bytes:
    """The end missing, or the start."""
    at = _place(random, data)
    return data[:at] if random.random() < 0.8 else data[at:]


def move(random: Random, data: bytes) -> bytes:
    """A part at another place."""
    at, end = sorted((_place(random, data), _place(random, data)))
    part, rest = data[at:end], data[:at] + data[end:]
    to = _place(random, rest)
    return rest[:to] + part + rest[to:]


def integer(random: Random, data: bytes) -> bytes:
    """An integer of 1, 2, 4 or 8 bytes that is at a limit of something."""
    size = random.choice((1, 2, 4, 4, 8))
    at = _place(random, data)
    if random.random() < 0.6:
        at -= at % 4
    value = random.choice(BOUNDARIES) & ((1 << 8 * size) - 1)
    if random.random() < 0.2:
        value = random.choice((len(data), len(data) - at, at)) & ((1 << 8 * size) - 1)
    order = "little" if random.random() < 0.9 else "big"
    return data[:at] + value.to_bytes(size, order) + data[at + size :]  # type: ignore[arg-type]


def floating(random: Random, data: bytes) -> bytes:
    """An fp32 that is no number, infinite or tiny."""
    at = random.randrange(0, max(1, len(data)), 4)
    value = random.choice((float("nan"), float("inf"), -float("inf"), -1.0, 1e-45, 3e38))
    return data[:at] + struct.pack("<f", value) + data[at + 4 :]


def repeat(random: Random, data: bytes) -> bytes:
    """A short part many times."""
    at = _place(random, data)
    part = data[at : at + random.choice((1, 2, 8))]
    return data[:at] + part * random.choice((100, 1000, 20_000)) + data[at:]


BYTES: tuple[Mutation, ...] = (
    *(flip, flip, insert, delete, duplicate, truncate, move, integer, integer, integer),
    *(floating, repeat),
)

SCALARS = (
    *("NaN", "Infinity", "-Infinity", "1e999", "-1", "0", "1.5", "null", "true", "[]", "{}"),
    *('""', '"8"', '"\\ud800"', '"\\u0000\\u001b[31m\\n"', '"\\u202e"', "2147483648"),
    *("9223372036854775808", "18446744073709551616", "1" + "0" * 400, "9" * 5000, "1e308"),
    *("[" * 40 + "]" * 40, "[" * 5000 + "]" * 5000, '{"a":' * 40 + "1" + "}" * 40),
    '"' + "x" * 3000 + '"',
)


def json_text(random: Random, data: bytes) -> bytes:
    """JSON with a value of another type, a key twice, nesting, or no JSON at all."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return random.choice(BYTES)(random, data)
    if not isinstance(value, dict) or not value or random.random() < 0.15:
        return random.choice(SCALARS).encode()
    parts = []
    chosen = random.choice(list(value))
    for key, item in value.items():
        text = json.dumps(item)
        if key == chosen:
            kind = random.randrange(6)
            if kind == 0:
                continue
            if kind == 1:  # the key twice
                parts.append(f"{json.dumps(key)}: {random.choice(SCALARS)}")
            elif kind == 2:
                key = random.choice(("", "\ud800", "\n", "__class__", "model", "config", "x" * 500))
            elif kind == 3 and isinstance(item, dict | list) and item:
                text = json_text(random, text.encode()).decode()
            elif kind == 4 and isinstance(item, list) and item:
                item = list(item)
                item[random.randrange(len(item))] = random.choice(BOUNDARIES)
                text = json.dumps(item)
            else:
                text = random.choice(SCALARS)
        parts.append(f"{json.dumps(key)}: {text}")
    return f"{{{', '.join(parts)}}}".encode()


YAML = (
    *(
        b"set: {n_head: !!python/object/apply:os.system [true]}\n",
        b"set: [1, 2]\n",
        b"? [a]\n: 1\n",
    ),
    *(
        b"a: &a [*a]\n",
        b"set: &s {n_head: *s}\n",
        b"\x00",
        b"\xff\xfe",
        b"- - - -\n",
        b"2024-13-45: 1\n",
    ),
    *(b"set: {n_head: 0x" + b"f" * 5000 + b"}\n", b"0x" + b"f" * 5000 + b": 1\n"),
    *(b"set: {1_000: 1:60:3}\n", b"tag: 2001-01-01\n", b"tag: !!binary gA==\n", b"? {}\n: 1\n"),
    *(b"set: {n_head: .nan}\n", b"set: {block_size: 1e400}\n", b"language: [[en]]\n", b"set: 5\n"),
    *(b"dtype: 99999999999999999999\n", b"max-shard-size: 0x" + b"f" * 5000 + b"\n"),
    *(b"private: 0x" + b"f" * 5000 + b"\n", b"tag: \xed\xa0\x80\n", b"language: [&a en, *a]\n"),
    b"base: ckpt.pt\n",
    b"tag: " + b"!" * 3000 + b" x\n",
    b"[" * 500,
    b"a: " * 500,
    b'set: {"n_head\\n\\e[31m": 1}\n',
    b'"\\ud800": 1\n',
    b'set: {n_head: "2\\u0085"}\n',
)


def yaml_text(random: Random, data: bytes) -> bytes:
    """YAML with a line from ``YAML``, or bytes changed."""
    if random.random() < 0.4:
        return random.choice(BYTES)(random, data)
    lines = data.splitlines(keepends=True)
    at = random.randrange(len(lines) + 1)
    extra = random.choice(YAML)
    if random.random() < 0.3:
        extra = extra.replace(b"set", random.choice((b"tag", b"unknown", b"dataset", b"tokenizer")))
    return b"".join([*lines[:at], extra, *lines[at + random.randrange(2) :]])


GIVEN = (
    *("n_head=0", "n_head=-1", "n_head=1e3", "n_head=" + "9" * 5000, "n_head=" + "9" * 4000),
    *(
        "block_size=" + "9" * 4000,
        "block_size=2",
        "block_size=true",
        "n_kv_head=1",
        "x=1",
        "=1",
        "n_head",
    ),
    *("norm_eps=0", "norm_eps=nan", "norm_eps=1e308", "norm_eps=5e-324", "rope_theta=1e-300"),
    *("lora_alpha=1e308", "use_rope=true", "bias=2", "n_head=\ud800", "n_head=\x1b[31m", "n\n=1"),
    *("n_head=٢", "n_head=2_0", "n_head= 2", "n_head=0x2", "x" * 5000, "n_head==2", "vocab_size=5"),
    "block_size=" + str(2**63),
    "n_head=2",
)
