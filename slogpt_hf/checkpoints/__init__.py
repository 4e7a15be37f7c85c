"""Files of the trainers, read as ``Checkpoint`` values: spec, lazy tensors, training facts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from slogpt_hf.checkpoints.checkpoint import Checkpoint, TrainingFacts
from slogpt_hf.checkpoints.spec import Spec
from slogpt_hf.checkpoints.torch_file import load_torch_file
from slogpt_hf.errors import CheckpointError
from slogpt_hf.files import stamp_of

__all__ = ["Checkpoint", "Spec", "TrainingFacts", "read_checkpoint"]


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint of any known dialect, with its tensors memory-mapped.

    Raises:
        UsageError: ``path`` is not a file.
        CheckpointError: the file is damaged, holds code, or is of no known dialect.
    """
    from slogpt_hf.checkpoints import slo

    stamp = stamp_of(path)  # before the file is opened, so that no change can be missed
    content = load_torch_file(path)
    for dialect in (slo,):
        if dialect.recognises(content):
            checkpoint: Checkpoint = dialect.read(path, content)
            return replace(checkpoint, stamp=stamp)
    found = sorted(map(str, content))[:8] if isinstance(content, dict) else type(content).__name__
    raise CheckpointError(
        f"{path}: is of no known dialect. Looked for a dict with 'model' holding "
        f"transformer.wte.weight (Slo); found {found}.",
        hint="Name a checkpoint that the trainer saved.",
    )
