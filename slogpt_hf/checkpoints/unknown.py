"""Recorded entries that are neither used nor known to be neutral: found, accepted or refused."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from slogpt_hf.checkpoints.entries import (
    KINDS,
    Judgement,
    is_off,
    judged,
    kind_judged,
    known_among,
)
from slogpt_hf.checkpoints.fields import ALIASES, MODEL_ARGS, Fields, printable, scalar, shown
from slogpt_hf.checkpoints.function import MUP, mup_is_on
from slogpt_hf.checkpoints.naming import is_neutral
from slogpt_hf.checkpoints.spec import Spec
from slogpt_hf.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from slogpt_hf.checkpoints.checkpoint import Checkpoint

IGNORE = "ignore"
# Dicts of this name are a model's own settings, whatever is in them.
OWN = re.compile(
    r"(?:hyper_parameters|hparams|(?:model|gpt|transformer)_(?:config|cfg|params|kwargs|hparams)"
    r"|config|params\.json|config\.json)"
)
SIZES = (*ALIASES["n_layer"], *ALIASES["n_head"], *ALIASES["n_embd"])
# Judged whole; of every other dict each entry is.
WHOLE = ("rope_scaling", "rope_adjustments")
OF_AN_ADAPTER = ("alpha", "rank", "r", "target_modules", "lora_alpha")


@dataclass(frozen=True)
class Unknown:
    """An entry of what a trainer builds its model from that is not known here.

    Attributes:
        place: the dict that holds it, e.g. ``model_args``; empty for the top.
        name: of the entry.
        value: as it was recorded; what is no number, text or switch as text.
        changes: it is known to say another function than the one that was read.
    """

    place: str
    name: str
    value: bool | int | float | str | None
    changes: bool = False

    @property
    def where(self) -> str:
        """Place and name, e.g. ``model_args.softmax1``."""
        return f"{self.place}.{self.name}" if self.place else self.name

    def __str__(self) -> str:
        known = " (known to change the function)" if self.changes else ""
        return f"{self.where} is {shown(self.value)}{known}"


def unknown_in(fields: Fields, spec: Spec, *, adapted: bool) -> tuple[Unknown, ...]:
    """The entries of a checkpoint's settings that the spec does not hold and that may matter.

    Of the dicts that a trainer builds its model from every entry counts; of all others, such as
    nanoGPT's ``config``, those whose names are known.

    Args:
        fields: what is recorded.
        spec: the model that is taken for it.
        adapted: adapters are beside the weights; their own settings are read with them.
    """
    own = own_places(fields)
    found: dict[str, Unknown] = {}
    for place, holder in fields.places.items():
        strict = place in own
        for name in [n for n in holder if isinstance(n, str)] if strict else known_among(holder):
            if (adapted and name in OF_AN_ADAPTER) or place.rpartition(".")[2] in WHOLE:
                continue
            value = holder[name]
            judgement = _judged(fields, place, name, value, spec, strict)
            if judgement != "fine":
                entry = Unknown(place, printable(name), _plain(value), judgement == "changes")
                found[entry.where] = entry
    recorded = {entry.name for entry in found.values() if entry.place.startswith(MODEL_ARGS)}
    return tuple(
        entry
        for entry in found.values()
        if entry.place.startswith(MODEL_ARGS) or entry.name not in recorded
    )


def own_places(fields: Fields) -> set[str]:
    """The dicts of settings from which a trainer builds its model.

    They are ``model_args``; where there are none, every dict that records a model's sizes, that
    has the name of such a dict, or that lies in one.
    """
    places = fields.places
    if MODEL_ARGS in places:
        roots = (MODEL_ARGS, "params.json", "config.json")
        return {p for p in places if any(f"{p}.".startswith(f"{root}.") for root in roots)}
    sized = {
        place
        for place, holder in places.items()
        if any(scalar(holder.get(name)) is not None for name in SIZES)
    }
    own = sized | {place for place in places if OWN.fullmatch(place)}
    below = {
        place
        for place in places
        for root in own
        if root and place.startswith(f"{root}.") and not _says_nothing(place[len(root) + 1 :])
    }
    return own | below


def _says_nothing(place: str) -> bool:
    return any(is_neutral(part) for part in place.split("."))


def _judged(
    fields: Fields, place: str, name: str, value: Any, spec: Spec, strict: bool
) -> Judgement:
    if name in fields.shapes or (isinstance(value, str) and value in fields.shapes):
        return "fine"  # a tensor, or what a tensor is an alias of
    below = f"{place}.{printable(name)}" if place else printable(name)
    if isinstance(value, Mapping) and name not in WHOLE:
        if below in fields.places or not strict or not place or is_neutral(name):
            return "fine"  # its entries are judged by themselves
        return "fine" if not value else "unknown"
    if name.startswith("mup_") and (enabled := fields.recorded("mup_enabled")) is not None:
        is_on = mup_is_on(fields) is not None
        if (is_on and name in MUP) or is_off(enabled[1]):
            return "fine"
    if strict and name.lower() in KINDS and (part := place.rpartition(".")[2]) != place:
        return kind_judged(part, name, value, spec)
    return judged(name, value, spec)


def _plain(value: Any) -> bool | int | float | str | None:
    if isinstance(value, bool | int | str) or value is None:
        return value if not isinstance(value, str) else shown(value)[1:-1]
    number = scalar(value)
    return shown(value) if number is None else number


def accepted(
    fields: Fields, unknown: tuple[Unknown, ...]
) -> tuple[tuple[Unknown, ...], tuple[Unknown, ...]]:
    """The unknown entries that are left, and those that ``--set ignore=NAME`` accepts.

    Raises:
        UsageError: the file records no entry of a name that is to be ignored, or it is used.
    """
    names = ignored_names(fields.given)
    for name in names:
        if any(name in (entry.name, entry.where) for entry in unknown):
            continue
        last = name.rpartition(".")[2]
        if not fields.all_recorded(last) and not any(
            last in holder for holder in fields.places.values()
        ):
            raise UsageError(
                f"--set ignore={name}: but {fields.path} records nothing of that name.",
                hint=_recorded_hint(unknown),
            )
        if any(last in aliases for aliases in ALIASES.values()):
            raise UsageError(
                f"--set ignore={name}: but that is used, not ignored.", hint=_recorded_hint(unknown)
            )
    taken = tuple(e for e in unknown if e.name in names or e.where in names)
    return tuple(e for e in unknown if e not in taken), taken


def ignored_names(given: Mapping[str, Any]) -> tuple[str, ...]:
    """The names that a given ``ignore`` lists."""
    said = given.get(IGNORE, ())
    return (said,) if isinstance(said, str) else tuple(said)


def _recorded_hint(unknown: tuple[Unknown, ...]) -> str:
    if not unknown:
        return "Leave it out: nothing in the file has to be ignored."
    return f"What is not known here: {', '.join(entry.name for entry in unknown)}."


def require_known(checkpoint: Checkpoint, heard: Iterable[str] = ()) -> None:
    """Raise unless every recorded fact is used, known to be neutral, or accepted by hand.

    Args:
        checkpoint: whose file records them.
        heard: why a witness that was heard does not settle them, one sentence each.

    Raises:
        CheckpointError: an entry is neither, with every name, its value and what to do.
    """
    if not (unknown := checkpoint.unknown):
        return
    one = len(unknown) == 1
    raise CheckpointError(
        f"{checkpoint.path}: records what is not known here and may change what the model "
        f"computes: {'; '.join(map(str, unknown))}.{''.join(f' {each}.' for each in heard)}",
        hint="Let a witness settle it: --reference FILE.py:CLASS, or logits that the trainer "
        "records with slogpt_hf.record_parity. If "
        + ("it changes" if one else "they change")
        + " nothing that the model computes: "
        + " ".join(f"--set ignore={entry.name}" for entry in unknown)
        + ".",
    )


def witness_in_sight(checkpoint: Checkpoint, reference: str | None) -> bool:
    """Whether something is there that can settle what is unknown: a class, or recorded logits."""
    from slogpt_hf.parity.reference_name import asks
    from slogpt_hf.recorded import recorded_names

    path = checkpoint.path
    folder = path if path.is_dir() else path.parent
    return asks(reference) or any((folder / n).is_file() for n in recorded_names(path))


def notes_on(unknown: tuple[Unknown, ...], taken: tuple[Unknown, ...]) -> Iterator[str]:
    """What a person should know of these entries, one sentence a kind."""
    for entry in taken:
        known = "known to change the function" if entry.changes else "not known here"
        yield (
            f"Accepted by hand: {entry.where}, which is {shown(entry.value)} in the file and "
            f"{known}."
        )
    if unknown:
        said = "; ".join(map(str, unknown))
        yield f"Recorded and not known here, for a witness to settle: {said}."
