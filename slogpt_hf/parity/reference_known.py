"""What a training repository's class is built from: the file's record first, then its tensors.

Nothing is taken from a spec that the file records, and no default of this package is handed to a
class that has its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from slogpt_hf.checkpoints import Spec
from slogpt_hf.checkpoints.fields import ALIASES, MODEL_ARGS, NOT_OF_THE_MODEL, places_in
from slogpt_hf.checkpoints.function import MULTIPLIERS
from slogpt_hf.checkpoints.tensors import Stored
from slogpt_hf.checkpoints.unknown import OWN
from slogpt_hf.checkpoints.words import SPELLINGS

NOTHING: Any = object()
# Our name for a fact to what trainers' configurations call it.
NAMES: dict[str, tuple[str, ...]] = {
    **{
        name: ALIASES[name]
        for name in ("n_layer", "n_kv_head", "n_embd", "norm_eps", "rope_theta", "bias", "use_rope")
    },
    **{name: ALIASES[name] for name in ("use_swiglu", "use_rmsnorm", *MULTIPLIERS)},
    "n_head": (*ALIASES["n_head"], "nhead", "heads"),
    "n_hidden": (*ALIASES["n_hidden"], "d_ff", "ffn_dim", "ff_dim"),
    "vocab_size": (*ALIASES["vocab_size"], "n_vocab", "padded_vocab_size", "num_tokens"),
    "block_size": (*ALIASES["block_size"], "seq_len", "max_len", "max_length"),
    "dropout": (
        *("dropout", "attn_pdrop", "embd_pdrop", "resid_pdrop", "drop_rate", "dropout_rate"),
        *("attn_dropout", "resid_dropout", "embd_dropout", "p_dropout"),
    ),
}
FACT = {name: fact for fact, names in NAMES.items() for name in names}
# What a class is told of the machine is this machine.
MACHINE = {"device": "cpu", "device_type": "cpu", "dtype": "float32"}


@dataclass
class Known:
    """What is known of a model, and what of it a class has taken.

    Attributes:
        places: settings that the file records, by where, those of the model first.
        given: fields that the user said, which no file records.
        seen: facts that the tensors' shapes and names tell.
        hidden: width of the MLP, which a class may mean in another way; None: do not tell it.
        assumed: what the spec took for facts that nothing tells: only for a class that has no
            default of its own.
        multiple_of: tried for a class of that parameter that the file does not record.
        taken: names of the first place that a class took.
        by_hand: facts that a class took from ``given``.
        ours: facts that a class took from ``assumed``.
        defaults: names for which a class's own default stands.
    """

    places: Mapping[str, Mapping[str, Any]]
    given: Mapping[str, Any]
    seen: Mapping[str, Any]
    assumed: Mapping[str, Any]
    hidden: int | None = None
    multiple_of: int | None = None
    taken: set[str] = field(default_factory=set)
    by_hand: set[str] = field(default_factory=set)
    ours: set[str] = field(default_factory=set)
    defaults: dict[str, Any] = field(default_factory=dict)

    def value_of(self, name: str, *, required: bool = False) -> Any:
        """The value that a class gets for a name of its own, NOTHING where its default counts.

        Args:
            name: as the class spells it.
            required: the class has no default for it.
        """
        if name in MACHINE:
            return MACHINE[name] if required else NOTHING
        recorded = self._recorded(name)
        if recorded not in (NOTHING, None):
            return recorded
        fact = FACT.get(name, name)
        if fact in self.given or name in self.given:
            self.by_hand.add(fact)
            return self.given.get(name, self.given.get(fact))
        if fact in self.seen:
            return self.seen[fact]
        if fact == "n_hidden" and self.hidden is not None:
            return self.hidden
        if name == "multiple_of" and self.multiple_of is not None:
            return self.multiple_of
        if recorded is None:
            return None
        if required and fact == "dropout":
            return 0.0
        if required and self.assumed.get(fact) is not None:
            self.ours.add(fact)
            return self.assumed[fact]
        return NOTHING

    def _recorded(self, name: str) -> Any:
        """The value under this name or, where the model's own settings lie, another for it."""
        found = NOTHING
        for index, (place, holder) in enumerate(self.places.items()):
            names = (name, *NAMES.get(FACT.get(name, ""), ())) if index == 0 or not place else name
            for each in (names,) if isinstance(names, str) else names:
                if each in holder and (place, each) not in NOT_OF_THE_MODEL:
                    if index == 0:
                        self.taken.add(each)
                    if holder[each] is not None:
                        return holder[each]
                    found = None
        return found

    @property
    def own(self) -> Mapping[str, Any]:
        """The model's own settings: what its trainer builds it from; empty where none are."""
        place = next(iter(self.places), "")
        return self.places[place] if place and self._makes_a_model(place) else {}

    def _makes_a_model(self, place: str) -> bool:
        facts = {FACT.get(name) for name in self.places.get(place, ())}
        return is_own(place) or {"n_layer", "n_head", "n_embd"} <= facts

    @property
    def untaken(self) -> dict[str, Any]:
        """Of the model's own settings, those that no class has taken."""
        return {
            name: value
            for name, value in self.own.items()
            if name not in self.taken and value is not None and FACT.get(name) != "dropout"
        }


