"""What a reader hands on: a checkpoint's spec, its lazy tensors and its training facts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slogpt_hf.checkpoints.parts import Part
from slogpt_hf.checkpoints.spec import Spec
from slogpt_hf.errors import CheckpointError
from slogpt_hf.files import FileStamp, stamp_of

if TYPE_CHECKING:
    from torch import Tensor

    from slogpt_hf.datasets.vocabulary import Vocabulary


@dataclass(frozen=True)
class TrainingFacts:
    """What the trainer recorded beside the weights; None where it recorded nothing.

    Attributes:
        step: optimizer steps taken.
        val_loss: best validation loss, nats per token.
        dataset: name of the dataset, as the trainer called it.
        settings: the trainer's own settings, JSON-ready values only.
    """

    step: int | None = None
    val_loss: float | None = None
    dataset: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint:
    """A readable checkpoint.

    Attributes:
        path: the file that was read.
        dialect: whose tensor names and file layout it uses.
        spec: the architecture.
        tensors: name to memory-mapped tensor, compile and DDP prefixes removed. Reading a
            value costs page cache, not anonymous memory.
        parts: role to the place where it lies among the tensors.
        dtype: the weights' dtype as safetensors and transformers name it, e.g. ``float32``.
        facts: what the trainer recorded.
        vocabulary: the characters, where the checkpoint holds them.
        notes: what the reader decided that a person may want to know, one sentence each.
        stamp: which file ``path`` was when it was opened; None if it was not opened by path.
    """

    path: Path
    dialect: str
    spec: Spec
    tensors: Mapping[str, Tensor]
    parts: Mapping[str, Part]
    dtype: str
    facts: TrainingFacts
    vocabulary: Vocabulary | None = None
    notes: tuple[str, ...] = ()
    stamp: FileStamp | None = None

    @property
    def n_parameters(self) -> int:
        """Parameters of the model; a tied head counts once."""
        head = self.spec.vocab_size * self.spec.n_embd if self.spec.tied else 0
        return sum(math.prod(tensor.shape) for tensor in self.tensors.values()) - head

    def require_unchanged(self) -> None:
        """Raise unless the file at ``path`` is still the one that was opened, as it was then.

        Call it before the weights are used and again after: mapped weights show what is written
        to the file meanwhile. A file that is cut short while its weights are read ends the
        process (SIGBUS); no check can prevent that, so let trainers save to a temporary name.

        Raises:
            CheckpointError: it was replaced, overwritten, cut short or removed.
        """
        if self.stamp is not None and stamp_of(self.path) != self.stamp:
            raise CheckpointError(
                f"{self.path}: changed while it was being released: the trainer is still "
                "writing it.",
                hint="Release it again when training has saved it.",
            )
