"""From a state dict and its dialect to a ``Checkpoint``: sizes from shapes, the rest from fields.

Nothing is guessed. What the tensors' shapes tell is taken from them and must agree with what is
recorded; what they cannot tell must be recorded or given.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from slogpt_hf.checkpoints.adapters import Adapter, LowRank, adapters_among
from slogpt_hf.checkpoints.assuming import Basis, assumptions_of
from slogpt_hf.checkpoints.checkpoint import Checkpoint
from slogpt_hf.checkpoints.contents import Contents
from slogpt_hf.checkpoints.dialect import Architecture, Dialect
from slogpt_hf.checkpoints.facts import training_facts, vocabulary_in
from slogpt_hf.checkpoints.fields import (
    ALIASES,
    SAVE_AGAIN,
    Fields,
    listed,
)
from slogpt_hf.checkpoints.function import MULTIPLIERS, Said, with_multipliers, with_words
from slogpt_hf.checkpoints.parts import Names, parts_for, tensor_shapes
from slogpt_hf.checkpoints.sizes import Layout, spec_from
from slogpt_hf.checkpoints.spec import Spec
from slogpt_hf.checkpoints.state_dict import StateDict
from slogpt_hf.checkpoints.tensors import Shape, Stored, Tensors, widened
from slogpt_hf.checkpoints.unknown import IGNORE, Unknown, accepted, notes_on, unknown_in
from slogpt_hf.errors import CheckpointError, UsageError

FLOAT_DTYPES = ("float32", "float16", "bfloat16", "float64")
COMMON = (
    *("n_head", "n_kv_head", "block_size", "activation", "norm", "norm_eps", "rope_theta"),
    *("rotary_pairs", *MULTIPLIERS, "tied", "lora_alpha", IGNORE),
)
PIECE_VALUES = 1 << 18  # compared at a time


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
    saved, fields = _saved_and_fields(dialect, contents, state, given)
    weights, adapters = adapters_among(fields, saved)
    architecture, said = with_words(fields, dialect.architecture(fields))
    _require_settable(dialect, architecture, given, adapters)
    _require_positions_and_mlp(fields, architecture)
    names, shared_head = _with_head(fields, dialect.names(architecture, fields))
    layout = Layout(dialect, architecture, names, _count_blocks(names, weights))
    _check_layout(layout, fields, weights, adapters)
    factors = [each.factor for each in adapters.values() if isinstance(each, LowRank)]
    spec = spec_from(layout, fields, any(map(math.isnan, factors)))
    _check_shapes(fields, tensor_shapes(names, spec))
    dtype = _dtype(contents, weights)
    for adapter in adapters.values():
        _dtype(contents, {name: saved[name] for name in adapter.sources})
    parts = parts_for(names, spec)
    head, embed = parts["head.weight"].source, parts["embed.weight"].source
    spec = replace(spec, tied=head == embed or _same(saved[head], saved[embed]))
    _require_tied(fields, spec)
    spec, multipliers = with_multipliers(fields, spec)
    said |= multipliers
    unknown, taken = accepted(fields, unknown_in(fields, spec, adapted=bool(adapters)))
    kept = _kept(fields, saved, said, taken)
    basis = Basis(fields, dialect, architecture, said, kept, taken, shared_head)
    vocabulary, vocabulary_notes = vocabulary_in(contents.path, state.fields)
    return Checkpoint(
        path=contents.path,
        container=contents.container,
        dialect=dialect.name,
        spec=spec,
        tensors=Tensors(saved),
        parts=parts,
        adapters=adapters,
        dtype=dtype,
        facts=training_facts(state.history),
        vocabulary=vocabulary,
        notes=(
            *_notes(fields, kept, adapters),
            *notes_on(unknown, taken),
            *contents.notes,
            *vocabulary_notes,
        ),
        files=contents.files,
        given=kept,
        assumptions=assumptions_of(spec, basis),
        unknown=unknown,
    )


def _saved_and_fields(
    dialect: Dialect, contents: Contents, state: StateDict, given: Mapping[str, Any]
) -> tuple[dict[str, Stored], Fields]:
    constants = re.compile(dialect.constants)
    saved = {name: t for name, t in state.tensors.items() if not constants.fullmatch(name)}
    shapes = {name: tensor.shape for name, tensor in saved.items()}
    dropped = frozenset(state.tensors.keys() - saved.keys())
    return saved, Fields(
        contents.path, state.fields, shapes, given, state.history, constants=dropped
    )


def _kept(
    fields: Fields,
    saved: Mapping[str, Stored],
    said: Mapping[str, Said],
    taken: tuple[Unknown, ...],
) -> dict[str, Any]:
    """What the user gave; what the file says anyway is no fact of the user's."""
    kept = {
        name: value
        for name, value in fields.given.items()
        if name != IGNORE and not _is_recorded(fields, name, saved, said)
    }
    ignored = sorted({entry.name for entry in taken})
    return kept | ({IGNORE: ignored} if ignored else {})


