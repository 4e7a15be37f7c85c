"""Roles: what a tensor is for, whatever a dialect calls it.

Outside the blocks: ``embed.weight``, ``positions.weight``, ``norm``, ``head.weight``.
In block i, prefixed ``blocks.{i}.``: ``norm1``, ``norm2``, ``attn.qkv`` (3n, n) or ``attn.q``,
``attn.k``, ``attn.v``, ``attn.out``, ``mlp.gate``, ``mlp.up``, ``mlp.down``. Norms and linears
end in ``.weight`` or ``.bias``; linear weights are (out, in).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """Where a role lies in a checkpoint.

    Attributes:
        source: tensor name.
        rows: first row and the row after the last; None for the whole tensor.
    """

    source: str
    rows: tuple[int, int] | None = None
