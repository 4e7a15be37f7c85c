"""The ``.sou`` files of SloughGPT: a JSON profile before an archive of ``torch.save``.

Layout, little-endian: ``SOUL``, uint32 version 2, uint32 length of the profile, the profile as
UTF-8 JSON, then the archive of a bare state dict. ``<name>.sou.meta.json`` repeats the profile.
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any, NoReturn

from slogpt_hf.checkpoints.containers.archive import read_archive
from slogpt_hf.checkpoints.contents import Contents
from slogpt_hf.errors import CheckpointError
from slogpt_hf.files import require_file

NAME = "SloughGPT .sou file"
MAGIC = b"SOUL"
HEADER = struct.Struct("<4sII")
VERSION = 2
MAX_PROFILE_BYTES = 2**20
MAX_DEPTH = 32
AGAIN = "Copy it again, or export it again from SloughGPT."


def recognises(start: bytes) -> bool:
    """Whether a file with these first 16 bytes is a ``.sou``."""
    return start.startswith(MAGIC)


def read(path: Path) -> Contents:
    """Read a ``.sou``: ``{"model": state dict, "profile": dict[, "meta": dict]}``.

    ``meta`` is the object of the ``.sou.meta.json`` beside it, if there is one.

    Raises:
        UsageError: ``path`` is not a file.
        CheckpointError: it is of another version, or damaged, or holds anything but tensors.
    """
    require_file(path)
    profile, start = _read_profile(path)
    value = {"model": read_archive(path, start), "profile": profile}
    beside = path.with_name(f"{path.name}.meta.json")
    meta, notes = _read_meta(beside)
    if meta is None:
        return Contents(path, NAME, value, (path,), notes)
    differing = sorted(k for k, v in meta.items() if k in profile and profile[k] != v)
    if differing:
        notes = (
            f"{beside.name} contradicts the profile in {', '.join(map(ascii, differing[:8]))}"
            "; a field of the model that the two record differently is refused.",
        )
    adds = any(key not in profile or profile[key] != value for key, value in meta.items())
    files = tuple(sorted((path, beside))) if adds else (path,)
    return Contents(path, NAME, value | {"meta": meta}, files, notes)


def _read_profile(path: Path) -> tuple[dict[str, Any], int]:
    """The profile and the byte at which the archive begins."""
    with path.open("rb") as file:
        header = file.read(HEADER.size)
        if len(header) < HEADER.size:
            raise CheckpointError(f"{path}: is truncated in its header.", hint=AGAIN)
        magic, version, length = HEADER.unpack(header)
        if magic != MAGIC:
            raise CheckpointError(f"{path}: is no .sou file.", hint="Name a file of SloughGPT.")
        if version != VERSION:
            raise CheckpointError(
                f"{path}: is a .sou file of version {version}; only version {VERSION} is known.",
                hint="Export it again from SloughGPT.",
            )
        if length > MAX_PROFILE_BYTES:
            raise CheckpointError(
                f"{path}: claims a profile of {length} bytes (at most {MAX_PROFILE_BYTES}).",
                hint=AGAIN,
            )
        text = file.read(length)
    if len(text) < length:
        raise CheckpointError(f"{path}: is truncated in its profile.", hint=AGAIN)
    try:
        return parse_object(text), HEADER.size + length
    except ValueError as error:
        raise CheckpointError(
            f"{path}: its profile is not a JSON object ({ascii(str(error))[1:-1][:160]}).",
            hint=AGAIN,
        ) from error


def _read_meta(path: Path) -> tuple[dict[str, Any] | None, tuple[str, ...]]:
    try:
        if not path.is_file():
            return None, ()
        with path.open("rb") as file:
            text = file.read(MAX_PROFILE_BYTES + 1)
        if len(text) > MAX_PROFILE_BYTES:
            raise ValueError(f"more than {MAX_PROFILE_BYTES} bytes")
        return parse_object(text), ()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return None, (f"{path.name} is not read ({ascii(reason)[1:-1][:160]}).",)


def parse_object(text: bytes) -> dict[str, Any]:
    """A JSON object of finite numbers and whole characters, at most ``MAX_DEPTH`` levels deep.

    Raises:
        ValueError: it is anything else.
    """
    try:
        value = json.loads(text.decode(), parse_constant=_no_constant, parse_float=_finite)
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not isinstance(value, dict):
        raise ValueError(f"a {type(value).__name__}")
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for item in level
            for child in (item.values() if isinstance(item, dict) else item)
            if isinstance(child, (dict, list))
        ]
        if not level:
            json.dumps(value, ensure_ascii=False).encode()  # no half of a surrogate pair
            return value
    raise ValueError("nested too deep")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"the number {digits[:40]}")
    return number


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"the number {name}")
