"""Files of the trainers, read as ``Checkpoint`` values: spec, lazy tensors, training facts."""

from __future__ import annotations

from slogpt_hf.checkpoints.checkpoint import Checkpoint, TrainingFacts
from slogpt_hf.checkpoints.reader import read_checkpoint
from slogpt_hf.checkpoints.spec import Spec

__all__ = ["Checkpoint", "Spec", "TrainingFacts", "read_checkpoint"]
