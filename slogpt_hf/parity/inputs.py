"""The token ids that the gate runs: every length that behaves differently, every id it can."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slogpt_hf.checkpoints.spec import Spec

if TYPE_CHECKING:
    from torch import Tensor

COVERING_TOKENS = 2048  # at most, beyond one full block
COVERING_LOGITS = 1 << 26  # likewise: 0.5 GB in float64
LARGEST_LOGITS = 1 << 28  # of one batch, 2 GB in float64: a longer block is run up to here
LONGEST = 1 << 14  # tokens; attention's time grows with the square
SEED = 1337


@dataclass(frozen=True)
class Inputs:
    """A batch for the gate.

    Attributes:
        name: what it exercises.
        ids: (B, T) int64 token ids.
    """

    name: str
    ids: Tensor


def inputs_for(spec: Spec, text_ids: Sequence[int] = ()) -> tuple[Inputs, ...]:
    """Full block_size over as much of the vocabulary as fits, odd and single lengths, real text.

    A block too long to run (LARGEST_LOGITS, LONGEST) is run as far as that, and its name says so.

    Args:
        spec: gives block_size and vocabulary.
        text_ids: token ids of real text, any length; empty for none.
    """
    import torch

    generator = torch.Generator().manual_seed(SEED)
    vocab = spec.vocab_size
    block = max(1, min(spec.block_size, LONGEST, LARGEST_LOGITS // vocab))
    most = min(COVERING_TOKENS // block, COVERING_LOGITS // (block * vocab))
    rows = min(math.ceil(vocab / block), max(1, most))
    shuffled = torch.randperm(vocab, generator=generator).repeat(math.ceil(rows * block / vocab))
    full = "full block" if block == spec.block_size else f"first {block} of the block"
    odd = max(1, (block // 2 - 1) | 1)

    def drawn(batch: int, length: int) -> Tensor:
        return torch.randint(vocab, (batch, length), generator=generator)

    batches = [
        Inputs(full, shuffled[: rows * block].view(rows, block)),
        Inputs("odd length, batch of 2", drawn(2, odd)),
        Inputs("single token, batch of 4", drawn(4, 1)),
    ]
    if text_ids:
        batches.append(Inputs("real text", torch.tensor([list(text_ids[:block])])))
    return tuple(batches)
