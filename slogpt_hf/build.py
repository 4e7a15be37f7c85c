"""From a checkpoint to a proven artefact: convert, verify, card."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import slogpt_hf.conversion
from slogpt_hf.card import render_card, require_card_options
from slogpt_hf.card.record import (
    CARD_FILE,
    PICTURES,
    RECORD_FILE,
    REPORT_FILE,
    UNHASHED,
    Record,
    artefact_files,
    dump_json,
    identity,
    read_record,
)
from slogpt_hf.checkpoints import Checkpoint, read_checkpoint
from slogpt_hf.conversion import plan_conversion, write_model
from slogpt_hf.conversion.safetensors_layout import shards_for
from slogpt_hf.errors import (
    CheckpointError,
    GateInvalidError,
    ParityError,
    SloGPTError,
    UsageError,
)
from slogpt_hf.files import sha256_of, staged_folder, write_atomically
from slogpt_hf.parity import ParityReport
from slogpt_hf.parity.reference_name import split_reference
from slogpt_hf.progress import SILENT, Progress, human_bytes
from slogpt_hf.proof import verified
from slogpt_hf.recording import original_notes, record_of
from slogpt_hf.settings import Settings
from slogpt_hf.tokenizers import TokenizerChoice, choose_tokenizer
from slogpt_hf.watch import Provenance, provenance_of
from slogpt_hf.watch.event import Event


def convert(
    checkpoint_path: Path,
    output: Path,
    settings: Settings,
    progress: Progress = SILENT,
    source: Provenance | None = None,
    event: Event | None = None,
) -> Record:
    """Convert a checkpoint into a proven artefact that is ready to be pushed.

    Args:
        checkpoint_path: file that the trainer saved.
        output: folder to make; it appears only when whole and proven.
        settings: dataset, tokenizer, dtype and so on.
        progress: told what happens.
        source: where the checkpoint comes from; by default the git repository around it.
        event: of the CI at hand.

    Returns:
        The artefact's record.

    Raises:
        UsageError: ``output`` exists, or a setting cannot be meant.
        CheckpointError: the checkpoint or vocabulary cannot be read.
        ParityError: the artefact is not equal to the original; ``output`` is not made.
        GateInvalidError: the proof would not have caught a fault; ``output`` is not made.
    """
    require_card_options(settings.license, settings.languages, settings.template)
    checkpoint = open_checkpoint(checkpoint_path, settings)
    choice = tokenizer_for(checkpoint, settings)
    with staged_folder(output) as folder:
        digest = hash_checkpoint(checkpoint, progress)
        found = source or provenance_of(checkpoint.path, checkpoint.files, event)
        return build_artefact(checkpoint, choice, digest, folder, settings, found, progress)


def verify(
    checkpoint_path: Path,
    artefact: Path,
    settings: Settings,
    progress: Progress = SILENT,
    trust_remote_code: bool = False,
) -> ParityReport:
    """Run the parity gate on any pair of checkpoint and artefact.

    Args:
        checkpoint_path: file that the trainer saved.
        artefact: folder that ``from_pretrained`` loads.
        settings: the dataset gives real text, where there is one; ``reference`` is asked too.
        progress: told what happens.
        trust_remote_code: run a modeling file of the artefact that is not this package's.

    Returns:
        The report; ``passed`` is the verdict.

    Raises:
        UsageError: one of the paths is not what it should be, or untrusted code is needed.
        CheckpointError: one of the two cannot be read.
    """
    checkpoint = open_checkpoint(checkpoint_path, settings)
    _require_reference(settings)
    try:
        choice = tokenizer_for(checkpoint, settings)
    except (UsageError, CheckpointError):
        if settings.dataset or settings.tokenizer:
            raise
        choice = TokenizerChoice()  # without a dataset the ids decide alone
    return verified(checkpoint, artefact, choice, settings, progress, trust_remote_code)


def build_artefact(
    checkpoint: Checkpoint,
    choice: TokenizerChoice,
    checkpoint_sha256: str,
    folder: Path,
    settings: Settings,
    source: Provenance,
    progress: Progress = SILENT,
) -> Record:
    """Convert into ``folder``, prove the result from disk, and add report, card and record.

    Raises:
        CheckpointError: a weight is not finite, or the file changed since it was opened.
        ParityError: the model or its tokenizer is not equal to the original.
        GateInvalidError: the proof would not have caught a fault.
    """
    checkpoint.require_unchanged()
    conversion = plan_conversion(checkpoint, settings.dtype)
    # Before anything takes long.
    _require_reference(settings)
    original = original_notes(checkpoint, settings)
    merges = len(conversion.plan.merges)
    progress.line(
        f"    plan: {checkpoint.dialect} checkpoint, {checkpoint.n_parameters:,} parameters"
        f"{f', {merges} adapters merged' if merges else ''} -> "
        f"{conversion.target.class_name}, {conversion.dtype}, {human_bytes(conversion.n_bytes)}"
    )
    with progress.stage("convert", conversion.n_bytes) as advance:
        artefact = write_model(
            checkpoint,
            conversion,
            folder,
            max_shard_bytes=settings.max_shard_bytes,
            advance=advance,
        )
    choice.write(folder, checkpoint)
    report = verified(checkpoint, folder, choice, settings, progress)
    progress.line(f"   proof: {report.summary()}")
    if report.passed and not report.caught:
        raise GateInvalidError(
            f"{checkpoint.path}: the converted model is not proven: no fault could be planted.",
            hint="Please report this as a bug of slogpt-hf. Nothing was published.",
        )
    if not report.passed:
        raise _not_proven(checkpoint.path, report, Path(settings.report))
    _write_report(folder, report)
    record = record_of(
        checkpoint,
        artefact,
        choice,
        report,
        settings,
        checkpoint_sha256=checkpoint_sha256,
        identity=identity_of(checkpoint_sha256, checkpoint, choice, settings),
        date=today(),
        source=source,
        more_notes=original,
    )
    (folder / RECORD_FILE).write_text(dump_json(record), encoding="utf-8")
    (folder / CARD_FILE).write_text(card_for(folder, record, settings), encoding="utf-8")
    return record


def card_for(folder: Path, record: Record, settings: Settings) -> str:
    """The text of README.md for an artefact, from its record and its parity report.

    Raises:
        UsageError: ``card_template`` cannot be rendered, or the Hub would refuse the result.
        CheckpointError: the report is missing or cannot be read.
    """
    import json

    path = folder / REPORT_FILE
    try:
        report = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: the parity report cannot be read ({error}).",
            hint="Convert the checkpoint again; a card states the proof.",
        ) from error
    return render_card(record, report, settings.template)


def render_artefact_card(folder: Path, settings: Settings, *, write: bool = False) -> str:
    """Render the card of an artefact again, with the license and languages of ``settings``.

    Args:
        folder: an artefact that ``convert`` made.
        settings: license, language and card_template; what is not set keeps what the record says.
        write: replace README.md, and keep license and languages in the record.

    Returns:
        The text of README.md.

    Raises:
        UsageError: ``folder`` is no artefact, or the card cannot be rendered.
    """
    record = read_record(folder)
    if settings.license != Settings.license:
        record["license"] = settings.license
    record["languages"] = list(settings.languages) or record["languages"]
    text = card_for(folder, record, settings)
    if write:
        write_atomically(folder / RECORD_FILE, dump_json(record))
        write_atomically(folder / CARD_FILE, text)
    return text


def require_unchanged(
    folder: Path, record: Mapping[str, Any], most_bytes: int | None = None
) -> None:
    """Raise unless every file of an artefact is the one that was proven.

    Args:
        folder: the artefact.
        record: its record.
        most_bytes: larger files need only be there; None to look into every file.

    Raises:
        ParityError: the artefact was never proven, or a file changed since.
    """
    if not record.get("parity", {}).get("passed"):
        raise ParityError(
            f"{folder}: was never proven equal to its original.",
            hint="Make an artefact with: slogpt-hf convert-model DATASET MODEL OUTPUT",
        )
    found, proven = artefact_files(folder), record["files"]
    changed = sorted(
        name
        for name in (found.keys() | proven.keys()).difference(UNHASHED)
        if name not in found
        or name not in proven
        or (
            (most_bytes is None or found[name].stat().st_size <= most_bytes)
            and sha256_of(found[name]) != proven[name]
        )
    )
    if changed:
        raise ParityError(
            f"{folder}: {', '.join(changed)} changed since the artefact was proven.",
            hint="Convert the checkpoint again; what is published is what was proven.",
        )


def open_checkpoint(path: Path, settings: Settings) -> Checkpoint:
    """Read a checkpoint with the fields and the base that the settings name."""
    return read_checkpoint(path, settings.given, settings.base_path)


def tokenizer_for(checkpoint: Checkpoint, settings: Settings) -> TokenizerChoice:
    """The tokenizer that the settings choose for a checkpoint."""
    return choose_tokenizer(
        checkpoint,
        dataset=settings.dataset,
        tokenizer=settings.tokenizer,
        unknown=settings.unknown,
        allow_spare_ids=settings.allow_spare_ids,
    )


def today() -> str:
    """The date of a release, UTC, ``YYYY-MM-DD``."""
    return datetime.now(UTC).strftime("%Y-%m-%d")


def hash_checkpoint(checkpoint: Checkpoint, progress: Progress) -> str:
    """SHA-256 of the file that was opened as ``checkpoint``, with progress.

    Of several files (a folder, an adapter and its base) it is the SHA-256 of their digests in
    order, 64 hex digits and a newline each.

    Raises:
        CheckpointError: a file changed since.
    """
    checkpoint.require_unchanged()
    files = checkpoint.files
    with progress.stage("hash", sum(file.stat().st_size for file in files)) as advance:
        digests = [sha256_of(file, advance) for file in files]
    checkpoint.require_unchanged()
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(f"{digest}\n" for digest in digests).encode()).hexdigest()


def identity_of(
    checkpoint_sha256: str, checkpoint: Checkpoint, choice: TokenizerChoice, settings: Settings
) -> str:
    """The identity of the release that these settings make of a checkpoint.

    What shapes the artefact counts, however it was asked for: the dtype, how many tensors each
    weights file takes, the tokenizer's content, fields given by hand, and the code that it ships.
    """
    conversion = plan_conversion(checkpoint, settings.dtype)
    shapes = conversion.plan.target_shapes(checkpoint.tensors.shapes)
    shards = shards_for(shapes, conversion.dtype, settings.max_shard_bytes)
    shape: dict[str, Any] = {
        "dtype": conversion.dtype,
        "shards": [len(shard.n_bytes) for shard in shards],
    }
    if checkpoint.given:
        shape["set"] = dict(checkpoint.given)
    if code := conversion.target.modeling_file:
        shape["code"] = sha256_of(Path(slogpt_hf.conversion.__file__).with_name(code))
    return identity(checkpoint_sha256, shape | {"tokenizer": choice.fingerprint})


def _require_reference(settings: Settings) -> None:
    if settings.reference is not None:
        split_reference(settings.reference)


def _not_proven(path: Path, report: ParityReport, kept: Path) -> SloGPTError:
    try:
        write_atomically(kept, dump_json(report.to_dict()))
        hint = f"The whole report is in {kept}."
    except UsageError as error:  # the verdict counts, and its exit code
        hint = f"The report could not be kept: {error}"
    if report.verdict == "invalid":
        return GateInvalidError(
            f"{path}: the converted model is not proven, since the gate is invalid: "
            f"{report.reason} Nothing was published.",
            hint=f"Please report this as a bug of slogpt-hf. {hint}",
        )
    return ParityError(
        f"{path}: the converted model is NOT equal to the original; {report.reason} "
        "Nothing was published.",
        hint=hint,
    )


def _write_report(folder: Path, report: ParityReport) -> None:
    from slogpt_hf.parity.picture import PALETTES, draw

    content = report.to_dict()
    (folder / REPORT_FILE).write_text(dump_json(content), encoding="utf-8")
    for theme, name in PICTURES.items():
        (folder / name).write_bytes(draw(content, PALETTES[theme]))
