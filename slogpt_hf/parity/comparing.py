"""Four runs of one batch against each other, a piece of the logits at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from slogpt_hf.parity import decoder
from slogpt_hf.parity.decoder import Decoder
from slogpt_hf.parity.inputs import Inputs
from slogpt_hf.parity.report import Comparison

HEAD_VALUES = 1 << 19  # of the head at once: 4 MiB in float64
CHUNK_LOGITS = 1 << 19  # of each run at once: likewise
# Multiples of what matrix products work in (of 24 and 32 columns), so that pieces round as the
# whole; a single row is another routine's.
COLUMNS_STEP, ROWS_STEP, FEWEST_ROWS = 192, 64, 16
Columns = Callable[[slice], Tensor]


@dataclass(frozen=True)
class Run:
    """What one model made of one batch.

    Attributes:
        states: what enters the head (N, n), N the positions of all rows; without a head, logits.
        head: the head's weight (V, n) in any dtype, cast piece by piece; None where ``states``
            are the logits (N, V) already.
    """

    states: Tensor
    head: Tensor | None

    def columns(self, ids: slice) -> Columns:
        """Gives the logits of these ids for a slice of the positions."""
        if self.head is None:
            return lambda rows: self.states[rows, ids]
        weight = self.head[ids].to(self.states.dtype)
        return lambda rows: functional.linear(self.states[rows], weight)


def run_of(
    model: Decoder,
    ids: Tensor,
    dtype: torch.dtype,
    behind: Callable[[Tensor], Tensor] = lambda x: x,
) -> Run:
    """What the built-in model makes of ids (B, T), in ``dtype``; ``behind`` as it has it."""
    states = decoder.final_state(model, ids, dtype, behind).flatten(0, 1)
    if model.head_name in model.adapters:
        return Run(decoder.head(model, states), None)
    return Run(states, model.tensors[model.head_name])


@dataclass(frozen=True)
class Compared:
    """A comparison, and what it is at each position, the worst over the rows of the batch.

    Attributes:
        comparison: the largest figures.
        fp32_error: (T,) max |artefact - original| over the vocabulary, in float32.
        fp32_noise: (T,) max |original in float32 - original in float64|.
    """

    comparison: Comparison
    fp32_error: Tensor
    fp32_noise: Tensor


def compare(
    batch: Inputs,
    vocab_size: int,
    source_64: Run,
    source_32: Run,
    artefact_64: Run,
    artefact_32: Run,
) -> Compared:
    """Errors and noise of one batch over all its logits."""
    n_rows, length = batch.ids.shape
    positions = n_rows * length
    worst = {name: torch.zeros(positions, dtype=torch.float64) for name in ("64", "32", "noise")}
    largest = torch.zeros(positions, dtype=torch.float64)
    ours, theirs = _Likeness.of(positions), _Likeness.of(positions)
    likeness = _Pair(ours, theirs, torch.zeros(3, dtype=torch.float64))
    for ids in pieces(vocab_size, source_64):
        exact, single, own_64, own_32 = (
            run.columns(ids) for run in (source_64, source_32, artefact_64, artefact_32)
        )
        for rows in row_pieces(positions, ids.stop - ids.start):
            a, b, c, d = (columns(rows) for columns in (exact, single, own_64, own_32))
            if c.shape != a.shape or d.shape != b.shape:
                return _unlike(batch)
            _keep_largest(largest, rows, a.abs())
            _keep_largest(worst["64"], rows, (c - a).abs())
            _keep_largest(worst["noise"], rows, (a - b).abs())
            _keep_largest(worst["32"], rows, (d - b).abs())
            likeness.add(rows, ids.start, d.double(), b.double())
    max_logit = largest.max().item()
    return Compared(
        Comparison(
            name=batch.name,
            batch=n_rows,
            length=length,
            max_logit=max_logit,
            fp64_error=relative(_worst(worst["64"]), max_logit),
            fp32_error=_worst(worst["32"]),
            fp32_noise=_worst(worst["noise"]),
            top1=likeness.top1(),
            cosine=likeness.cosine(),
            kl=likeness.kl(),
        ),
        *(worst[name].view(n_rows, length).amax(0) for name in ("32", "noise")),
    )


def relative_error(vocab_size: int, ours: Run, theirs: Run) -> float:
    """max |ours - theirs| over all logits, relative to the largest of ``theirs``."""
    return relative(*absolute_error(vocab_size, ours, theirs))


def absolute_error(vocab_size: int, ours: Run, theirs: Run) -> tuple[float, float]:
    """max |ours - theirs| over all logits, and the largest of ``theirs``."""
    error = largest = 0.0
    for ids in pieces(vocab_size, theirs):
        a, b = ours.columns(ids), theirs.columns(ids)
        for rows in row_pieces(len(theirs.states), ids.stop - ids.start):
            logits = b(rows)
            largest = max(largest, _largest(logits))
            error = max(error, distance(a(rows), logits))
    return error, largest


def pieces(vocab_size: int, run: Run) -> Iterator[slice]:
    """The vocabulary in slices whose rows of the head are HEAD_VALUES at most."""
    width = run.head.shape[1] if run.head is not None else 1
    step = max(COLUMNS_STEP, HEAD_VALUES // width // COLUMNS_STEP * COLUMNS_STEP)
    for start in range(0, vocab_size, step):
        yield slice(start, min(start + step, vocab_size))


def row_pieces(positions: int, columns: int) -> Iterator[slice]:
    """The positions in slices whose logits of so many ids are about CHUNK_LOGITS at most."""
    step = max(ROWS_STEP, CHUNK_LOGITS // columns // ROWS_STEP * ROWS_STEP)
    start = 0
    while start < positions:
        stop = start + step if positions - start - step >= FEWEST_ROWS else positions
        yield slice(start, stop)
        start = stop


def relative(error: float, largest: float) -> float:
    """An error as a share of the largest value; infinite where the error is."""
    return error / max(largest, torch.finfo().tiny) if math.isfinite(error) else math.inf


def distance(a: Tensor, b: Tensor) -> float:
    """max |a - b| in the wider of the two dtypes; infinite if shapes differ or a value is NaN."""
    return _largest(a - b) if a.shape == b.shape else math.inf


def deviation(ours: Tensor, theirs: Tensor) -> float:
    """max |ours - theirs| relative to the largest of ``theirs``, as the gate has it in float64."""
    return relative(distance(ours, theirs), _largest(theirs))


def equal_rows(a: Tensor, b: Tensor) -> bool:
    """Whether two matrices hold the same values, in ``a``'s dtype, which is at least as wide."""
    if a.shape != b.shape:
        return False
    step = max(1, CHUNK_LOGITS // a.shape[1])
    pairs = zip(torch.split(a, step), torch.split(b, step), strict=True)
    return all(torch.equal(x, y.to(a.dtype)) for x, y in pairs)


@dataclass
class _Likeness:
    """Of one run, by position: the likeliest id so far, and the sum of exponentials below it."""

    best: Tensor
    best_id: Tensor
    total: Tensor

    @classmethod
    def of(cls, positions: int) -> _Likeness:
        low = torch.full((positions,), -math.inf, dtype=torch.float64)
        return cls(low, torch.zeros(positions, dtype=torch.int64), torch.zeros_like(low))

    def add(self, rows: slice, first: int, logits: Tensor) -> Tensor:
        """Take more ids; what earlier sums are to be multiplied by."""
        values, ids = logits.max(-1)
        before = self.best[rows].clone()
        better = values > before
        self.best_id[rows] = torch.where(better, ids + first, self.best_id[rows])
        self.best[rows] = torch.where(better, values, before)
        scale = torch.exp(before - self.best[rows])
        added = torch.exp(logits - self.best[rows][:, None]).sum(-1)
        self.total[rows] = self.total[rows] * scale + added
        return scale


@dataclass
class _Pair:
    """What is shown of two runs and judges nothing; ``products`` are xy, xx and yy."""

    ours: _Likeness
    theirs: _Likeness
    products: Tensor
    weighted: Tensor | None = None

    def add(self, rows: slice, first: int, x: Tensor, y: Tensor) -> None:
        if self.weighted is None:
            self.weighted = torch.zeros_like(self.theirs.best)
        self.products += torch.stack(((x * y).sum(), (x * x).sum(), (y * y).sum()))
        self.ours.add(rows, first, x)
        scale = self.theirs.add(rows, first, y)
        shares = torch.exp(y - self.theirs.best[rows][:, None])
        self.weighted[rows] = self.weighted[rows] * scale + (shares * (y - x)).sum(-1)

    def top1(self) -> float:
        """Share of positions with the same likeliest id."""
        return (self.ours.best_id == self.theirs.best_id).double().mean().item()

    def cosine(self) -> float:
        """Of all logits as one vector."""
        xy, xx, yy = self.products.tolist()
        return xy / math.sqrt(xx * yy) if xx > 0 and yy > 0 else math.nan

    def kl(self) -> float:
        """Mean divergence of our distribution from theirs, in nats."""
        assert self.weighted is not None
        differ = self.weighted / self.theirs.total
        log_sums = (self.ours.best + self.ours.total.log()) - (
            self.theirs.best + self.theirs.total.log()
        )
        return max(0.0, (differ + log_sums).mean().item())


def _unlike(batch: Inputs) -> Compared:
    n_rows, length = batch.ids.shape
    worst = Comparison(batch.name, n_rows, length, math.nan, math.inf, math.inf, math.nan, 0.0)
    return Compared(worst, torch.full((length,), math.inf), torch.full((length,), math.nan))


def _keep_largest(kept: Tensor, rows: slice, values: Tensor) -> None:
    # NaN is the largest: amax and maximum hand it on.
    kept[rows] = torch.maximum(kept[rows], values.amax(-1).double())


def _worst(values: Tensor) -> float:
    worst = values.max().item()
    return math.inf if math.isnan(worst) else worst


def _largest(values: Tensor) -> float:
    low, high = (value.item() for value in values.aminmax())
    return math.inf if math.isnan(low) else max(abs(low), abs(high))
