"""Other witnesses of the original: logits that the trainer recorded, and its own model class.

Both are held to the built-in model's own rounding noise on the same ids, so that neither a
recording of other weights nor a mistake of the built-in model passes for agreement.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from slogpt_hf.checkpoints import Checkpoint, Spec
from slogpt_hf.checkpoints.assumptions import Assumption
from slogpt_hf.checkpoints.unknown import Unknown
from slogpt_hf.errors import CheckpointError, first_line
from slogpt_hf.files import sha256_of
from slogpt_hf.parity.comparing import Run, absolute_error, relative, relative_error, run_of
from slogpt_hf.parity.decoder import Decoder
from slogpt_hf.parity.inputs import Inputs
from slogpt_hf.parity.judging import FP64_BOUND, noise_bound
from slogpt_hf.parity.lockstep import Models
from slogpt_hf.parity.noise import redrawn_noise
from slogpt_hf.parity.report import Witness
from slogpt_hf.parity.telling import untold, untold_entries
from slogpt_hf.recorded import IDS, LOGITS, SAVE_SHA256, SAVE_SIZE, recorded_names

WITNESS_TOKENS = 512  # positions of a row that show the whole function, where it has as many
LUCK = 4  # by how much one draw is taken to be too small, where no float64 agrees first
MOST_LOGITS = 1 << 27  # of a recording: 512 MiB in float32


@dataclass(frozen=True)
class Testimony:
    """What a witness says that the original computes.

    Attributes:
        name: of the witness.
        ids: (B, T) token ids.
        logits: (B, T, V) in float32.
        exact: (B, T, V) in float64, every cast inside lifted; None if it has none.
        note: what a person has to know of how it was asked; empty if nothing.
        told: facts that it was told rather than knew, so that it cannot confirm them.
        not_taken: recorded entries that are not known here and that it does not take either, so
            that it cannot settle them.
        parts: what parts of it give for the first tokens of the first row, in float64.
        require_of_this_save: raises if it was made for another save of the checkpoint; None where
            it was asked about this one.
    """

    name: str
    ids: Tensor
    logits: Tensor
    exact: Tensor | None = None
    note: str = ""
    told: tuple[str, ...] = ()
    not_taken: tuple[str, ...] = ()
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    require_of_this_save: Callable[[], None] | None = None


def recorded_beside(checkpoint: Checkpoint) -> Testimony | None:
    """The logits that lie beside a checkpoint, or in one that is a folder; None without any.

    Raises:
        CheckpointError: a file of that name is none, or of another model.
    """
    path = checkpoint.path
    folder = path if path.is_dir() else path.parent
    for name in recorded_names(path):
        if (folder / name).is_file():
            return _read(folder / name, checkpoint)
    return None


def _read(path: Path, checkpoint: Checkpoint) -> Testimony:
    from safetensors import SafetensorError, safe_open

    spec = checkpoint.spec
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in (IDS, LOGITS)}
            rows, length = shapes[IDS]
            if shapes[LOGITS] != [rows, length, spec.vocab_size] or not rows * length:
                raise ValueError(f"its shapes are {shapes}")
            if rows * length * spec.vocab_size > MOST_LOGITS or length > spec.block_size:
                raise ValueError(f"{rows} x {length} tokens are too many")
            metadata = file.metadata() or {}
            ids, logits = file.get_tensor(IDS).to(torch.int64), file.get_tensor(LOGITS).float()
    except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"{path}: is no recording of this model's logits ({first_line(error)}).",
            hint="Record them again with slogpt_hf.record_parity, or remove the file.",
        ) from error
    if ids.min() < 0 or ids.max() >= spec.vocab_size:
        raise CheckpointError(
            f"{path}: holds ids that the vocabulary of {spec.vocab_size} has not.",
            hint="Record them again with slogpt_hf.record_parity, or remove the file.",
        )
    of_this_save = partial(_require_of_this_save, path, metadata, checkpoint)
    return Testimony("recorded logits", ids, logits, require_of_this_save=of_this_save)


def _require_of_this_save(path: Path, metadata: Mapping[str, str], checkpoint: Checkpoint) -> None:
    """Raise if a recording names a file that is none of the checkpoint's."""
    if SAVE_SHA256 not in metadata:
        return
    files = checkpoint.files or (checkpoint.path,)
    sized = [file for file in files if str(file.stat().st_size) == metadata.get(SAVE_SIZE)]
    if not any(sha256_of(file) == metadata[SAVE_SHA256] for file in sized):
        raise CheckpointError(
            f"{path}: was recorded for another save than {checkpoint.path}, and its logits differ.",
            hint="Record them again with slogpt_hf.record_parity behind torch.save, "
            "or remove the file.",
        )


