"""The way back: the trainer's files of the parquet files, with the very same bytes."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

from slogpt_hf.card.record import Record
from slogpt_hf.datasets.ids import file_bytes
from slogpt_hf.datasets.vocabulary import Vocabulary
from slogpt_hf.errors import CheckpointError, ParityError
from slogpt_hf.files import sha256_of
from slogpt_hf.parquet.reading import AGAIN, read_tokens
from slogpt_hf.parquet.shards import TOKENS

VOCABULARY_FILE = "vocab.json"
CHARACTERS = "characters"


def needed_files(record: Record) -> list[str]:
    """Paths of what the way back reads besides the record."""
    shards = [f"{TOKENS}/{shard}" for file in record["data"]["files"] for shard in file["shards"]]
    return [*shards, *([VOCABULARY_FILE] if _has_characters(record) else [])]


def write_back(
    folder: Path, record: Record, output: Path, advance: Callable[[int], None]
) -> list[str]:
    """Write the files of ids that a dataset was made of, and ``meta.pkl`` where it had one.

    Args:
        folder: the dataset, as ``slogpt-hf convert`` wrote it.
        record: its record, which ``read_dataset_record`` found sound.
        output: folder that is there.
        advance: told the ids that were written since its last call.

    Returns:
        Names of the files.

    Raises:
        CheckpointError: a parquet file or the vocabulary is missing or cannot be read.
        ParityError: a file does not get the bytes that it had, or the vocabulary changed.
    """
    names = []
    for file in record["data"]["files"]:
        digest, left = hashlib.sha256(), file["n_ids"]
        with (output / file["file"]).open("wb") as target:
            for shard in file["shards"]:
                for ids in read_tokens(folder / TOKENS / shard, record["data"]["dtype"]):
                    if (left := left - len(ids)) < 0:
                        break
                    data = file_bytes(ids)
                    digest.update(data)
                    target.write(data)
                    advance(len(ids))
        if left or digest.hexdigest() != file["sha256"]:
            raise ParityError(
                f"{folder}: its parquet files do not make the {file['file']} that the record says.",
                hint=AGAIN,
            )
        names.append(file["file"])
    if _has_characters(record):
        _require_recorded(folder, record)
        (output / "meta.pkl").write_bytes(meta_of(read_vocabulary(folder)))
        names.append("meta.pkl")
    return names


def _require_recorded(folder: Path, record: Record) -> None:
    path = folder / VOCABULARY_FILE
    if path.is_file() and sha256_of(path) != record["files"].get(VOCABULARY_FILE):
        raise ParityError(f"{path}: is not the vocabulary that the record says.", hint=AGAIN)


def read_vocabulary(folder: Path) -> Vocabulary:
    """The vocabulary in a dataset's ``vocab.json``.

    Raises:
        CheckpointError: there is none that can be read.
    """
    path = folder / VOCABULARY_FILE
    try:
        stoi: Any = json.loads(path.read_text("utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}).", hint=AGAIN) from error
    return Vocabulary.from_tables(None, stoi, None, str(path))


def meta_of(vocabulary: Vocabulary) -> bytes:
    """A ``meta.pkl`` as nanoGPT's prepare scripts write it."""
    itos = dict(enumerate(vocabulary.characters))
    return pickle.dumps({"vocab_size": vocabulary.size, "itos": itos, "stoi": vocabulary.ids})


def _has_characters(record: Record) -> bool:
    return bool(record["tokenizer"].get("kind") == CHARACTERS)
