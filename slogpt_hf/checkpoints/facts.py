"""What trainers record beside the weights: steps, losses, settings, vocabularies. A table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from slogpt_hf.checkpoints.checkpoint import TrainingFacts
from slogpt_hf.checkpoints.fields import readable, scalar
from slogpt_hf.datasets.vocabulary import MOST_ENTRIES, Vocabulary
from slogpt_hf.errors import CheckpointError

# Field of TrainingFacts to where it is recorded, the most telling first; "" is the top.
STEP = (("", "iter_num"), ("", "step"), ("metadata", "step"), ("training_info", "step"))
VAL_LOSS = (
    ("", "best_val_loss"),
    ("", "val_loss"),
    ("metrics", "eval_loss"),
    ("metrics", "val_loss"),
    ("metadata", "eval_loss"),
    ("metadata", "val_loss"),
    ("metadata", "best_val_loss"),
    ("training_info", "best_eval_loss"),
    ("training_info", "eval_loss"),
    ("profile", "final_val_loss"),
)
VAL_LOSS_STEP = (("", "best_iter"), ("", "best_step"), ("metadata", "best_step"))
DATASET = (
    ("config", "dataset"),
    ("metadata", "dataset"),
    ("training_info", "dataset"),
    ("profile", "training_dataset"),
)
SETTINGS = ("metadata", "training_info", "config")  # a later one wins
NO_EVALUATION_YET = 1e9  # nanoGPT's initial best_val_loss
VOCABULARY_PLACES = ("", "config", "meta", "metadata", "training_info")
VOCABULARY_KEYS = ("itos", "stoi", "chars")


def training_facts(value: Mapping[Any, Any]) -> TrainingFacts:
    """What a checkpoint's value says of its training."""
    settings: dict[str, Any] = {}
    for place in SETTINGS:
        holder = value.get(place)
        if isinstance(holder, Mapping):
            settings |= {k: v for k, v in _plain(holder).items() if k not in VOCABULARY_KEYS}
    args = value.get("model_args")
    if isinstance(args, Mapping) and isinstance(role := args.get("role"), str):
        settings["role"] = readable(role)
    (step, _), (loss, loss_name), (loss_step, _) = (
        _first_number(value, places) for places in (STEP, VAL_LOSS, VAL_LOSS_STEP)
    )
    if loss is not None and loss >= NO_EVALUATION_YET:
        loss = None
    profile = value.get("profile")
    return TrainingFacts(
        step=None if step is None else int(step),
        val_loss=loss,
        val_loss_name="" if loss is None else loss_name,
        val_loss_step=None if loss is None or loss_step is None else int(loss_step),
        dataset=next((readable(d) for d in _found(value, DATASET) if isinstance(d, str)), None),
        settings=settings,
        profile={k: v for k, v in _plain(profile).items() if v is not None}
        if isinstance(profile, Mapping)
        else {},
    )


def vocabulary_in(
    path: Path, value: Mapping[Any, Any]
) -> tuple[Vocabulary | None, tuple[str, ...]]:
    """The vocabulary that the file holds, if any; a note where it holds one that is none."""
    for name in VOCABULARY_PLACES:
        place = value.get(name) if name else value
        if not isinstance(place, Mapping) or not any(key in place for key in VOCABULARY_KEYS):
            continue
        itos, stoi, chars = (place.get(key) for key in VOCABULARY_KEYS)
        if itos is None and stoi is None:
            itos = list(chars[: MOST_ENTRIES + 1]) if isinstance(chars, str) else chars
        if isinstance(itos, Mapping) and all(isinstance(k, str) and k.isdecimal() for k in itos):
            itos = {int(k[:20]): v for k, v in itos.items()}  # JSON has no other keys than text
        # Beside the settings, vocab_size is the model's number of rows, which may be padded.
        vocab_size = None if name in ("config", "metadata") else place.get("vocab_size")
        try:
            return Vocabulary.from_tables(itos, stoi, vocab_size, str(path)), ()
        except CheckpointError as error:
            reason = error.message.removeprefix(f"{path}: ")
            return None, (f"The vocabulary in the checkpoint is not used: {reason}",)
    return None, ()


def _first_number(
    value: Mapping[Any, Any], places: tuple[tuple[str, str], ...]
) -> tuple[float | None, str]:
    """The first number that is recorded at one of these places, and what it is called there."""
    for place in places:
        for found in _found(value, (place,)):
            if (number := scalar(found)) is not None:
                return number, place[1]
    return None, ""


def _found(value: Mapping[Any, Any], places: tuple[tuple[str, str], ...]) -> Iterator[Any]:
    for place, key in places:
        holder = value.get(place) if place else value
        if isinstance(holder, Mapping) and key in holder:
            yield holder[key]


def _plain(holder: Mapping[Any, Any]) -> dict[str, Any]:
    """The entries that JSON can hold."""
    return {
        readable(str(k)): readable(v) if isinstance(v, str) else v
        for k, v in holder.items()
        if isinstance(v, str | int | None) or _finite(v)
    }


def _finite(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value)
