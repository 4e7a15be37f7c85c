"""The safetensors file format, written from its header down.

Format (https://huggingface.co/docs/safetensors): uint64 little-endian header length, a JSON
header of name to dtype, shape and byte offsets, padded with spaces to 8 bytes, then the data.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

DTYPE_CODES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
ITEM_SIZES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"


@dataclass(frozen=True)
class Shard:
    """One file of weights: its name and its tensors in order, name to byte length."""

    file_name: str
    n_bytes: Mapping[str, int]


def shards_for(
    shapes: Mapping[str, Sequence[int]], dtype: str, max_shard_bytes: int
) -> tuple[Shard, ...]:
    """Split tensors over files of at most ``max_shard_bytes`` each, in the given order.

    A tensor larger than that gets a file of its own.
    """
    groups: list[dict[str, int]] = [{}]
    filled = 0  # bytes of the last group
    for name, shape in shapes.items():
        size = math.prod(shape) * ITEM_SIZES[dtype]
        if groups[-1] and filled + size > max_shard_bytes:
            groups.append({})
            filled = 0
        groups[-1][name] = size
        filled += size
    if len(groups) == 1:
        return (Shard(WEIGHTS_FILE, groups[0]),)
    return tuple(
        Shard(f"model-{number:05}-of-{len(groups):05}.safetensors", group)
        for number, group in enumerate(groups, start=1)
    )


def header(shard: Shard, shapes: Mapping[str, Sequence[int]], dtype: str) -> bytes:
    """The bytes of a shard before its first tensor."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, size in shard.n_bytes.items():
        entries[name] = {
            "dtype": DTYPE_CODES[dtype],
            "shape": list(shapes[name]),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def index(shards: Sequence[Shard]) -> dict[str, object]:
    """The content of ``model.safetensors.index.json``."""
    total = sum(sum(shard.n_bytes.values()) for shard in shards)
    weight_map = {name: shard.file_name for shard in shards for name in shard.n_bytes}
    return {"metadata": {"total_size": total}, "weight_map": weight_map}
