"""The training repository's own model class as a witness, in a process that can do no harm.

It is the one place where code of the training repository runs: only when it is asked for
(``--reference path/model.py:Class``), without credentials in its environment, without a network
where the system allows that, and for a limited time.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

import slogpt_hf
from slogpt_hf.checkpoints import Checkpoint
from slogpt_hf.errors import CheckpointError, first_line
from slogpt_hf.parity.comparing import deviation
from slogpt_hf.parity.judging import FP64_BOUND
from slogpt_hf.parity.merging import Merged
from slogpt_hf.parity.oracles import Testimony
from slogpt_hf.parity.reference_auto import Found, classes_for, sources_for
from slogpt_hf.parity.reference_name import asks, is_auto, split_reference
from slogpt_hf.redaction import without_secrets
from slogpt_hf.shielded import run_shielded

SECONDS, AUTO_SECONDS = 1800.0, 300.0
MOST_CLASSES = 6  # that are asked where a class is looked for
TRACED_TOKENS = 32  # for which the parts of a class are kept
CHILD = Path(__file__).with_name("reference_child.py")
REQUEST, ANSWER, SAID = "request.json", "answer.safetensors", "said.json"
MOST_NOTE = 600  # characters


@dataclass(frozen=True)
class Hearing:
    """What came of asking.

    Attributes:
        testimony: what the class computes; None where no class was asked, or none could be.
        note: which class was taken, or why none was, for people; empty where one was named.
    """

    testimony: Testimony | None = None
    note: str = ""


def hear_reference(
    checkpoint: Checkpoint, reference: str | None, ids: Tensor, withheld: Collection[str] = ()
) -> Hearing:
    """Ask the class that is named or, with ``auto``, the one that is found.

    Args:
        checkpoint: gives weights and what its file records.
        reference: as the setting has it; None for no class.
        ids: (B, T) token ids.
        withheld: fields given by hand that the class is not told.

    Raises:
        UsageError: the reference cannot be meant.
        CheckpointError: the class that was named cannot be made, does not take the weights, or
            gives no logits; one that was looked for raises nothing.
    """
    if reference is None or not asks(reference):
        return Hearing()
    if is_auto(reference):
        return _found_and_asked(checkpoint, reference, ids, withheld)
    said = ask_reference(checkpoint, reference, ids, withheld)
    return Hearing(said, said.note)


def ask_reference(
    checkpoint: Checkpoint, reference: str, ids: Tensor, withheld: Collection[str] = ()
) -> Testimony:
    """What the training repository's model class computes with the checkpoint's weights.

    It is built from what the checkpoint's file records; its tensors and fields given by hand say
    the rest. In float64 every cast inside is lifted.

    Args:
        checkpoint: gives weights and what its file records.
        reference: ``path/model.py:Class[:Config]``.
        ids: (B, T) token ids.
        withheld: fields given by hand that it is not told.

    Raises:
        UsageError: the reference cannot be meant.
        CheckpointError: the class cannot be made, does not take the weights, or gives no logits.
    """
    file, name, config = split_reference(reference)
    return _ask(
        checkpoint, Asked(file, name, config, f"{file.name}:{name}", withheld), ids, SECONDS
    )


@dataclass(frozen=True)
class Asked:
    """A class that is asked.

    Attributes:
        file: that defines it.
        name: of the class.
        config: name of its configuration class; None to find that.
        title: as reports call it.
        withheld: given fields that it is not told.
    """

    file: Path
    name: str
    config: str | None
    title: str
    withheld: Collection[str] = ()


def _found_and_asked(
    checkpoint: Checkpoint, reference: str, ids: Tensor, withheld: Collection[str]
) -> Hearing:
    """Find the class whose state dict has the checkpoint's names, and ask it."""
    with sources_for(checkpoint, reference) as sources:
        if sources is None:
            return Hearing(
                note="no class was looked for: the training repository is not at hand at the "
                "checkpoint's commit"
            )
        weights = Merged(checkpoint.tensors, checkpoint.adapters)
        classes, n_files = classes_for(sources.root, weights)
        if not classes:
            return Hearing(
                note=f"no class for this checkpoint was found in {n_files} Python files of "
                f"{sources.where}"
            )
        if len(classes) > MOST_CLASSES:  # one that is not asked may be the one that was trained
            likeliest = ", ".join(map(str, classes[:MOST_CLASSES]))
            return Hearing(
                note=f"{len(classes)} classes of {sources.where} may be the one that was trained, "
                f"the likeliest {likeliest}; name one with --reference"
            )
        heard: list[tuple[Found, Testimony]] = []
        problems: list[str] = []
        for each in classes:
            asked = Asked(sources.root / each.path, each.name, None, str(each), withheld)
            try:
                heard.append((each, _ask(checkpoint, asked, ids, AUTO_SECONDS)))
            except CheckpointError as error:
                problems.append(error.message)
        return _one_of(heard, problems, sources.where)


