"""Fields of a model: what its file records, what the user gives with ``--set``, what is missing."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from reprlib import Repr
from typing import Any

from slogpt_hf.checkpoints.tensors import Shape, Stored
from slogpt_hf.errors import CheckpointError, UsageError

# From model_args a trainer rebuilds its model: what they record counts, whatever config says.
MODEL_ARGS = "model_args"
# Our name to the names under which trainers record it.
ALIASES = {
    "n_layer": ("n_layer", "n_layers", "num_layers", "num_hidden_layers", "n_blocks"),
    "n_head": ("n_head", "n_heads", "num_heads", "num_attention_heads"),
    "n_kv_head": (
        *("n_kv_head", "n_kv_heads", "num_kv_heads", "num_key_value_heads"),
        *("n_kv_group", "n_kv_groups", "n_query_groups", "num_kv_groups", "num_query_groups"),
    ),
    "n_embd": ("n_embd", "n_embed", "dim", "hidden_size", "d_model", "emb_dim", "embed_dim"),
    "n_hidden": ("n_hidden", "hidden_dim", "intermediate_size", "n_inner"),
    "vocab_size": ("vocab_size",),
    "block_size": (
        *("block_size", "max_seq_len", "context_length", "max_position_embeddings"),
        *("n_positions", "n_ctx", "sequence_len", "context_size"),
    ),
    "norm_eps": (
        *("norm_eps", "rms_norm_eps", "rmsnorm_eps", "rms_eps", "norm_epsilon", "ln_epsilon"),
        *("layer_norm_eps", "layernorm_eps", "layer_norm_epsilon", "ln_eps"),
    ),
    "rope_theta": ("rope_theta", "rope_base", "rotary_base", "rotary_theta"),
    "attention_multiplier": ("attention_multiplier",),
    "embedding_multiplier": ("embedding_multiplier",),
    "residual_multiplier": ("residual_multiplier",),
    "logit_multiplier": ("logit_multiplier",),
    "bias": ("bias", "use_bias", "linear_bias"),
    "use_rope": (
        *("use_rope", "rope", "rotary", "use_rotary", "use_rotary_embeddings", "use_rotary_emb"),
        *("use_rotary_embedding", "use_rotary_pos_emb", "rotary_emb", "rotary_embeddings"),
    ),
    "use_swiglu": ("use_swiglu", "swiglu", "use_gated_mlp", "gated_mlp", "use_glu", "glu"),
    "use_rmsnorm": ("use_rmsnorm", "use_rms_norm", "rmsnorm", "rms_norm", "use_rms"),
    "tied": (
        *("tied", "tie_weights", "tie_word_embeddings", "tie_embeddings", "weight_tying"),
        *("tied_embeddings", "tie_embedding", "tied_weights", "tie_lm_head", "wte_weight_tying"),
        *("share_embeddings", "shared_embeddings", "tie_head", "tied_head", "tie_embed"),
    ),
}
SHOWN_BY_SHAPES = ("n_layer", "n_head", "n_kv_head", "n_embd", "n_hidden", "block_size")
SWITCHES = ("bias", "use_rope", "use_swiglu", "use_rmsnorm", "tied")
# A vocabulary's own size; the model may have more rows.
NOT_OF_THE_MODEL = {("meta", "vocab_size"), ("metadata", "vocab_size"), ("", "vocab_size")}
# No settings of a model lie in these, nor in a dict that holds tensors.
SKIPPED = re.compile(r"optim|sched|scaler|rng|^(?:stoi|itos|chars|param_groups|format)$", re.I)
DEEPEST, MOST_PLACES = 3, 1000
SHORT = Repr()
SHORT.maxlevel, SHORT.maxlist, SHORT.maxdict, SHORT.maxstring, SHORT.maxother = 3, 20, 8, 80, 80
LARGEST_COUNT = 2**53  # whole numbers below are exact as floats
SAVE_AGAIN = "Save the checkpoint with the settings that it was trained with."


@dataclass(frozen=True)
class Fields:
    """What is known of a model beside its tensors' values.

    Attributes:
        path: the file that messages name.
        value: the checkpoint's value, tensors as ``Stored``.
        shapes: of the tensors, wrappers removed.
        given: what the user said with ``--set``.
        own: the part of the value that belongs to ``path`` where a base stands behind it.
        missing: fields that were asked for and that nothing tells.
        constants: names of saved tensors that are no weights, such as causal masks.
    """

    path: Path
    value: Mapping[Any, Any]
    shapes: Mapping[str, Shape]
    given: Mapping[str, Any] = field(default_factory=dict)
    own: Mapping[Any, Any] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    constants: frozenset[str] = frozenset()

    @cached_property
    def places(self) -> dict[str, Mapping[Any, Any]]:
        """Every dict of settings in the value by its path, ``""`` for the top."""
        return dict(places_in(self.value))

    def all_recorded(self, *names: str) -> list[tuple[str, Any]]:
        """Every place that records one of these names, and its value; None counts as nothing."""
        return [
            (f"{place}.{name}" if place else name, holder[name])
            for place, holder in self.places.items()
            for name in names
            if holder.get(name) is not None
            and (place, name) not in NOT_OF_THE_MODEL
            # What Meta's params.json says where the tokenizer is to tell.
            and not (name == "vocab_size" and holder[name] == -1)
        ]

    def recorded(self, name: str) -> tuple[str, Any] | None:
        """Where a field is recorded and its value; None if it is nowhere or None.

        Raises:
            CheckpointError: two places record different values, and none was given.
        """
        found = self.all_recorded(*ALIASES.get(name, (name,)))
        if name in SWITCHES:  # under another name than its own it may be anything
            found = [f for f in found if f[0].rpartition(".")[2] == name or _is_switch(f[1])]
        args = [f for f in found if f[0].startswith(f"{MODEL_ARGS}.")]
        if name in SHOWN_BY_SHAPES:  # a part's own "dim" is another size
            args = [f for f in args if f[0].count(".") == 1] or args[:1]
        found = args or found
        if not found:
            return None
        first, given = found[0], self.given.get(name)
        for other in found[1:]:
            if not same_value(first[1], other[1]):
                if given is not None:
                    return next((f for f in found if same_value(f[1], given)), first)
                raise CheckpointError(
                    f"{self.path}: records {first[0]} = {shown(first[1])} and {other[0]} = "
                    f"{shown(other[1])}.",
                    hint=f"Say which it was trained with: --set {name}=...",
                )
        return first

    def recorded_switch(self, name: str) -> tuple[str, bool] | None:
        """Where a switch is recorded and whether it is on; None if it is nowhere, or unclear."""
        found = self.recorded(name)
        return (found[0], bool(found[1])) if found and _is_switch(found[1]) else None

    def count(self, name: str) -> int | None:
        """A positive whole number, recorded or given; None if it is neither.

        Raises:
            CheckpointError: what is recorded is no such number.
            UsageError: what is given is none, or the file records another one.
        """
        found = self._agreed(name)
        if found is None:
            return None
        where, value = found
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self._refused(where, value, "not a positive whole number")
        return value

    def number(self, name: str) -> float | None:
        """A positive number, recorded or given; None if it is neither. Raises as ``count``."""
        found = self._agreed(name)
        if found is None:
            return None
        where, value = found
        number = scalar(value)
        if number is None or number <= 0:
            raise self._refused(where, value, "not a positive number")
        return number

    def flag(self, name: str) -> bool | None:
        """A switch, recorded or given; None if it is neither. Raises as ``count``."""
        found = self._agreed(name)
        if found is None:
            return None
        where, value = found
        if not _is_switch(value):
            raise self._refused(where, value, "neither True nor False")
        return bool(value)

    def _agreed(self, name: str) -> tuple[str, Any] | None:
        recorded, given = self.recorded(name), self.given.get(name)
        if given is None:
            return recorded
        if recorded is not None and not same_value(recorded[1], given):
            raise UsageError(
                f"--set {name}={given}: but {self.path} records {recorded[0]} = "
                f"{shown(recorded[1])}.",
                hint="Leave it out: what the trainer recorded counts.",
            )
        return f"--set {name}", given

    def _refused(self, where: str, value: Any, problem: str) -> CheckpointError | UsageError:
        if where.startswith("--set"):
            return UsageError(
                f"{where}={shown(value)}: is {problem}.", hint="Write e.g. --set n_head=8."
            )
        return CheckpointError(
            f"{self.path}: {where} is {shown(value)}, {problem}.", hint=SAVE_AGAIN
        )


def places_in(value: Mapping[Any, Any]) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """The dicts of settings in a checkpoint's value, the nearest to the top first."""
    level: list[tuple[str, Mapping[Any, Any]]] = [("", value)]
    n_places = 0
    for _ in range(DEEPEST):
        deeper: list[tuple[str, Mapping[Any, Any]]] = []
        for place, holder in level:
            n_places += 1
            if n_places > MOST_PLACES:
                return
            yield place, holder
            for key, entry in holder.items():
                if not isinstance(key, str) or SKIPPED.search(key):
                    continue
                if isinstance(entry, Mapping) and not _holds_tensors(entry):
                    name = printable(key)
                    deeper.append((f"{place}.{name}" if place else name, entry))
        level = deeper


