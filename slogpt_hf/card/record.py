"""``release.json``: the facts of a release, from which the card and the ledger come.

A record is plain JSON. ``docs/release-json.md`` lists its fields.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

from slogpt_hf.errors import CheckpointError, UsageError
from slogpt_hf.files import sha256_of

RECORD_FILE, REPORT_FILE, CARD_FILE = "release.json", "parity.json", "README.md"
PICTURES = {"light": "parity.png", "dark": "parity-dark.png"}
SCHEMA = 1
LEDGER_FIELDS = ("version", "tag", "identity", "date", "source", "model", "parity")
# Of the checkpoint a ledger keeps what tells one from another; the rest is in its own release.
LEDGER_CHECKPOINT = ("file", "sha256", "dialect", "dtype", "step", "val_loss")
# Of the proof a ledger leaves out what is long; the level says whether there is any.
LEDGER_NOT_PARITY = ("assumptions",)
UNHASHED = (RECORD_FILE, CARD_FILE)  # written last, from the record itself
Record = dict[str, Any]


def identity(checkpoint_sha256: str, settings: Mapping[str, Any]) -> str:
    """What makes two releases the same: the checkpoint and the settings that shape the artefact.

    Returns:
        SHA-256 as 64 hex digits.
    """
    content = {"checkpoint": checkpoint_sha256, "settings": dict(settings)}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def is_record(content: Any) -> bool:
    """Whether ``content`` is what this version writes into a ``release.json``."""
    sections = ("checkpoint", "source", "model", "tokenizer", "parity", "files")
    return (
        isinstance(content, dict)
        and content.get("schema") == SCHEMA
        and all(isinstance(content.get(name), str) for name in ("identity", "date"))
        and all(isinstance(content.get(name), dict) for name in sections)
        and isinstance(content["model"].get("spec"), dict)
        and all(isinstance(digest, str) for digest in content["files"].values())
        and isinstance(content.get("previous"), list)
    )


def has_tokenizer_in(record: Mapping[str, Any]) -> bool:
    """Whether a record, of whatever origin, tells of a tokenizer."""
    tokenizer = record.get("tokenizer")
    return isinstance(tokenizer, dict) and tokenizer.get("kind") != "none"


def is_artefact(path: Path) -> bool:
    """Whether a folder with a record lies at ``path``."""
    try:
        return (path / RECORD_FILE).is_file()
    except OSError:
        return False


def artefact_files(folder: Path) -> dict[str, Path]:
    """Path in the artefact to file, sorted."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path for path in paths}


def hash_files(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of an artefact but the record and the card."""
    files = {name: p for name, p in artefact_files(folder).items() if name not in UNHASHED}
    with ThreadPoolExecutor(2, "digest") as hasher:
        return dict(zip(files, hasher.map(sha256_of, files.values()), strict=True))


def read_record(folder: Path) -> Record:
    """Read the record of an artefact.

    Raises:
        UsageError: ``folder`` holds none.
        CheckpointError: it is not one.
    """
    path = folder / RECORD_FILE
    try:
        record = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise UsageError(
            f"{folder}: holds no {RECORD_FILE}, so it is not a proven artefact.",
            hint="Make one with: slogpt-hf convert-model DATASET MODEL OUTPUT",
        ) from error
    except (ValueError, OSError) as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error}).", hint="Convert the checkpoint again."
        ) from error
    if isinstance(record, dict) and record.get("kind") == "dataset":
        raise CheckpointError(
            f"{path}: is the record of a dataset, not of a model.",
            hint="Publish a dataset with: slogpt-hf push-dataset FOLDER",
        )
    if not is_record(record) or not all(
        name in record[section] for section, name in (("checkpoint", "step"), ("source", "branch"))
    ):
        raise CheckpointError(
            f"{path}: is not a release record of schema {SCHEMA}.",
            hint="Convert the checkpoint again with this version.",
        )
    return cast(Record, record)


def dump_json(content: Any) -> str:
    """JSON as every file of an artefact has it."""
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