def _one_of(heard: list[tuple[Found, Testimony]], problems: list[str], where: str) -> Hearing:
    """The testimony of the classes that took the weights, if they compute the same."""
    if not heard:
        return Hearing(
            note=f"no class of {where} takes these weights; {first_line(problems[0], 300)}"
        )
    names = ", ".join(str(each) for each, _ in heard)
    first = heard[0][1]
    if any(not _same(first, said) for _, said in heard[1:]):
        return Hearing(
            note=f"several classes of {where} take these weights and compute different things: "
            f"{names}; name one with --reference"
        )
    same = f", as do {names.partition(', ')[2]}" if len(heard) > 1 else ""
    note = f"took {heard[0][0]} of {where}, which has these tensors{same}"
    note += f"; {first.note}" if first.note else ""
    return Hearing(first, note)


def _same(a: Testimony, b: Testimony) -> bool:
    assert a.exact is not None and b.exact is not None
    return a.exact.shape == b.exact.shape and deviation(a.exact, b.exact) <= FP64_BOUND


def _ask(checkpoint: Checkpoint, asked: Asked, ids: Tensor, seconds: float) -> Testimony:
    from safetensors.torch import load_file, save_file

    with tempfile.TemporaryDirectory(prefix="slogpt-hf-reference-") as temporary:
        folder = Path(temporary)
        request = {
            "file": str(asked.file),
            "class": asked.name,
            "config": asked.config,
            "checkpoint": str(checkpoint.path.absolute()),
            "base": str(checkpoint.base.absolute()) if checkpoint.base else None,
            "given": dict(checkpoint.given),
            "told": {n: v for n, v in checkpoint.given.items() if n not in asked.withheld},
            "traced": TRACED_TOKENS,
            "paths": [str(Path(slogpt_hf.__file__).parents[1])],
        }
        (folder / REQUEST).write_text(json.dumps(request), encoding="utf-8")
        save_file({"ids": ids.contiguous()}, folder / "ids.safetensors")
        words = run_shielded(CHILD, folder, seconds, place=asked.file.parent)
        answer = folder / ANSWER
        if words or not answer.is_file():
            raise CheckpointError(
                f"--reference {asked.title}: {words or 'gave no answer'}",
                hint="The class has to take the checkpoint's weights and give all logits.",
            )
        try:
            tensors = load_file(answer)
            said = json.loads((folder / SAID).read_text("utf-8"))
            logits, exact = tensors.pop("logits"), tensors.pop("exact")
            told = (*said["by_hand"], *said["ours"])
            not_taken = tuple(e.where for e in checkpoint.unknown if e.name in said["untaken"])
            note = _note(asked.title, said)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise CheckpointError(f"--reference {asked.title}: gave no answer.") from error
    shape = (*ids.shape, checkpoint.spec.vocab_size)
    if any(tuple(each.shape[:2]) != shape[:2] for each in (logits, exact)):
        raise CheckpointError(
            f"--reference {asked.title}: gives no logits of every position.",
            hint="Let its forward pass give them, e.g. where it is given targets.",
        )
    if any(tuple(each.shape) != shape for each in (logits, exact)):
        raise CheckpointError(
            f"--reference {asked.title}: gives {logits.shape[2]} logits a position, the "
            f"vocabulary has {shape[2]} rows."
        )
    return Testimony(asked.title, ids, logits, exact, note, told, not_taken, tensors)


def _note(title: str, said: Mapping[str, Any]) -> str:
    """What a person has to know of how a class was told its settings."""
    parts = []
    if said["untaken"]:
        entries = ", ".join(f"{name} = {value}" for name, value in said["untaken"].items())
        parts.append(f"does not take {entries}, which the file records")
    if said["by_hand"]:
        parts.append(f"was told {', '.join(said['by_hand'])} by hand")
    if said["ours"]:
        parts.append(f"was told {', '.join(said['ours'])} as slogpt-hf assumes it")
    if said["multiple_of"]:
        parts.append(f"takes the width of the MLP with multiple_of = {said['multiple_of']}")
    if said["defaults"]:
        parts.append(f"has defaults for what no file records: {', '.join(said['defaults'])}")
    if not parts:
        return ""
    return without_secrets(first_line(f"{title}: {'; '.join(parts)}", MOST_NOTE))