def covers(length: int, spec: Spec) -> bool:
    """Whether a witness of so many positions has seen enough to speak for the whole function."""
    return length >= min(spec.block_size, WITNESS_TOKENS)


def notes_of(heard: Iterable[Witness], spec: Spec) -> tuple[str, ...]:
    """What a person has to know of witnesses that agree and yet confirm nothing."""
    need = min(spec.block_size, WITNESS_TOKENS)
    deaf = tuple(
        f"{witness.name}: agrees, but tells nothing of {', '.join(witness.not_taken)}, which the "
        "file records and nothing here knows"
        for witness in heard
        if witness.agrees and witness.not_taken
    )
    return deaf + tuple(
        f"{witness.name}: agrees on {witness.length} positions; it takes {need} to confirm what "
        "no file records, since positions and windows show late"
        for witness in heard
        if witness.agrees and not covers(witness.length, spec)
    )


def witnesses(
    said: Iterable[Testimony],
    source: Decoder,
    models: Models,
    assumptions: Iterable[Assumption] = (),
    unknown: Iterable[Unknown] = (),
) -> Iterator[Witness]:
    """Hold the artefact and the built-in model against what other witnesses say.

    They speak for the checkpoint as it is. Where the artefact's dtype rounds its weights, or
    adapters were merged and rounded, the artefact may be off by what that changes, measured with
    the built-in model.

    Args:
        said: by each witness.
        source: the built-in model with the checkpoint's weights as they are, adapters beside them.
        models: the artefact, and the built-in model with the weights that it must have.
        assumptions: what no file records, which a witness may confirm.
        unknown: recorded entries that are not known here, which a witness may settle.

    Raises:
        CheckpointError: a recording that disagrees was made for another save.
    """
    for each in said:
        found = _heard(each, source, models)
        if found.built_in_error > found.bound and each.require_of_this_save:
            each.require_of_this_save()
        if found.agrees and each.exact is None:
            hidden = untold(source, each.ids, found.bound, assumptions)
            deaf = untold_entries(source, each.ids, found.bound, unknown)
            found = replace(found, untold=hidden, not_taken=deaf)
        yield found


def _heard(said: Testimony, source: Decoder, models: Models) -> Witness:
    ids, vocabulary = said.ids, source.spec.vocab_size
    error_of = partial(absolute_error, vocabulary)
    theirs = Run(said.logits.flatten(0, 1), None)
    own_64, own_32 = (run_of(source, ids, dtype) for dtype in (torch.float64, torch.float32))
    noise, largest = error_of(own_32, own_64)
    rounding = error_of(run_of(models.original, ids, torch.float64), own_64)[0]
    error = error_of(models.artefact(models.single, ids), theirs)[0]
    built_in_error = error_of(own_32, theirs)[0]
    exact_error = None
    if said.exact is not None:
        exact = Run(said.exact.flatten(0, 1), None)
        off = error_of(models.artefact(models.exact, ids), exact)[0] - rounding
        exact_error = max(relative(off, largest), relative_error(vocabulary, own_64, exact))
    allowed = noise_bound(noise, largest, torch.float32)
    exactly = exact_error is None or exact_error <= FP64_BOUND

    def within(allowed: float) -> bool:
        return built_in_error <= allowed and error <= allowed + rounding

    if exactly and not within(allowed):  # one draw of the noise may be small by luck
        again = redrawn_noise(source, (Inputs(said.name, ids),))
        if said.exact is None:
            again = min(again, LUCK * noise)
        allowed = noise_bound(max(noise, again), largest, torch.float32)
    return Witness(
        said.name,
        exactly and within(allowed),
        error,
        built_in_error,
        allowed,
        exact_error,
        ids.shape[0],
        ids.shape[1],
        rounding,
        told=said.told,
        not_taken=said.not_taken,
    )
