"""What a proof rests on: its level, and the assumptions that no witness has confirmed."""

from __future__ import annotations

from dataclasses import replace

from slogpt_hf.checkpoints import Checkpoint
from slogpt_hf.parity.families import FAMILIES
from slogpt_hf.parity.oracles import covers
from slogpt_hf.parity.report import Level, ParityReport, Witness


def speaks(witness: Witness, checkpoint: Checkpoint) -> bool:
    """Whether a witness agrees, on enough to confirm what the function rests on."""
    return witness.agrees and not witness.not_taken and covers(witness.length, checkpoint.spec)


def level_of(report: ParityReport, checkpoint: Checkpoint) -> Level:
    """The most that what was heard supports."""
    if any(speaks(witness, checkpoint) for witness in report.witnesses):
        return "witnessed"
    if report.loss is not None and report.loss.agrees:
        return "corroborated"
    return "assumed"


def resting(report: ParityReport, checkpoint: Checkpoint) -> ParityReport:
    """The report with its level, and with what the function rests on.

    A witness confirms what no file records, but for what it had to be told or cannot tell.
    """
    silent = [{*w.told, *w.untold} for w in report.witnesses if speaks(w, checkpoint)]
    known = {a.name for a in checkpoint.assumptions if any(a.name not in each for each in silent)}
    return replace(
        report,
        level=level_of(report, checkpoint),
        assumptions=tuple(a for a in checkpoint.assumptions if a.name not in known),
        confirmed=tuple(a for a in checkpoint.assumptions if a.name in known),
    )


def family_of(checkpoint: Checkpoint) -> str:
    """Whose function the built-in model computes; a plain Slo model is nanoGPT's."""
    spec, title = checkpoint.spec, FAMILIES[checkpoint.dialect].title
    plain = (spec.positions, spec.norm, spec.mlp) == ("learned", "layernorm", "plain")
    return "nanoGPT" if title == "Slo" and plain else title