def _check_layout(
    layout: Layout,
    fields: Fields,
    weights: Mapping[str, Stored],
    adapters: Mapping[str, Adapter],
) -> None:
    _check_names(layout, fields, weights)
    _check_matrices(layout, fields)
    _check_adapted(layout, fields, adapters)


def _require_settable(
    dialect: Dialect,
    architecture: Architecture,
    given: Mapping[str, Any],
    adapters: Mapping[str, Adapter],
) -> None:
    lora = any(isinstance(adapter, LowRank) for adapter in adapters.values())
    rotary = architecture.positions == "rotary"
    useless = {
        "lora_alpha": (not lora, " without a LoRA adapter"),
        "rope_theta": (not rotary, " with learned positions"),
        "rotary_pairs": (not rotary, " with learned positions"),
        "norm": (architecture.norm_bias, " whose norms have biases, which is LayerNorm"),
    }
    known = [n for n in (*COMMON, *dialect.switches) if not useless.get(n, (False, ""))[0]]
    for name in given:
        if name not in known:
            raise UsageError(
                f"--set {name}: is no field of a {dialect.title} model"
                f"{useless.get(name, (False, ''))[1]}.",
                hint=f"Fields that can be set for this checkpoint: {', '.join(known)}.",
            )


def _require_positions_and_mlp(fields: Fields, architecture: Architecture) -> None:
    """Raise where a recorded switch says another than the tensors make."""
    own = {
        "use_rope": architecture.positions == "rotary",
        "use_swiglu": architecture.mlp == "gated",
    }
    for name, is_on in own.items():
        found = fields.recorded_switch(name)
        if found is not None and found[1] != is_on:
            raise CheckpointError(
                f"{fields.path}: {found[0]} is {found[1]}, but only a model with {is_on} is known "
                "here.",
                hint="What this trainer computes is no known architecture: see "
                "docs/adding-a-dialect.md.",
            )


def _with_head(fields: Fields, names: Names) -> tuple[Names, bool]:
    """The names with the embedding for a head that the file lacks, and whether that is a guess.

    It needs a word, recorded or given, that the two are tied.
    """
    head, embed = names.outer["head"], names.outer["embed"]
    if head == embed or f"{head}.weight" in fields.shapes or not fields.flag("tied"):
        return names, False
    recorded = fields.recorded_switch("tied") is not None
    return replace(names, outer={**names.outer, "head": embed}), not recorded


def _require_tied(fields: Fields, spec: Spec) -> None:
    given = fields.given.get("tied")
    if given is not None and fields.flag("tied") != spec.tied:
        raise UsageError(
            f"--set tied={given}: but the head in {fields.path} is "
            f"{'equal to' if spec.tied else 'not'} the embedding.",
            hint="Leave it out: the tensors tell.",
        )


