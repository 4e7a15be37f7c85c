"""The second stage: convert and prove, without a network and without a token."""

from __future__ import annotations

import shutil
from contextlib import chdir
from dataclasses import replace

from slogpt_hf.build import convert
from slogpt_hf.card.record import REPORT_FILE
from slogpt_hf.ci.markup import visible
from slogpt_hf.ci.outcome import Outcome
from slogpt_hf.errors import SloGPTError
from slogpt_hf.parity.reference_name import AUTO
from slogpt_hf.planning import Decision, best_of
from slogpt_hf.progress import Progress
from slogpt_hf.settings import Settings
from slogpt_hf.stages.work import (
    RUN,
    Work,
    keep,
    read_fetched,
    read_json,
    read_plan,
    read_settings,
    with_files,
)
from slogpt_hf.watch.candidate import Candidate
from slogpt_hf.watch.fetching import Fetched


def prove(work: Work, progress: Progress) -> tuple[Outcome, ...]:
    """Convert every fetched checkpoint and prove it; no network, no token.

    A checkpoint that is refused does not keep the others from being proven.

    Raises:
        UsageError: ``prepare`` did not run, or the folder cannot be written.
    """
    settings, plan, fetched = read_settings(work), read_plan(work), read_fetched(work)
    run = read_json(work.plan).get(RUN)
    decisions = {decision.key: decision for decision in plan.decisions if decision.key in fetched}
    if settings.which == "best":
        best = best_of(tuple(fetched.items()), settings, plan.best_loss)
        if best is None and fetched:
            progress.line(f"   prove: none is better than what is released ({plan.best_loss}).")
        decisions = {key: decisions[key] for key in decisions if key == best}
    return tuple(
        _proven(work, decision, fetched[key], settings, run, progress)
        for key, decision in decisions.items()
    )


def _proven(
    work: Work,
    decision: Decision,
    fetched: Fetched,
    settings: Settings,
    run: str | None,
    progress: Progress,
) -> Outcome:
    key, candidate = decision.key, decision.candidate
    artefact, report = work.artefact(key), work.report(key)
    shutil.rmtree(artefact, ignore_errors=True)  # of a run before, which did not finish
    for path in (report, work.proven(key)):
        path.unlink(missing_ok=True)
    progress.line(f"   prove: {candidate.name}")
    source = replace(candidate.provenance, run=run)
    outcome = Outcome(
        key, candidate.name, "proven", source.branch, source.commit, repo_id=settings.repo_id
    )
    try:
        # Datasets, tokenizers and bases are those of the checkpoint's own commit.
        with chdir(fetched.root):
            told = replace(
                settings,
                report=str(report),
                reference=settings.reference or _looked_for(candidate, fetched),
            )
            convert(fetched.shown, artefact, told, progress, source)
    except SloGPTError as error:
        message, code = visible(str(error)), error.exit_code
        outcome = replace(outcome, status="refused", message=message, exit_code=code)
        progress.line(f"   prove: {candidate.name}: refused (exit code {code}): {message}")
    else:
        report.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(artefact / REPORT_FILE, report)
    keep(work.proven(key), outcome)
    return with_files(work, outcome)


def _looked_for(candidate: Candidate, fetched: Fetched) -> str:
    """Where the trainer's class is looked for, since its code can do no harm in this stage."""
    if candidate.kind == "git":  # the commit's own files lie around the checkpoint
        return f"{AUTO}:{str(fetched.path).removesuffix(candidate.name)}"
    return AUTO if candidate.kind == "file" else f"{AUTO}:"
