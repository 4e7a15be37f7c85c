"""What a card says of the proof, from the content of ``parity.json``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from slogpt_hf.checkpoints.assumptions import Assumption
from slogpt_hf.parity import Comparison, ParityReport
from slogpt_hf.parity.report import (
    Behaviour,
    Control,
    Layer,
    Position,
    Published,
    RecordedLoss,
    Witness,
)

# The parts of a report that are lists.
PARTS: Mapping[str, type] = {
    "comparisons": Comparison,
    "layers": Layer,
    "positions": Position,
    "controls": Control,
    "behaviours": Behaviour,
    "witnesses": Witness,
    "assumptions": Assumption,
    "confirmed": Assumption,
}


def report_from(content: Mapping[str, Any]) -> ParityReport:
    """The report of a ``parity.json`` of schema 3, or of schema 1 or 2, which have less.

    Raises:
        KeyError, TypeError: it is none.
    """
    values = {f.name: content[f.name] for f in fields(ParityReport) if f.name in content}
    values |= {
        name: tuple(kind(**each) for each in values.get(name, ())) for name, kind in PARTS.items()
    }
    published, loss = values.pop("published", None), values.pop("loss", None)
    return ParityReport(
        published=Published(**published) if published else None,
        loss=RecordedLoss(**loss) if loss else None,
        **values,
    )


def caught_by(report: ParityReport) -> list[str]:
    """The names of the planted faults that were caught."""
    return [control.name for control in report.controls if control.outcome == "caught"]


def behaviours_of(report: ParityReport) -> list[str]:
    """What was computed in two ways that agree, each once, with what was noted of it."""
    return list(dict.fromkeys(map(_told, report.behaviours)))


def likeness_of(report: ParityReport) -> dict[str, float] | None:
    """Figures that other converters report, of the worst batch; None where they are not known."""
    batches = report.comparisons
    if not batches or any(None in (c.cosine, c.kl) or math.isnan(c.cosine) for c in batches):
        return None
    return {
        "top1": min(c.top1 for c in batches),
        "cosine_distance": max(0.0, *(1 - c.cosine for c in batches)),
        "kl": max(0.0, *(c.kl for c in batches)),
    }


def _told(act: Behaviour) -> str:
    return f"{act.name} ({act.note})" if act.note else act.name
