"""``release.json`` of a dataset: what it was made of, what it holds, what was shown."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slogpt_hf.card.ledger import is_release
from slogpt_hf.card.record import RECORD_FILE, SCHEMA, Record
from slogpt_hf.datasets.ids import N_BYTES, TRAIN, VALIDATION
from slogpt_hf.errors import CheckpointError, UsageError

KIND = "dataset"
FORMAT = 1  # of the parquet files; another one makes another dataset of the same ids
SECTIONS = ("source", "data", "tokenizer", "proof", "files")
SHA256 = re.compile(r"[0-9a-f]{64}")
ID_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}\.bin", re.ASCII)
SHARD = re.compile(r"(?:train|validation)-\d{5,9}-of-\d{5,9}\.parquet", re.ASCII)
LEDGER_FIELDS = ("kind", "version", "tag", "identity", "date", "tokenizer")
LEDGER_DATA = ("dtype", "block_size", "vocab_size")
LEDGER_FILE = ("file", "split", "n_ids", "sha256")
SPLITS = (TRAIN, VALIDATION)
LARGEST = 2**53


def identity_of(data: Mapping[str, Any], fingerprint: Mapping[str, Any]) -> str:
    """What makes two datasets the same: the ids, their blocks and their tokenizer.

    Returns:
        SHA-256 as 64 hex digits.
    """
    files = [{name: file[name] for name in ("file", "split", "sha256")} for file in data["files"]]
    content = {
        "format": FORMAT,
        "files": files,
        "dtype": data["dtype"],
        "block_size": data["block_size"],
        "tokenizer": dict(fingerprint),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def is_dataset_record(content: Any) -> bool:
    """Whether ``content`` is what this version writes into the ``release.json`` of a dataset."""
    return (
        isinstance(content, dict)
        and content.get("schema") == SCHEMA
        and content.get("kind") == KIND
        and all(isinstance(content.get(name), str) for name in ("identity", "date", "name"))
        and all(isinstance(content.get(name), dict) for name in SECTIONS)
        and all(isinstance(digest, str) for digest in content["files"].values())
        and isinstance(content.get("previous"), list)
        and isinstance(content.get("languages"), list)
        and _is_data(content["data"])
    )


def read_dataset_record(folder: Path) -> Record:
    """Read the record of a dataset that ``slogpt-hf convert`` wrote.

    Raises:
        UsageError: ``folder`` holds none.
        CheckpointError: it is not one.
    """
    path = folder / RECORD_FILE
    try:
        content = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(
            f"{folder}: holds no {RECORD_FILE}, so slogpt-hf did not make this dataset.",
            hint="Make one with: slogpt-hf convert DATASET OUTPUT",
        ) from error
    except (ValueError, OSError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error}).", hint="Convert the dataset again."
        ) from error
    if not is_dataset_record(content):
        what = "a model's" if isinstance(content, dict) and "model" in content else "no dataset's"
        raise CheckpointError(
            f"{path}: is {what} record of schema {SCHEMA}, not that of a dataset.",
            hint="Name what slogpt-hf convert wrote; a model is published with slogpt-hf push.",
        )
    record: Record = content
    return record


def published_dataset(content: Any) -> Record | None:
    """What the ``release.json`` of a dataset on a hub says.

    Args:
        content: of the file, parsed.

    Returns:
        None if slogpt-hf did not write it, or not for a release. What its ledger has that is no
        release is left out.
    """
    if not is_dataset_record(content) or not is_dataset_entry(content):
        return None
    previous = list(filter(is_dataset_entry, content["previous"]))
    record: Record = content | {"previous": previous}
    return record


def is_dataset_entry(content: Any) -> bool:
    """Whether ``content`` says of a release of a dataset what a ledger needs to know."""
    return (
        isinstance(content, dict)
        and content.get("kind") == KIND
        and is_release(content)
        and isinstance(content.get("data"), dict)
        and _is_data(content["data"])
        and isinstance(content.get("tokenizer"), dict)
    )


def dataset_ledger(record: Mapping[str, Any] | None, commit: str | None = None) -> list[Record]:
    """Every release that a dataset's record knows of: its own first, then the older ones.

    Args:
        record: content of a ``release.json``.
        commit: of the release that it is about; None if it is not known.
    """
    if record is None:
        return []
    known = record["data"]
    files = [{name: file[name] for name in LEDGER_FILE} | {"shards": []} for file in known["files"]]
    data = {name: known.get(name) for name in LEDGER_DATA} | {"files": files}
    own = {name: record.get(name) for name in LEDGER_FIELDS} | {"data": data, "commit": commit}
    return [own, *record["previous"]]


def _is_data(data: Mapping[str, Any]) -> bool:
    """Whether the files of ids are named so that they can be made again, and nowhere else."""
    files = data.get("files")
    if data.get("dtype") not in N_BYTES or not isinstance(files, list) or not files:
        return False
    if not _is_count(data.get("block_size")) or not _is_count(data.get("vocab_size") or 0):
        return False
    if not all(isinstance(file, dict) and _is_file(file) for file in files):
        return False
    return len({file["file"] for file in files}) == len(files)


def _is_file(file: Mapping[str, Any]) -> bool:
    texts, shards = (file.get("file"), file.get("sha256")), file.get("shards")
    return (
        all(
            isinstance(text, str) and pattern.fullmatch(text) is not None
            for text, pattern in zip(texts, (ID_FILE, SHA256), strict=True)
        )
        and file.get("split") in SPLITS
        and _is_count(file.get("n_ids"))
        and isinstance(shards, list)
        and all(isinstance(shard, str) and SHARD.fullmatch(shard) for shard in shards)
    )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < LARGEST
