"""The formats of the Xet protocol, as the embedded hub reads them."""

from __future__ import annotations

import io
import struct
import tempfile
from pathlib import Path

import lz4.frame
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slogpt_hf.hub.embedded import xet_shards, xet_xorbs
from slogpt_hf.hub.embedded.git import Repository
from slogpt_hf.hub.embedded.wire import RefusalError

MIB = 1024 * 1024
BOOKEND = struct.pack("<32s4I", b"\xff" * 32, 0, 0, 0, 0)
SHARD = b"".join(
    [
        xet_shards.TAG + struct.pack("<2Q", 2, 0),
        struct.pack("<32s4I", b"file", 0xC000_0000, 2, 0, 0),
        struct.pack("<32s4I", b"xorb", 0, 30, 4, 5),
        struct.pack("<32s4I", b"xorb", 0, 12, 0, 1),
        bytes(48) * 2,
        struct.pack("<32s4I", bytes(range(32)), 0, 0, 0, 0),
        BOOKEND,
        struct.pack("<32s4I", b"xorb", 0, 1, 42, 9),
        bytes(48),
        BOOKEND,
    ]
)
SHA256 = "07060504030201000f0e0d0c0b0a090817161514131211101f1e1d1c1b1a1918"


def packed(raw: bytes, scheme: int = 0) -> bytes:
    """A chunk as the specification lays it out."""
    groups = b"".join(raw[i::4] for i in range(4)) if scheme == 2 else raw
    data = lz4.frame.compress(groups) if scheme else raw
    lengths = [len(part).to_bytes(3, "little") for part in (data, raw)]
    return b"\0" + lengths[0] + bytes([scheme]) + lengths[1] + data


def body(data: bytes) -> io.BufferedReader:
    return io.BufferedReader(io.BytesIO(data))  # type: ignore[arg-type]


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=300), st.integers(0, 2)), max_size=8))
def test_chunks_unpack_to_what_was_packed(chunks: list[tuple[bytes, int]]) -> None:
    xorb = b"".join(packed(raw, scheme) for raw, scheme in chunks)
    assert list(xet_xorbs.unpack(body(xorb))) == [raw for raw, _ in chunks]
    assert list(xet_xorbs.unpack(body(xorb + b"XETBLOB\x01 footer"))) == [raw for raw, _ in chunks]


@given(st.data())
def test_a_damaged_xorb_is_refused_or_read(data: st.DataObject) -> None:
    small = packed(b"abc" * 40, 1) + packed(b"wxyz" * 40, 2) + packed(b"plain")
    place = data.draw(st.integers(0, len(small) - 1))
    damaged = small[:place] + data.draw(st.binary(max_size=9)) + small[place + 1 :]
    try:
        assert sum(map(len, xet_xorbs.unpack(body(damaged)))) < MIB
    except RefusalError as refusal:
        assert refusal.status in (400, 413)


@given(st.integers(0, len(SHARD) - 1))
def test_a_truncated_shard_is_refused(length: int) -> None:
    with pytest.raises(RefusalError) as error:
        xet_shards.read_files(SHARD[:length])
    assert error.value.status == 400


@given(st.data())
def test_a_damaged_shard_is_refused_or_read(data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(SHARD) - 1))
    damaged = SHARD[:place] + data.draw(st.binary(max_size=9)) + SHARD[place + 1 :]
    try:
        for file in xet_shards.read_files(damaged):
            assert list(file.terms) and file.size >= 0
    except RefusalError as refusal:
        assert refusal.status == 400


def test_a_shard_says_how_its_files_are_made() -> None:
    (file,) = xet_shards.read_files(SHARD)
    assert (file.sha256, file.size) == (SHA256, 42)  # the specification's example of a hash
    xorb = "00000000" + b"xorb"[::-1].hex() + "0" * 48
    assert list(file.terms) == [xet_shards.Term(xorb, 30, 4, 5), xet_shards.Term(xorb, 12, 0, 1)]


@settings(deadline=None)  # it writes files
@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.data())
def test_a_range_of_chunks_is_a_range_of_bytes(sizes: list[int], data: st.DataObject) -> None:
    chunks = [bytes([i]) * size for i, size in enumerate(sizes)]
    start = data.draw(st.integers(0, len(sizes) - 1))
    stop = data.draw(st.integers(start + 1, len(sizes)))
    with tempfile.TemporaryDirectory() as folder:
        repo, final = Repository("me/m", Path(folder), Path(folder), -1), Path(folder, "x", "y")
        xet_xorbs.receive(repo, final, body(b"".join(map(packed, chunks))))
        with final.open("rb") as file:
            offset, length = xet_xorbs.extent(file, start, stop)
            file.seek(offset)
            assert file.read(length) == b"".join(chunks[start:stop])
            with pytest.raises(RefusalError):
                xet_xorbs.extent(file, start, len(sizes) + 1)
