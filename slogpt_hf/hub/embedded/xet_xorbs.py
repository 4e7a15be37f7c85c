"""Xorbs, the packs of compressed chunks in which the Xet protocol uploads, and where they wait.

Format: https://huggingface.co/docs/xet/xorb. A chunk is a version byte, its packed length (3 bytes,
little-endian), a compression scheme, its raw length (3 bytes) and the packed data. A xorb is kept
unpacked, the chunks' offsets after them, so that a range of chunks is a range of bytes.
The names of xorbs are hashes that the client computed; they are labels here and not checked.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import os
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from slogpt_hf.hub.embedded.git import Repository
from slogpt_hf.hub.embedded.wire import RefusalError

PACKED_LIMIT = 65 * 1024 * 1024
"""Clients pack 64 MiB that do not compress into one xorb, and the headers come on top."""
RAW_LIMIT = 1024 * 1024 * 1024
CHUNK_LIMIT = 128 * 1024
CHUNKS_LIMIT = 65_536

_FOOTER = b"XETBLOB"
_HEADER = 8
_OFFSET = 8


def is_available() -> bool:
    """Whether LZ4 is installed, without which most xorbs cannot be read."""
    return importlib.util.find_spec("lz4") is not None


def xorb_path(run: Path, repo: Repository, name: str) -> Path:
    """Where a repository's xorb lies for the time of one server run."""
    return run / repo.location / name


def receive(repo: Repository, final: Path, body: io.BufferedIOBase) -> None:
    """Unpack a xorb into the file `final`, one chunk in memory at a time.

    Raises:
        RefusalError: 400 for a malformed xorb, 413 for one above the limits of this module.
    """
    offsets = [0]
    with tempfile.NamedTemporaryFile(dir=repo.incoming, prefix="xorb-", delete=False) as file:
        try:
            for chunk in unpack(body):
                offsets.append(offsets[-1] + len(chunk))
                if offsets[-1] > RAW_LIMIT or len(offsets) > CHUNKS_LIMIT + 1:
                    raise RefusalError(
                        413, f"A xorb holds {RAW_LIMIT} bytes in {CHUNKS_LIMIT} chunks at most."
                    )
                file.write(chunk)
            if len(offsets) == 1:
                raise _malformed("it holds no chunk")
            file.write(struct.pack(f"<{len(offsets) + 1}Q", *offsets, len(offsets) - 1))
            file.flush()
            final.parent.mkdir(parents=True, exist_ok=True)
            Path(file.name).replace(final)
        finally:
            Path(file.name).unlink(missing_ok=True)


def extent(file: BinaryIO, start: int, stop: int) -> tuple[int, int]:
    """Offset and length in bytes of the chunks `[start, stop)` of a kept xorb.

    Raises:
        RefusalError: 400 if the xorb has no such chunks.
    """
    file.seek(-_OFFSET, os.SEEK_END)
    count = int.from_bytes(file.read(_OFFSET), "little")
    if not start < stop <= count:
        raise RefusalError(400, f"A xorb of {count} chunks has no chunks {start} to {stop}.")
    first, end = (_offset_of(file, count, chunk) for chunk in (start, stop))
    return first, end - first


def unpack(body: io.BufferedIOBase) -> Iterator[bytes]:
    """The raw chunks of a xorb in order; its footer, where it has one, is not read.

    Raises:
        RefusalError: 400 for a malformed xorb, 413 for one above 65 MiB.
    """
    left = PACKED_LIMIT
    while header := body.read(_HEADER):
        if header.startswith(_FOOTER):
            return
        if len(header) != _HEADER:
            raise _malformed("it ends inside the header of a chunk")
        version, scheme = header[0], header[4]
        packed, raw = (int.from_bytes(header[i : i + 3], "little") for i in (1, 5))
        if version != 0 or scheme not in _SCHEMES:
            raise _malformed(f"a chunk has version {version} and compression scheme {scheme}")
        if not 0 < raw <= CHUNK_LIMIT or packed > 2 * CHUNK_LIMIT:
            raise _malformed(f"a chunk of {raw} bytes, packed {packed}")
        left -= _HEADER + packed
        if left < 0:
            raise RefusalError(413, f"The xorb is larger than {PACKED_LIMIT} bytes.")
        data = body.read(packed)
        if len(data) != packed:
            raise _malformed("it ends inside a chunk")
        chunk = _SCHEMES[scheme](data, raw)
        if len(chunk) != raw:
            raise _malformed(f"a chunk of {raw} bytes unpacks to another length")
        yield chunk


def _offset_of(file: BinaryIO, count: int, chunk: int) -> int:
    file.seek(_OFFSET * (chunk - count - 2), os.SEEK_END)
    return int.from_bytes(file.read(_OFFSET), "little")


def _stored(data: bytes, raw: int) -> bytes:
    return data


def _lz4(data: bytes, raw: int) -> bytes:
    """An LZ4 frame, unpacked to at most one byte more than it may hold."""
    frame: Any = importlib.import_module("lz4.frame")
    decompressor = frame.LZ4FrameDecompressor()
    try:
        chunk = bytes(decompressor.decompress(data, max_length=raw + 1))
    except (RuntimeError, ValueError):
        raise _malformed("a chunk is not an LZ4 frame") from None
    if not decompressor.eof or decompressor.unused_data:
        raise _malformed("a chunk is not one LZ4 frame of its length")
    return chunk


def _grouped_lz4(data: bytes, raw: int) -> bytes:
    """LZ4 over the bytes sorted by their position modulo 4; the first groups take the rest."""
    groups = _lz4(data, raw)
    chunk, start = bytearray(len(groups)), 0
    for position in range(4):
        stop = start + len(range(position, len(groups), 4))
        chunk[position::4] = groups[start:stop]
        start = stop
    return bytes(chunk)


_SCHEMES: dict[int, Callable[[bytes, int], bytes]] = {0: _stored, 1: _lz4, 2: _grouped_lz4}


def _malformed(what: str) -> RefusalError:
    return RefusalError(400, f"The xorb is malformed: {what}.")
