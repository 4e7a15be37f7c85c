"""A run as Markdown: what was released or refused, how to load it, the proof and its picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from slogpt_hf.card.escaping import fence, python_literal
from slogpt_hf.card.ledger import is_ref
from slogpt_hf.card.record import has_tokenizer_in
from slogpt_hf.ci.basis import basis_of
from slogpt_hf.ci.markup import NOTHING, chart, details, link, scientific, span, table
from slogpt_hf.ci.outcome import Outcome, Status
from slogpt_hf.ci.outputs import append
from slogpt_hf.errors import GateInvalidError
from slogpt_hf.settings import REPO_ID

LARGEST = 1_000_000  # bytes; GitHub refuses a summary above 1 MiB
MOST_ROWS = 200
MOST_BATCHES = 24  # of one picture
MOST_REASON = 1500  # characters
MOST_OPEN = 3  # that are not folded
NOTHING_NEW = "Nothing new: every checkpoint that was found is released already."
LEFT_OUT = "The rest does not fit here; it is in the reports of the run."

HEADINGS: Mapping[Status, str] = {
    "released": "released",
    "known": "released before",
    "proven": "proven",
    "unpublished": "not published",
    "refused": "refused",
}
OUTCOMES: Mapping[Status, Callable[[Outcome], str]] = {
    "released": lambda outcome: (
        f"released: {_release(outcome)}{', **does not load**' if outcome.is_broken else ''}"
    ),
    "known": lambda outcome: f"released before: {_release(outcome)}",
    "proven": lambda outcome: "proven, not published",
    "unpublished": lambda outcome: "proven, **could not be published**",
    "refused": lambda outcome: _refused(outcome),
}
ERRORS = (
    ("float64", "fp64_error", "fp64_bound", "relative to the largest logit"),
    ("float32", "fp32_error", "fp32_bound", "absolute"),
)


def write_summary(text: str, environment: Mapping[str, str]) -> bool:
    """Add Markdown to the page of a GitHub run. Any other CI: False, and nothing is written.

    Raises:
        UsageError: the file that ``GITHUB_STEP_SUMMARY`` names cannot be written.
    """
    if path := environment.get("GITHUB_STEP_SUMMARY"):
        append(Path(path), text, "GITHUB_STEP_SUMMARY")
    return bool(path)


def summary_of(outcomes: Sequence[Outcome], largest: int = LARGEST) -> str:
    """The run as Markdown of at most ``largest`` bytes, for GitHub and GitLab.

    Args:
        outcomes: of the run, in the order of the plan.
        largest: bytes of UTF-8.
    """
    parts, left = [], largest - len(LEFT_OUT) - 2
    for part in _parts(outcomes):
        left -= len(part.encode()) + 2
        if left < 0:
            parts.append(LEFT_OUT)
            break
        parts.append(part)
    return "\n\n".join(parts) + "\n"


def _parts(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Blocks of Markdown, what matters most first."""
    counts = [
        f"{count} {words}"
        for status, words in HEADINGS.items()
        if (count := sum(outcome.status == status for outcome in outcomes))
    ]
    yield f"## slogpt-hf: {', '.join(counts) or 'nothing new'}"
    if not outcomes:
        yield NOTHING_NEW
        return
    yield _checkpoints(outcomes)
    failed = [outcome for outcome in outcomes if outcome.message]
    if failed:
        yield "### What went wrong"
        yield from map(_reason, failed[:MOST_OPEN])
        if more := failed[MOST_OPEN:MOST_ROWS]:
            yield details(f"{len(more)} more", "\n\n".join(map(_reason, more)))
    yield from basis_of(outcomes)
    released = [each for each in outcomes if each.status in ("released", "known")]
    released = [each for each in released if not each.is_broken]
    if snippet := _snippet(released[-1]) if released else None:
        smoke = "" if released[-1].smoke is None else f"\n\n{_smoke(released[-1])}"
        yield f"### How to load it\n\n{snippet}{smoke}"
    compared = [outcome for outcome in reversed(outcomes) if _comparisons(outcome)]
    compared.sort(key=lambda outcome: outcome.status != "refused")
    if compared:
        yield f"### The proof\n\n{_explanation(compared[0])}"
        yield _proof(compared[0])
    for outcome in compared[1:MOST_ROWS]:
        yield details(outcome.name, _proof(outcome))


def _checkpoints(outcomes: Sequence[Outcome]) -> str:
    header = ["Checkpoint", "Branch", "Commit", "Outcome", "Level"]
    header += [title for name, *_ in ERRORS for title in (f"{name} error", "bound")]
    rows = [
        (
            span(outcome.name),
            span(outcome.branch or "", 60),
            span((outcome.commit or "")[:10]),
            OUTCOMES[outcome.status](outcome),
            outcome.proof.level or "not known" if outcome.proof else NOTHING,
            *(_figure(outcome, name) for _, *names, _ in ERRORS for name in names),
        )
        for outcome in outcomes[:MOST_ROWS]
    ]
    text = table(header, rows)
    rest = len(outcomes) - len(rows)
    return f"{text}\n\n{rest} more are in the outputs of the run." if rest else text


