"""A trainer's dataset to a Hub dataset, proven by the way back, and that way."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from slogpt_hf.build import today
from slogpt_hf.card.facts import remote_url
from slogpt_hf.card.record import CARD_FILE, RECORD_FILE, SCHEMA, Record, dump_json, hash_files
from slogpt_hf.datasets.ids import MOST_OF_UINT16, IdFile, find_id_files, require_looks_like
from slogpt_hf.files import staged_folder, write_files
from slogpt_hf.parquet.back import write_back
from slogpt_hf.parquet.card import render_dataset_card
from slogpt_hf.parquet.choice import IdVocabulary, vocabulary_of
from slogpt_hf.parquet.proof import compare_rows, prove_text, prove_tokens
from slogpt_hf.parquet.record import KIND, identity_of, read_dataset_record
from slogpt_hf.parquet.rows import Rule, rule_for
from slogpt_hf.parquet.shards import (
    MOST_SHARD_IDS,
    TEXT,
    TOKENS,
    Shard,
    Written,
    planned_shards,
    write_text,
    write_tokens,
)
from slogpt_hf.parquet.spelling import require_pyarrow
from slogpt_hf.progress import SILENT, Progress
from slogpt_hf.settings import Settings
from slogpt_hf.version import __version__
from slogpt_hf.watch import provenance_of
from slogpt_hf.watch.event import Event

BLOCK_SIZE = 1024  # nanoGPT's default context
WORKERS = 2  # one for ids, one for text; each more takes memory of its own
Advance = Callable[[int], None]


@dataclass(frozen=True)
class Parts:
    """What is written: a configuration's parquet file of a shard, and what it has."""

    config: str
    shard: Shard
    written: Written


def convert_dataset(
    dataset: str,
    output: Path,
    settings: Settings,
    progress: Progress = SILENT,
    *,
    block_size: int = BLOCK_SIZE,
    id_type: str | None = None,
    event: Event | None = None,
    most_shard_ids: int = MOST_SHARD_IDS,
) -> Record:
    """Convert a dataset into a folder for the Hub, and read back what was written.

    Args:
        dataset: a name below ``datasets/`` or ``data/``, or a folder.
        output: folder that must not exist.
        settings: ``tokenizer``, ``license`` and ``language`` count.
        progress: told what happens.
        block_size: ids of a row of ``tokens``.
        id_type: ``uint16`` or ``uint32``; None for uint16 unless the vocabulary has more ids.
        event: of the CI at hand.
        most_shard_ids: ids of a parquet file.

    Returns:
        The dataset's ``release.json``.

    Raises:
        UsageError: no such dataset, no vocabulary, or the output cannot be written.
        CheckpointError: a file of ids or the vocabulary cannot be read, or do not fit.
        ParityError: what was written does not give the original back.
    """
    require_pyarrow()
    files, vocabulary = _opened(dataset, settings, block_size, id_type)
    shards = planned_shards(files, block_size, most_shard_ids)
    rules = {file: _rule(file, vocabulary) for file in files}
    with staged_folder(output) as work:
        write_files(work, vocabulary.files)
        parts, digests = _written(work, shards, rules, vocabulary, block_size, progress)
        proof, data = _proven(digests, shards, rules, vocabulary)
        data |= {"block_size": block_size, "vocab_size": vocabulary.size}
        data |= {"configs": _configs(work, parts), **_seen(parts, vocabulary)}
        record = _record(work, files, vocabulary, proof, data, settings, event)
        card = render_dataset_card(record)
        write_files(work, {RECORD_FILE: dump_json(record).encode(), CARD_FILE: card.encode()})
    return record


