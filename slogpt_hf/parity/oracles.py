"""Other witnesses of the original: logits that the trainer recorded, and its own model class.

Both are held to the built-in model's own rounding noise on the same ids, so that neither a
recording of other weights nor a mistake of the built-in model passes for agreement.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from slogpt_hf.checkpoints import Checkpoint
from slogpt_hf.errors import CheckpointError, first_line
from slogpt_hf.parity import decoder
from slogpt_hf.parity.comparing import deviation, distance, relative
from slogpt_hf.parity.decoder import Decoder
from slogpt_hf.parity.judging import FP64_BOUND, noise_bound
from slogpt_hf.parity.report import Witness
from slogpt_hf.parity.streamed import Streamed
from slogpt_hf.recorded import IDS, LOGITS, recorded_names

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
        parts: what parts of it give for the first tokens of the first row, in float64.
    """

    name: str
    ids: Tensor
    logits: Tensor
    exact: Tensor | None = None
    note: str = ""
    told: tuple[str, ...] = ()
    parts: Mapping[str, Tensor] = field(default_factory=dict)


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
    return Testimony("recorded logits", ids, logits)


def witnesses(
    said: Iterator[Testimony],
    source: Decoder,
    original: Decoder,
    exact: Streamed,
    single: Streamed,
) -> Iterator[Witness]:
    """Hold the artefact and the built-in model against what other witnesses say.

    They speak for the checkpoint as it is. Where the artefact's dtype rounds its weights, or
    adapters were merged and rounded, the artefact may be off by what that changes, measured with
    the built-in model.

    Args:
        said: by each witness.
        source: the built-in model with the checkpoint's weights as they are, adapters beside them.
        original: the built-in model with the weights that the artefact must have.
        exact: the artefact in float64.
        single: the artefact in float32.
    """
    for each in said:
        own = [decoder.logits(source, each.ids, d) for d in (torch.float64, torch.float32)]
        largest = own[0].abs().max().item()
        rounding = distance(decoder.logits(original, each.ids, torch.float64), own[0])
        noise = distance(own[0], own[1].double())
        allowed = noise_bound(noise, largest, torch.float32)
        error = distance(single.logits(each.ids), each.logits)
        built_in_error = distance(own[1], each.logits)
        agrees = built_in_error <= allowed and error <= allowed + rounding
        relative_error = None
        if each.exact is not None:
            off = distance(exact.logits(each.ids), each.exact) - rounding
            relative_error = max(relative(off, largest), deviation(own[0], each.exact))
            agrees = agrees and relative_error <= FP64_BOUND
        yield Witness(
            each.name,
            agrees,
            error,
            built_in_error,
            allowed,
            relative_error,
            each.ids.shape[0],
            each.ids.shape[1],
            rounding,
        )