def _release(outcome: Outcome) -> str:
    name = " ".join(filter(None, (outcome.repo_id, outcome.tag or outcome.version)))
    page = f"/{outcome.repo_id}/"  # the page of another repository is not what the words say
    return link(name, outcome.url if page in (outcome.url or "") else None)


def _smoke(outcome: Outcome) -> str:
    return f"Loaded by its tag in a clean process: {span(outcome.smoke or '', MOST_REASON)}"


def _refused(outcome: Outcome) -> str:
    if outcome.exit_code == GateInvalidError.exit_code:
        return "**not proven: the gate is invalid**"
    return "**refused**"


def _reason(outcome: Outcome) -> str:
    where = f" They first differ at {span(outcome.tensor)}." if outcome.tensor else ""
    return f"{span(outcome.name)}: {span(outcome.message, MOST_REASON)}{where}"


def _snippet(outcome: Outcome) -> str | None:
    """Python that loads a release; None where its names are not those of one."""
    repo_id, tag, record = outcome.repo_id or "", outcome.tag, outcome.record or {}
    if not REPO_ID.fullmatch(repo_id) or tag is None or not is_ref(tag):
        return None
    model, has_tokenizer = record.get("model"), has_tokenizer_in(record)
    source = f"{python_literal(repo_id)}, revision={python_literal(tag)}"
    if isinstance(model, Mapping) and model.get("remote_code") is True:
        source += ", trust_remote_code=True"
    names = "AutoModelForCausalLM, AutoTokenizer" if has_tokenizer else "AutoModelForCausalLM"
    lines = [
        f"from transformers import {names}",
        "",
        f"model = AutoModelForCausalLM.from_pretrained({source})",
        *[f"tokenizer = AutoTokenizer.from_pretrained({source})"] * has_tokenizer,
    ]
    return fence("\n".join(lines), "python")


def _explanation(outcome: Outcome) -> str:
    return (
        f"{span(outcome.name)}: the largest difference of any logit between the original and what "
        "was loaded back from disk, for each batch. Bars are errors (none: exactly equal), the "
        "line is the bound; one more unit is ten times as much."
    )


def _proof(outcome: Outcome) -> str:
    """The batches of a parity report: two pictures and a table."""
    batches, report = _comparisons(outcome), outcome.report or {}
    names = [str(batch.get("name", "")) for batch in batches]
    pictures = [
        chart(f"{name} error, {unit}", names, [b.get(error) for b in batches], report.get(bound))
        for name, error, bound, unit in ERRORS
    ]
    cells = table(
        ("Batch", "Shape", "float64 error", "float32 error", "Original's noise", "Largest logit"),
        [
            (
                span(batch.get("name", "")),
                f"{_integer(batch.get('batch'))} × {_integer(batch.get('length'))}",
                *(scientific(batch.get(key)) for key in ("fp64_error", "fp32_error")),
                *(scientific(batch.get(key)) for key in ("fp32_noise", "max_logit")),
            )
            for batch in batches
        ],
    )
    return "\n\n".join(filter(None, [*pictures, cells, _planted(report)]))


def _planted(report: Mapping[str, Any]) -> str:
    """What became of the planted faults; empty where none were."""
    found = report.get("controls")
    controls = [c for c in found if isinstance(c, Mapping)] if isinstance(found, list) else []
    caught = sum(control.get("outcome") == "caught" for control in controls)
    missed = [control for control in controls if control.get("outcome") == "missed"]
    if not caught and not missed:
        return ""
    names = ", ".join(span(control.get("name", "")) for control in missed[:MOST_BATCHES])
    not_caught = f" **Not caught: {names}.**" if missed else ""
    return f"Planted faults: {caught} of {caught + len(missed)} were caught.{not_caught}"


def _comparisons(outcome: Outcome) -> list[Mapping[str, Any]]:
    found = (outcome.report or {}).get("comparisons")
    batches = found if isinstance(found, list | tuple) else []
    return [batch for batch in batches if isinstance(batch, Mapping)][:MOST_BATCHES]


def _figure(outcome: Outcome, name: str) -> str:
    """A figure of the report, or of the release's record where there is no report."""
    parity = outcome.report or (outcome.record or {}).get("parity")
    return scientific(parity.get(name)) if isinstance(parity, Mapping) else NOTHING


def _integer(value: Any) -> str:
    is_small = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**12
    return str(value) if is_small else NOTHING
