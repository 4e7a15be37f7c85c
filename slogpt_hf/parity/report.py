"""What the gate found: figures, bounds and verdict, as a value, as JSON and as tables."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, cast

SCHEMA = 1
EMBEDDING_DIFFERS = "The embedding's rows differ from the original's."
HEAD_DIFFERS = "The head's rows differ from the original's."
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
    """

    name: str
    batch: int
    length: int
    max_logit: float
    fp64_error: float
    fp32_error: float
    fp32_noise: float
    top1: float


@dataclass(frozen=True)
class ParityReport:
    """The gate's verdict and everything it rests on.

    Attributes:
        passed: the artefact computes what the original computes.
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
    """

    passed: bool
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

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values; ``schema`` numbers the layout. What is not finite becomes null."""
        derived = {
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

    def summary(self) -> str:
        """One line for a log."""
        verdict = "equal to the original" if self.passed else "NOT equal to the original"
        if not self.comparisons:
            return f"{verdict}: {' '.join(self.failures)}"
        merge = "" if self.merge_error is None else f", merge error {self.merge_error:.1e}"
        return (
            f"{verdict}: float64 error {self.fp64_error:.1e} (bound {self.fp64_bound:.0e}), "
            f"float32 error {self.fp32_error:.1e} (bound {self.fp32_bound:.1e}){merge}"
        )


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
