"""The token ids that the gate runs: every length that behaves differently, every id it can."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slogpt_hf.checkpoints.spec import Spec

if TYPE_CHECKING:
    from torch import Tensor

COVERABLE_IDS = 8192  # a vocabulary up to here goes through the model whole
COVERING_TOKENS = 1024  # of full blocks for a larger one, or one block if that is longer
LONGEST = 1 << 14  # tokens; attention's time grows with the square
ODD, SINGLE = "odd length, batch of 2", "single token, batch of 4"
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
    """Full block_size over the vocabulary, odd and single lengths, real text.

    Ids repeat only when every id has been drawn. Of a vocabulary above COVERABLE_IDS they are a
    sample: the rows of the others are compared without running them. A block above LONGEST is
    run as far as that, and its name says so.

    Args:
        spec: gives block_size and vocabulary.
        text_ids: token ids of real text, any length; empty for none.
    """
    import torch

    generator = torch.Generator().manual_seed(SEED)
    vocab = spec.vocab_size
    block = max(1, min(spec.block_size, LONGEST))
    tokens = vocab if vocab <= COVERABLE_IDS else min(vocab, max(block, COVERING_TOKENS))
    rows = math.ceil(tokens / block)
    full = "full block" if block == spec.block_size else f"first {block} of the block"
    odd = max(1, (block // 2 - 1) | 1)

    sizes = {full: (rows, block), ODD: (2, odd), SINGLE: (4, 1)}
    counts = [batch * length for batch, length in sizes.values()]
    shuffles = math.ceil(sum(counts) / vocab)
    ids = torch.cat([torch.randperm(vocab, generator=generator) for _ in range(shuffles)])
    parts = torch.split(ids[: sum(counts)], counts)
    batches = [
        Inputs(name, part.view(size))
        for (name, size), part in zip(sizes.items(), parts, strict=True)
    ]
    if text_ids:
        batches.append(Inputs("real text", torch.tensor([list(text_ids[:block])])))
    return tuple(batches)
