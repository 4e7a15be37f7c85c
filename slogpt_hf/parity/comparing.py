"""Four runs of one batch against each other, a chunk of logits at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from slogpt_hf.parity.inputs import Inputs
from slogpt_hf.parity.report import Comparison

CHUNK_LOGITS = 1 << 23  # of each run at once: 64 MiB in float64
Apply = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Halves:
    """A model in two parts, so that the logits of a long batch need not exist all at once.

    Attributes:
        body: token ids (B, T) to the states (B, T, n) that enter the head.
        head: states (N, n) of any positions to logits (N, V).
    """

    body: Apply
    head: Apply

    def wrapped(self, by: Callable[[Apply], Apply]) -> Halves:
        """Both parts behind ``by``."""
        return Halves(by(self.body), by(self.head))


@dataclass(frozen=True)
class Run:
    """What one model made of one batch.

    Attributes:
        states: (N, n), N the positions of all rows.
        head: gives their logits (N, V).
    """

    states: Tensor
    head: Apply

    @classmethod
    def of(cls, model: Halves, ids: Tensor) -> Run:
        """Run the body on ids (B, T)."""
        return cls(model.body(ids).flatten(0, 1), model.head)

    def logits(self, rows: slice) -> Tensor:
        """Logits of these positions."""
        return self.head(self.states[rows])


def compare(
    batch: Inputs,
    vocab_size: int,
    source_64: Run,
    source_32: Run,
    artefact_64: Run,
    artefact_32: Run,
) -> Comparison:
    """Errors and noise of one batch, the largest over all its logits."""
    positions = batch.ids.numel()
    max_logit = fp64 = fp32 = noise = same = 0.0
    for rows in chunks(positions, vocab_size):
        exact, single = source_64.logits(rows), source_32.logits(rows)
        max_logit = max(max_logit, _largest(exact))
        fp64 = max(fp64, distance(artefact_64.logits(rows), exact, overwrite=True))
        noise = max(noise, distance(exact, single, overwrite=True))
        ours = artefact_32.logits(rows)
        if ours.shape == single.shape:
            same += (ours.argmax(-1) == single.argmax(-1)).sum().item()
        fp32 = max(fp32, distance(ours, single, overwrite=True))
    return Comparison(
        name=batch.name,
        batch=batch.ids.shape[0],
        length=batch.ids.shape[1],
        max_logit=max_logit,
        fp64_error=relative(fp64, max_logit),
        fp32_error=fp32,
        fp32_noise=noise,
        top1=same / positions,
    )


def relative_error(vocab_size: int, ours: Run, theirs: Run) -> float:
    """max |ours - theirs| over all logits, relative to the largest of ``theirs``."""
    error = largest = 0.0
    for rows in chunks(len(theirs.states), vocab_size):
        logits = theirs.logits(rows)
        largest = max(largest, _largest(logits))
        error = max(error, distance(ours.logits(rows), logits, overwrite=True))
    return relative(error, largest)


def chunks(positions: int, vocab_size: int) -> Iterator[slice]:
    """The positions, as many at once as CHUNK_LOGITS allows."""
    step = max(1, CHUNK_LOGITS // vocab_size)
    return (slice(start, start + step) for start in range(0, positions, step))


def relative(error: float, largest: float) -> float:
    """An error as a share of the largest value; infinite where the error is."""
    return error / max(largest, torch.finfo().tiny) if math.isfinite(error) else math.inf


def distance(a: Tensor, b: Tensor, *, overwrite: bool = False) -> float:
    """max |a - b| in the wider of the two dtypes; infinite if shapes differ or a value is NaN.

    Args:
        a: at least as wide as ``b`` where it is overwritten.
        b: left as it is.
        overwrite: put the differences into ``a`` rather than into memory of their own.
    """
    if a.shape != b.shape:
        return math.inf
    return _largest(a.sub_(b) if overwrite else a - b)


def equal_rows(a: Tensor, b: Tensor) -> bool:
    """Whether two matrices hold the same values, in ``a``'s dtype, which is at least as wide."""
    if a.shape != b.shape:
        return False
    step = max(1, CHUNK_LOGITS // a.shape[1])
    pairs = zip(torch.split(a, step), torch.split(b, step), strict=True)
    return all(torch.equal(x, y.to(a.dtype)) for x, y in pairs)


def _largest(values: Tensor) -> float:
    low, high = (value.item() for value in values.aminmax())
    return math.inf if math.isnan(low) else max(-low, high)
