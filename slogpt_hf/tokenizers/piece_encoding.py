"""How sentencepiece (BPE) and llama2.c's run.c encode and decode, in plain Python.

After ``bpe_model.cc``, ``normalizer.cc`` and ``sentencepiece_processor.cc`` of google/
sentencepiece and ``encode`` and ``decode`` of karpathy/llama2.c's ``run.c``. This is what the
written ``tokenizer.json`` is compared with; it shares nothing with the tokenizers library.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Mapping, Sequence, Set
from functools import cached_property

from slogpt_hf.tokenizers.pieces import (
    BYTE_PIECES,
    RUN_C_WORST,
    Pieces,
    PieceType,
)


class PieceCodec:
    """The original's encode and decode over one set of pieces."""

    def __init__(self, pieces: Pieces) -> None:
        self.pieces = pieces
        self.ids = {text: i for i, text in enumerate(pieces.texts)}

    @cached_property
    def scores(self) -> dict[str, float]:
        """The pieces that a merge can make, with their scores."""
        pieces = self.pieces
        worst = RUN_C_WORST if self.is_run_c else float("-inf")
        return {
            text: score
            for text, score, kind in zip(pieces.texts, pieces.scores, pieces.types, strict=True)
            if kind in pieces.merged_types and score > worst
        }

    @cached_property
    def frozen(self) -> Set[str]:
        """Characters that are never part of a merge: user-defined pieces."""
        pairs = zip(self.pieces.texts, self.pieces.types, strict=True)
        return {text for text, kind in pairs if kind == PieceType.USER_DEFINED}

    @property
    def is_run_c(self) -> bool:
        """Whether run.c is the original, which looks pieces up without regard to their type."""
        return PieceType.BYTE in self.pieces.merged_types

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without ``bos``.

        run.c stops at NUL, which ends a C string; here NUL is its byte piece, as it is for
        sentencepiece.
        """
        symbols, _ = self.merge(list(self.normalized(text)))
        ids: list[int] = []
        unknown_before = False
        for symbol in symbols:
            known = self.ids.get(symbol)
            if known is None and self.pieces.byte_fallback:
                ids += (self.ids[BYTE_PIECES[byte]] for byte in symbol.encode())
            elif known is not None or not unknown_before:
                ids.append(self.pieces.unk if known is None else known)
            unknown_before = known is None
        return ids

    def normalized(self, text: str) -> str:
        """The text that the pieces spell."""
        pieces = self.pieces
        if pieces.remove_extra_whitespaces:
            text = re.sub(" +", " ", text).removeprefix(" ")
        if text and pieces.add_dummy_prefix:
            text = " " + text
        text = text.replace(" ", pieces.space)
        return text.rstrip(pieces.space) if pieces.remove_extra_whitespaces else text

    def merge(self, symbols: list[str]) -> tuple[list[str], tuple[str, str] | None]:
        """Merge neighbours, the best score first and the leftmost of equals.

        Returns:
            The symbols that are left, and the pair that was merged last.
        """
        scores = self.scores
        after = [*range(1, len(symbols)), -1]
        before = list(range(-1, len(symbols) - 1))
        # run.c has replaced an unknown character by its bytes before it merges.
        fixed = [s in self.frozen or (self.is_run_c and s not in self.ids) for s in symbols]
        agenda: list[tuple[float, int, int, int]] = []

        def consider(left: int, right: int) -> None:
            if left < 0 or right < 0 or fixed[left] or fixed[right]:
                return
            piece = symbols[left] + symbols[right]
            if piece in scores:
                heapq.heappush(agenda, (-scores[piece], left, right, len(piece)))

        for i in range(len(symbols) - 1):
            consider(i, i + 1)
        last = None
        while agenda:
            _, left, right, length = heapq.heappop(agenda)
            parts = symbols[left], symbols[right]
            if not all(parts) or len(parts[0]) + len(parts[1]) != length:
                continue
            last = parts
            symbols[left], symbols[right] = "".join(parts), ""
            after[left] = after[right]
            if after[left] >= 0:
                before[after[left]] = left
            consider(before[left], left)
            consider(left, after[left])
        return [symbol for symbol in symbols if symbol], last

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids that ``encode`` made, with or without ``bos`` and other controls.

        The space that was put in front of the text is taken away again; where the original
        removes spaces from the ends of texts, all that a text begins with are.
        """
        pieces = self.pieces
        pending = bytearray()
        begins, stripped = pieces.add_dummy_prefix or pieces.remove_extra_whitespaces, False
        parts: list[str] = []
        for i in ids:
            if pieces.types[i] == PieceType.BYTE:
                pending.append(BYTE_VALUES[pieces.texts[i]])
                continue
            parts.append(pending.decode(errors="replace"))
            pending.clear()
            begins = begins and not stripped and not parts[-1]
            surface = self._surface(i)
            if begins and pieces.types[i] != PieceType.UNKNOWN and surface.startswith(" "):
                surface, stripped = surface[1:], not pieces.remove_extra_whitespaces
            parts.append(surface)
            begins = begins and not surface
        return "".join(parts) + pending.decode(errors="replace")

    def _surface(self, i: int) -> str:
        if self.pieces.types[i] == PieceType.CONTROL:
            return ""
        if i == self.pieces.unk:
            return self.pieces.unk_surface
        return self.pieces.texts[i].replace(self.pieces.space, " ")


BYTE_VALUES: Mapping[str, int] = {text: byte for byte, text in enumerate(BYTE_PIECES)}
