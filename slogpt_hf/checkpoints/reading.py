"""From a state dict and its dialect to a ``Checkpoint``: sizes from shapes, the rest from fields.

Nothing is guessed. What the tensors' shapes tell is taken from them and must agree with what is
recorded; what they cannot tell must be recorded or given.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from slogpt_hf.checkpoints.adapters import Adapter, LowRank, adapters_among
from slogpt_hf.checkpoints.checkpoint import Checkpoint
from slogpt_hf.checkpoints.contents import Contents
from slogpt_hf.checkpoints.dialect import Architecture, Dialect
from slogpt_hf.checkpoints.facts import training_facts, vocabulary_in
from slogpt_hf.checkpoints.fields import (
    ALIASES,
    SAVE_AGAIN,
    Fields,
    head_counts,
    listed,
    shown,
)
from slogpt_hf.checkpoints.parts import Names, parts_for, stored_parts, tensor_shapes
from slogpt_hf.checkpoints.spec import Spec
from slogpt_hf.checkpoints.state_dict import StateDict
from slogpt_hf.checkpoints.tensors import Shape, Stored, Tensors
from slogpt_hf.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

FLOAT_DTYPES = ("float32", "float16", "bfloat16", "float64")
COMMON = ("n_head", "n_kv_head", "block_size", "norm_eps", "rope_theta", "lora_alpha")
ACTIVATION_FIELDS = ("activation", "activation_function", "hidden_act", "act_fn")
ACTIVATIONS = {"gelu": ("gelu", "gelu_erf", "gelu_exact"), "swiglu": ("silu", "swish", "swiglu")}
# Recorded facts that change what a model computes, and the values under which they do not.
OTHER_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "rope_scaling": (False, {}),
    "sliding_window": (False, 0, -1),
    "window_size": (False, 0, -1),
    "logit_scale": (1,),
    "final_logit_softcapping": (False, 0),
    "attn_logit_softcapping": (False, 0),
    "logit_softcap": (False, 0),
    "embed_scale": (1, False),
    "residual_scale": (1, False),
    "qk_norm": (False,),
    "use_qk_norm": (False,),
    "alibi": (False,),
    "use_alibi": (False,),
    "parallel_residual": (False,),
    "post_norm": (False,),
}
NORM_NAMES = {"layernorm": "LayerNorm", "rmsnorm": "RMSNorm"}


@dataclass(frozen=True)
class _Layout:
    """A dialect's names as they apply to one state dict."""

    dialect: Dialect
    architecture: Architecture
    names: Names
    n_layer: int


def read_model(
    dialect: Dialect, contents: Contents, state: StateDict, given: Mapping[str, Any]
) -> Checkpoint:
    """The checkpoint that a state dict of ``dialect`` makes.

    Args:
        dialect: whose names it uses.
        contents: where it came from.
        state: its tensors and the fields around them.
        given: what the user said with ``--set``.

    Raises:
        CheckpointError: a tensor is missing, unknown, of a wrong shape or dtype; a field is
            missing or contradicts the tensors.
        UsageError: a given field does not exist or contradicts what is recorded.
    """
    constants = re.compile(dialect.constants)
    saved = {name: t for name, t in state.tensors.items() if not constants.fullmatch(name)}
    fields = Fields(
        contents.path, state.fields, {n: t.shape for n, t in saved.items()}, given, state.history
    )
    weights, adapters = adapters_among(fields, saved)
    architecture = dialect.architecture(fields)
    _require_settable(dialect, architecture, given, adapters)
    _require_known_function(fields, architecture)
    names = dialect.names(architecture, fields)
    layout = _Layout(dialect, architecture, names, _count_blocks(names, weights))
    _check_names(layout, fields, weights)
    _check_matrices(layout, fields)
    _check_adapted(layout, fields, adapters)
    factors = [each.factor for each in adapters.values() if isinstance(each, LowRank)]
    spec = _spec(layout, fields, any(map(math.isnan, factors)))
    _check_shapes(fields, tensor_shapes(names, spec))
    dtype = _dtype(contents, weights)
    for adapter in adapters.values():
        _dtype(contents, {name: saved[name] for name in adapter.sources})
    # What the file says anyway is no fact of the user's.
    kept = {n: v for n, v in given.items() if not _is_recorded(fields, n, saved)}
    tensors = Tensors(saved)
    parts = parts_for(names, spec)
    head, embed = parts["head.weight"].source, parts["embed.weight"].source
    tied = head == embed or _same(tensors[head], tensors[embed])
    vocabulary, vocabulary_notes = vocabulary_in(contents.path, state.fields)
    return Checkpoint(
        path=contents.path,
        container=contents.container,
        dialect=dialect.name,
        spec=Spec(**asdict(spec) | {"tied": tied}),
        tensors=tensors,
        parts=parts,
        adapters=adapters,
        dtype=dtype,
        facts=training_facts(state.history),
        vocabulary=vocabulary,
        notes=_notes(fields, spec, kept, adapters) + contents.notes + vocabulary_notes,
        files=contents.files,
        given=kept,
    )


