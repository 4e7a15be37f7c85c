"""A case: the files that one reader is given, as bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

MAX_SET_BYTES = 4096


@dataclass(frozen=True)
class Case:
    """One input.

    Attributes:
        reader: a key of ``seeds.SEEDS``.
        files: path below the case's folder to content.
        target: the path that is read; empty for the folder itself.
        given: values of ``--set``.
    """

    reader: str
    files: Mapping[str, bytes]
    target: str
    given: tuple[str, ...] = ()

    def write(self, folder: Path) -> Path:
        """Write the files and return what is to be read."""
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return folder / self.target if self.target else folder


def pack(case: Case) -> bytes:
    """A case as one text of bytes: a line of JSON, then the files one after the other."""
    head = {
        "reader": case.reader,
        "target": case.target,
        "given": case.given,
        "files": {name: len(content) for name, content in case.files.items()},
    }
    return json.dumps(head).encode() + b"\n" + b"".join(case.files.values())


def unpack(data: bytes) -> Case:
    """The inverse of ``pack``.

    Raises:
        ValueError: ``data`` is no packed case.
    """
    line, _, rest = data.partition(b"\n")
    head = json.loads(line)
    files, at = {}, 0
    for name, length in head["files"].items():
        files[name] = rest[at : at + length]
        at += length
    if at != len(rest):
        raise ValueError("more or fewer bytes than the files have")
    return Case(head["reader"], files, head["target"], tuple(head["given"]))
