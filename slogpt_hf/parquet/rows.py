"""Where rows of text begin: at documents, paragraphs or lines, as far as the text has them.

Where a row begins depends on what is just before it, not on all that is: a change of a text moves
no row but those that it touches. Only rows that are too long are cut by counting.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from slogpt_hf.datasets.ids import IdFile

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from slogpt_hf.datasets.ids import Ids
    from slogpt_hf.parquet.spelling import Flags, Offsets, Spelling

    Places = npt.NDArray[np.intp]

KINDS = ("documents", "paragraphs", "lines", "pieces")
MOST_IDS = 8192  # of a row
MOST_BYTES = 1 << 20  # of a row
SENSIBLE = 4096  # ids that a row has on average, at most, for text to be taken as made of such rows
LOOKBACK = 2  # ids before a row that tell whether it begins there
FEW = 8  # ids; so many comparisons take as long as looking all up
# Bits of what an id is.
OPENS, CLOSES, ENDS_LINE, IS_NEWLINE, STARTS_LINE, ENDS_PARAGRAPH = 1, 2, 4, 8, 16, 32
CONTINUES = (0x80, 0xC0)  # a byte of UTF-8 in this range belongs to the one before


class Rows(NamedTuple):
    """Some whole rows: their ids, shape (n,), where each begins and the last ends, and the id
    before them (None at the beginning of a file)."""

    ids: Ids
    bounds: Offsets
    before: int | None


@dataclass(frozen=True)
class Rule:
    """What a row of text is.

    Attributes:
        spelling: text of the ids.
        kind: one of KINDS.
    """

    spelling: Spelling
    kind: str

    def begins(self, ids: Ids) -> Places:
        """Where rows begin; LOOKBACK ids come before the first place, which is 0.

        Args:
            ids: shape (LOOKBACK + n,).

        Returns:
            Shape (rows,), ascending, each from 0 to n - 1.
        """
        import numpy as np

        has = _Marked(ids, self._marks)
        if self.kind == "documents":
            flags = has(OPENS)[2:] | has(CLOSES)[1:-1]
        elif self.kind == "lines":
            flags = has(ENDS_LINE)[1:-1]
        elif self.kind == "paragraphs":
            second = has(IS_NEWLINE)[1:-1] & has(ENDS_LINE)[:-2]
            flags = (has(ENDS_PARAGRAPH)[1:-1] | second) & ~has(STARTS_LINE)[2:]
        else:
            return np.zeros(0, dtype=np.intp)
        return np.flatnonzero(flags)

    @cached_property
    def most_ids(self) -> int:
        """Of a row."""
        longest = max(map(len, self.spelling.entries))
        return max(1, min(MOST_IDS, MOST_BYTES // max(1, longest)))

    def cuts(self, ids: Ids, begin: int, end: int) -> Iterator[int]:
        """Where a row from ``begin`` to ``end`` is cut because it is too long, never within a
        character if there is another place near by."""
        while end - begin > self.most_ids:
            cut = begin + self.most_ids
            near = range(cut, max(cut - 4, begin), -1)
            begin = next((i for i in near if self.is_whole(ids[i])), cut)
            yield begin

    def is_whole(self, i: int) -> bool:
        """Whether an id does not begin within a character."""
        entry = self.spelling.entries[i]
        return not entry or not CONTINUES[0] <= entry[0] < CONTINUES[1]

    @cached_property
    def _marks(self) -> npt.NDArray[np.uint8]:
        """Of each id which of the bits above it has, shape (ids of the vocabulary,)."""
        import numpy as np

        marks = np.zeros(self.spelling.size, dtype=np.uint8)
        for i, entry in enumerate(self.spelling.entries):
            marks[i] = (
                OPENS * (i in self.spelling.opens)
                | CLOSES * (i in self.spelling.closes)
                | ENDS_LINE * entry.endswith(b"\n")
                | IS_NEWLINE * (entry == b"\n")
                | ENDS_PARAGRAPH * entry.endswith(b"\n\n")
                | STARTS_LINE * entry.startswith(b"\n")
            )
        return marks


class _Marked:
    """Which of some ids have a mark. Most vocabularies have few that do: to compare with each is
    several times faster than to look all up."""

    def __init__(self, ids: Ids, marks: npt.NDArray[np.uint8]) -> None:
        self._ids, self._marks = ids, marks
        self._found: dict[bytes, Flags] = {}

    def __call__(self, bit: int) -> Flags:
        """Shape (ids,)."""
        import numpy as np
        import pyarrow as pa

        wanted = self._marks & bit > 0
        known = wanted.tobytes()
        if known not in self._found:
            few = np.flatnonzero(wanted)
            if len(few) > FEW:
                own = pa.array(wanted.view(np.uint8)).take(pa.array(self._ids))
                found = own.to_numpy().view(np.bool_)
            else:
                found = np.zeros(len(self._ids), dtype=bool)
                for i in few:
                    found |= self._ids == i
            self._found[known] = found
        return self._found[known]


def rule_for(file: IdFile, spelling: Spelling, looked_at: int) -> Rule:
    """The rule that gives rows of sensible length at the beginning of a file: the first of KINDS.

    Args:
        file: of ids below the spelling's size.
        spelling: text of the ids.
        looked_at: how many ids decide.

    Raises:
        CheckpointError: the file cannot be read.
    """
    import numpy as np

    n = min(file.n_ids, looked_at)
    start = next(file.pieces(0, n, n))
    ids = np.concatenate([start[:1], start[:1], start])
    for kind in KINDS if spelling.marks_documents else KINDS[1:]:
        rule = Rule(spelling, kind)
        if n <= SENSIBLE * (1 + int((rule.begins(ids) > 0).sum())):
            return rule
    return Rule(spelling, KINDS[-1])


def first_begin(file: IdFile, rule: Rule, at: int) -> int:
    """The first place from ``at`` on where a row begins; ``at`` itself where none is near."""
    if at <= 0 or at >= file.n_ids:
        return max(0, min(at, file.n_ids))
    import numpy as np

    begin, end = max(0, at - LOOKBACK), min(file.n_ids, at + rule.most_ids)
    (ids,) = file.pieces(begin, end, end - begin)
    ids = np.concatenate([np.repeat(ids[:1], LOOKBACK - (at - begin)), ids])
    found = rule.begins(ids)
    if len(found):
        return at + int(found[0])
    return next((at + i for i in range(min(4, end - at)) if rule.is_whole(ids[LOOKBACK + i])), at)


def rows_between(file: IdFile, rule: Rule, begin: int, end: int, most: int) -> Iterator[Rows]:
    """The rows from one begin of a row to another, many at a time.

    Args:
        file: of ids.
        rule: what a row is.
        begin: where the first begins.
        end: where the last ends.
        most: how many ids are read at once.

    Raises:
        CheckpointError: the file cannot be read.
    """
    import numpy as np

    if begin >= end:
        return
    lookback = min(begin, LOOKBACK)
    (start,) = file.pieces(begin - lookback, begin + 1, LOOKBACK + 1)
    before = int(start[-2]) if lookback else None
    # What is before a file is its first id: it neither ends nor begins anything more.
    kept = np.concatenate([np.repeat(start[:1], LOOKBACK - lookback), start[:lookback]])
    for piece in file.pieces(begin, end, most):
        # The last row of a piece goes on in the next; what is before it tells where it begins.
        seen = np.concatenate([kept, piece])
        ids = seen[LOOKBACK:]
        bounds = _cut(rule, ids, rule.begins(seen))
        last = int(bounds[-1])
        if last:
            yield Rows(ids[:last], bounds, before)
            before = int(ids[last - 1])
        kept = seen[last:]
    if len(rest := kept[LOOKBACK:]):
        yield Rows(rest, np.array([0, len(rest)], dtype=np.int64), before)


def _cut(rule: Rule, ids: Ids, begins: Places) -> Offsets:
    """Bounds of the rows that are whole, without those that are too long.

    The last row, which goes on in the next piece, is not among them but for what is cut off.
    """
    import numpy as np

    bounds = np.concatenate([[0], begins[begins > 0], [len(ids)]]).astype(np.int64)
    long = np.flatnonzero(np.diff(bounds) > rule.most_ids)
    if not len(long):
        return bounds[:-1]
    cuts = [c for i in long for c in rule.cuts(ids, int(bounds[i]), int(bounds[i + 1]))]
    return np.union1d(bounds[:-1], np.array(cuts, dtype=np.int64))
