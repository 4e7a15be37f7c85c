"""What a reader hands on: a checkpoint's spec, its lazy tensors and its training facts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slogpt_hf.checkpoints.adapters import Adapter
from slogpt_hf.checkpoints.assumptions import Assumption
from slogpt_hf.checkpoints.parts import Part
from slogpt_hf.checkpoints.spec import Spec
from slogpt_hf.checkpoints.tensors import Tensors
from slogpt_hf.checkpoints.unknown import Unknown
from slogpt_hf.errors import CheckpointError
from slogpt_hf.files import FileStamp, stamp_of

if TYPE_CHECKING:
    from slogpt_hf.datasets.vocabulary import Vocabulary


@dataclass(frozen=True)
class TrainingFacts:
    """What the trainer recorded beside the weights; None where it recorded nothing.

    Attributes:
        step: optimizer steps taken.
        val_loss: best validation loss, nats per token.
        val_loss_name: what the trainer calls it; empty without one.
        val_loss_step: the step that it is of, where that is recorded.
        dataset: name of the dataset, as the trainer called it.
        settings: the trainer's own settings, JSON-ready values only.
        profile: what a ``.sou`` file tells of itself, JSON-ready values only.
    """

    step: int | None = None
    val_loss: float | None = None
    val_loss_name: str = ""
    val_loss_step: int | None = None
    dataset: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    profile: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Quantisation:
    """What quantising weights before they reached this file may have cost.

    Attributes:
        kind: name of the format, e.g. ``Q8_0``.
        group_size: consecutive values that share a scale.
        max_error: how far a weight can at most be from what it was, by rounding to nearest:
            half of the largest scale.
    """

    kind: str
    group_size: int
    max_error: float


@dataclass(frozen=True)
class Checkpoint:
    """A readable checkpoint.

    Attributes:
        path: the file or folder that was read.
        container: its file layout, for people.
        dialect: whose tensor names it uses.
        spec: the architecture.
        tensors: name to tensor, read when asked for, compile and DDP prefixes removed. A tensor
            that lies in the file as it is costs page cache, not anonymous memory.
        parts: role to the place where it lies among the tensors.
        dtype: the weights' dtype as safetensors and transformers name it, e.g. ``float32``.
        facts: what the trainer recorded.
        adapters: name of a weight to what fine-tuning put beside it; its tensors are among
            ``tensors``.
        vocabulary: the characters, where the checkpoint holds them.
        quantisation: how the weights were quantised before they were read; None if not.
        notes: what the reader decided that a person may want to know, one sentence each.
        files: the files whose bytes make the checkpoint; most have one.
        stamps: which files those were when they were opened.
        given: fields that the user gave because no file records them.
        base: of an adapter alone, the checkpoint that it adapts.
        assumptions: what the spec rests on and no file records, the most doubtful first.
        unknown: recorded entries that are neither used nor known to be neutral; a witness settles
            them, or ``unknown.require_known`` refuses them.
    """

    path: Path
    container: str
    dialect: str
    spec: Spec
    tensors: Tensors
    parts: Mapping[str, Part]
    dtype: str
    facts: TrainingFacts
    adapters: Mapping[str, Adapter] = field(default_factory=dict)
    vocabulary: Vocabulary | None = None
    quantisation: Quantisation | None = None
    notes: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    stamps: Mapping[Path, FileStamp | None] = field(default_factory=dict)
    given: Mapping[str, Any] = field(default_factory=dict)
    base: Path | None = None
    assumptions: tuple[Assumption, ...] = ()
    unknown: tuple[Unknown, ...] = ()

    @property
    def n_parameters(self) -> int:
        """Parameters of the model; a tied head counts once, an adapter not at all."""
        sources = {part.source for part in self.parts.values()}
        head, embed = self.parts["head.weight"].source, self.parts["embed.weight"].source
        if self.spec.tied and head != embed:
            sources.discard(head)
        return sum(math.prod(self.tensors.shapes[name]) for name in sources)

    def require_unchanged(self) -> None:
        """Raise unless the files are still those that were opened, as they were then.

        Call it before the weights are used and again after: mapped weights show what is written
        to the file meanwhile. A file that is cut short while its weights are read ends the
        process (SIGBUS); no check can prevent that, so let trainers save to a temporary name.

        Raises:
            CheckpointError: one was replaced, overwritten, cut short or removed.
        """
        for path, stamp in self.stamps.items():
            if stamp is not None and stamp_of(path) != stamp:
                raise CheckpointError(
                    f"{path}: changed while it was being released: the trainer is still "
                    "writing it.",
                    hint="Release it again when training has saved it.",
                )
