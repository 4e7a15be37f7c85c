"""Whether an artefact is there already, made by an earlier call of the same checkpoint."""

from __future__ import annotations

from pathlib import Path

from slogpt_hf.build import hash_checkpoint, identity_of, tokenizer_for
from slogpt_hf.card.record import RECORD_FILE, Record, read_record
from slogpt_hf.checkpoints import Checkpoint
from slogpt_hf.errors import SloGPTError
from slogpt_hf.parity.stated import stated
from slogpt_hf.progress import Progress
from slogpt_hf.publishable import require_level, require_unchanged
from slogpt_hf.settings import Settings


def made_before(
    checkpoint: Checkpoint, output: Path, settings: Settings, progress: Progress
) -> Record | None:
    """The record of the artefact in ``output``, if it is what these settings make.

    Every file has to be the one that was proven. License, languages and template of the card do
    not count: they can be changed without a conversion.

    Raises:
        UsageError, CheckpointError: no tokenizer fits, or the checkpoint changed.
    """
    if not (output / RECORD_FILE).is_file():
        return None
    try:
        record = read_record(output)
        require_unchanged(output, record)
        require_level(stated(record["parity"]), settings.require_witness, output, again=True)
    except SloGPTError:
        return None  # converting says that something else is there
    choice = tokenizer_for(checkpoint, settings)
    digest = hash_checkpoint(checkpoint, progress)
    same = record["identity"] == identity_of(digest, checkpoint, choice, settings)
    return record if same else None
