"""The whole proof of an artefact: its model by the gate, its tokenizer by the corpus."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

from slogpt_hf.checkpoints import Checkpoint
from slogpt_hf.errors import CheckpointError
from slogpt_hf.libraries import installed
from slogpt_hf.parity import Behaviour, ParityReport
from slogpt_hf.parity.untouched import TOUCHED
from slogpt_hf.progress import Progress
from slogpt_hf.settings import Settings
from slogpt_hf.tokenizers import TokenizerChoice, TokenizerReport, check_choice, has_tokenizer

TOKENIZER = "tokenizer"


def verified(
    checkpoint: Checkpoint,
    folder: Path,
    choice: TokenizerChoice,
    settings: Settings,
    progress: Progress,
    trust_remote_code: bool = False,
) -> ParityReport:
    """Model and tokenizer of an artefact, held against what they were made of.

    Args:
        checkpoint: the original.
        folder: the artefact.
        choice: its tokenizer's original; an empty one where there is none.
        settings: ``reference`` is asked too.
        progress: told what happens.
        trust_remote_code: run code of the artefact that is not this package's.

    Raises:
        CheckpointError: something cannot be read, or changed meanwhile.
    """
    from slogpt_hf.parity.gate import n_passes, verify_artefact
    from slogpt_hf.parity.validation_data import validation_data

    tokenizer = _tokenizer_report(checkpoint, folder, choice, settings, progress, trust_remote_code)
    text_ids = choice.text_ids(checkpoint.spec.block_size)
    with progress.stage(
        "verify", n_passes(checkpoint.spec, text_ids, adapted=bool(checkpoint.adapters)), "passes"
    ) as advance:
        report = verify_artefact(
            checkpoint,
            folder,
            text_ids=text_ids,
            reference=settings.reference,
            validation=validation_data(checkpoint, choice),
            trust_remote_code=trust_remote_code,
            advance=advance,
        )
    if report.first_divergence != TOUCHED:
        checkpoint.require_unchanged()
    report = replace(report, versions=installed())
    return report if tokenizer is None else _with_tokenizer(report, tokenizer)


def _tokenizer_report(
    checkpoint: Checkpoint,
    folder: Path,
    choice: TokenizerChoice,
    settings: Settings,
    progress: Progress,
    trust_remote_code: bool,
) -> TokenizerReport | None:
    """What became of the tokenizer; None where the artefact has none.

    Raises:
        CheckpointError: the dataset that was named has ids that the tokenizer has not.
    """
    if not has_tokenizer(folder):
        return None
    check = partial(
        check_choice,
        folder,
        rows=_rows(folder, checkpoint),
        model_max_length=checkpoint.spec.block_size,
        trust_remote_code=trust_remote_code,
    )
    if choice.corpus is None:
        return check(choice)
    try:
        with progress.stage("encode", choice.corpus.n_bytes, "characters") as advance:
            return check(choice, advance=advance)
    except CheckpointError:
        if settings.dataset:
            raise
        # Nobody asked for the dataset that lies beside the vocabulary.
        found = check(replace(choice, dataset=None))
        return replace(found, corpus="the vocabulary; the dataset beside it cannot be read")


def _rows(folder: Path, checkpoint: Checkpoint) -> int:
    """Ids of the artefact's model: with what was appended, of which the gate judges."""
    try:
        said = json.loads((folder / "config.json").read_text("utf-8")).get("vocab_size")
    except (OSError, ValueError, AttributeError):
        said = None  # the gate says what is wrong with it
    own = checkpoint.spec.vocab_size
    return max(own, said) if type(said) is int else own


def _with_tokenizer(report: ParityReport, found: TokenizerReport) -> ParityReport:
    error = 0.0 if found.ok else math.inf
    name = TOKENIZER if found.code_points or not found.ok else "tokenizer loads"
    act = Behaviour(name, found.ok, error, 0.0, found.corpus)
    return report.with_behaviour(act, "" if found.ok else f"{name}: {found.first_difference}.")
