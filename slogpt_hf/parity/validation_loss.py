"""The recorded validation loss as a witness: does the artefact reproduce it on the same data?

It cannot see a small difference (docs/parity.md says which), but a function that is another one
altogether, such as one with scales that nobody read, is off by far more than the estimates are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, variance
from typing import Any

import torch
from torch import Tensor

from slogpt_hf.checkpoints import Checkpoint, TrainingFacts
from slogpt_hf.parity.comparing import Run, pieces, row_pieces
from slogpt_hf.parity.lockstep import Models
from slogpt_hf.parity.report import RecordedLoss
from slogpt_hf.parity.validation_data import ValidationData

FEWEST_BLOCKS = 8  # that show how much blocks differ
MOST_TOKENS = 1 << 16
MOST_WORK = 2e12  # tokens times parameters, but for the fewest blocks
MOST_WORK_OF_ALL = 5e13
TOKENS_AT_ONCE = 4096
# Standard errors, of means of many blocks; of few blocks more, as Student's t has it.
CONVICTING, CORROBORATING = 4.0, 2.0
# What a trainer that does not say took its mean over: so many tokens, and blocks at least.
ESTIMATED_TOKENS, ESTIMATED_BLOCKS = 1 << 14, 16
MOST_BLOCKS = 1 << 53  # that a trainer can have taken; a file may say anything
EVALUATIONS = 100  # among which a best one was chosen, by a trainer that does not say
# By how much the arithmetic of the trainer's evaluation may move a mean loss, in nats.
PRECISION = {"float32": 0.002, "float16": 0.005, "bfloat16": 0.01}
UNKNOWN_PRECISION = 0.01
ROUNDING = {"float16": 0.005, "bfloat16": 0.01}  # of the artefact's weights, likewise
NANOGPTS_OWN = "best_val_loss"  # written with the weights that have it, in each of its two modes


@dataclass(frozen=True)
class Reproduced:
    """What came of computing the recorded loss again.

    Attributes:
        loss: the comparison; None where none was made, or none that says anything.
        note: why not, for people; empty otherwise.
        failures: why this is not the function that was trained; empty if it may be.
    """

    loss: RecordedLoss | None = None
    note: str = ""
    failures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Estimate:
    """A mean over blocks.

    Attributes:
        mean: nats per token.
        error: its standard error.
        of_one: standard deviation of one block, neighbours' likeness counted in.
        n_blocks: that were run.
    """

    mean: float
    error: float
    of_one: float
    n_blocks: int


def loss_of(
    checkpoint: Checkpoint, data: ValidationData | str | None, models: Models, dtype: str
) -> Reproduced:
    """Compute the recorded validation loss again, with the artefact in float32.

    Args:
        checkpoint: gives the recorded loss, and how the trainer estimated it.
        data: the validation set, or why there is none; None if nothing is to be compared.
        models: the artefact, proven equal to the built-in model.
        dtype: of the artefact's weights.
    """
    facts, spec = checkpoint.facts, checkpoint.spec
    recorded = facts.val_loss
    if recorded is None or data is None:
        return Reproduced()
    if isinstance(data, str):
        return _not_compared(recorded, data)
    if reason := _unlike(checkpoint):
        return _not_compared(recorded, reason)
    length = block_length(facts.settings, spec.block_size)
    starts = block_starts(len(data.ids), length, checkpoint.n_parameters)
    if not starts:
        return _not_compared(
            recorded,
            f"{data.name} has {len(data.ids)} ids, too few for {FEWEST_BLOCKS} blocks of "
            f"{length}, or the model is too large for so many",
        )
    blocks = torch.stack(
        [torch.from_numpy(data.ids[at : at + length + 1].astype("int64")) for at in starts]
    )
    if int(blocks.max()) >= spec.vocab_size:
        return _not_compared(
            recorded,
            f"{data.name} holds the id {int(blocks.max())}, the model has "
            f"{spec.vocab_size} ids: it is of another vocabulary",
        )
    found = estimate(block_losses(models, blocks))
    frequencies = unigram_entropy(data, spec.vocab_size)
    return judged_loss(checkpoint, data.name, found, length, frequencies, dtype)


def judged_loss(
    checkpoint: Checkpoint,
    name: str,
    found: Estimate,
    length: int,
    frequencies: float,
    dtype: str = "float32",
) -> Reproduced:
    """Whether a computed loss is the recorded one, within the errors of both.

    Args:
        checkpoint: gives the recorded loss, and how the trainer estimated it.
        name: of the data.
        found: the artefact's loss.
        length: tokens of a block.
        frequencies: loss of who knows nothing but how often each id occurs.
        dtype: of the artefact's weights.
    """
    facts = checkpoint.facts
    assert facts.val_loss is not None
    recorded_error = found.of_one / math.sqrt(estimated_blocks(facts.settings, length))
    bound, likely = (
        largest_difference(facts, found, recorded_error, dtype, sigmas)
        for sigmas in (CONVICTING, CORROBORATING)
    )
    off = found.mean - facts.val_loss
    loss = RecordedLoss(
        facts.val_loss,
        found.mean,
        found.error,
        recorded_error,
        bound,
        found.n_blocks * length,
        name,
        abs(off) <= bound,
    )
    said = f"records {facts.val_loss:.3f}, computes {found.mean:.3f} on {name}"
    note = ""
    if abs(off) > bound:
        if not (doubt := _doubt(checkpoint, off, bound)):
            words = "this is not the function that was trained, or not its data"
            allowed = f"they may differ by {bound:.2g} nats"
            return Reproduced(loss, failures=(f"{said}: {words} ({allowed}).",))
        note = doubt
    elif abs(off) > likely:
        note = f"by chance they differ by {likely:.2g} at most, and by {bound:.2g} hardly ever"
    elif facts.val_loss + bound >= frequencies:
        note = f"the frequencies of the ids alone give {frequencies:.3f}"
    if note:
        return Reproduced(note=f"the recorded loss corroborates nothing: the model {said}; {note}")
    return Reproduced(loss)


def _not_compared(recorded: float, reason: str) -> Reproduced:
    return Reproduced(note=f"the recorded loss of {recorded:.3f} is not compared: {reason}")


def _unlike(checkpoint: Checkpoint) -> str:
    """Why the recorded loss is not that of these weights, as far as the file tells it."""
    facts = checkpoint.facts
    ignored = checkpoint.given.get("ignore", ())
    names = (ignored,) if isinstance(ignored, str) else tuple(ignored)
    if {"val_loss", facts.val_loss_name} & set(names):
        return "--set ignore says so"
    if facts.val_loss_step not in (None, facts.step):
        return f"it is of step {facts.val_loss_step}, the weights are of step {facts.step}"
    if facts.val_loss is not None and not 0 < facts.val_loss < math.inf:
        return "it is no loss"
    if checkpoint.base is not None:
        return "an adapter's file may record its base's"
    return ""


def _doubt(checkpoint: Checkpoint, off: float, bound: float) -> str:
    """What else than another function explains that a loss is off; empty if nothing is known."""
    facts = checkpoint.facts
    assert facts.val_loss is not None
    settings = facts.settings
    if abs(facts.val_loss * math.log(2) - facts.val_loss - off) <= bound:
        return "that would be the same loss in bits"
    if checkpoint.quantisation is not None:
        return "the loss is that of the weights before they were quantised"
    if _positive(settings.get("label_smoothing")):
        return "the trainer smooths its labels"
    if off < 0 and _positive(settings.get("dropout")):
        return "it may have been computed with dropout"
    if off > 0 and "best" in facts.val_loss_name and facts.val_loss_name != NANOGPTS_OWN:
        return "the best loss may be that of earlier weights"
    return ""


def largest_difference(
    facts: TrainingFacts, found: Estimate, recorded_error: float, dtype: str, sigmas: float
) -> float:
    """How far a recorded loss and the same model's computed one may be apart, in nats.

    Args:
        facts: how the trainer estimated it, and chose it.
        found: the computed one.
        recorded_error: standard error of the recorded one.
        dtype: of the artefact's weights.
        sigmas: standard errors that are allowed.
    """
    student = 1 + 6 / (found.n_blocks - 1)
    spread = sigmas * student * math.hypot(found.error, recorded_error)
    chosen = math.sqrt(2 * math.log(_evaluations(facts))) * recorded_error
    return spread + chosen + _precision(facts.settings) + ROUNDING.get(dtype, 0.0)


def _precision(settings: Mapping[str, Any]) -> float:
    return PRECISION.get(str(settings.get("dtype")), UNKNOWN_PRECISION)


def _evaluations(facts: TrainingFacts) -> int:
    """Among how many estimates the recorded one may have been chosen as the smallest."""
    if "best" not in facts.val_loss_name or facts.settings.get("always_save_checkpoint") is True:
        return 1
    interval = facts.settings.get("eval_interval")
    if facts.step is None or not isinstance(interval, int) or interval < 1:
        return EVALUATIONS
    return max(1, facts.step // interval + 1)


def estimated_blocks(settings: Mapping[str, Any], length: int) -> int:
    """Over how many blocks of ``length`` tokens the trainer took its mean."""
    counts = [settings.get(name) for name in ("eval_iters", "batch_size")]
    if not all(isinstance(n, int) and n > 0 for n in counts):
        return max(ESTIMATED_BLOCKS, ESTIMATED_TOKENS // length)
    return min(math.prod(n for n in counts if isinstance(n, int)), MOST_BLOCKS)


def block_length(settings: Mapping[str, Any], block_size: int) -> int:
    """Tokens of a block of the trainer's evaluation."""
    said = settings.get("block_size")
    return said if isinstance(said, int) and 0 < said < block_size else block_size


