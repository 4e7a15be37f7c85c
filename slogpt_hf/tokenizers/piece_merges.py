"""The merge ranks of ``tokenizer.json`` that do what the scores of pieces do.

Merging by score picks, among all neighbours that could be one piece, the best score, leftmost on
ties; ``tokenizer.json`` ranks pairs, and each has a rank of its own. The two are equal because
**only one pair ever becomes a given piece**: until a pair becomes the piece, no merge crosses the
ends of its span, and merges elsewhere do not change which of those inside is best; so within the
span happens what happens when the piece is encoded alone, whatever stands around it. That one
pair per piece, in the order of the scores, is the list of merges. Different pieces of one score
need more: see ``_ordered``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from itertools import groupby

from slogpt_hf.datasets.vocabulary import describe
from slogpt_hf.tokenizers.piece_encoding import PieceCodec
from slogpt_hf.tokenizers.pieces import BYTE_PIECES, Pieces, PieceType, unsupported

Pair = tuple[str, str]


def merges_of(codec: PieceCodec) -> list[Pair]:
    """The merges, best first, with which BPE by rank encodes as BPE by score does.

    Raises:
        CheckpointError: no order of merges does.
    """
    pieces = codec.pieces
    if codec.is_run_c:
        _require_no_byte_inside(pieces)
    pairs: dict[str, Pair] = {}
    for text in codec.scores:
        left, last = codec.merge(list(text))
        if last is not None and left == [text]:
            pairs[text] = last
    _require_expressible(codec, pairs)
    ranked = sorted(pairs, key=lambda text: -codec.scores[text])
    merges: list[Pair] = []
    for score, tied in groupby(ranked, key=codec.scores.__getitem__):
        group = {text: pairs[text] for text in tied}
        merges += group.values() if len(group) == 1 else _ordered(group, score, pairs, codec)
    return merges


def _require_expressible(codec: PieceCodec, pairs: Mapping[str, Pair]) -> None:
    pieces = codec.pieces
    for text, pair in pairs.items():
        missing = next((part for part in pair if part not in codec.ids), None)
        if missing is not None:
            raise unsupported(
                pieces.source,
                f"merges {describe(missing)}, which is no piece, into {describe(text)}",
            )
        if pieces.types[codec.ids[text]] == PieceType.UNUSED:
            raise unsupported(pieces.source, f"has the unused piece {describe(text)}")


def _require_no_byte_inside(pieces: Pieces) -> None:
    # run.c would merge the byte piece of an unknown character with what stands beside it.
    for text in pieces.texts:
        if len(text) > len(BYTE_PIECES[0]) and any(b in text for b in _byte_names(text)):
            raise unsupported(pieces.source, f"has the piece {describe(text)}, with a byte in it")


def _byte_names(text: str) -> Iterable[str]:
    width = len(BYTE_PIECES[0])
    known = set(BYTE_PIECES) if "<0x" in text else set()
    return known.intersection(text[i : i + width] for i in range(len(text) - width + 1))


def _ordered(
    group: Mapping[str, Pair], score: float, pairs: Mapping[str, Pair], codec: PieceCodec
) -> list[Pair]:
    """Ranks for pieces of one score such that the lowest rank is the leftmost pair.

    Two pairs get in each other's way if they share a symbol: (x, y) on the left and (y, z). So a
    pair that ends in a symbol goes before those that begin with it. Pairs that share none may
    come in any order if no merge makes room for one that scores as high.
    """
    source = codec.pieces.source
    for text, pair in pairs.items():
        if codec.scores[text] >= score and any(part in group for part in pair):
            raise unsupported(
                source,
                f"scores {describe(text)} as high as a part of it, and other pieces as high",
            )
    order: TopologicalSorter[tuple[str, str | None]] = TopologicalSorter()
    for left, right in group.values():
        if left != right:
            order.add((left, right), (left, None))
            order.add((right, None), (left, right))
    doubled = {pair[0]: pair for pair in group.values() if pair[0] == pair[1]}
    for symbol in doubled:
        order.add((symbol, None))
    try:
        nodes = list(order.static_order())
    except CycleError as error:
        texts = ", ".join(sorted({describe("".join(filter(None, n))) for n in error.args[1]})[:3])
        raise unsupported(source, f"gives one score to pieces that overlap ({texts})") from error
    merges: list[Pair] = []
    for symbol, other in nodes:
        if other is not None:
            merges.append((symbol, other))
        elif symbol in doubled:
            merges.append(doubled[symbol])
    return merges
