"""Facts of a model's function that are words or factors, as recorded or given: what, and where."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from slogpt_hf.checkpoints import words
from slogpt_hf.checkpoints.dialect import Architecture
from slogpt_hf.checkpoints.entries import is_off
from slogpt_hf.checkpoints.fields import MODEL_ARGS, SAVE_AGAIN, Fields, scalar, shown
from slogpt_hf.checkpoints.spec import Spec
from slogpt_hf.errors import CheckpointError, UsageError

MULTIPLIERS = (
    *("attention_multiplier", "embedding_multiplier"),
    *("residual_multiplier", "logit_multiplier"),
)
MUP = (
    *("mup_enabled", "mup_width_multiplier", "mup_input_alpha", "mup_output_alpha"),
    *("mup_disable_attention_scaling", "mup_disable_hidden_lr_scaling"),
)
# Of a word that names the whole MLP: it cannot be of the other kind.
MLP_FIELDS = tuple(n for n in words.ACTIVATION_FIELDS if "type" in n or "class" in n)


@dataclass(frozen=True)
class Said:
    """What is said of one fact.

    Attributes:
        where: the place that records it, e.g. ``model_args.activation``; ``--set`` and the name
            where it was given.
        value: of the fact.
        exact: what was recorded leaves no choice; "gelu" does, of two functions.
    """

    where: str
    value: Any
    exact: bool = True

    @property
    def given(self) -> bool:
        """It was said with ``--set``."""
        return self.where.startswith("--set ")


def settled(fields: Fields, name: str, said: list[Said]) -> Said | None:
    """The one thing that all places say of a fact, or that was given.

    Raises:
        CheckpointError: two places say different things and none was given.
        UsageError: what was given is not what is recorded.
    """
    said = [each for each in said if each.where.startswith(f"{MODEL_ARGS}.")] or said
    said = [each for each in said if each.exact] or said
    given = fields.given.get(name)
    differing = [each for each in said if not _same(each.value, said[0].value)]
    if given is None:
        if differing:
            raise CheckpointError(
                f"{fields.path}: {said[0].where} says {said[0].value} and {differing[0].where} "
                f"says {differing[0].value}.",
                hint=f"Say which it was trained with: --set {name}=...",
            )
        return said[0] if said else None
    agreeing = [each for each in said if _same(each.value, given)]
    if agreeing and agreeing[0].exact:
        return agreeing[0]
    if said and said[0].exact:
        raise UsageError(
            f"--set {name}={given}: but {fields.path} records {said[0].where}, which says "
            f"{said[0].value}.",
            hint="Leave it out: what the trainer recorded counts.",
        )
    return Said(f"--set {name}", given)


def _same(a: Any, b: Any) -> bool:
    x, y = scalar(a), scalar(b)
    return math.isclose(x, y, rel_tol=1e-9) if x is not None and y is not None else a == b


def said_of_activation(fields: Fields, usual: str) -> list[Said]:
    """Every place that names the activation by a known word or switch."""
    said = []
    for where, value in fields.all_recorded(*words.ACTIVATION_FIELDS):
        word = words.plain_word(value) or ""
        if word in words.ACTIVATIONS:
            said.append(Said(where, words.ACTIVATIONS[word], word not in words.VAGUE))
    for name, kind in words.ACTIVATION_SWITCHES.items():
        said += [Said(w, kind) for w, v in fields.all_recorded(name) if v is True or v == 1]
    if usual.startswith("gelu") or any(str(each.value).startswith("gelu") for each in said):
        for where, value in fields.all_recorded(*words.APPROXIMATE_FIELDS):
            if (gelu := words.approximation(value)) is not None:
                said.append(Said(where, gelu))
    return said


def says_gated(fields: Fields) -> bool:
    """Whether a word that names the MLP says that it has a gate."""
    gated = (*words.GATED_WORDS, *words.MLP_WORDS["gated"])
    said = fields.all_recorded(*words.ACTIVATION_FIELDS)
    return any(words.plain_word(value) in gated for _, value in said)


def said_of_norm(fields: Fields) -> Said | None:
    """LayerNorm or RMSNorm, by switch or word. Raises as ``settled``."""
    switch = fields.recorded_switch("use_rmsnorm")
    if (given := fields.given.get("use_rmsnorm")) is not None:
        kind = "rmsnorm" if given else "layernorm"
        if fields.given.get("norm") not in (None, kind):
            raise UsageError(
                f"--set norm={fields.given['norm']}: but --set use_rmsnorm={given} says {kind}.",
                hint="Leave one of them out.",
            )
        fields.flag("use_rmsnorm")  # raises where it cannot be meant, or is not what is recorded
    said = [Said(switch[0], "rmsnorm" if switch[1] else "layernorm")] if switch else []
    for where, value in fields.all_recorded(*words.NORM_FIELDS):
        if found_kind := words.NORMS.get(words.plain_word(value) or ""):
            said.append(Said(where, found_kind))
    found = settled(fields, "norm", said)
    if found is None and given is not None:
        return Said("--set use_rmsnorm", "rmsnorm" if given else "layernorm")
    return found


def said_of_word(fields: Fields, name: str) -> Said | None:
    """``positions`` or ``rotary_pairs``, where a known word says it. Raises as ``settled``."""
    names, table = {
        "positions": (words.POSITION_FIELDS, words.POSITIONS),
        "rotary_pairs": (words.PAIR_FIELDS, words.PAIRS),
    }[name]
    said = [
        Said(where, table[word])
        for where, value in fields.all_recorded(*names)
        if (word := words.plain_word(value)) in table
    ]
    if name == "rotary_pairs":
        for where, value in fields.all_recorded(*words.PAIR_SWITCHES):
            if isinstance(value, bool | int):
                said.append(Said(where, "interleaved" if value else "halves"))
    return settled(fields, name, said)


def with_words(fields: Fields, family: Architecture) -> tuple[Architecture, dict[str, Said]]:
    """A family's architecture with what is recorded and given, and where each fact comes from.

    Raises:
        CheckpointError: what is recorded contradicts the tensors or itself.
        UsageError: what is given contradicts what is recorded, or the tensors.
    """
    for name, value in fields.given.items():
        words.require_word(name, value)
    found = {
        "activation": settled(fields, "activation", said_of_activation(fields, family.activation)),
        "norm": said_of_norm(fields),
        "rotary_pairs": said_of_word(fields, "rotary_pairs"),
    }
    said = {name: each for name, each in found.items() if each is not None}
    architecture = family
    _require_mlp(fields, family)
    if "activation" in said:
        architecture = replace(architecture, activation=said["activation"].value)
    if (norm := said.get("norm")) and norm.value != family.norm:
        if family.norm_bias:
            raise _unlike(norm, fields, "its norms have biases, which is LayerNorm")
        architecture = replace(architecture, norm=norm.value)
    if "rotary_pairs" in said and family.positions == "rotary":
        architecture = replace(architecture, rotary_pairs=said["rotary_pairs"].value)
    return architecture, said


def _require_mlp(fields: Fields, family: Architecture) -> None:
    for where, value in fields.all_recorded(*words.ACTIVATION_FIELDS):
        word = words.plain_word(value) or ""
        named = where.rpartition(".")[2] in MLP_FIELDS
        gated = word in words.GATED_WORDS or word in words.MLP_WORDS["gated"]
        plain = named and not gated and word in words.ACTIVATIONS
        if gated if family.mlp == "plain" else plain:
            kind = {"plain": "two matrices", "gated": "three, one of them a gate"}[family.mlp]
            raise CheckpointError(
                f"{fields.path}: {where} is {shown(value)}, but its MLP has {kind}.",
                hint=SAVE_AGAIN,
            )


def _unlike(said: Said, fields: Fields, but: str) -> CheckpointError | UsageError:
    if said.given:
        return UsageError(f"{said.where}={said.value}: but {but}.", hint="Leave it out.")
    return CheckpointError(
        f"{fields.path}: {said.where} says {said.value}, but {but}.", hint=SAVE_AGAIN
    )


def with_multipliers(fields: Fields, spec: Spec) -> tuple[Spec, dict[str, Said]]:
    """A spec with the multipliers that are recorded or given, and where each comes from.

    Raises:
        CheckpointError: two places say different things.
        UsageError: a given one is no number that can be, or contradicts what is recorded.
    """
    recorded: dict[str, list[Said]] = {name: [] for name in MULTIPLIERS}
    for name, each in _recorded_multipliers(fields, spec):
        recorded[name].append(each)
    found: dict[str, Said] = {}
    for name in MULTIPLIERS:
        given = fields.given.get(name)
        if given is not None and (scalar(given) or 0) <= 0:
            raise UsageError(
                f"--set {name}={shown(given)}: is not a positive number.",
                hint=f"Write e.g. --set {name}=0.125.",
            )
        if (said := settled(fields, name, recorded[name])) is not None:
            found[name] = said
    values: dict[str, Any] = {name: float(said.value) for name, said in found.items()}
    usual = spec.head_dim**-0.5
    if "attention_multiplier" in values and math.isclose(values["attention_multiplier"], usual):
        del values["attention_multiplier"]
    return replace(spec, **values), found


def _recorded_multipliers(fields: Fields, spec: Spec) -> Iterator[tuple[str, Said]]:
    yield from _mup(fields, spec)
    for name in MULTIPLIERS:
        for where, value in fields.all_recorded(name):
            if (number := scalar(value)) is not None and number > 0:
                yield name, Said(where, number)
    for where, value in fields.all_recorded("logits_scaling"):  # of Granite: logits are divided
        if number := scalar(value):
            yield "logit_multiplier", Said(where, 1 / number)
    for where, value in fields.all_recorded("query_pre_attn_scalar", "attention_scores_scalar"):
        if (number := scalar(value)) is not None and number > 0:
            yield "attention_multiplier", Said(where, number**-0.5)
    if spec.positions == "rotary":
        for where, value in fields.all_recorded("scale_embeddings"):
            if value is True:
                yield "embedding_multiplier", Said(where, math.sqrt(spec.n_embd))


def mup_is_on(fields: Fields) -> str | None:
    """Where muP is recorded as on; None if it is not.

    The names and what they do: https://github.com/EleutherAI/nanoGPT-mup, ``model.py``.
    """
    found = fields.recorded("mup_enabled")
    return found[0] if found and (found[1] is True or scalar(found[1]) == 1) else None


def _mup(fields: Fields, spec: Spec) -> Iterator[tuple[str, Said]]:
    if (where := mup_is_on(fields)) is None:
        return

    def number(name: str) -> float:
        found = fields.recorded(name)
        value = 1.0 if found is None else scalar(found[1])
        if value is None or value <= 0:
            raise CheckpointError(
                f"{fields.path}: {found and found[0]} is {shown(found and found[1])}, not a "
                "positive number.",
                hint=SAVE_AGAIN,
            )
        return value

    usual = fields.recorded("mup_disable_attention_scaling")
    is_usual = usual is not None and not is_off(usual[1])
    yield "attention_multiplier", Said(where, spec.head_dim ** (-0.5 if is_usual else -1.0))
    yield "embedding_multiplier", Said(where, number("mup_input_alpha"))
    width = number("mup_width_multiplier")
    yield "logit_multiplier", Said(where, number("mup_output_alpha") / width)
