"""Parquet files of ids and of text, written in constant memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from slogpt_hf.datasets.ids import IdFile, file_bytes
from slogpt_hf.parquet.rows import Rule, first_begin, rows_between

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa
    import pyarrow.parquet as pq

    from slogpt_hf.datasets.ids import Ids

TEXT, TOKENS = "text", "tokens"
COLUMNS = {TEXT: "text", TOKENS: "input_ids"}
MOST_SHARD_IDS = 1 << 27  # about 200 MB of a shard
GROUP_IDS = 1 << 20  # of a row group of ids
GROUP_BYTES = 1 << 24  # of a row group of text
FEW = 16  # ids; so many comparisons take as long as noting all
WRITING: dict[str, Any] = {
    "compression": "zstd",
    "compression_level": 1,
    "write_statistics": False,
}
# Pages of text are cut where the content says, so that a store that keeps equal chunks once keeps
# those of pages that did not change. Blocks of ids would not gain: their pages can be cut between
# blocks alone, and what is put in before moves every block. docs/datasets.md has the figures.
# Split by bytes, of which the upper ones are mostly zero, ids take half the space of a dictionary
# and a quarter of its time; Arrow 17 and whatever is younger than 2024 read it.
SPLIT = {"input_ids.list.element": "BYTE_STREAM_SPLIT"}
WRITING_OF = {
    TEXT: WRITING | {"use_content_defined_chunking": True, "use_dictionary": False},
    TOKENS: WRITING | {"use_dictionary": False, "column_encoding": SPLIT},
}


class Digest(Protocol):
    """One of hashlib."""

    def update(self, data: memoryview, /) -> None:
        """Go on with some bytes."""


@dataclass(frozen=True)
class Shard:
    """A part of a file of ids that becomes one parquet file of each configuration.

    Attributes:
        file: of ids.
        begin: the first id.
        end: the one behind the last.
        name: of the parquet files, e.g. ``train-00000-of-00002.parquet``.
    """

    file: IdFile
    begin: int
    end: int
    name: str


@dataclass(frozen=True)
class Written:
    """What a parquet file has.

    Attributes:
        n_rows: number of rows.
        n_bytes: size in memory, as Arrow has it.
        seen: which ids there are, shape (ids of the vocabulary,); None for text, and where ids
            of 32 bits have no vocabulary.
    """

    n_rows: int
    n_bytes: int
    seen: npt.NDArray[np.bool_] | None = None


def planned_shards(files: Sequence[IdFile], block_size: int, most_ids: int) -> tuple[Shard, ...]:
    """The shards of a dataset; each is of one file alone, and of whole blocks but for the last.

    Args:
        files: of ids.
        block_size: ids of a row.
        most_ids: of a shard.
    """
    each = max(1, most_ids // block_size) * block_size
    shards = []
    for split in dict.fromkeys(file.split for file in files):
        parts = [
            (file, begin, min(begin + each, file.n_ids))
            for file in files
            if file.split == split
            for begin in range(0, file.n_ids, each)
        ]
        for number, (file, begin, end) in enumerate(parts):
            name = f"{split}-{number:05}-of-{len(parts):05}.parquet"
            shards.append(Shard(file, begin, end, name))
    return tuple(shards)


def write_tokens(
    shard: Shard,
    path: Path,
    block_size: int,
    digest: Digest,
    advance: Callable[[int], None],
) -> Written:
    """Write the ids of a shard as rows of ``block_size``; the last row of a file may be shorter.

    Args:
        shard: the ids.
        path: of the parquet file.
        block_size: ids of a row.
        digest: told the bytes of the ids.
        advance: told the ids that were written since its last call.

    Raises:
        CheckpointError: the ids cannot be read, or there is one beyond the vocabulary.
        OSError: the file cannot be written.
    """
    import numpy as np
    import pyarrow as pa

    most = max(1, GROUP_IDS // block_size) * block_size
    seen: npt.NDArray[np.bool_] | None = np.zeros(shard.file.size or 1 << 16, dtype=bool)
    n_rows = n_bytes = 0
    # Nothing is null, which spares a level of every id.
    element = pa.field("element", pa.type_for_alias(shard.file.dtype), nullable=False)
    schema = pa.schema([pa.field(COLUMNS[TOKENS], pa.list_(element), nullable=False)])
    with _writer(path, schema, TOKENS) as writer:
        for ids in shard.file.pieces(shard.begin, shard.end, most):
            if shard.file.size is None and ids.max() >= 1 << 16:
                seen = None
            if seen is not None:
                _note(seen, ids)
            digest.update(file_bytes(ids))
            offsets = np.append(np.arange(0, len(ids), block_size), len(ids)).astype(np.int32)
            rows = pa.ListArray.from_arrays(offsets, pa.array(ids), type=schema.field(0).type)
            writer.write_table(pa.table([rows], schema=schema), row_group_size=len(rows))
            n_rows, n_bytes = n_rows + len(rows), n_bytes + rows.nbytes
            advance(len(ids))
    return Written(n_rows, n_bytes, seen)


def _note(seen: npt.NDArray[np.bool_], ids: Ids) -> None:
    """Mark the ids that there are; a few that are still missing are looked for one by one."""
    missing = (~seen).nonzero()[0]
    if len(missing) > FEW:
        seen[ids] = True
        return
    for i in missing:
        seen[i] = bool((ids == i).any())


def write_text(shard: Shard, path: Path, rule: Rule, advance: Callable[[int], None]) -> Written:
    """Write the text of a shard: the rows that begin in it.

    Args:
        shard: the ids.
        path: of the parquet file.
        rule: what a row is.
        advance: told the ids that were written since its last call.

    Raises:
        CheckpointError: the ids cannot be read, or there is one beyond the vocabulary.
        OSError: the file cannot be written.
    """
    import pyarrow as pa

    schema = pa.schema([(COLUMNS[TEXT], pa.string())])
    n_rows = n_bytes = waiting = 0
    batches: list[pa.RecordBatch] = []
    with _writer(path, schema, TEXT) as writer:

        def flush() -> None:
            table = pa.Table.from_batches(batches, schema)
            writer.write_table(table, row_group_size=max(1, table.num_rows))
            batches.clear()

        for texts, n_ids in texts_of(shard, rule):
            batches.append(pa.record_batch([texts], schema=schema))
            n_rows, n_bytes = n_rows + len(texts), n_bytes + texts.nbytes
            waiting += texts.nbytes
            if waiting >= GROUP_BYTES:
                flush()
                waiting = 0
            advance(n_ids)
        flush()
    return Written(n_rows, n_bytes)


def texts_of(shard: Shard, rule: Rule) -> Iterator[tuple[pa.Array, int]]:
    """The texts of a shard's rows, many at a time, and of how many ids they are.

    Raises:
        CheckpointError: the ids cannot be read, or there is one beyond the vocabulary.
    """
    begin, end = (first_begin(shard.file, rule, at) for at in (shard.begin, shard.end))
    for rows in rows_between(shard.file, rule, begin, end, rule.spelling.most_ids):
        yield rule.spelling.strings(*rows), len(rows.ids)


@contextmanager
def _writer(path: Path, schema: pa.Schema, config: str) -> Iterator[pq.ParquetWriter]:
    import pyarrow.parquet as pq

    # A file of Python's: what it raises on a full disk says so.
    with path.open("wb") as file, pq.ParquetWriter(file, schema, **WRITING_OF[config]) as writer:
        yield writer
