"""Whether what a release claims that its proof rests on is what its report shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from slogpt_hf.card.record import RECORD_FILE, REPORT_FILE, Record
from slogpt_hf.parity.claims import LEVELS, MOST_ASSUMED, claim
from slogpt_hf.parity.stated import assumptions_in, stated, told
from slogpt_hf.recording import LEVEL_FIELDS
from slogpt_hf.verification.results import (
    FP64_BOUND,
    NOT_CHECKED,
    Check,
    check,
    is_figure,
    shown,
)

WITNESSED_POSITIONS = 512  # a witness has to cover them, or the context where that is shorter


def check_level(record: Record, report: Any) -> Check:
    """The level and the assumptions are those that the report has the evidence for.

    Args:
        record: of the release.
        report: content of ``parity.json``, parsed.
    """
    if not isinstance(report, Mapping):
        return check("level", [f"{REPORT_FILE} is missing or is no parity report"], "")
    problems = [*_differences(record["parity"], report)]
    if not problems:
        problems = [f"{REPORT_FILE}: {each}" for each in level_problems(report, _context(record))]
    found = stated(report)
    if not problems and found.level is None:
        return Check("level", NOT_CHECKED, f"level {found.shown_level}")
    return check("level", problems, f"{found.level}: {claim(found, MOST_ASSUMED)}")


def level_problems(report: Mapping[str, Any], block_size: int | None) -> Iterator[str]:
    """Why a report does not show the level that it states; nothing if it does.

    Args:
        report: content of ``parity.json``.
        block_size: the model's context; None where it is not known.
    """
    level = report.get("level")
    witnesses, loss = _mappings(report.get("witnesses")), report.get("loss")
    if level is not None and level not in LEVELS:
        yield f"level {shown(level)} is none of {', '.join(LEVELS)}"
    if any(witness.get("agrees") is not True for witness in witnesses):
        yield "a witness disagrees"
    if isinstance(loss, Mapping) and loss.get("agrees") is not True:
        yield "the recorded loss is not reproduced"
    most = min(block_size or WITNESSED_POSITIONS, WITNESSED_POSITIONS)
    speaking = [witness for witness in witnesses if _confirms(witness, most)]
    if level == "witnessed" and not speaking:
        yield f"level is witnessed, but no witness agrees within its bounds on {most} positions"
    for name in (each.name for each in assumptions_in(report.get("confirmed"))):
        if all(name in _told(witness) for witness in speaking):
            yield f"{shown(name)} is confirmed, but no witness that agrees knew it by itself"
    if level == "corroborated" and not _is_reproduced(loss):
        yield "level is corroborated, but the recorded loss is not reproduced within its bound"


def _differences(recorded: Mapping[str, Any], report: Mapping[str, Any]) -> Iterator[str]:
    for field in LEVEL_FIELDS:
        if report.get(field) != recorded.get(field) and not _earlier(report, recorded):
            yield (
                f"{field} is {shown(report.get(field))} in {REPORT_FILE}, "
                f"{shown(recorded.get(field))} in {RECORD_FILE}"
            )
    ours, theirs = (
        [told(each) for each in assumptions_in(found.get("assumptions"))]
        for found in (report, recorded)
    )
    if ours != theirs:
        names = sorted({a["name"] for a in [*ours, *theirs] if a not in ours or a not in theirs})
        yield f"assumptions differ between {REPORT_FILE} and {RECORD_FILE}: {shown(names)}"


def _earlier(report: Mapping[str, Any], recorded: Mapping[str, Any]) -> bool:
    """Whether neither states a level, as neither did before there were levels."""
    return report.get("level") is None and recorded.get("level") is None


def _confirms(witness: Mapping[str, Any], positions: int) -> bool:
    """Whether a witness agrees within its bounds on so many positions."""
    bound, rounding = witness.get("bound"), witness.get("rounding", 0.0)
    allowed = bound + rounding if is_figure(bound) and is_figure(rounding) else None
    exact = witness.get("fp64_error")
    return (
        witness.get("agrees") is True
        and not witness.get("not_taken")
        and _within(witness.get("built_in_error"), bound)
        and _within(witness.get("error"), allowed)
        and _within(0.0 if exact is None else exact, FP64_BOUND)
        and _within(positions, witness.get("length"))
    )


def _told(witness: Mapping[str, Any]) -> list[Any]:
    """The facts that a witness was told, or cannot tell, so that it confirms none of them."""
    lists = [witness.get(field) for field in ("told", "untold")]
    return [name for each in lists if isinstance(each, list) for name in each]


def _is_reproduced(loss: Any) -> bool:
    if not isinstance(loss, Mapping) or loss.get("agrees") is not True:
        return False
    recorded, computed = loss.get("recorded"), loss.get("computed")
    off = abs(recorded - computed) if is_figure(recorded) and is_figure(computed) else None
    return _within(off, loss.get("bound"))


def _within(value: Any, bound: Any) -> bool:
    return is_figure(value) and is_figure(bound) and value <= bound


def _context(record: Record) -> int | None:
    model = record.get("model")
    spec = model.get("spec") if isinstance(model, Mapping) else None
    size = spec.get("block_size") if isinstance(spec, Mapping) else None
    return size if type(size) is int and size > 0 else None


def _mappings(found: Any) -> list[Mapping[str, Any]]:
    return [each for each in found if isinstance(each, Mapping)] if isinstance(found, list) else []
