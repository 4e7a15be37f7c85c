"""What a release says of itself: the content of ``release.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from slogpt_hf.card import generate_sample
from slogpt_hf.card.facts import profile_rows, remote_url, setting_rows, without_folders
from slogpt_hf.card.record import SCHEMA, Record
from slogpt_hf.checkpoints import Checkpoint, read_checkpoint
from slogpt_hf.checkpoints.fields import readable
from slogpt_hf.conversion import Artefact
from slogpt_hf.errors import UsageError
from slogpt_hf.libraries import loads
from slogpt_hf.parity import ParityReport
from slogpt_hf.parity.stated import told
from slogpt_hf.settings import Settings
from slogpt_hf.tokenizers import TokenizerChoice
from slogpt_hf.version import __version__
from slogpt_hf.watch import Provenance

VERDICT_FIELDS = (
    "passed",
    "fp64_error",
    "fp64_bound",
    "fp32_error",
    "fp32_bound",
    "fp32_noise",
    "merge_error",
)
# Of reports since schema 2.
FURTHER_FIELDS = ("verdict", "shaken_error", "caught")
# Of reports since schema 3, beside the assumptions.
LEVEL_FIELDS = ("level", "family")


def record_of(
    checkpoint: Checkpoint,
    artefact: Artefact,
    choice: TokenizerChoice,
    report: ParityReport,
    settings: Settings,
    *,
    checkpoint_sha256: str,
    identity: str,
    date: str,
    source: Provenance,
    files: Mapping[str, str],
    more_notes: Sequence[str] = (),
) -> Record:
    """The record of an artefact that is proven and whole but for the record and the card.

    Args:
        checkpoint: the original.
        artefact: what became of it.
        choice: its tokenizer.
        report: the proof.
        settings: repository, license and languages.
        checkpoint_sha256: of the checkpoint.
        identity: what makes two releases the same.
        date: ``YYYY-MM-DD``.
        source: where the checkpoint comes from.
        files: path in the artefact to the SHA-256 that the file had when it was written.
        more_notes: sentences for the card beside those that the checkpoint itself gives.
    """
    verdict = report.to_dict()
    tokenizer = choice.facts(artefact.folder)
    if named := tokenizer.get("source"):
        tokenizer["source"] = _public_source(named)
    return {
        "schema": SCHEMA,
        "tool": f"slogpt-hf {__version__}",
        "date": date,
        "identity": identity,
        "repo_id": settings.repo_id,
        "version": None,
        "tag": None,
        "checkpoint": _checkpoint_section(checkpoint, checkpoint_sha256, more_notes),
        "source": asdict(replace(source, remote=remote_url(source))),
        "model": _model_section(checkpoint, artefact, choice),
        "tokenizer": tokenizer,
        "parity": {
            **{name: verdict[name] for name in (*VERDICT_FIELDS, *FURTHER_FIELDS, *LEVEL_FIELDS)},
            "assumptions": [told(assumption) for assumption in report.assumptions],
            "oracle": report.oracle,
        },
        "versions": {"proven": dict(report.versions), "loads": loads(artefact.remote_code)},
        "license": settings.license,
        "languages": list(settings.languages),
        "sample": generate_sample(artefact.folder),
        "files": dict(files),
        "previous": [],
    }


def _model_section(
    checkpoint: Checkpoint, artefact: Artefact, choice: TokenizerChoice
) -> dict[str, Any]:
    """What the record says of the artefact's model."""
    return {
        "target_class": artefact.target_class,
        "remote_code": artefact.remote_code,
        "dtype": artefact.dtype,
        "n_parameters": artefact.n_parameters,
        "linear": list(artefact.linear),
        "spec": checkpoint.spec.to_dict(),
        "tokenizer_sha256": choice.interface(artefact.folder),
    }


def _checkpoint_section(
    checkpoint: Checkpoint, sha256: str, more_notes: Sequence[str]
) -> dict[str, Any]:
    """What the record says of the checkpoint itself."""
    facts = checkpoint.facts
    return {
        "file": readable(checkpoint.path.name),
        "sha256": sha256,
        "container": checkpoint.container,
        "dialect": checkpoint.dialect,
        "dtype": checkpoint.dtype,
        "step": facts.step,
        "val_loss": facts.val_loss,
        "dataset": without_folders(facts.dataset) if facts.dataset else None,
        "settings": dict(setting_rows(facts.settings)),
        "profile": dict(profile_rows(facts.profile)),
        "set": dict(checkpoint.given),
        "quantisation": checkpoint.quantisation and asdict(checkpoint.quantisation),
        "notes": [
            *checkpoint.notes,
            *_quantisation_notes(checkpoint),
            *_file_notes(checkpoint),
            *more_notes,
        ],
    }


def _public_source(source: str) -> str:
    """A Hub repository as it is; of what lies on this machine only the last part."""
    path = Path(source)
    return path.absolute().name if path.exists() else without_folders(source)


def _quantisation_notes(checkpoint: Checkpoint) -> tuple[str, ...]:
    if (found := checkpoint.quantisation) is None:
        return ()
    return (
        f"The checkpoint is quantised ({found.kind}, groups of {found.group_size} values) and was "
        "dequantised as value x scale in float32: the proof is against the quantised weights. By "
        f"rounding to the nearest, a weight is at most {found.max_error:.2e} from the unquantised "
        "one.",
    )


def _file_notes(checkpoint: Checkpoint) -> tuple[str, ...]:
    if len(checkpoint.files) == 1:
        return ()
    return (
        f"The checkpoint is {len(checkpoint.files)} files; its SHA-256 is that of their digests.",
    )


def original_notes(checkpoint: Checkpoint, settings: Settings) -> tuple[str, ...]:
    """How far a quantised checkpoint is from the original that ``unquantised`` names.

    Raises:
        UsageError: the checkpoint is not quantised, or that original is another model.
        CheckpointError: the original cannot be read.
    """
    if settings.unquantised is None:
        return ()
    from slogpt_hf.parity.difference import difference

    path = Path(settings.unquantised)
    if checkpoint.quantisation is None:
        raise UsageError(
            f"--unquantised {path}: but {checkpoint.path} is not quantised.",
            hint="Leave it out.",
        )
    found = difference(checkpoint, read_checkpoint(path, settings.given))
    return (
        f"Measured against the unquantised {readable(path.name)}: a weight differs by at most "
        f"{found.weight:.2e}, a logit by at most {found.logit:.2e} (largest logit "
        f"{found.max_logit:.2e}).",
    )
