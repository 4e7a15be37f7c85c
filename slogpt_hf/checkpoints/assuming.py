"""The assumptions of a checkpoint: every fact of its function that nothing in the file tells.

One table of facts. A row applies where the spec leaves its fact open; it is settled where a field
of one of its names is recorded. Nobody varies most of them, but no tensor shows that they were not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from slogpt_hf.checkpoints import words
from slogpt_hf.checkpoints.assumptions import Assumption
from slogpt_hf.checkpoints.dialect import Architecture, Dialect
from slogpt_hf.checkpoints.fields import ALIASES, Fields, shown
from slogpt_hf.checkpoints.function import Said
from slogpt_hf.checkpoints.spec import Spec
from slogpt_hf.checkpoints.unknown import IGNORE, Unknown

Value = bool | int | float | str | None
ACTIVATION_TEXTS = {
    "gelu": "exact (erf) GELU",
    "gelu_tanh": "tanh GELU",
    "quick_gelu": "quick GELU (x sigmoid(1.702 x))",
    "relu": "ReLU",
    "relu2": "squared ReLU",
    "silu": "SiLU",
}
NORM_TEXTS = {"layernorm": "LayerNorm", "rmsnorm": "RMSNorm"}
PAIR_TEXTS = {"interleaved": "neighbours", "halves": "halves of a head"}
NO_PLACE = "the .bin format has no place for it; it is what llama2.c fixes"
BY_HAND = "given by hand; the file does not record it"
USUAL = "no file records it; it is what the family's model.py does"


@dataclass(frozen=True)
class Row:
    """A fact that may be open.

    Attributes:
        name: of the assumption.
        value: what the spec takes for it.
        text: for people.
        settled_by: recorded names that tell the fact.
        applies: whether tensors and spec leave it open.
    """

    name: str
    value: Callable[[Spec], Value]
    text: Callable[[Spec], str]
    settled_by: tuple[str, ...] = ()
    applies: Callable[[Spec, Fields], bool] = lambda spec, fields: True


def _none(name: str, text: str, *settled_by: str) -> Row:
    return Row(name, lambda spec: "none", lambda spec: text, settled_by)


def _multiplier(name: str, what: str) -> Row:
    def text(spec: Spec) -> str:
        value = getattr(spec, name)
        return f"no {what} multiplier" if value == 1 else f"{what} times {value:g}"

    return Row(name, lambda spec: float(getattr(spec, name)), text, ALIASES[name])


def _rotary(spec: Spec, fields: Fields) -> bool:
    return spec.positions == "rotary"


def _gated(spec: Spec, fields: Fields) -> bool:
    return spec.mlp == "gated"


def _activation_text(spec: Spec) -> str:
    gated = {"silu": "SwiGLU", "relu": "ReGLU", "gelu": "GEGLU with the exact (erf) GELU"}
    text = ACTIVATION_TEXTS[spec.activation]
    return text if spec.mlp == "plain" else gated.get(spec.activation, f"a gate with {text}")


def _scale_text(spec: Spec) -> str:
    scale = spec.attention_multiplier
    if scale is None:
        return "attention scale 1/sqrt(d)"
    return f"attention scale {'1/d' if scale * spec.head_dim == 1 else f'{scale:g}'}"


ROWS = (
    Row("activation", lambda spec: spec.activation, _activation_text),
    Row(
        "norm",
        lambda spec: spec.norm,
        lambda spec: NORM_TEXTS[spec.norm],
        applies=lambda spec, fields: not spec.norm_bias,
    ),
    Row(
        "rope_theta",
        lambda spec: spec.rope_theta,
        lambda spec: f"rotary theta {spec.rope_theta:g}",
        ALIASES["rope_theta"],
        _rotary,
    ),
    Row(
        "norm_eps",
        lambda spec: spec.norm_eps,
        lambda spec: f"{NORM_TEXTS[spec.norm]} eps {spec.norm_eps:g}",
        ALIASES["norm_eps"],
    ),
    Row(
        "rotary_pairs",
        lambda spec: spec.rotary_pairs,
        lambda spec: f"rotary pairs are {PAIR_TEXTS[spec.rotary_pairs or 'halves']}",
        applies=_rotary,
    ),
    Row("tied", lambda spec: spec.tied, lambda spec: "the head is the embedding"),
    Row("attention_multiplier", lambda spec: spec.attention_multiplier, _scale_text),
    _multiplier("embedding_multiplier", "embedding"),
    _multiplier("logit_multiplier", "logit"),
    _multiplier("residual_multiplier", "residual"),
    Row(
        "positions",
        lambda spec: spec.positions,
        lambda spec: {
            "learned": "learned positions alone, counted from 0 (no rotary, no ALiBi)",
            "rotary": "rotary positions alone, counted from 0, on q and k",
        }[spec.positions],
        words.POSITION_FIELDS,
    ),
    Row(
        "partial_rotary",
        lambda spec: "none",
        lambda spec: "rotary on the whole head",
        ("partial_rotary_factor", "rotary_pct", "rotary_percentage", "rotary_dim", "rope_length"),
        _rotary,
    ),
    Row(
        "rope_scaling",
        lambda spec: "none",
        lambda spec: "rotary frequencies not scaled",
        ("rope_scaling", "rope_type", "rope_parameters", "use_scaled_rope", "rope_adjustments"),
        _rotary,
    ),
    Row(
        "norm_placement",
        lambda spec: "pre",
        lambda spec: "norms before attention and MLP, and one before the head",
        (
            *("norm_placement", "norm_position", "ln_position", "pre_norm", "pre_ln", "prenorm"),
            *("use_pre_ln", "use_pre_norm", "norm_first", "post_norm", "post_ln", "use_post_ln"),
        ),
    ),
    Row(
        "parallel_residual",
        lambda spec: False,
        lambda spec: "attention, then MLP (not parallel)",
        (
            *("parallel_residual", "use_parallel_residual", "parallel_block", "parallel_blocks"),
            *("parallel_attn", "parallel_mlp", "use_parallel_mlp"),
        ),
    ),
    _none("qk_norm", "no norm of q and k", "qk_norm", "use_qk_norm", "norm_qk", "qk_layernorm"),
    _none(
        "attention_window",
        "full attention (no window)",
        *("sliding_window", "window_size", "attention_window", "window_pattern", "layer_types"),
    ),
    Row(
        "softmax",
        lambda spec: "standard",
        lambda spec: "plain softmax",
        ("softmax1", "use_softmax1", "softmax_variant_attn", "softmax_type", "softmax_variant"),
    ),
    _none(
        "attention_softcap",
        "attention scores not capped",
        *("attn_logit_softcapping", "attn_softcap", "attention_softcap"),
    ),
    _none(
        "logit_softcap",
        "logits not capped",
        *("logit_softcap", "final_logit_softcapping", "logits_softcap", "softcap"),
    ),
    _none("embedding_norm", "no norm behind the embedding", "embedding_norm", "embed_norm"),
    Row(
        "gate",
        lambda spec: "first",
        lambda spec: "the activation is on the gate matrix",
        applies=_gated,
    ),
    Row(
        "kv_groups",
        lambda spec: "consecutive",
        lambda spec: "consecutive query heads share a key/value head",
        applies=lambda spec, fields: spec.n_kv_head < spec.n_head,
    ),
    Row(
        "qkv_order",
        lambda spec: "q, k, v",
        lambda spec: "rows of the stacked q, k and v in this order, each head by head",
        applies=lambda spec, fields: any("c_attn" in name for name in fields.shapes),
    ),
    Row("family", lambda spec: "as known", lambda spec: "all else as in the family's model.py"),
)


@dataclass(frozen=True)
class Basis:
    """What is known of how a spec came about.

    Attributes:
        fields: what is recorded and given.
        dialect: whose model it is.
        architecture: what was taken before sizes, and what speaks for it.
        said: fact to where it is recorded or given.
        given: what the user gave and no file records.
        taken: unknown entries that were accepted by hand.
        shared_head: no head is in the file; the embedding was taken, and nothing records that.
    """

    fields: Fields
    dialect: Dialect
    architecture: Architecture
    said: Mapping[str, Said]
    given: Mapping[str, Any]
    taken: tuple[Unknown, ...] = ()
    shared_head: bool = False


def assumptions_of(spec: Spec, basis: Basis) -> tuple[Assumption, ...]:
    """What a spec rests on and no file records, given facts first, then the most doubtful."""
    doubts = list(basis.dialect.doubts)
    rows = sorted(ROWS, key=lambda row: doubts.index(row.name) if row.name in doubts else 99)
    open_rows = [row for row in rows if _is_open(row, spec, basis)]
    return (
        *_by_hand(spec, basis),
        *(
            Assumption(row.name, row.value(spec), _why(row, basis), row.text(spec))
            for row in open_rows
            if not _is_given(row.name, basis)
        ),
    )


def _is_given(name: str, basis: Basis) -> bool:
    said = basis.said.get(name)
    return name in basis.given or (said is not None and said.given)


def _is_open(row: Row, spec: Spec, basis: Basis) -> bool:
    if row.name == "tied":
        return basis.shared_head
    said = basis.said.get(row.name)
    if said is not None and not said.given and said.exact:
        return False
    return row.applies(spec, basis.fields) and not basis.fields.all_recorded(*row.settled_by)


def _why(row: Row, basis: Basis) -> str:
    said = basis.said.get(row.name)
    if said is not None and not said.exact:
        return f"{said.where} says {said.value}, not which of the two that have this name"
    if row.name in basis.architecture.why:
        return basis.architecture.why[row.name]
    if "format" in basis.fields.value and row.name in ("norm_eps", "rope_theta"):
        return NO_PLACE
    return basis.dialect.doubts.get(row.name, USUAL)


def _by_hand(spec: Spec, basis: Basis) -> Iterator[Assumption]:
    rows = {row.name: row for row in ROWS}
    for name, value in basis.given.items():
        if name == IGNORE:
            continue
        if name == "use_rmsnorm":
            name, value = "norm", spec.norm
        row = rows.get(name)
        text = f"{name} {value}" if row is None else row.text(spec)
        yield Assumption(name, value, BY_HAND, text)
    for entry in basis.taken:
        text = f"{entry.where}={shown(entry.value)} changes nothing"
        why = "accepted by hand; it is in the file and not known here"
        yield Assumption(IGNORE, entry.name, why, text)
