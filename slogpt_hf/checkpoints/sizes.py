"""Sizes of a model from its tensors' shapes, and what they cannot tell from the fields."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from slogpt_hf.checkpoints.dialect import Architecture, Dialect
from slogpt_hf.checkpoints.fields import SAVE_AGAIN, Fields, head_counts
from slogpt_hf.checkpoints.parts import Names, stored_parts
from slogpt_hf.checkpoints.spec import Spec
from slogpt_hf.checkpoints.tensors import Shape
from slogpt_hf.errors import CheckpointError


@dataclass(frozen=True)
class Layout:
    """A dialect's names as they apply to one state dict.

    Attributes:
        dialect: whose names they are.
        architecture: what of the spec is not a size.
        names: the modules.
        n_layer: number of blocks.
    """

    dialect: Dialect
    architecture: Architecture
    names: Names
    n_layer: int

    @cached_property
    def stored(self) -> dict[str, str]:
        """Role to tensor name for every tensor of the state dict."""
        biases = self.architecture
        return stored_parts(
            self.names,
            self.n_layer,
            linear_bias=biases.linear_bias,
            norm_bias=biases.norm_bias,
        )


def spec_from(layout: Layout, fields: Fields, lacks_alpha: bool) -> Spec:
    """The spec of a state dict; ``tied`` is False until somebody has compared the values.

    Args:
        layout: the names, all of them there and of as many dimensions as they should have.
        fields: what is recorded and given.
        lacks_alpha: a LoRA adapter's alpha is neither.

    Raises:
        CheckpointError: a field is missing, contradicts the shapes or cannot be.
        UsageError: what is given cannot be.
    """
    stored, a = layout.stored, layout.architecture

    def shape(role: str) -> Shape | None:
        source = stored.get(f"{role}.weight")
        return fields.shapes[source] if source else None

    def told(name: str, value: int, by: str) -> int:
        recorded = fields.count(name)
        if recorded is not None and recorded != value:
            where, _ = fields.recorded(name) or (f"--set {name}", None)
            source = stored[f"{by}.weight"]
            raise CheckpointError(
                f"{fields.path}: {where} is {recorded}, but {source} has shape "
                f"{fields.shapes[source]}.",
                hint=SAVE_AGAIN,
            )
        return value

    embed = fields.shapes[stored["embed.weight"]]
    n_embd = told("n_embd", embed[1], "embed")
    vocab_size = told("vocab_size", embed[0], "embed")
    up = shape("blocks.0.mlp.up")
    n_hidden = told("n_hidden", up[0], "blocks.0.mlp.up") if up else 4 * n_embd
    positions = shape("positions")
    block_size = fields.count("block_size")
    if positions:
        block_size = told("block_size", positions[0], "positions")
    k, qkv = shape("blocks.0.attn.k"), shape("blocks.0.attn.qkv")
    kv_rows = k[0] if k else _stacked_rows(layout, fields, qkv, n_embd) if qkv else n_embd
    rotary = a.positions == "rotary"
    n_head = fields.count("n_head")
    missing = [*fields.missing, *(["n_head"] if n_head is None else [])]
    missing += ["block_size"] if block_size is None else []
    missing += ["lora_alpha"] if lacks_alpha else []
    if n_head is None or block_size is None or missing:
        raise _missing(fields, missing, n_embd, kv_rows, rotary)
    if n_embd % n_head or kv_rows % (n_embd // n_head) or n_head % (kv_rows * n_head // n_embd):
        raise CheckpointError(
            f"{fields.path}: {_where(fields, 'n_head')} is {n_head}, which does not fit the width "
            f"n_embd {n_embd} and {kv_rows} rows of k.",
            hint=f"It can be {_choices(n_embd, kv_rows, rotary)}.",
        )
    head_dim = n_embd // n_head
    if rotary and head_dim % 2:
        raise CheckpointError(
            f"{fields.path}: rotary positions need an even head size, but n_embd {n_embd} / "
            f"n_head {n_head} is {head_dim}.",
            hint=f"n_head can be {_choices(n_embd, kv_rows, rotary)}.",
        )
    n_kv_head = kv_rows // head_dim
    recorded = fields.count("n_kv_head")
    if recorded not in (None, n_kv_head):
        raise CheckpointError(
            f"{fields.path}: {_where(fields, 'n_kv_head')} is {recorded}, but k has {kv_rows} "
            f"rows, which are {n_kv_head} heads of {head_dim}.",
            hint=SAVE_AGAIN,
        )
    return a.spec(
        tied=False,
        norm_eps=fields.number("norm_eps"),
        rope_theta=fields.number("rope_theta"),
        n_layer=layout.n_layer,
        n_head=n_head,
        n_kv_head=n_kv_head,
        n_embd=n_embd,
        n_hidden=n_hidden,
        vocab_size=vocab_size,
        block_size=block_size,
    )


def _stacked_rows(layout: Layout, fields: Fields, qkv: Shape, n_embd: int) -> int:
    """Rows of k in a matrix of q, k and v: as many as of q, or fewer where heads are grouped."""
    rows, rest = divmod(qkv[0] - n_embd, 2)
    if rest or not 0 < rows <= n_embd:
        raise CheckpointError(
            f"{fields.path}: {layout.stored['blocks.0.attn.qkv.weight']} has shape {qkv}, expected "
            f"{(3 * n_embd, n_embd)}, or fewer rows where key and value heads are grouped.",
            hint=SAVE_AGAIN,
        )
    return rows


def _where(fields: Fields, name: str) -> str:
    recorded = fields.recorded(name)
    return recorded[0] if recorded else f"--set {name}"


def _missing(
    fields: Fields, names: list[str], n_embd: int, kv_rows: int, rotary: bool
) -> CheckpointError:
    switches = ("use_rmsnorm",)
    how = " ".join(f"--set {n}={'true|false' if n in switches else '...'}" for n in names)
    choices = _choices(n_embd, kv_rows, rotary, fields.count("n_kv_head"))
    heads = f" n_head divides the width {n_embd}: {choices}." if "n_head" in names else ""
    return CheckpointError(
        f"{fields.path}: does not record {' and '.join(names)}, which its tensors cannot tell.",
        hint=f"Give {'it' if len(names) == 1 else 'them'}: {how}, or under 'set:' in "
        f".slogpt-hf.yml.{heads}",
    )


def _choices(n_embd: int, kv_rows: int, rotary: bool, n_kv_head: int | None = None) -> str:
    counts = [str(count) for count in head_counts(n_embd, kv_rows, rotary, n_kv_head)]
    return f"one of {', '.join(counts)}" if counts else "no number: the shapes fit none"
