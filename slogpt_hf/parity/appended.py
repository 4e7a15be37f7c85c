"""Rows that an artefact has behind the original's, for special tokens.

The original has no such ids, so nothing is compared there; what is proven are its own columns. It
must show that no one meets the others unasked: their rows are zeros, and they are never generated.
"""

from __future__ import annotations

import torch
from torch import Tensor

from slogpt_hf.parity.report import Behaviour
from slogpt_hf.parity.streamed import Streamed


def appended_rows(model: Streamed, vocab_size: int) -> int:
    """How many rows the artefact has beyond ``vocab_size``; 0 if it has fewer."""
    return max(0, (model.sizes["vocab_size"] or 0) - vocab_size)


def appended_failures(model: Streamed, vocab_size: int) -> tuple[str, ...]:
    """Why rows behind the original's are not those of special tokens, one sentence each.

    Args:
        model: the artefact.
        vocab_size: rows of the original.
    """
    end = vocab_size + appended_rows(model, vocab_size)
    kept = getattr(model.model.generation_config, "suppress_tokens", None) or ()
    if missing := sorted(set(range(vocab_size, end)).difference(kept)):
        return (
            f"The artefact's vocabulary size is {end}, the original's is {vocab_size}, and "
            f"generation_config.json does not keep id {missing[0]} from being generated.",
        )
    if extra := sorted(set(kept).difference(range(vocab_size, end))):
        return (
            f"generation_config.json keeps id {extra[0]} from being generated, which the original "
            "may generate.",
        )
    tables = {model.embedding_name, model.head_name}
    return tuple(
        f"{name}: the rows {vocab_size} to {end - 1}, which the original has not, are not zero."
        for name in sorted(tables)
        if end > vocab_size and model.raw(name)[vocab_size:].any()
    )


def never_generated(scores: tuple[Tensor, ...], vocab_size: int) -> Behaviour:
    """Whether generation rules out every id beyond the original's.

    Args:
        scores: (B, V) at each step, as ids are drawn from them.
        vocab_size: rows of the original.
    """
    out = all(bool((each[:, vocab_size:] == -torch.inf).all()) for each in scores)
    name = "appended ids are never generated"
    return Behaviour(name, out, 0.0 if out else float("inf"), 0.0)
