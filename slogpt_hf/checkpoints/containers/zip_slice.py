"""Where the entries of a zip archive lie that is all or part of a file, and stored as they are.

zipfile reads the directory, from a file object that refuses to read more of it than an archive
of ``torch.save`` has; the entries' own headers are checked here. Format: PKWARE APPNOTE 4.3.
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from slogpt_hf.errors import CheckpointError, first_line

MAX_DIRECTORY = 4 * 2**20  # bytes; about 60 000 tensors
LOCAL_HEADER = struct.Struct("<4s5H3I2H")
LOCAL_MAGIC = b"PK\x03\x04"
ENCRYPTED, UTF8 = 0x1, 0x800  # flag bits
AGAIN = "Copy it again, or take the checkpoint before it."


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes of a file: ``n_bytes`` from byte ``start``."""

    start: int
    n_bytes: int


class _Slice(io.RawIOBase):
    """A part of a file, as zipfile reads it."""

    def __init__(self, descriptor: int, span: Span) -> None:
        self.descriptor = descriptor
        self.span = span
        self.at = 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self.at, os.SEEK_END: self.span.n_bytes}[whence]
        if base + offset < 0:
            raise ValueError("a directory that begins before the archive")
        self.at = base + offset
        return self.at

    def read(self, size: int | None = -1) -> bytes:
        left = max(self.span.n_bytes - self.at, 0)
        count = left if size is None or size < 0 else min(size, left)
        if count > MAX_DIRECTORY:
            raise ValueError(f"a directory of more than {MAX_DIRECTORY} bytes")
        data = os.pread(self.descriptor, count, self.span.start + self.at)
        self.at += len(data)
        return data


@dataclass(frozen=True)
class Archive:
    """The directory of an archive in an open file.

    Attributes:
        source: begins every message.
        descriptor: of the file, which must stay open as long as entries are looked up.
        span: where the archive lies in the file.
        entries: by name, as the directory has them.
        ends: by name, the byte of the archive at which the next entry or the directory begins.
    """

    source: str
    descriptor: int
    span: Span
    entries: Mapping[str, zipfile.ZipInfo]
    ends: Mapping[str, int]

    def locate(self, name: str) -> Span:
        """Where the bytes of an entry lie in the file.

        Raises:
            CheckpointError: there is none of that name, or its own header contradicts the
                directory.
        """
        if name not in self.entries:
            raise self.damaged(f"it has no entry {name[:80]!a}")
        entry = self.entries[name]
        raw_name = entry.orig_filename.encode("utf-8" if entry.flag_bits & UTF8 else "cp437")
        header = os.pread(
            self.descriptor,
            LOCAL_HEADER.size + len(raw_name),
            self.span.start + entry.header_offset,
        )
        if len(header) < LOCAL_HEADER.size + len(raw_name):
            raise self.damaged(f"the entry {name!a} lies beyond its end")
        magic, _, flags, method, _, _, _, packed, size, n_name, n_extra = LOCAL_HEADER.unpack_from(
            header
        )
        # Sizes are 0 where they follow the data, and all ones where zip64 fields hold them.
        sizes_fit = {packed, size} <= {0, 0xFFFFFFFF, entry.file_size}
        if (
            magic != LOCAL_MAGIC
            or header[LOCAL_HEADER.size :] != raw_name
            or n_name != len(raw_name)
            or method != zipfile.ZIP_STORED
            or flags & ENCRYPTED
            or not sizes_fit
        ):
            raise self.damaged(f"the header of {name!a} is not what the directory says")
        start = entry.header_offset + LOCAL_HEADER.size + n_name + n_extra
        if start + entry.file_size > self.ends[name]:
            raise self.damaged(f"the entry {name!a} runs into the next one")
        return Span(self.span.start + start, entry.file_size)

    def read(self, name: str, most: int) -> bytes:
        """The bytes of an entry, checked against its CRC-32.

        Raises:
            CheckpointError: as ``locate``; it has more than ``most`` bytes, or other ones.
        """
        span = self.locate(name)
        if span.n_bytes > most:
            raise CheckpointError(
                f"{self.source}: its {name!a} has {span.n_bytes} bytes (at most {most} are read).",
                hint="A checkpoint holds its numbers as tensors, apart from the pickle.",
            )
        data = os.pread(self.descriptor, span.n_bytes, span.start)
        if zlib.crc32(data) != self.entries[name].CRC:
            raise self.damaged(f"bad CRC-32 for {name!a}")
        return data

    def damaged(self, reason: object) -> CheckpointError:
        """The error for an archive that contradicts itself."""
        return damaged(self.source, reason)


def damaged(source: str, reason: object) -> CheckpointError:
    """The error for an archive that is not what ``torch.save`` wrote."""
    return CheckpointError(
        f"{source}: is truncated or damaged ({ascii(first_line(reason))[1:-1]}).", hint=AGAIN
    )


def open_archive(descriptor: int, span: Span, source: str) -> Archive:
    """Read the directory of the archive that lies in ``span`` of an open file.

    Raises:
        CheckpointError: there is no whole archive, its entries overlap or lie outside of it, two
            have one name, or one is compressed.
    """
    try:
        with zipfile.ZipFile(_Slice(descriptor, span)) as archive:
            entries, directory = archive.infolist(), archive.start_dir
    except Exception as error:  # whatever a damaged directory makes zipfile raise
        raise damaged(source, error) from error
    # Mapped bytes are read as they lie, so compressed ones would be taken for weights.
    packed = [e.filename for e in entries if e.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise CheckpointError(
            f"{source}: {packed[0][:80]!a} in it is compressed, which torch.save never does.",
            hint="Take the file as the trainer saved it.",
        )
    by_name = {entry.filename: entry for entry in entries}
    if len(by_name) != len(entries):
        raise damaged(source, "two entries have one name")
    in_order = sorted(entries, key=lambda entry: entry.header_offset)
    starts = [entry.header_offset for entry in in_order]
    for entry, end in zip(in_order, [*starts[1:], directory], strict=False):
        size = entry.file_size
        if size != entry.compress_size or entry.header_offset < 0 or entry.flag_bits & ENCRYPTED:
            raise damaged(source, f"the directory's line of {entry.filename[:80]!a} is wrong")
        if entry.header_offset + LOCAL_HEADER.size + size > end:
            raise damaged(source, f"the entry {entry.filename[:80]!a} runs into the next one")
    ends = dict(zip((entry.filename for entry in in_order), [*starts[1:], directory], strict=False))
    return Archive(source, descriptor, span, by_name, ends)
