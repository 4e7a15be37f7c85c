"""What was written is read back: the ids make the very files, the rows the very text."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from slogpt_hf.datasets.ids import IdFile
from slogpt_hf.datasets.vocabulary import Vocabulary, describe
from slogpt_hf.errors import ParityError
from slogpt_hf.parquet.reading import read_texts, read_tokens
from slogpt_hf.parquet.rows import Rule, first_begin, rows_between
from slogpt_hf.parquet.shards import Shard, texts_of

if TYPE_CHECKING:
    import pyarrow as pa

    from slogpt_hf.datasets.ids import Ids

Decode = Callable[[Sequence[int]], str]
PLAIN_IDS = 1 << 17  # made text at once; other threads wait for Python as long as that takes
SAMPLED = 64  # rows of each file that the tokenizer itself decodes
NOT_PUBLISHED = "Nothing was written. This is a bug of slogpt-hf: please report it."


def prove_tokens(shard: Shard, path: Path, advance: Callable[[int], None]) -> None:
    """Compare the ids of a parquet file with those of the file that it was made of.

    Args:
        shard: the original's.
        path: of the parquet file.
        advance: told the ids that were read since its last call.

    Raises:
        ParityError: they differ.
    """
    import numpy as np

    file, at = shard.file, shard.begin
    error = ParityError(
        f"{file.path}: the parquet files do not give it back, or it changed meanwhile.",
        hint="Wait until whatever writes it has ended, and convert again.",
    )
    for ids in read_tokens(path, file.dtype):
        end = at + len(ids)
        if end > shard.end:
            raise error
        (original,) = file.pieces(at, end, len(ids))
        if not np.array_equal(ids, original):
            raise error
        at = end
        advance(len(ids))
    if at != shard.end or file.path.stat().st_size != file.n_bytes:
        raise error


def prove_text(
    shards: Sequence[Shard],
    paths: Sequence[Path],
    rule: Rule,
    vocabulary: Vocabulary | None,
    advance: Callable[[int], None],
) -> str:
    """SHA-256 of the text of a file of ids, which the rows written are, one after the other.

    For characters the text is made anew, in another way than the rows were; for the parts of
    words of a tokenizer in the same way, and ``compare_rows`` asks the tokenizer itself.

    Args:
        shards: of one file of ids, in order.
        paths: its parquet files of text, in order.
        rule: what a row is.
        vocabulary: of characters; None for a tokenizer.
        advance: told the ids that were read since its last call.

    Raises:
        ParityError: it is another text.
    """
    written, expected = hashlib.sha256(), hashlib.sha256()
    for path in paths:
        for texts in read_texts(path):
            written.update(_bytes_of(texts))
    for shard in shards:
        if vocabulary is None:
            for texts, n_ids in texts_of(shard, rule):
                expected.update(_bytes_of(texts))
                advance(n_ids)
        else:
            for ids in shard.file.pieces(shard.begin, shard.end, PLAIN_IDS):
                expected.update(plain_text(vocabulary, ids))
                advance(len(ids))
    if written.digest() != expected.digest():
        raise ParityError(
            f"{shards[0].file.path}: the rows of text are not its text.", hint=NOT_PUBLISHED
        )
    return written.hexdigest()


def plain_text(vocabulary: Vocabulary, ids: Ids) -> bytes:
    """The text of ids of a vocabulary, as the original decodes it, in UTF-8.

    Args:
        vocabulary: of characters.
        ids: shape (n,).
    """
    import numpy as np

    entries = vocabulary.characters
    if len(entries) <= 256 and "".join(entries).isascii() and all(len(e) == 1 for e in entries):
        table = "".join(entries).encode().ljust(256, b"\0")
        return ids.astype(np.uint8).tobytes().translate(table)
    if all(len(entry) == 1 for entry in entries):
        points = np.array([ord(entry) for entry in entries], dtype="<u4")
        return points[ids].tobytes().decode("utf-32-le").encode()
    return "".join(map(entries.__getitem__, ids.tolist())).encode()


def compare_rows(file: IdFile, rule: Rule, decode: Decode) -> int:
    """Compare the first rows of a file with what the tokenizer itself decodes; how many.

    Rows that begin within a document are left out: a tokenizer takes them for a beginning.

    Raises:
        ParityError: a row differs.
    """
    spelling, compared = rule.spelling, 0
    marks = spelling.opens | spelling.closes
    end = first_begin(file, rule, min(file.n_ids, SAMPLED * rule.most_ids))
    for rows in rows_between(file, rule, 0, end, spelling.most_ids):
        texts = spelling.strings(*rows)
        for row, text in zip(_rows(rows.ids, rows.bounds), texts.to_pylist(), strict=True):
            ids = row.tolist()
            if compared == SAMPLED:
                return compared
            if spelling.first and ids[0] not in spelling.opens:
                continue
            if (expected := decode([i for i in ids if i not in marks])) != text:
                raise ParityError(
                    f"{file.path}: the text {describe(text)} is {describe(expected)} to its "
                    "tokenizer.",
                    hint=NOT_PUBLISHED,
                )
            compared += 1
    return compared


def _rows(ids: Ids, bounds: Iterable[int]) -> Iterator[Ids]:
    places = [int(bound) for bound in bounds]
    for begin, end in pairwise(places):
        yield ids[begin:end]


def _bytes_of(texts: pa.Array) -> memoryview | bytes:
    """The UTF-8 of texts one after the other."""
    import numpy as np

    if not len(texts):
        return b""
    _, offsets, data = texts.buffers()
    ends = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    return memoryview(data)[int(ends[0]) : int(ends[-1])] if data is not None else b""
