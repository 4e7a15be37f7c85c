"""What the gate found: figures, bounds and verdict, as a value, as JSON and as tables."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, cast

from slogpt_hf.checkpoints.assumptions import Assumption
from slogpt_hf.parity.claims import MOST_ASSUMED, claim

SCHEMA = 3
Level = Literal["witnessed", "corroborated", "assumed"]
EMBEDDING_DIFFERS = "The embedding's rows differ from the original's."
HEAD_DIFFERS = "The head's rows differ from the original's."
TENSORS_DIFFER = "Stored tensors are not the original's, bit for bit"
SHAKEN_DIFFERS = "On shaken weights the artefact is not equal"
MERGE_DIFFERS = "The merged adapters do not compute what the adapters beside the weights compute"


@dataclass(frozen=True)
class Comparison:
    """Artefact against original on one batch.

    Attributes:
        name: what the batch exercises.
        batch: rows.
        length: tokens of a row.
        max_logit: largest absolute logit of the original.
        fp64_error: max |artefact - original| in float64, relative to ``max_logit``.
        fp32_error: max |artefact - original| in float32.
        fp32_noise: max |original in float32 - original in float64|.
        top1: share of positions whose most likely token agrees in float32; shown, not judged.
        cosine: of all float32 logits as one vector; shown, not judged.
        kl: mean divergence of the artefact's distribution from the original's in float32, nats;
            shown, not judged.
    """

    name: str
    batch: int
    length: int
    max_logit: float
    fp64_error: float
    fp32_error: float
    fp32_noise: float
    top1: float
    cosine: float = math.nan
    kl: float = math.nan


@dataclass(frozen=True)
class Layer:
    """Artefact against original behind one layer, the worst over all batches.

    Attributes:
        name: of the place.
        fp64_error: max |artefact - original| of the residual stream in float64, relative to the
            largest value of the original's.
        fp32_error: max |artefact - original| in float32.
        fp32_noise: max |original in float32 - original in float64|.
    """

    name: str
    fp64_error: float
    fp32_error: float
    fp32_noise: float


@dataclass(frozen=True)
class Position:
    """Artefact against original at consecutive positions of the full block, in float32.

    Attributes:
        first: position, from 0.
        last: position.
        fp32_error: max |artefact - original| of their logits.
        fp32_noise: max |original in float32 - original in float64|.
    """

    first: int
    last: int
    fp32_error: float
    fp32_noise: float


@dataclass(frozen=True)
class Control:
    """What became of a fault that was planted in the artefact.

    Attributes:
        name: of the fault.
        outcome: the gate caught it, or missed it; or it cannot occur in this model.
        error: relative error in float64 where it first shows; None where it cannot occur.
    """

    name: str
    outcome: Literal["caught", "missed", "cannot occur"]
    error: float | None


@dataclass(frozen=True)
class Published:
    """The artefact in the dtype that it is published in, against the original in that dtype.

    Attributes:
        dtype: of both.
        error: max |artefact - original|, both computing in that dtype.
        noise: max |original in that dtype - original in float64|.
        bound: largest error allowed: 4 x the noise.
    """

    dtype: str
    error: float
    noise: float
    bound: float


@dataclass(frozen=True)
class Witness:
    """What another witness says that the original computes, against both models.

    Attributes:
        name: recorded logits, or file and class of the training repository.
        agrees: with the artefact, and with the built-in model.
        error: max |artefact - witness| of the logits in float32.
        built_in_error: max |built-in model - witness| in float32.
        bound: largest error allowed: 4 x the built-in model's own noise on these ids; of the
            artefact that and ``rounding``.
        fp64_error: the worse of both in float64, relative, beyond ``rounding``; None if the witness
            has no float64.
        batch: rows that were run.
        length: tokens of a row.
        rounding: by how much the artefact's dtype, or the merging of adapters, changes a logit; 0
            where the weights are the checkpoint's.
        told: facts that it was told rather than knew, so that it confirms none of them.
        untold: facts of which another value would move its logits, in float32, by no more than
            rounding does, so that it confirms none of them.
        not_taken: recorded entries that neither it nor slogpt-hf knows: it settles nothing then.
        place: where the built-in model first leaves it, e.g. ``layer 1, MLP``; empty if unknown.
        remedy: the one setting with which the built-in model agrees, e.g. ``activation=relu``;
            empty if there is none.
    """

    name: str
    agrees: bool
    error: float
    built_in_error: float
    bound: float
    fp64_error: float | None
    batch: int
    length: int
    rounding: float = 0.0
    told: tuple[str, ...] = ()
    not_taken: tuple[str, ...] = ()
    place: str = ""
    remedy: str = ""
    untold: tuple[str, ...] = ()


@dataclass(frozen=True)
class RecordedLoss:
    """The validation loss that the trainer recorded, against the artefact's own.

    Attributes:
        recorded: nats per token, as the checkpoint has it.
        computed: nats per token, of the artefact on ``n_tokens`` of the validation data.
        standard_error: of ``computed``, from the spread between the blocks that were run.
        recorded_error: standard error of ``recorded``, from how the trainer estimated it.
        bound: largest difference allowed.
        n_tokens: predicted tokens.
        data: what it was computed on, e.g. ``val.bin``.
        agrees: they differ by the bound at most.
    """

    recorded: float
    computed: float
    standard_error: float
    recorded_error: float
    bound: float
    n_tokens: int
    data: str
    agrees: bool


@dataclass(frozen=True)
class Behaviour:
    """The same computed two ways.

    Attributes:
        name: what was done.
        passed: both ways agree.
        error: how far they are apart, in the unit of the bound.
        bound: how far they may be.
        note: what else was found, for people.
    """

    name: str
    passed: bool
    error: float
    bound: float
    note: str = ""


@dataclass(frozen=True)
class ParityReport:
    """The gate's verdict and everything it rests on.

    Attributes:
        oracle: what stood for the original in ``comparisons``; with adapters, the merged weights.
        dtype: dtype of the artefact's weights; the original was run with the same rounding.
        comparisons: one a batch; none where the sizes differ, since nothing was run.
        fp64_bound: largest relative error allowed in float64.
        fp32_bound: largest absolute error allowed in float32: 4 x the original's own noise; NaN
            where nothing was run.
        embedding_rows: rows of embedding and head compared for equality: all of them, or none.
        embedding_equal: those of the embedding are equal, bit for bit.
        covered_ids: different token ids that went through the model.
        first_divergence: where the artefact first leaves the original, as what follows "at";
            None if nowhere.
        failures: why the verdict is what it is, one sentence each; empty when passed.
        seconds: wall time of the gate.
        forward_seconds: of these, inside the forward passes that it cannot avoid.
        merge_error: max |merged - unmerged original| in float64, weights not rounded, relative to
            the largest logit; None without adapters and where nothing was run.
        layers: the comparison behind every layer; empty where the class shows none, or nothing ran.
        positions: the comparison along the full block, at most 64 stretches.
        shaken_error: largest relative error in float64 on shaken weights; None where the way from
            the checkpoint's tensors to the artefact's is not known.
        controls: what became of every fault that was planted; empty without ``shaken_error``.
        behaviours: caches, padding, generation and so on.
        witnesses: other oracles that were asked.
        published: the comparison in the artefact's own dtype; None where that is float32 or
            float64, which are compared anyway.
        family: whose function the built-in model computes, e.g. ``nanoGPT``.
        level: what the proof rests on: a witness of the trainer's agrees (its class or its recorded
            logits), its recorded loss is reproduced, or neither; None in reports of versions that
            did not know.
        assumptions: facts of the function that no file records and no witness confirmed.
        confirmed: facts that no file records and that a witness confirmed.
        loss: the recorded validation loss against the artefact's; None where it was not computed.
        witness_note: why no witness was heard, or which one ``auto`` took; for people.
        notes: what else a person has to know, such as why the recorded loss was not compared.
        appended_rows: rows of zeros behind the original's, for special tokens that it does not
            have; they are not compared.
        versions: library to the version that computed all this; empty in older reports.
    """

    oracle: str
    dtype: str
    comparisons: tuple[Comparison, ...]
    fp64_bound: float
    fp32_bound: float
    embedding_rows: int
    embedding_equal: bool
    covered_ids: int
    first_divergence: str | None
    failures: tuple[str, ...]
    seconds: float
    forward_seconds: float
    merge_error: float | None = None
    layers: tuple[Layer, ...] = ()
    positions: tuple[Position, ...] = ()
    shaken_error: float | None = None
    controls: tuple[Control, ...] = ()
    behaviours: tuple[Behaviour, ...] = ()
    witnesses: tuple[Witness, ...] = ()
    published: Published | None = None
    family: str = ""
    level: Level | None = None
    assumptions: tuple[Assumption, ...] = ()
    confirmed: tuple[Assumption, ...] = ()
    loss: RecordedLoss | None = None
    witness_note: str = ""
    notes: tuple[str, ...] = ()
    appended_rows: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def missed(self) -> tuple[str, ...]:
        """The planted faults that the gate did not catch: it proves nothing then."""
        return tuple(control.name for control in self.controls if control.outcome == "missed")

    @property
    def caught(self) -> int:
        """How many planted faults the gate caught."""
        return sum(control.outcome == "caught" for control in self.controls)

    @property
    def verdict(self) -> Literal["passed", "failed", "invalid"]:
        """Equal; not equal; or the gate would not have caught a fault."""
        if self.failures:
            return "failed"
        return "invalid" if self.missed else "passed"

    @property
    def passed(self) -> bool:
        """The artefact computes what the original computes, and the gate would know if not."""
        return self.verdict == "passed"

    @property
    def fp64_error(self) -> float:
        """Worst relative error in float64; infinite if nothing was run."""
        return max((c.fp64_error for c in self.comparisons), default=math.inf)

    @property
    def fp32_error(self) -> float:
        """Worst absolute error in float32; infinite if nothing was run."""
        return max((c.fp32_error for c in self.comparisons), default=math.inf)

    @property
    def fp32_noise(self) -> float:
        """Worst rounding noise of the original in float32; infinite if nothing was run."""
        return max((c.fp32_noise for c in self.comparisons), default=math.inf)

    @property
    def head_equal(self) -> bool:
        """The head's rows were compared and are equal, bit for bit."""
        return bool(self.comparisons) and HEAD_DIFFERS not in self.failures

    def with_behaviour(self, act: Behaviour, failure: str) -> ParityReport:
        """The report with one thing more; ``failure`` says what is wrong, empty if nothing is."""
        acts = (*self.behaviours, act)
        if not failure:
            return replace(self, behaviours=acts)
        place = act.name if self.first_divergence is None else self.first_divergence
        failures = (*self.failures, failure)
        return replace(self, behaviours=acts, failures=failures, first_divergence=place)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values; ``schema`` numbers the layout. What is not finite becomes null."""
        derived = {
            "passed": self.passed,
            "verdict": self.verdict,
            "caught": self.caught,
            "missed": list(self.missed),
            "fp64_error": self.fp64_error,
            "fp32_error": self.fp32_error,
            "fp32_noise": self.fp32_noise,
            "head_equal": self.head_equal,
        }
        return cast(dict[str, Any], _finite({"schema": SCHEMA, **derived, **asdict(self)}))

    def table(self) -> str:
        """One row a batch, in columns for a terminal."""
        if not self.comparisons:
            return "No batch was run."
        rows = [("batch", "shape", "float64 (relative)", "float32", "own noise", "same top-1")]
        rows += [
            (
                c.name,
                f"{c.batch} x {c.length}",
                f"{c.fp64_error:.1e}",
                f"{c.fp32_error:.1e}",
                f"{c.fp32_noise:.1e}",
                f"{c.top1:.1%}",
            )
            for c in self.comparisons
        ]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        )

    @property
    def reason(self) -> str:
        """Why the verdict is what it is, in one sentence for an error; empty when passed."""
        if self.verdict == "invalid":
            n = len(self.missed)
            return (
                f"{n} planted fault{'s' * (n > 1)} would not be caught: {', '.join(self.missed)}."
            )
        if not self.failures:
            return ""
        first = self.failures[0]
        if self.first_divergence is None or first.startswith(f"{self.first_divergence}: "):
            return first
        return f"it first leaves it at {self.first_divergence}: {first}"

    def summary(self) -> str:
        """One line for a log: the claim, who witnessed it, then the figures."""
        words = claim(self, MOST_ASSUMED)
        agreeing = [each.name for each in self.witnesses if each.agrees]
        if self.level == "witnessed" and self.passed and agreeing:
            words += f"; witnessed by {', '.join(agreeing)}"
        if not self.comparisons:
            return f"{words}: {' '.join(self.failures)}"
        merge = "" if self.merge_error is None else f", merge error {self.merge_error:.1e}"
        return (
            f"{words}: float64 error {self.fp64_error:.1e} (bound {self.fp64_bound:.0e}), "
            f"float32 error {self.fp32_error:.1e} (bound {self.fp32_bound:.1e}){merge}"
        )


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