def _require_settable(
    dialect: Dialect,
    architecture: Architecture,
    given: Mapping[str, Any],
    adapters: Mapping[str, Adapter],
) -> None:
    lora = any(isinstance(adapter, LowRank) for adapter in adapters.values())
    useless = {"lora_alpha": not lora, "rope_theta": architecture.positions != "rotary"}
    known = [name for name in (*COMMON, *dialect.switches) if not useless.get(name)]
    why = {"lora_alpha": " without a LoRA adapter", "rope_theta": " with learned positions"}
    for name in given:
        if name not in known:
            raise UsageError(
                f"--set {name}: is no field of a {dialect.title} model{why.get(name, '')}.",
                hint=f"Fields that can be set for this checkpoint: {', '.join(known)}.",
            )


def _require_known_function(fields: Fields, architecture: Architecture) -> None:
    """Raise where a recorded fact says that the model computes something else."""
    own = {
        "use_rope": (architecture.positions == "rotary",),
        "use_swiglu": (architecture.mlp == "swiglu",),
        "use_rmsnorm": (architecture.norm == "rmsnorm",),
        **dict.fromkeys(ACTIVATION_FIELDS, ACTIVATIONS[architecture.mlp]),
    }
    for name, neutral in (OTHER_FUNCTIONS | own).items():
        for where, value in fields.all_recorded(name):
            said = value.lower() if isinstance(value, str) else value
            if said not in neutral:
                raise CheckpointError(
                    f"{fields.path}: {where} is {shown(value)}, but only a model with "
                    f"{' or '.join(map(str, neutral))} is known here.",
                    hint="What this trainer computes is no known architecture: see "
                    "docs/adding-a-dialect.md.",
                )


def _count_blocks(names: Names, weights: Mapping[str, Stored]) -> int:
    prefix, _, suffix = names.blocks.partition("{i}")
    block = re.compile(rf"{re.escape(prefix)}(\d{{1,9}}){re.escape(suffix)}")
    return len({found[1] for name in weights if (found := block.match(name))})


def _stored(layout: _Layout) -> dict[str, str]:
    biases = layout.architecture
    return stored_parts(
        layout.names,
        layout.n_layer,
        linear_bias=biases.linear_bias,
        norm_bias=biases.norm_bias,
    )


def _check_names(layout: _Layout, fields: Fields, weights: Mapping[str, Stored]) -> None:
    recorded = fields.count("n_layer")
    if recorded is not None and recorded != layout.n_layer:
        where, _ = fields.recorded("n_layer") or ("n_layer", None)
        raise CheckpointError(
            f"{fields.path}: {where} is {recorded}, but the file holds {layout.n_layer} blocks.",
            hint=SAVE_AGAIN,
        )
    expected = dict.fromkeys(_stored(layout).values())
    missing = [name for name in expected if name not in weights]
    unknown = [name for name in weights if name not in expected]
    problems = [f"missing: {listed(missing)}"] if missing else []
    title = layout.dialect.title
    problems += [f"not known to a {title} model: {listed(unknown)}"] if unknown else []
    if problems:
        switches = {name: fields.flag(name) for name in layout.dialect.switches}
        said = ", ".join(f"{name}={value}" for name, value in switches.items() if value is not None)
        raise CheckpointError(
            f"{fields.path}: its tensors do not make a {title} model"
            f"{f' with {said}' if said else ''}: {'; '.join(problems)}.",
            hint=f"The file holds {layout.n_layer} blocks; compare it with the trainer's model.",
        )


def _check_matrices(layout: _Layout, fields: Fields) -> None:
    """Raise where a tensor from which a size is taken has not as many dimensions as it should."""
    for role, source in _stored(layout).items():
        outer = role.split(".")[0] in ("embed", "positions", "head")
        linear = ".attn." in role or ".mlp." in role
        wanted = 2 if (outer or linear) and role.endswith(".weight") else 1
        shape = fields.shapes[source]
        if len(shape) != wanted or 0 in shape:
            raise CheckpointError(
                f"{fields.path}: {source} has shape {shape}, expected {wanted} dimensions.",
                hint=SAVE_AGAIN,
            )