def _record(
    work: Path,
    files: Sequence[IdFile],
    vocabulary: IdVocabulary,
    proof: dict[str, Any],
    data: dict[str, Any],
    settings: Settings,
    event: Event | None,
) -> Record:
    """The dataset's ``release.json``, which has no version yet."""
    source = provenance_of(files[0].path, [file.path for file in files], event)
    return {
        "schema": SCHEMA,
        "kind": KIND,
        "tool": f"slogpt-hf {__version__}",
        "date": today(),
        "identity": identity_of(data, vocabulary.fingerprint),
        "name": files[0].path.absolute().parent.name,
        "repo_id": settings.repo_id,
        "version": None,
        "tag": None,
        "source": asdict(replace(source, remote=remote_url(source))),
        "data": data,
        "tokenizer": _tokenizer(vocabulary),
        "proof": proof,
        "license": settings.license,
        "languages": list(settings.languages),
        "files": hash_files(work),
        "previous": [],
    }


def convert_back(folder: Path, output: Path, progress: Progress = SILENT) -> list[str]:
    """Write the trainer's files of a dataset that ``convert_dataset`` made, byte for byte.

    Returns:
        Names of the files.

    Raises:
        UsageError: ``folder`` is no such dataset, or the output cannot be written.
        CheckpointError: the dataset cannot be read.
        ParityError: a file does not get the bytes that it had.
    """
    require_pyarrow()
    record = read_dataset_record(folder)
    n_ids = sum(file["n_ids"] for file in record["data"]["files"])
    with staged_folder(output) as work, progress.stage("back", n_ids, "ids") as advance:
        return write_back(folder, record, work, advance)


def _opened(
    dataset: str, settings: Settings, block_size: int, id_type: str | None
) -> tuple[tuple[IdFile, ...], IdVocabulary]:
    """The files of ids, each knowing how many ids there are, and what these mean."""
    files = find_id_files(dataset, Path(), id_type or "uint16")
    vocabulary = vocabulary_of(files, settings.tokenizer, block_size)
    if id_type is None:
        if (vocabulary.size or 0) > MOST_OF_UINT16:
            files = find_id_files(dataset, Path(), "uint32")
        for file in files:
            require_looks_like(file, "--id-type")
    return tuple(replace(file, size=vocabulary.size) for file in files), vocabulary


def _rule(file: IdFile, vocabulary: IdVocabulary) -> Rule | None:
    spelling = vocabulary.spelling
    return rule_for(file, spelling, spelling.most_ids) if spelling else None


def _written(
    work: Path,
    shards: Sequence[Shard],
    rules: dict[IdFile, Rule | None],
    vocabulary: IdVocabulary,
    block_size: int,
    progress: Progress,
) -> tuple[list[Parts], dict[IdFile, tuple[str, str | None]]]:
    """Write every parquet file and read it back.

    Returns:
        What was written, and of each file of ids the SHA-256 of it and of its text.
    """
    configs = [TOKENS, *([TEXT] if all(rules.values()) else [])]
    for config in configs:
        (work / config).mkdir()
    shards_of = {file: [shard for shard in shards if shard.file == file] for file in rules}

    def write_ids(file: IdFile, advance: Advance) -> tuple[list[Parts], str]:
        digest = hashlib.sha256()  # of one shard after the other
        parts = [
            Parts(
                TOKENS, shard, write_tokens(shard, path(TOKENS, shard), block_size, digest, advance)
            )
            for shard in shards_of[file]
        ]
        return parts, digest.hexdigest()

    def write_rows(file: IdFile, rule: Rule, advance: Advance) -> list[Parts]:
        return [
            Parts(TEXT, shard, write_text(shard, path(TEXT, shard), rule, advance))
            for shard in shards_of[file]
        ]

    def prove_ids(shard: Shard, after: Future[Any], advance: Advance) -> None:
        after.result()
        prove_tokens(shard, path(TOKENS, shard), advance)

    def prove_rows(file: IdFile, rule: Rule, after: Future[Any], advance: Advance) -> str:
        after.result()
        paths = [path(TEXT, shard) for shard in shards_of[file]]
        return prove_text(shards_of[file], paths, rule, vocabulary.vocabulary, advance)

    def path(config: str, shard: Shard) -> Path:
        return work / config / shard.name

    total = 2 * len(configs) * sum(file.n_ids for file in rules)
    with progress.stage("parquet", total, "ids") as advance, _side_by_side(advance) as start:
        # To write ids takes longest, as long as text and its proof together.
        ids = {file: start(write_ids, file) for file in rules}
        rows = {file: start(write_rows, file, rule) for file, rule in rules.items() if rule}
        texts = {file: start(prove_rows, file, rules[file], rows[file]) for file in rows}
        for shard in shards:
            start(prove_ids, shard, ids[shard.file])
    parts = [part for future in ids.values() for part in future.result()[0]]
    parts += [part for future in rows.values() for part in future.result()]
    return parts, {
        file: (ids[file].result()[1], texts[file].result() if file in texts else None)
        for file in rules
    }


