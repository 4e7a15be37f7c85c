"""From a checkpoint to a proven artefact: convert, verify, card."""

from __future__ import annotations

import hashlib
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
    Record,
    dump_json,
    hash_files,
    identity,
    read_record,
)
from slogpt_hf.checkpoints import Checkpoint, Spec, read_checkpoint
from slogpt_hf.checkpoints.unknown import require_known, witness_in_sight
from slogpt_hf.conversion import Conversion, plan_conversion, write_model
from slogpt_hf.conversion.safetensors_layout import shards_for
from slogpt_hf.errors import (
    CheckpointError,
    GateInvalidError,
    ParityError,
    SloGPTError,
    UsageError,
)
from slogpt_hf.files import sha256_of, staged_folder, write_atomically
from slogpt_hf.libraries import require_proving
from slogpt_hf.parity import ParityReport
from slogpt_hf.parity.claims import NOT_EQUAL
from slogpt_hf.parity.reference_name import require_reference
from slogpt_hf.progress import SILENT, Progress, human_bytes
from slogpt_hf.proof import verified
from slogpt_hf.publishable import require_as_written, require_level
from slogpt_hf.recording import original_notes, record_of
from slogpt_hf.settings import Settings
from slogpt_hf.tokenizers import TokenizerChoice, choose_tokenizer
from slogpt_hf.watch import Provenance, provenance_of
from slogpt_hf.watch.event import Event

EARLIER_ACTIVATIONS = {"plain": "gelu", "gated": "silu"}  # of every MLP, before it was a fact


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
        ParityError: the artefact is not equal to the original, or the proof rests on less than
            ``require_witness`` asks for; ``output`` is not made.
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
    require_proving("verify")
    checkpoint = open_checkpoint(checkpoint_path, settings)
    require_reference(settings.reference)
    try:
        choice = tokenizer_for(checkpoint, settings)
    except (UsageError, CheckpointError):
        if settings.dataset or settings.tokenizer:
            raise
        choice = TokenizerChoice()  # without a dataset the ids decide alone
    report = verified(checkpoint, artefact, choice, settings, progress, trust_remote_code)
    if report.passed and report.level != "witnessed":
        require_known(checkpoint, _unsettled(report, checkpoint))
    return report


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
        ParityError: the model or its tokenizer is not equal to the original, a file changed while
            it was proven, or the proof rests on less than ``require_witness`` asks for.
        GateInvalidError: the proof would not have caught a fault.
    """
    require_proving(f"{checkpoint.path}: proving a model")
    checkpoint.require_unchanged()
    conversion = plan_conversion(checkpoint, settings.dtype, choice.special)
    # Before anything takes long.
    require_reference(settings.reference)
    if not witness_in_sight(checkpoint, settings.reference):
        require_known(checkpoint)
    original = original_notes(checkpoint, settings)
    progress.line(f"    plan: {_planned(checkpoint, conversion)}")
    with progress.stage("convert", conversion.n_bytes) as advance:
        artefact = write_model(
            checkpoint,
            conversion,
            folder,
            max_shard_bytes=settings.max_shard_bytes,
            advance=advance,
        )
    choice.write(folder, checkpoint)
    # Before the proof, which may run the training repository's code; the record holds these.
    written = hash_files(folder)
    report = verified(checkpoint, folder, choice, settings, progress)
    require_as_written(folder, written, checkpoint.path)
    progress.line(f"   proof: {report.summary()}")
    _require_proven(checkpoint, report, settings)
    written |= _write_report(folder, report)
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
        files=written,
        more_notes=original,
    )
    (folder / RECORD_FILE).write_text(dump_json(record), encoding="utf-8")
    (folder / CARD_FILE).write_text(card_for(folder, record, settings), encoding="utf-8")
    return record


def _planned(checkpoint: Checkpoint, conversion: Conversion) -> str:
    """What becomes of a checkpoint, in words."""
    merges = len(conversion.plan.merges)
    merged = f", {merges} adapters merged" if merges else ""
    return (
        f"{checkpoint.dialect} checkpoint, {checkpoint.n_parameters:,} parameters{merged} -> "
        f"{conversion.target.class_name}, {conversion.dtype}, {human_bytes(conversion.n_bytes)}"
    )


def _require_proven(checkpoint: Checkpoint, report: ParityReport, settings: Settings) -> None:
    """Raise unless the proof passed, could have failed, and rests on enough.

    Raises:
        CheckpointError: the checkpoint records what is unknown, and no witness settles it.
        ParityError: it is not equal, or proven on less than ``require_witness`` asks for.
        GateInvalidError: the proof would not have caught a fault.
    """
    if report.passed and report.level != "witnessed":
        require_known(checkpoint, _unsettled(report, checkpoint))
    if report.passed and not report.caught:
        raise GateInvalidError(
            f"{checkpoint.path}: the converted model is not proven: no fault could be planted.",
            hint="Please report this as a bug of slogpt-hf. Nothing was published.",
        )
    if not report.passed:
        raise _not_proven(checkpoint.path, report, settings)
    try:
        require_level(report, settings.require_witness, checkpoint.path, _heard(report))
    except ParityError as error:
        raise ParityError(error.message, hint=f"{error.hint} {_keep(report, settings)}") from None


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
        special=settings.special_roles,
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
    weights file takes, the tokenizer's content, fields given by hand, the code that it ships, and
    what of the function earlier versions did not know: what they released as another function is
    not released yet.
    """
    conversion = plan_conversion(checkpoint, settings.dtype, choice.special)
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
    if function := _beyond_earlier(checkpoint.spec):
        shape["function"] = function
    return identity(checkpoint_sha256, shape | {"tokenizer": choice.fingerprint})


