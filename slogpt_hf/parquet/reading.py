"""Parquet files that were written here or somewhere else, read row group by row group."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from slogpt_hf.errors import CheckpointError, first_line
from slogpt_hf.parquet.shards import COLUMNS, TEXT, TOKENS

if TYPE_CHECKING:
    import pyarrow as pa

    from slogpt_hf.datasets.ids import Ids

ROWS_AT_ONCE = {TEXT: 4096, TOKENS: 256}
AGAIN = "Download it again, or convert the dataset again."


def read_tokens(path: Path, dtype: str) -> Iterator[Ids]:
    """The ids of a parquet file in order, in arrays of shape (n,).

    Raises:
        CheckpointError: it cannot be read, is truncated, or holds other columns.
    """
    import pyarrow as pa

    wanted = pa.list_(pa.type_for_alias(dtype))

    def fits(kind: pa.DataType) -> bool:
        return bool(pa.types.is_list(kind) and kind.value_type == wanted.value_type)

    for column in _columns(path, TOKENS, fits, str(wanted)):
        if column.null_count or column.values.null_count:
            raise CheckpointError(f"{path}: holds ids that are null.", hint=AGAIN)
        yield column.flatten().to_numpy()


def read_texts(path: Path) -> Iterator[pa.Array]:
    """The texts of a parquet file in order, arrays of shape (rows,).

    Raises:
        CheckpointError: it cannot be read, is truncated, or holds other columns.
    """
    import pyarrow as pa

    yield from _columns(path, TEXT, pa.types.is_string, "string")


def _columns(
    path: Path, config: str, fits: Callable[[pa.DataType], bool], wanted: str
) -> Iterator[pa.Array]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    name, most = COLUMNS[config], ROWS_AT_ONCE[config]
    if path.exists() and not path.is_file():  # a pipe would be waited for, deaf to any signal
        raise CheckpointError(f"{path}: is no regular file.", hint=AGAIN)
    try:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            schema = file.schema_arrow
            if schema.names != [name] or not fits(schema.field(0).type):
                raise CheckpointError(
                    f"{path}: is not one column {name!r} of {wanted}.", hint=AGAIN
                )
            for batch in file.iter_batches(batch_size=most, use_threads=False):
                yield batch.column(0)
    except (pa.ArrowException, OSError) as error:
        raise CheckpointError(
            f"{path}: is no whole parquet file ({first_line(error)}).", hint=AGAIN
        ) from error
