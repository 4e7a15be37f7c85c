"""Zip archives that lie: every field of every header can be another than the truth."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from random import Random

from fuzzing.raw import BOUNDARIES

LOCAL = struct.Struct("<4s5H3I2H")
LOCAL_FIELDS: tuple[str, ...] = (
    "magic",
    "version",
    "flags",
    "method",
    "time",
    "date",
    "crc",
    "packed",
    "size",
)
LOCAL_FIELDS += ("n_name", "n_extra")
CENTRAL = struct.Struct("<4s6H3I5H2I")
CENTRAL_FIELDS: tuple[str, ...] = (
    "magic",
    "made",
    "version",
    "flags",
    "method",
    "time",
    "date",
    "crc",
    "packed",
)
CENTRAL_FIELDS += ("size", "n_name", "n_extra", "n_comment", "disk", "internal", "external", "at")
END = struct.Struct("<4s4H2IH")
END_FIELDS = ("magic", "disk", "directory_disk", "here", "total", "n_directory", "at", "n_comment")
END64 = struct.Struct("<4sQ2H2I4Q")
LOCATOR = struct.Struct("<4sIQI")


@dataclass(frozen=True)
class Entry:
    """An entry, and what its headers say other than the truth."""

    name: bytes
    content: bytes
    local: Mapping[str, int] = field(default_factory=dict)
    central: Mapping[str, int] = field(default_factory=dict)
    extra: bytes = b""


@dataclass(frozen=True)
class Zip:
    """An archive, and what its end says other than the truth."""

    entries: tuple[Entry, ...]
    end: Mapping[str, int] = field(default_factory=dict)
    before: bytes = b""
    behind: bytes = b""
    end64: tuple[int, int, int, int] | None = None


def read(data: bytes) -> Zip | None:
    """The entries of a sound archive; None if it is none."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            return Zip(tuple(Entry(i.filename.encode(), file.read(i)) for i in file.infolist()))
    except Exception:  # whatever a damaged archive makes zipfile raise
        return None


def write(made: Zip) -> bytes:
    """The bytes of an archive."""
    body, directory = bytearray(made.before), bytearray()
    for entry in made.entries:
        at, n_bytes, crc = len(body), len(entry.content), zlib.crc32(entry.content)
        true = dict.fromkeys(LOCAL_FIELDS, 0) | {"crc": crc, "packed": n_bytes, "size": n_bytes}
        true |= {"magic": 0x04034B50, "version": 20, "n_name": len(entry.name)}
        body += _packed(LOCAL, LOCAL_FIELDS, true | dict(entry.local)) + entry.name + entry.content
        true = dict.fromkeys(CENTRAL_FIELDS, 0) | true
        true |= {"magic": 0x02014B50, "made": 20, "at": at, "n_extra": len(entry.extra)}
        directory += _packed(CENTRAL, CENTRAL_FIELDS, true | dict(entry.central))
        directory += entry.name + entry.extra
    at, count = len(body), len(made.entries)
    body += directory
    if made.end64 is not None:
        here = len(body)
        body += END64.pack(b"PK\6\6", END64.size - 12, 45, 45, 0, 0, *made.end64)
        body += LOCATOR.pack(b"PK\6\7", 0, here, 1)
    true = dict.fromkeys(END_FIELDS, 0) | {"magic": 0x06054B50, "here": count, "total": count}
    true |= {"n_directory": len(directory), "at": at}
    body += _packed(END, END_FIELDS, true | dict(made.end))
    return bytes(body) + made.behind


def _packed(layout: struct.Struct, names: tuple[str, ...], values: Mapping[str, int]) -> bytes:
    sizes = [int(c) if c.isdigit() else c for c in layout.format[1:]]
    letters: list[str] = []
    count = 1
    for size in sizes:
        if isinstance(size, int):
            count = size
        else:
            letters += ["I"] if size == "s" else [size] * count
            count = 1
    limits = {"H": 0xFFFF, "I": 0xFFFFFFFF}
    return struct.pack(
        "<" + "".join(letters),
        *(values[name] & limits[letter] for name, letter in zip(names, letters, strict=True)),
    )


def mutate(random: Random, data: bytes) -> bytes:
    """A sound archive with one lie in it; bytes that are none come back as they are."""
    made = read(data)
    if made is None or not made.entries:
        return data
    return write(lie(random, made))


def lie(random: Random, made: Zip) -> Zip:
    """One lie."""
    entries = list(made.entries)
    at = random.randrange(len(entries))
    entry, other = entries[at], random.choice(entries)
    number = random.choice((*BOUNDARIES, len(entry.content) + 1, len(entry.content) - 1))
    kind = random.randrange(12)
    if kind == 0:
        entry = replace(entry, local={random.choice(LOCAL_FIELDS): number})
    elif kind in (1, 2):
        entry = replace(entry, central={random.choice(CENTRAL_FIELDS): number})
    elif kind == 3:
        packed = zlib.compress(entry.content)[2:-4]
        true = {"method": 8, "crc": zlib.crc32(entry.content), "size": len(entry.content)}
        entry = replace(entry, content=packed, local=true, central=true)
    elif kind == 4:
        flags = {"flags": random.choice((1, 8, 0x800, 0x40, 0x2000, 0xFFFF))}
        entry = replace(entry, local=flags if random.random() < 0.5 else {}, central=flags)
    elif kind == 5:
        name = random.choice((other.name, b"", b"../../x", b"a\0b", b"\xff\xfe", b"/etc/passwd"))
        name = random.choice((name, entry.name + b"/", b"x/" + entry.name, entry.name.upper()))
        entry = replace(entry, name=name)
    elif kind == 6:
        big = {"size": 0xFFFFFFFF, "packed": 0xFFFFFFFF, "at": 0xFFFFFFFF}
        sizes = [random.choice((*BOUNDARIES, len(entry.content))) % 2**64 for _ in range(3)]
        extra = struct.pack("<2H3Q", 1, random.choice((24, 24, 8, 65535)), *sizes)
        entry = replace(entry, central=big, extra=extra)
    elif kind == 7:
        lies = {random.choice(END_FIELDS): number}
        return replace(made, end=lies)
    elif kind == 8:
        counts = [random.choice((*BOUNDARIES, len(entries))) % 2**64 for _ in range(4)]
        full = {"here": 0xFFFF, "total": 0xFFFF, "n_directory": 0xFFFFFFFF, "at": 0xFFFFFFFF}
        return replace(made, end64=(counts[0], counts[1], counts[2], counts[3]), end=full)
    elif kind == 9:
        garbage = random.randbytes(random.choice((1, 7, 64)))
        before = random.random() < 0.5
        return replace(made, before=garbage) if before else replace(made, behind=garbage)
    elif kind == 10:
        entries.insert(random.randrange(len(entries) + 1), other)
        return replace(made, entries=tuple(entries))
    else:
        content = entry.content[: random.randrange(len(entry.content) + 1)]
        entry = replace(entry, content=random.choice((content, other.content, entry.content * 2)))
    entries[at] = entry
    return replace(made, entries=tuple(entries))
