"""safetensors files: tensors as views of the mapped file, text that is JSON as its value."""

from __future__ import annotations

import json
import math
from mmap import mmap
from pathlib import Path
from typing import Any, NoReturn

from slogpt_hf.checkpoints.containers.archive import Mapped, map_file
from slogpt_hf.checkpoints.containers.zip_slice import Span
from slogpt_hf.checkpoints.contents import Contents
from slogpt_hf.checkpoints.tensors import Stored
from slogpt_hf.errors import CheckpointError, first_line
from slogpt_hf.files import require_file

NAME = "safetensors file"
LENGTH_BYTES = 8  # little-endian, of the JSON header that follows
FORMAT_HEADER_BYTES = 100_000_000  # the format's own limit
# Ours: a value made from JSON takes up to 25 times its text.
MOST_HEADER_BYTES = 4 << 20
MOST_TENSORS = 1 << 16
MOST_DIMENSIONS = 8
DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
PYTHON = {"True": True, "False": False, "None": None}
DAMAGED = "Copy it again, or save it again with safetensors."


def recognises(start: bytes, n_bytes: int) -> bool:
    """Whether a file that starts with ``start`` (9 bytes suffice) has a safetensors header."""
    length = int.from_bytes(start[:LENGTH_BYTES], "little")
    return start[LENGTH_BYTES : LENGTH_BYTES + 1] == b"{" and length <= FORMAT_HEADER_BYTES


def read(path: Path) -> Contents:
    """``value`` holds ``model``, names to tensors, and ``metadata``, its text decoded.

    Raises:
        UsageError: ``path`` is not a file.
        CheckpointError: the file is truncated, its header is damaged or too large to be a
            model's, or a tensor has a dtype that is not read.
    """
    from safetensors import SafetensorError, safe_open

    require_file(path)
    n_bytes = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(LENGTH_BYTES), "little")
        text = stream.read(min(length, MOST_HEADER_BYTES))
    if length > n_bytes - LENGTH_BYTES:
        raise CheckpointError(
            f"{path}: is truncated: its safetensors header says {length} bytes, and "
            f"{max(0, n_bytes - LENGTH_BYTES)} follow.",
            hint=DAMAGED,
        )
    if length > MOST_HEADER_BYTES:
        raise CheckpointError(
            f"{path}: its safetensors header has {length} bytes, more than {MOST_HEADER_BYTES}.",
            hint="Save it again without the large entries of its metadata.",
        )
    try:
        # "pt" would map the file so that it could be written to, see ``map_file``.
        file: Any = safe_open(path, framework="np")
        entries, mapped = json.loads(text), map_file(path)
        names = list(file.keys())
        if len(names) > MOST_TENSORS:
            raise CheckpointError(
                f"{path}: has {len(names)} tensors, more than {MOST_TENSORS}.", hint=DAMAGED
            )
        model = {
            name: _stored(path, file.get_slice(name), name, mapped, entries[name], length)
            for name in names
        }
        texts = file.metadata() or {}
        metadata = {key: decoded(text) for key, text in texts.items()}
        # Of tensors that share memory safetensors.torch.save_model keeps one and says which.
        for name in [n for n, text in texts.items() if n not in model and text in model]:
            model[name] = model[metadata.pop(name)]
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: is not a whole safetensors file ({first_line(error)}).", hint=DAMAGED
        ) from error
    return Contents(path, NAME, {"model": model, "metadata": metadata}, (path,))


def decoded(text: str) -> Any:
    """The value of a text that is JSON, e.g. ``8`` or ``{"n_head": 4}``; else the text.

    Python's own ``True``, ``False`` and ``None`` are values too.
    """
    if text in PYTHON:
        return PYTHON[text]
    try:
        return json.loads(text, parse_constant=_not_json)
    except (ValueError, RecursionError):
        return text


def _not_json(constant: str) -> NoReturn:
    raise ValueError(constant)  # NaN and infinities, which Python alone takes for JSON


def _stored(path: Path, header: Any, name: str, mapped: mmap, entry: Any, n_header: int) -> Stored:
    dtype, shape = str(header.get_dtype()), tuple(header.get_shape())
    if dtype not in DTYPES:
        raise CheckpointError(
            f"{path}: {name[:120]!r} has dtype {dtype}, which is not read.",
            hint="Save it as one of " + ", ".join(DTYPES) + ".",
        )
    if len(shape) > MOST_DIMENSIONS:
        raise CheckpointError(
            f"{path}: {name[:120]!r} has {len(shape)} dimensions, more than {MOST_DIMENSIONS}.",
            hint=DAMAGED,
        )
    first, end = entry["data_offsets"]  # checked by safe_open, like all of the header
    span = Span(LENGTH_BYTES + n_header + first, end - first)
    strides = tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
    values = Mapped(mapped, span, DTYPES[dtype], shape, strides)
    return Stored(shape, DTYPES[dtype], values)
