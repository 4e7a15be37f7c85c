"""What a checkpoint is and what it would become, without writing anything."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from slogpt_hf.build import open_checkpoint, tokenizer_for
from slogpt_hf.checkpoints.unknown import Unknown
from slogpt_hf.conversion import plan_conversion
from slogpt_hf.errors import SloGPTError
from slogpt_hf.settings import Settings
from slogpt_hf.tokenizers.choice import NO_TOKENIZER


def inspect_checkpoint(path: Path, settings: Settings | None = None) -> dict[str, Any]:
    """The facts of a checkpoint, JSON-ready.

    Args:
        path: file or folder that the trainer saved.
        settings: dataset or tokenizer to look at, and the dtype to convert to.

    Raises:
        UsageError: ``path`` is not there.
        CheckpointError: it cannot be read.
    """
    settings = settings or Settings()
    checkpoint = open_checkpoint(path, settings)
    conversion = plan_conversion(checkpoint, settings.dtype)
    return {
        "file": str(path),
        "file_bytes": sum(file.stat().st_size for file in checkpoint.files),
        "container": checkpoint.container,
        "dialect": checkpoint.dialect,
        "spec": checkpoint.spec.to_dict(),
        "n_parameters": checkpoint.n_parameters,
        "dtype": checkpoint.dtype,
        "step": checkpoint.facts.step,
        "val_loss": checkpoint.facts.val_loss,
        "dataset": checkpoint.facts.dataset,
        "vocabulary": _vocabulary(checkpoint, settings),
        "target_class": conversion.target.class_name,
        "remote_code": conversion.target.modeling_file is not None,
        "target_dtype": conversion.dtype,
        "weights_bytes": conversion.n_bytes,
        "adapters": len(checkpoint.adapters),
        "quantisation": checkpoint.quantisation and asdict(checkpoint.quantisation),
        "profile": dict(checkpoint.facts.profile),
        "assumptions": [asdict(assumption) for assumption in checkpoint.assumptions],
        "unknown": [_unknown(entry) for entry in checkpoint.unknown],
        "notes": list(checkpoint.notes),
    }


def _unknown(entry: Unknown) -> dict[str, Any]:
    value = entry.value
    finite = not isinstance(value, float) or math.isfinite(value)
    return asdict(entry) | {"value": value if finite else str(value)}


def _vocabulary(checkpoint: Any, settings: Settings) -> str:
    try:
        choice = tokenizer_for(checkpoint, settings)
    except SloGPTError as error:
        # What inspect shows of a problem is the problem; release raises it.
        return f"none that fits: {error.message.removeprefix(f'{checkpoint.path}: ')}"
    if choice.vocabulary is not None:
        return f"characters from {choice.vocabulary.source}"
    if choice.kind == NO_TOKENIZER:
        return "no tokenizer, as asked for"
    return f"the tokenizer {choice.source}"