def _beyond_earlier(spec: Spec) -> dict[str, Any]:
    """What a function has that earlier versions took for something else."""
    earlier = {
        "activation": EARLIER_ACTIVATIONS[spec.mlp],
        "attention_multiplier": None,
        "embedding_multiplier": 1.0,
        "residual_multiplier": 1.0,
        "logit_multiplier": 1.0,
    }
    facts = spec.to_dict()
    return {name: facts[name] for name, value in earlier.items() if facts[name] != value}


def _heard(report: ParityReport) -> str:
    """What witnesses were heard, or why none was, for a message."""
    return "; ".join(filter(None, (report.witness_note.rstrip("."), *report.notes)))


def _unsettled(report: ParityReport, checkpoint: Checkpoint) -> list[str]:
    """Why what was heard does not settle the recorded entries that are not known here."""
    from slogpt_hf.parity.oracles import notes_of

    said = (report.witness_note.rstrip("."), *notes_of(report.witnesses, checkpoint.spec))
    return [each for each in said if each]


def _keep(report: ParityReport, settings: Settings) -> str:
    """Keep a report of what is not published; a sentence that says where it is."""
    path = Path(settings.report)
    try:
        write_atomically(path, dump_json(report.to_dict()))
    except UsageError as error:  # the verdict counts, and its exit code
        return f"The report could not be kept: {error}"
    return f"The whole report is in {path}."


def _not_proven(path: Path, report: ParityReport, settings: Settings) -> SloGPTError:
    hint = _keep(report, settings)
    if report.verdict == "invalid":
        return GateInvalidError(
            f"{path}: the converted model is not proven, since the gate is invalid: "
            f"{report.reason} Nothing was published.",
            hint=f"Please report this as a bug of slogpt-hf. {hint}",
        )
    return ParityError(
        f"{path}: the converted model is {NOT_EQUAL}; {report.reason} Nothing was published.",
        hint=hint,
    )


def _write_report(folder: Path, report: ParityReport) -> dict[str, str]:
    """Write the report and its pictures; path in the artefact to SHA-256."""
    from slogpt_hf.parity.picture import PALETTES, draw

    content = report.to_dict()
    files = {REPORT_FILE: dump_json(content).encode()}
    files |= {name: draw(content, PALETTES[theme]) for theme, name in PICTURES.items()}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
