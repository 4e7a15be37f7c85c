"""Shards, in which the Xet protocol says of which chunks its files are made.

Format: https://huggingface.co/docs/xet/shard. A header, then blocks of 48-byte records: the files'
up to a bookend, the xorbs' up to another. Only the files' terms and SHA-256 are used; the hashes of
files, chunks and ranges are not checked, since the SHA-256 of the rebuilt content is.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from slogpt_hf.hub.embedded.wire import RefusalError

SHARD_LIMIT = 64 * 1024 * 1024
TAG = b"HFRepoMetaData\0" + bytes.fromhex("556967456a7b815783a5bdd95ccdd14aa9")
VERSION = 2

_RECORD = struct.Struct("<32s4I")
_HEADER = struct.Struct("<32s2Q")
_BOOKEND = b"\xff" * 32
_WITH_VERIFICATION = 1 << 31
_WITH_METADATA = 1 << 30


@dataclass(frozen=True)
class Term:
    """Chunks `[start, stop)` of a xorb, `size` bytes unpacked."""

    xorb: str
    size: int
    start: int
    stop: int


@dataclass(frozen=True)
class XetFile:
    """A file as a shard describes it; `records` are its terms as they stand in the shard."""

    sha256: str
    records: memoryview

    @property
    def terms(self) -> Iterator[Term]:
        for xorb, _, size, start, stop in _RECORD.iter_unpack(self.records):
            yield Term(hash_text(xorb), size, start, stop)

    @property
    def size(self) -> int:
        """Bytes of the whole file, as the terms claim."""
        return sum(size for _, _, size, _, _ in _RECORD.iter_unpack(self.records))


def hash_text(digest: bytes) -> str:
    """The Xet protocol's text of a 32-byte hash: four little-endian 64-bit numbers."""
    return "".join(f"{word:016x}" for word in struct.unpack("<4Q", digest))


def read_files(data: bytes | bytearray) -> list[XetFile]:
    """The files of a shard; all of the shard is read before the first is used.

    Raises:
        RefusalError: 400 for a malformed or truncated shard or a file without its SHA-256.
    """
    view = memoryview(data)
    if len(data) < _HEADER.size:
        raise _malformed("it ends inside its header")
    tag, version, footer = _HEADER.unpack_from(data)
    if tag != TAG or version != VERSION:
        raise _malformed("it does not begin as a shard of version 2")
    files, position = [], _HEADER.size
    while (record := _record(view, position))[0] != _BOOKEND:
        _, flags, count, _, _ = record
        terms = position + _RECORD.size
        position = terms + count * _RECORD.size * (2 if flags & _WITH_VERIFICATION else 1)
        if not flags & _WITH_METADATA:
            raise _malformed("a file comes without its SHA-256")
        sha256 = hash_text(_record(view, position)[0])
        files.append(XetFile(sha256, view[terms : terms + count * _RECORD.size]))
        position += _RECORD.size
    position += _RECORD.size
    while (record := _record(view, position))[0] != _BOOKEND:
        position += (1 + record[2]) * _RECORD.size
    if position + _RECORD.size + footer != len(data):
        raise _malformed("it is longer than its records")
    return files


def _record(view: memoryview, position: int) -> tuple[bytes, int, int, int, int]:
    if position + _RECORD.size > len(view):
        raise _malformed("it ends inside a record")
    record: tuple[bytes, int, int, int, int] = _RECORD.unpack_from(view, position)
    return record


def _malformed(what: str) -> RefusalError:
    return RefusalError(400, f"The shard is malformed: {what}.")