def _proven(
    digests: dict[IdFile, tuple[str, str | None]],
    shards: Sequence[Shard],
    rules: dict[IdFile, Rule | None],
    vocabulary: IdVocabulary,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What was shown, and what the record says of the files."""
    compared = sum(
        compare_rows(file, rule, vocabulary.decode)
        for file, rule in rules.items()
        if rule is not None and vocabulary.decode is not None
    )
    entries = [
        {
            "file": file.path.name,
            "split": file.split,
            "n_ids": file.n_ids,
            "sha256": digests[file][0],
            "text_sha256": digests[file][1],
            "rows": rule.kind if rule else None,
            "shards": [shard.name for shard in shards if shard.file == file],
        }
        for file, rule in rules.items()
    ]
    text = None
    if vocabulary.spelling is not None:
        text = "anew" if vocabulary.vocabulary is not None else "tokenizer"
    proof = {"passed": True, "ids": "equal", "text": text, "rows_compared": compared}
    return proof, {"dtype": shards[0].file.dtype, "files": entries}


def _configs(work: Path, parts: Sequence[Parts]) -> dict[str, Any]:
    """Rows and bytes of each configuration's splits, the text first."""
    found: dict[str, Any] = {}
    for part in sorted(parts, key=lambda part: part.config):
        splits = found.setdefault(part.config, {})
        split = splits.setdefault(
            part.shard.file.split, {"n_rows": 0, "n_bytes": 0, "download_bytes": 0, "n_files": 0}
        )
        split["n_rows"] += part.written.n_rows
        split["n_bytes"] += part.written.n_bytes
        split["download_bytes"] += (work / part.config / part.shard.name).stat().st_size
        split["n_files"] += 1
    return found


def _seen(parts: Sequence[Parts], vocabulary: IdVocabulary) -> dict[str, Any]:
    """How many different ids there are, and of characters which."""
    found = [part.written.seen for part in parts if part.config == TOKENS]
    seen = [each for each in found if each is not None]
    if len(seen) < len(found):
        return {"n_used": None}
    together = seen[0]
    for each in seen[1:]:
        together = together | each
    used = {"n_used": int(together.sum())}
    if vocabulary.vocabulary is None:
        return used
    return used | {"characters": list(vocabulary.vocabulary.characters)}


def _tokenizer(vocabulary: IdVocabulary) -> dict[str, Any]:
    digest = hashlib.sha256(vocabulary.files.get("tokenizer.json", b"")).hexdigest()
    known = {"kind": vocabulary.kind, "sha256": digest if vocabulary.files else None}
    return known | {"source": vocabulary.source}


@contextmanager
def _side_by_side(advance: Advance) -> Iterator[Callable[..., Future[Any]]]:
    """A function that starts jobs, WORKERS at a time; at the end all have ended.

    A failure or an interruption stops those that still run.
    """
    lock, stopped = threading.Lock(), threading.Event()
    futures: list[Future[Any]] = []

    def step(n_ids: int) -> None:
        if stopped.is_set():
            raise InterruptedError
        with lock:
            advance(n_ids)

    with ThreadPoolExecutor(WORKERS, "dataset") as executor:

        def start(run: Callable[..., Any], *arguments: Any) -> Future[Any]:
            futures.append(executor.submit(run, *arguments, step))
            return futures[-1]

        try:
            yield start
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in futures:
                if future in done:
                    future.result()
        except BaseException:
            stopped.set()
            executor.shutdown(wait=False, cancel_futures=True)
            raise
