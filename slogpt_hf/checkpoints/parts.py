"""Roles: what a tensor is for, whatever a dialect calls it.

Outside the blocks: ``embed``, ``positions``, ``norm``, ``head``. In block i, prefixed
``blocks.{i}.``: ``norm1``, ``norm2``, ``attn.qkv`` (q, k and v stacked) or ``attn.q``, ``attn.k``,
``attn.v``, then ``attn.out``, ``mlp.gate``, ``mlp.up``, ``mlp.down``. A tensor's role ends in
``.weight`` or ``.bias``; linear weights are (out, in).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from slogpt_hf.checkpoints.spec import Spec
from slogpt_hf.checkpoints.tensors import Shape

NORMS = ("norm", "norm1", "norm2")
STACK = ("attn.q", "attn.k", "attn.v")


@dataclass(frozen=True)
class Part:
    """Where a role lies in a checkpoint.

    Attributes:
        source: tensor name.
        rows: first row and the row after the last; None for the whole tensor.
    """

    source: str
    rows: tuple[int, int] | None = None


@dataclass(frozen=True)
class Names:
    """What a dialect calls the modules of a model.

    Attributes:
        outer: role to module, outside the blocks.
        blocks: prefix of the modules of block i, with ``{i}``.
        block: role to module, inside a block.
    """

    outer: Mapping[str, str]
    blocks: str
    block: Mapping[str, str]


def module_role(role: str) -> str:
    """The role without its block and its ``.weight`` or ``.bias``: ``attn.q``, ``norm1``."""
    module = role.rpartition(".")[0]
    return module.split(".", 2)[2] if module.startswith("blocks.") else module


def stored_parts(
    names: Names, n_layer: int, *, linear_bias: bool, norm_bias: bool
) -> dict[str, str]:
    """Role to tensor name for every tensor of a state dict."""

    def kinds(role: str) -> Iterator[str]:
        yield "weight"
        if norm_bias if role in NORMS else linear_bias and role.startswith(("attn.", "mlp.")):
            yield "bias"

    outer = {f"{r}.{k}": f"{m}.{k}" for r, m in names.outer.items() for k in kinds(r)}
    return outer | {
        f"blocks.{i}.{role}.{kind}": f"{names.blocks.format(i=i)}{module}.{kind}"
        for i in range(n_layer)
        for role, module in names.block.items()
        for kind in kinds(role)
    }


def parts_for(names: Names, spec: Spec) -> dict[str, Part]:
    """Role to place for every weight of a model; q, k and v of a stack also by their rows."""
    places: dict[str, Part] = {}
    stored = stored_parts(
        names, spec.n_layer, linear_bias=spec.linear_bias, norm_bias=spec.norm_bias
    )
    for role, source in stored.items():
        places[role] = Part(source)
        if module_role(role) == "attn.qkv":
            stop = 0
            for each in STACK:
                start, stop = stop, stop + role_shape(each, spec)[0]
                places[role.replace("attn.qkv", each)] = Part(source, (start, stop))
    return places


def tensor_shapes(names: Names, spec: Spec) -> dict[str, Shape]:
    """Every tensor of a state dict and its shape; linear weights are (out, in)."""
    stored = stored_parts(
        names, spec.n_layer, linear_bias=spec.linear_bias, norm_bias=spec.norm_bias
    )
    return {
        source: shape if role.endswith(".weight") else shape[:1]
        for role, source in stored.items()
        for shape in [role_shape(module_role(role), spec)]
    }


def role_shape(role: str, spec: Spec) -> Shape:
    """Shape of the weight of a module's role, e.g. ``attn.k``."""
    n, hidden = spec.n_embd, spec.n_hidden
    kv = spec.n_kv_head * spec.head_dim
    return {
        "embed": (spec.vocab_size, n),
        "positions": (spec.block_size, n),
        "head": (spec.vocab_size, n),
        "attn.qkv": (n + 2 * kv, n),
        "attn.q": (n, n),
        "attn.k": (kv, n),
        "attn.v": (kv, n),
        "attn.out": (n, n),
        "mlp.gate": (hidden, n),
        "mlp.up": (hidden, n),
        "mlp.down": (n, hidden),
    }.get(role, (n,))