def _count_blocks(names: Names, weights: Mapping[str, Stored]) -> int:
    prefix, _, suffix = names.blocks.partition("{i}")
    block = re.compile(rf"{re.escape(prefix)}(\d{{1,9}}){re.escape(suffix)}")
    return len({found[1] for name in weights if (found := block.match(name))})


def _check_names(layout: Layout, fields: Fields, weights: Mapping[str, Stored]) -> None:
    recorded = fields.count("n_layer")
    if recorded is not None and recorded != layout.n_layer:
        where, _ = fields.recorded("n_layer") or ("n_layer", None)
        raise CheckpointError(
            f"{fields.path}: {where} is {recorded}, but the file holds {layout.n_layer} blocks.",
            hint=SAVE_AGAIN,
        )
    expected = dict.fromkeys(layout.stored.values())
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
            hint=_names_hint(layout, fields, missing),
        )


def _names_hint(layout: Layout, fields: Fields, missing: list[str]) -> str:
    outer = layout.names.outer
    hints = []
    if missing == [f"{outer['head']}.weight"]:
        hints.append("If the head is tied to the embedding: --set tied=true.")
    if f"{outer.get('positions')}.weight" in missing and fields.flag("use_rope") is None:
        hints.append(
            "If it has rotary positions: --set use_rope=true, and --set rotary_pairs=interleaved "
            "or halves."
        )
    blocks = f"The file holds {layout.n_layer} blocks; compare it with the trainer's model."
    return " ".join(hints) or blocks


def _check_matrices(layout: Layout, fields: Fields) -> None:
    """Raise where a tensor from which a size is taken has not as many dimensions as it should."""
    for role, source in layout.stored.items():
        outer = role.split(".")[0] in ("embed", "positions", "head")
        linear = ".attn." in role or ".mlp." in role
        wanted = 2 if (outer or linear) and role.endswith(".weight") else 1
        shape = fields.shapes[source]
        if len(shape) != wanted or 0 in shape:
            raise CheckpointError(
                f"{fields.path}: {source} has shape {shape}, expected {wanted} dimensions.",
                hint=SAVE_AGAIN,
            )


def _check_adapted(layout: Layout, fields: Fields, adapters: Mapping[str, Adapter]) -> None:
    linear = {s for r, s in layout.stored.items() if ".attn." in r or ".mlp." in r}
    for name in adapters:
        if name not in linear:
            raise CheckpointError(
                f"{fields.path}: an adapter of {name}, which is no projection of attention or MLP.",
                hint="Merge it with the program that trained it, or leave it out.",
            )


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


def _same(a: Stored, b: Stored) -> bool:
    """Whether two matrices of one shape and dtype are one, or hold equal numbers."""
    if a.values == b.values:
        return True
    x, y = a.values(), b.values()
    step = max(1, PIECE_VALUES // a.shape[1])
    return all(
        bool((widened(x[i : i + step], a.dtype) == widened(y[i : i + step], b.dtype)).all())
        for i in range(0, len(x), step)
    )


def _is_recorded(
    fields: Fields, name: str, saved: Mapping[str, Stored], said: Mapping[str, Said]
) -> bool:
    if name == "lora_alpha":
        _, adapters = adapters_among(replace(fields, given={}), saved)
        factors = [each.factor for each in adapters.values() if isinstance(each, LowRank)]
        return not any(map(math.isnan, factors))
    if name in said:
        return not said[name].given
    return len({str(value) for _, value in fields.all_recorded(*ALIASES.get(name, (name,)))}) == 1


def _notes(
    fields: Fields, given: Mapping[str, Any], adapters: Mapping[str, Adapter]
) -> tuple[str, ...]:
    notes = []
    by_hand = [f"{name}={value}" for name, value in given.items() if name != IGNORE]
    if by_hand:
        notes.append(f"Not recorded in the file but given by hand: {', '.join(by_hand)}.")
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