def _holds_tensors(holder: Mapping[Any, Any]) -> bool:
    tensors = sum(isinstance(entry, Stored) and bool(entry.shape) for entry in holder.values())
    return 2 * tensors > len(holder)


def _is_switch(value: Any) -> bool:
    return isinstance(value, int) and value in (0, 1)


def same_value(a: Any, b: Any) -> bool:
    """Whether two recorded values say the same; 4, 4.0 and a 0-d tensor of 4 do."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b or (a in (0, 1) and b in (0, 1) and bool(a) == bool(b))
    x, y = scalar(a), scalar(b)
    return x == y if x is not None and y is not None else type(a) is type(b) and a == b


def scalar(value: Any) -> float | None:
    """A plain or 0-d tensor number; None for anything else, NaN and infinities included."""
    if isinstance(value, Stored) and math.prod(value.shape) == 1:
        value = value.item()
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST_COUNT:
        value = float(value)
    return value if isinstance(value, float) and math.isfinite(value) else None


def shown(value: Any, most: int = 60) -> str:
    """A value of a checkpoint as it may stand in a message: one short line."""
    if isinstance(value, Stored):
        return f"a tensor of shape {value.shape}"
    try:
        text = " ".join(SHORT.repr(value).split())
    except ValueError:  # an integer of too many digits
        return f"a {type(value).__name__}"
    return text if len(text) <= most else f"{text[:most]}..."


def readable(text: str) -> str:
    """Text that can be written: half characters (surrogates) become question marks."""
    return text.encode("utf-8", "replace").decode()


def listed(names: list[str], most: int = 6) -> str:
    """The first of some names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(printable, names[:most])) + more


def printable(name: str) -> str:
    """A name as it may stand in a message."""
    return name if name.isprintable() and len(name) <= 120 else shown(name, 120)


def head_counts(
    n_embd: int, kv_rows: int, rotary: bool, n_kv_head: int | None = None
) -> Iterator[int]:
    """The numbers of heads that fit a width, the rows of k and a recorded n_kv_head, ascending."""
    for n_head in range(1, min(n_embd, 1 << 16) + 1):
        head_dim, rest = divmod(n_embd, n_head)
        if rest or (rotary and head_dim % 2) or kv_rows % head_dim:
            continue
        found = kv_rows // head_dim
        if n_head % found == 0 and n_kv_head in (None, found):
            yield n_head