def _check_adapted(layout: _Layout, fields: Fields, adapters: Mapping[str, Adapter]) -> None:
    linear = {s for r, s in _stored(layout).items() if ".attn." in r or ".mlp." in r}
    for name in adapters:
        if name not in linear:
            raise CheckpointError(
                f"{fields.path}: an adapter of {name}, which is no projection of attention or MLP.",
                hint="Merge it with the program that trained it, or leave it out.",
            )


def _spec(layout: _Layout, fields: Fields, lacks_alpha: bool) -> Spec:
    stored, a = _stored(layout), layout.architecture

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
    k = shape("blocks.0.attn.k")
    kv_rows = k[0] if k else n_embd  # no trainer stacks grouped heads
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
    return Spec(
        positions=a.positions,
        norm=a.norm,
        mlp=a.mlp,
        linear_bias=a.linear_bias,
        norm_bias=a.norm_bias,
        n_layer=layout.n_layer,
        n_head=n_head,
        n_kv_head=n_kv_head,
        n_embd=n_embd,
        n_hidden=n_hidden,
        vocab_size=vocab_size,
        block_size=block_size,
        norm_eps=fields.number("norm_eps") or a.norm_eps,
        tied=False,
        rope_theta=(fields.number("rope_theta") or a.rope_theta) if rotary else None,
        rotary_pairs=a.rotary_pairs if rotary else None,
    )


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


def _check_shapes(fields: Fields, expected: Mapping[str, Shape]) -> None:
    for name, shape in expected.items():
        if fields.shapes[name] != shape:
            raise CheckpointError(
                f"{fields.path}: {name} has shape {fields.shapes[name]}, expected {shape} from "
                "the other tensors and the recorded sizes.",
                hint=SAVE_AGAIN,
            )


def _dtype(contents: Contents, weights: Mapping[str, Stored]) -> str:
    by_dtype = {tensor.dtype: name for name, tensor in weights.items()}
    for dtype, name in by_dtype.items():
        if dtype not in FLOAT_DTYPES:
            raise CheckpointError(
                f"{contents.path}: {name} has dtype {dtype}, expected one of "
                f"{', '.join(FLOAT_DTYPES)}.",
                hint="Save the floating-point weights, not a quantised copy.",
            )
    if len(by_dtype) > 1:
        found = ", ".join(f"{dtype} ({name})" for dtype, name in by_dtype.items())
        raise CheckpointError(
            f"{contents.path}: its tensors have different dtypes: {found}.",
            hint="Save the whole model in one dtype.",
        )
    return next(iter(by_dtype))


def _same(a: Tensor, b: Tensor) -> bool:
    import torch

    same_place = a.data_ptr() == b.data_ptr() and a.stride() == b.stride()
    return same_place or torch.equal(a, b)


def _is_recorded(fields: Fields, name: str, saved: Mapping[str, Stored]) -> bool:
    if name == "lora_alpha":
        _, adapters = adapters_among(replace(fields, given={}), saved)
        factors = [each.factor for each in adapters.values() if isinstance(each, LowRank)]
        return not any(map(math.isnan, factors))
    return len({str(value) for _, value in fields.all_recorded(*ALIASES.get(name, (name,)))}) == 1


def _notes(
    fields: Fields, spec: Spec, given: Mapping[str, Any], adapters: Mapping[str, Adapter]
) -> tuple[str, ...]:
    notes = []
    if fields.number("norm_eps") is None:
        notes.append(
            f"{NORM_NAMES[spec.norm]} eps {spec.norm_eps:g} is the family's default; the file "
            "does not record it."
        )
    if spec.rope_theta is not None and fields.number("rope_theta") is None:
        notes.append(
            f"Rotary theta {spec.rope_theta:g} is the family's default; the file does not record "
            "it."
        )
    if given:
        said = ", ".join(f"{name}={value}" for name, value in given.items())
        notes.append(f"Not recorded in the file but given by hand: {said}.")
    if adapters:
        notes.append(_merge_note(fields, adapters))
    return tuple(notes)


def _merge_note(fields: Fields, adapters: Mapping[str, Adapter]) -> str:
    adapter = next(iter(adapters.values()))
    kinds = sorted({each.title for each in adapters.values()})
    how = ""
    if isinstance(adapter, LowRank):
        rank = fields.shapes[adapter.a][0]
        how = f" of rank {rank} with alpha {adapter.factor * rank:g}"
    return f"{' and '.join(kinds)} adapter{how} is merged into {len(adapters)} weights."
