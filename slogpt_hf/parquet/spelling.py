"""The text that each id stands for, and the text of many ids at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from slogpt_hf.datasets.vocabulary import Vocabulary
from slogpt_hf.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    from slogpt_hf.datasets.ids import Ids

    Flags = npt.NDArray[np.bool_]
    Offsets = npt.NDArray[np.int64]

INSTALL = "Run: pip install 'pyarrow>=21'"  # not the extra: a minimal install would become whole
MOST_IDS = 1 << 21  # that are made text at once
MOST_BYTES = 1 << 25  # of text that may become of them


def require_pyarrow() -> None:
    """Raise UsageError unless parquet files can be written and read."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise UsageError("parquet files need pyarrow.", hint=INSTALL) from error


@dataclass(frozen=True)
class Spelling:
    """What each id stands for; text is what the ids stand for, one after the other.

    Attributes:
        entries: UTF-8 of each id, which may be a part of a character; none of an id that only
            marks where a document begins or ends.
        opens: ids that begin a document.
        closes: ids that end one.
        first: UTF-8 of each id where it follows one that opens; empty where that is the same.
    """

    entries: tuple[bytes, ...] = field(repr=False)
    opens: frozenset[int] = frozenset()
    closes: frozenset[int] = frozenset()
    first: tuple[bytes, ...] = field(default=(), repr=False)

    @classmethod
    def of_characters(cls, vocabulary: Vocabulary) -> Spelling:
        """That of a ``meta.pkl``: no id marks anything."""
        return cls(tuple(entry.encode() for entry in vocabulary.characters))

    @property
    def size(self) -> int:
        """Number of ids."""
        return len(self.entries)

    @cached_property
    def most_ids(self) -> int:
        """How many ids may be made text at once, so that memory stays bounded."""
        longest = max(map(len, self.entries))
        return max(1, min(MOST_IDS, MOST_BYTES // max(1, longest)))

    def flags(self, ids: Iterable[int]) -> Flags:
        """An array of shape (size,) that says which ids are among ``ids``."""
        import numpy as np

        chosen = np.zeros(self.size, dtype=bool)
        chosen[list(ids)] = True
        return chosen

    @cached_property
    def marks_documents(self) -> bool:
        """Whether some ids begin or end documents."""
        return bool(self.opens or self.closes)

    def strings(self, ids: Ids, bounds: Offsets, before: int | None = None) -> pa.Array:
        """The texts of rows of ids.

        Args:
            ids: shape (n,), each below ``size``.
            bounds: shape (rows + 1,): row r has the ids from ``bounds[r]`` to ``bounds[r + 1]``;
                from 0 to n.
            before: the id before the first; None at the beginning of a file.

        Returns:
            Array of shape (rows,) of strings. Bytes that are no UTF-8 become U+FFFD.
        """
        import numpy as np
        import pyarrow as pa

        if self._letters is not None:
            _, buffer = self._letters.take(pa.array(ids)).buffers()
            ends = bounds.astype(np.int32)
        else:
            joined = self._table.take(pa.array(self._shifted(ids, before)))
            _, offsets, buffer = joined.buffers()
            ends = np.frombuffer(offsets, np.int32, len(ids) + 1)[bounds]
        texts = pa.Array.from_buffers(
            pa.string(), len(bounds) - 1, [None, pa.py_buffer(ends), buffer]
        )
        try:
            texts.validate(full=True)
        except pa.ArrowInvalid:
            data = buffer.to_pybytes()
            pieces = (data[a:b] for a, b in pairwise(ends.tolist()))
            return pa.array([piece.decode("utf-8", "replace") for piece in pieces], pa.string())
        return texts

    def _shifted(self, ids: Ids, before: int | None) -> npt.NDArray[Any]:
        """The ids, but those after one that opens as the ids behind all others, see ``_table``."""
        import numpy as np

        if not self.first:
            return ids
        after = np.zeros(len(ids), dtype=bool)
        opens = self.flags(self.opens)
        after[1:] = opens[ids[:-1]]
        after[:1] = before is not None and before in self.opens
        return np.where(after, ids.astype(np.uint32) + np.uint32(self.size), ids)

    @cached_property
    def _letters(self) -> pa.Array | None:
        """The byte of each id, where each is one byte; Arrow looks up faster than numpy."""
        import pyarrow as pa

        if self.first or any(len(entry) != 1 for entry in self.entries):
            return None
        return pa.array(b"".join(self.entries), pa.uint8())

    @cached_property
    def _table(self) -> pa.Array:
        import pyarrow as pa

        return pa.array([*self.entries, *self.first], pa.binary())
