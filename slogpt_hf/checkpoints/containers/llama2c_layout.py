"""Where everything lies in llama2.c's ``.bin`` files: v0 (legacy), v1 and v2 (Q8_0).

The layouts are those of ``export.py`` of llama2.c; all numbers are little-endian.

- v0: 7 int32 (negative vocab_size: separate head), then fp32: embedding, each kind of matrix for
  all layers in turn, final norm, two rotary tables (skipped), head if separate.
- v1: uint32 magic, int32 1, 7 int32, uint8 shared head, zeros up to byte 256, then fp32: norms,
  embedding, matrices, head if separate.
- v2: as v1 with int32 group_size after the flag; the norms are fp32, every other tensor is int8
  followed by one fp32 scale per group of group_size consecutive values. The first release of v2
  wrote all scales behind all int8 values; both have the same length and version number, so the
  content tells: every scale is finite and not negative, and, a scale being max |w| / 127, every
  group has a value of 127 or -127.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from slogpt_hf.checkpoints.tensors import Shape
from slogpt_hf.errors import CheckpointError

MAGIC = struct.pack("<I", 0x616B3432)
HEADER_BYTES = 256
SIZES_FORMAT = "<7i"
SIZES_BYTES = struct.calcsize(SIZES_FORMAT)
# version to the layout of what follows magic, version and sizes: shared head, [group_size]
FLAGS = {1: "<B", 2: "<Bi"}
# Largest sizes that are taken for a model's; a v0 file has no other mark, and every layer costs
# memory for the names of its tensors.
LARGEST = {
    "dim": 1 << 20,
    "hidden_dim": 1 << 24,
    "n_layers": 1 << 12,
    "n_heads": 1 << 20,
    "n_kv_heads": 1 << 20,
    "vocab_size": 1 << 26,
    "max_seq_len": 1 << 26,
}
DAMAGED = "Copy it again, or export it again from the checkpoint with llama2.c's export.py."

MATRICES = (
    *(f"attention.{name}" for name in ("wq", "wk", "wv", "wo")),
    *(f"feed_forward.{name}" for name in ("w1", "w2", "w3")),
)
NORMS = ("attention_norm", "ffn_norm")
ROTARY = "rotary"


@dataclass(frozen=True)
class Sizes:
    """The seven numbers of every header, vocab_size without v0's sign."""

    dim: int
    hidden_dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    vocab_size: int
    max_seq_len: int

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.dim // self.n_heads

    @property
    def shapes(self) -> dict[str, Shape]:
        """Shape of each kind of tensor; matrices are (out, in)."""
        d, h, kv = self.dim, self.hidden_dim, self.n_kv_heads * self.head_dim
        return {
            "tok_embeddings": (self.vocab_size, d),
            "attention.wq": (d, d),
            "attention.wk": (kv, d),
            "attention.wv": (kv, d),
            "attention.wo": (d, d),
            "feed_forward.w1": (h, d),
            "feed_forward.w2": (d, h),
            "feed_forward.w3": (h, d),
            "attention_norm": (d,),
            "ffn_norm": (d,),
            "norm": (d,),
            "output": (self.vocab_size, d),
            ROTARY: (self.max_seq_len, self.head_dim // 2),
        }


@dataclass(frozen=True)
class Header:
    """What the start of a ``.bin`` says; ``group_size`` is None unless quantised."""

    version: int
    sizes: Sizes
    shared_classifier: bool
    group_size: int | None = None


@dataclass(frozen=True)
class Place:
    """Where a tensor's bytes start, and its scales' if it is int8."""

    name: str
    shape: Shape
    start: int
    scales_start: int | None = None


def parse_header(start: bytes, path: Path) -> Header:
    """The header in the first 256 bytes of a file; ``path`` is for messages only.

    Raises:
        CheckpointError: an unknown version, or sizes that no model has.
    """
    if start[:4] != MAGIC:
        if len(start) < SIZES_BYTES:
            raise CheckpointError(
                f"{path}: has {len(start)} bytes, fewer than a llama2.c header.", hint=DAMAGED
            )
        header = legacy_header(start)
    elif len(start) < HEADER_BYTES:
        raise CheckpointError(
            f"{path}: is truncated: it has {len(start)} bytes of the {HEADER_BYTES} of a llama2.c "
            "header.",
            hint=DAMAGED,
        )
    else:
        header = _header(start, path)
    if wrong := wrong_size(header.sizes):
        raise CheckpointError(
            f"{path}: its llama2.c v{header.version} header is damaged: {wrong}.", hint=DAMAGED
        )
    _check_groups(header, path)
    return header


def expected_bytes(header: Header) -> int:
    """The length of the file that starts with ``header``."""
    shapes = header.sizes.shapes
    return _tensors_start(header) + sum(
        len(_names(kind, header.sizes)) * _stored_bytes(header, kind, math.prod(shapes[kind]))
        for kind in _kinds(header)
    )


def legacy_header(start: bytes) -> Header:
    """What the first 28 bytes of a v0 file say, however little sense it makes."""
    sizes = Sizes(*struct.unpack_from(SIZES_FORMAT, start))
    return Header(0, replace(sizes, vocab_size=abs(sizes.vocab_size)), sizes.vocab_size > 0)


def _header(start: bytes, path: Path) -> Header:
    (version,) = struct.unpack_from("<i", start, 4)
    if version not in FLAGS:
        raise CheckpointError(
            f"{path}: is a llama2.c .bin of version {version}; known are 0, 1 and 2.",
            hint="Export it as version 1 with llama2.c's export.py.",
        )
    sizes = Sizes(*struct.unpack_from(SIZES_FORMAT, start, 8))
    flags = struct.unpack_from(FLAGS[version], start, 8 + SIZES_BYTES)
    end = 8 + SIZES_BYTES + struct.calcsize(FLAGS[version])
    wrong = (
        f"the flag of the shared head is {flags[0]}, neither 0 nor 1"
        if flags[0] > 1
        else f"bytes {end} to {HEADER_BYTES} are not all zero"
        if any(start[end:])
        else ""
    )
    if wrong:
        raise CheckpointError(
            f"{path}: its llama2.c v{version} header is damaged: {wrong}.", hint=DAMAGED
        )
    return Header(version, sizes, bool(flags[0]), *flags[1:])


def wrong_size(sizes: Sizes) -> str:
    """What no model has, in words, or nothing."""
    for name, largest in LARGEST.items():
        found = getattr(sizes, name)
        if not 0 < found <= largest:
            return f"{name} is {found}, not from 1 to {largest}"
    if sizes.dim % sizes.n_heads:
        return f"dim {sizes.dim} is not a multiple of n_heads {sizes.n_heads}"
    if sizes.n_heads % sizes.n_kv_heads:
        return f"n_heads {sizes.n_heads} is not a multiple of n_kv_heads {sizes.n_kv_heads}"
    if sizes.head_dim % 2:
        return f"dim {sizes.dim} / n_heads {sizes.n_heads} is odd, which rotary pairs cannot be"
    return ""


def _check_groups(header: Header, path: Path) -> None:
    group = header.group_size
    if group is None:
        return
    if group < 1:
        raise CheckpointError(f"{path}: its group_size is {group}, not positive.", hint=DAMAGED)
    for kind in _kinds(header):
        n_values = math.prod(header.sizes.shapes[kind])
        if _is_quantised(header, kind) and n_values % group:
            raise CheckpointError(
                f"{path}: its group_size {group} does not divide the {n_values} values of a "
                f"{kind}, as the format requires.",
                hint=DAMAGED,
            )


def _kinds(header: Header) -> tuple[str, ...]:
    """The kinds of tensors in the order of the file; each is there for all layers in turn."""
    head = () if header.shared_classifier else ("output",)
    if header.version:
        return (*NORMS, "norm", "tok_embeddings", *MATRICES, *head)
    attention, mlp = MATRICES[:4], MATRICES[4:]
    middle = ("attention_norm", *attention, "ffn_norm", *mlp, "norm")
    return ("tok_embeddings", *middle, ROTARY, ROTARY, *head)


def _names(kind: str, sizes: Sizes) -> list[str]:
    if kind in NORMS or kind in MATRICES:
        return [f"layers.{layer}.{kind}.weight" for layer in range(sizes.n_layers)]
    return [f"{kind}.weight"]


def _is_quantised(header: Header, kind: str) -> bool:
    return header.group_size is not None and kind not in (*NORMS, "norm")


def _stored_bytes(header: Header, kind: str, n_values: int) -> int:
    if header.group_size is None or not _is_quantised(header, kind):
        return 4 * n_values
    return n_values + 4 * (n_values // header.group_size)


def _tensors_start(header: Header) -> int:
    return HEADER_BYTES if header.version else SIZES_BYTES


def places(header: Header, *, scales_last: bool = False) -> Iterator[Place]:
    """Every tensor of the model; ``scales_last`` is the first layout of v2."""
    start, group = _tensors_start(header), header.group_size
    scales_start = expected_bytes(header)
    if group is not None and scales_last:
        scales_start -= sum(
            4 * len(_names(kind, header.sizes)) * (math.prod(header.sizes.shapes[kind]) // group)
            for kind in _kinds(header)
            if _is_quantised(header, kind)
        )
    for kind in _kinds(header):
        shape = header.sizes.shapes[kind]
        n_values = math.prod(shape)
        for name in _names(kind, header.sizes):
            if group is None or not _is_quantised(header, kind):
                if kind != ROTARY:
                    yield Place(name, shape, start)
                start += 4 * n_values
            elif scales_last:
                yield Place(name, shape, start, scales_start)
                start += n_values
                scales_start += 4 * (n_values // group)
            else:
                yield Place(name, shape, start, start + n_values)
                start += n_values + 4 * (n_values // group)