def block_starts(n_ids: int, length: int, n_parameters: int) -> list[int]:
    """Where the blocks begin that are run: all, or some over the whole of the data.

    Empty where there are fewer than FEWEST_BLOCKS, or those are too much work.
    """
    there = (n_ids - 1) // length
    most = max(FEWEST_BLOCKS, min(MOST_TOKENS, int(MOST_WORK / n_parameters)) // length)
    if there < FEWEST_BLOCKS or FEWEST_BLOCKS * length * n_parameters > MOST_WORK_OF_ALL:
        return []
    if there <= most:
        return [i * length for i in range(there)]
    return [i * (n_ids - 1 - length) // (most - 1) for i in range(most)]


def block_losses(models: Models, blocks: Tensor) -> list[float]:
    """Mean loss of each block (N, T + 1), nats per token, by the artefact in float32."""
    length = blocks.shape[1] - 1
    losses: list[float] = []
    for some in torch.split(blocks, max(1, TOKENS_AT_ONCE // length)):
        run = models.artefact(models.single, some[:, :-1])
        each = token_losses(run, some[:, 1:].flatten(), models.original.spec.vocab_size)
        losses += each.view(len(some), length).mean(-1).tolist()
    return losses


def token_losses(run: Run, targets: Tensor, vocab_size: int) -> Tensor:
    """-log p of each target (N,) in float64; the logits a piece at a time."""
    total = torch.full(targets.shape, -math.inf, dtype=torch.float64)
    own = torch.zeros(targets.shape, dtype=torch.float64)
    for ids in pieces(vocab_size, run):
        columns = run.columns(ids)
        for rows in row_pieces(len(targets), ids.stop - ids.start):
            logits = columns(rows).double()
            total[rows] = torch.logaddexp(total[rows], logits.logsumexp(-1))
            held = (targets[rows] >= ids.start) & (targets[rows] < ids.stop)
            at = (targets[rows] - ids.start).clamp(0, ids.stop - ids.start - 1)
            own[rows] += torch.where(held, logits.gather(-1, at[:, None])[:, 0], 0.0)
    return total - own


def estimate(losses: Sequence[float]) -> Estimate:
    """The mean of blocks that lie one behind the other, and how well it is known.

    Where neighbours are alike, a mean of several of them varies by more than as many that were
    drawn would: the spread between groups of neighbours shows by how much.
    """
    n = len(losses)
    size = max(2, n // 16)
    groups = [fmean(losses[i : i + size]) for i in range(0, n - size + 1, size)]
    single = variance(losses)
    alike = max(1.0, size * variance(groups) / single) if single > 0 else 1.0
    of_one = math.sqrt(single * alike)
    return Estimate(fmean(losses), of_one / math.sqrt(n), of_one, n)


def unigram_entropy(data: ValidationData, vocab_size: int) -> float:
    """Loss, in nats, of who knows of the data only how often each id occurs."""
    import numpy as np

    counts = np.bincount(np.asarray(data.ids[: 1 << 20]).astype(np.int64), minlength=vocab_size)
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0