def is_own(place: str) -> bool:
    """Whether a dict of this name is what a trainer builds its model from."""
    return any(
        each == MODEL_ARGS or OWN.fullmatch(each) for each in (place, place.rpartition(".")[2])
    )


def settings_in(value: Mapping[Any, Any]) -> dict[str, dict[str, Any]]:
    """The settings that a checkpoint's value records, by where; the model's own come first."""
    found = {
        place: {
            name: entry.item() if isinstance(entry, Stored) else entry
            for name, entry in holder.items()
            if isinstance(name, str) and not (isinstance(entry, Stored) and entry.shape)
        }
        for place, holder in places_in(value)
    }

    def rank(place: str) -> tuple[bool, int]:
        facts = {FACT.get(name) for name in found[place]} & {"n_layer", "n_head", "n_embd"}
        return not (is_own(place) and found[place]), -len(facts)

    return {place: found[place] for place in sorted(found, key=rank)}


def seen_in(spec: Spec) -> dict[str, Any]:
    """Of a spec, what the tensors' names and shapes tell, as configurations call it."""
    facts: dict[str, Any] = {
        "n_layer": spec.n_layer,
        "n_embd": spec.n_embd,
        "vocab_size": spec.vocab_size,
        "bias": spec.linear_bias or spec.norm_bias,
        "use_rope": spec.positions == "rotary",
        "use_swiglu": spec.mlp == "gated",
    }
    if spec.positions == "learned":
        facts["block_size"] = spec.block_size
    return facts


def assumed_in(spec: Spec) -> dict[str, Any]:
    """Of a spec, what a class gets only where it has no default and nothing records it."""
    return {
        "n_head": spec.n_head,
        "n_kv_head": spec.n_kv_head,
        "block_size": spec.block_size,
        "norm_eps": spec.norm_eps,
        "rope_theta": spec.rope_theta,
        "use_rmsnorm": spec.norm == "rmsnorm",
    }


def fresh(known: Known, given: Mapping[str, Any]) -> Known:
    """The same knowledge with other ``given`` fields, of which no class has taken anything."""
    return Known(known.places, given, known.seen, known.assumed)


def spelled(known: Known) -> Iterator[Known]:
    """The given activation as told, in the other words that trainers have for it, and left out."""
    yield known
    word = known.given.get("activation")
    for each in SPELLINGS.get(word, ()) if isinstance(word, str) else ():
        if each != word:
            yield fresh(known, {**known.given, "activation": each})
    if word is not None:
        yield fresh(known, {n: value for n, value in known.given.items() if n != "activation"})


def variants(known: Known, n_hidden: int) -> Iterator[Known]:
    """The ways to tell a class the sizes, the one that says the least of our own first."""

    def other(hidden: int | None, multiple_of: int | None) -> Known:
        return replace(fresh(known, known.given), hidden=hidden, multiple_of=multiple_of)

    yield other(None, None)
    yield other(n_hidden, None)
    for power in range(11):
        yield other(None, 1 << power)
    for divisor in range(3, min(n_hidden, 1 << 12) + 1):
        if n_hidden % divisor == 0 and divisor & (divisor - 1):
            yield other(None, divisor)
