"""The first stage: find what is new and fetch it, so that proving needs no network."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from slogpt_hf.ci.detect import CI
from slogpt_hf.ci.outcome import Outcome
from slogpt_hf.errors import UsageError
from slogpt_hf.files import absolute
from slogpt_hf.planning import MOST_JOBS, Plan, best_record, plan_releases
from slogpt_hf.progress import Progress
from slogpt_hf.settings import REPO_ID, Settings
from slogpt_hf.stages.work import (
    PUBLISH,
    RUN,
    Work,
    not_ours,
    proofs,
    read_plan,
    read_settings,
    write_json,
)
from slogpt_hf.watch.event import Event
from slogpt_hf.watch.fetching import fetch
from slogpt_hf.watch.sources import sources_of

GITHUB = "GitHub Actions"  # as ``CI.name`` has it
# Of a repository on the Hub, what a tokenizer is loaded from.
TOKENIZER_FILES = ["*token*", "vocab*", "merges.txt", "*.model", "config.json"]


@dataclass(frozen=True)
class Job:
    """What one job of a run does.

    Attributes:
        name: ``all``; or, of several jobs, ``plan``, ``prove`` or ``publish``.
        candidate: of ``prove``: the key of its checkpoint.
        artefacts: of ``publish``: the folder in which the work folders of the proving jobs lie.
        publish: whether what is proven is to be published.
    """

    name: str = "all"
    candidate: str | None = None
    artefacts: Path | None = None
    publish: bool = True

    def __post_init__(self) -> None:
        if self.name == "prove" and self.candidate is None:
            raise UsageError(
                "The job prove needs a candidate.", hint="Take its key from the matrix of plan."
            )
        if self.name == "publish" and self.artefacts is None:
            raise UsageError(
                "The job publish needs the folder of what was proven.",
                hint="Download the artifacts of the proving jobs and name their folder: "
                "artefact-path of the action, --artefacts.",
            )


@dataclass(frozen=True)
class Prepared:
    """What a job has before it.

    Attributes:
        plan: the decision about every checkpoint that was found.
        keys: of the checkpoints that the later stages take.
        may_publish: whether what is proven may be published.
    """

    plan: Plan
    keys: tuple[str, ...]
    may_publish: bool

    @property
    def outputs(self) -> dict[str, str]:
        """``new``, the number of checkpoints; ``publish``; ``matrix``, JSON on one line."""
        return {
            "new": str(len(self.keys)),
            "publish": "true" if self.may_publish else "false",
            "matrix": json.dumps(self.plan.matrix(), separators=(",", ":")),
        }


def prepare(work: Work, settings: Settings, ci: CI, job: Job, progress: Progress) -> Prepared:
    """Find what is new and fetch it; or gather what other jobs proved.

    Args:
        work: folder of the job.
        settings: of the training repository, which is the current folder; of the job ``publish``
            those count that the proving jobs found.
        ci: at hand.
        job: what this job does.
        progress: told what happens.

    Raises:
        UsageError: a setting cannot be meant, or the plan has no such candidate.
        HubError: hub or store refused or could not be reached, or the token may not publish.
        CheckpointError: what was fetched is not what was planned.
    """
    may_publish = job.publish and not ci.event.is_pull_request
    if job.artefacts is not None and job.name == "publish":
        return gather(work, job.artefacts, ci.event, may_publish)
    plan = plan_releases(sources_of(settings), settings, ci.event, progress)
    for decision in plan.decisions:
        progress.line(f"    plan: {decision.candidate.name}: {decision.reason}")
    if not plan.decisions:
        progress.line("    plan: no checkpoints were found.")
    if (left := len(plan.wanted) - MOST_JOBS) > 0 and job.name == "plan":
        progress.line(f"    plan: {left} more than a matrix holds; the next run takes them.")
    if plan.wanted and may_publish and job.name != "prove" and _has_token(settings, ci):
        _require_access(settings, progress)
    if job.name == "plan":
        return Prepared(plan, tuple(decision.key for decision in plan.wanted), may_publish)
    keys = _fetched(work, settings, ci.event, plan, job.candidate, may_publish, progress)
    return Prepared(plan, keys, may_publish)


def _fetched(
    work: Work,
    settings: Settings,
    event: Event,
    plan: Plan,
    key: str | None,
    may_publish: bool,
    progress: Progress,
) -> tuple[str, ...]:
    """Keys of what is fetched: all that is wanted, or ``key`` alone."""
    if key is not None and all(decision.key != key for decision in plan.decisions):
        raise UsageError(
            f"{key[:40]!r} is not the key of a checkpoint here.", hint="Run the job plan again."
        )
    work.proof.mkdir(parents=True, exist_ok=True)
    fetched = {
        decision.key: fetch(decision.candidate, work.checkpoints / decision.key, settings, progress)
        for decision in plan.wanted
        if key in (None, decision.key)
    }
    roots = [found.root for found in fetched.values()]
    _write(work, _kept(work, settings, roots), plan, event, may_publish)
    write_json(
        work.fetched,
        {
            name: {"path": str(found.path), "root": str(found.root), "sha256": found.sha256}
            for name, found in fetched.items()
        },
    )
    return tuple(fetched)


def _has_token(settings: Settings, ci: CI) -> bool:
    """Whether whoever publishes has the credentials that are at hand here.

    GitHub's steps and jobs have the same; elsewhere the job that proves may be without on purpose.
    """
    from slogpt_hf.hub.credentials import NO_IDENTITY, source_of

    return ci.name == GITHUB or source_of(settings) not in (None, NO_IDENTITY)


def gather(work: Work, folder: Path, event: Event, may_publish: bool) -> Prepared:
    """Make one work folder of those that the proving jobs left, so that one job publishes.

    Of ``which: best`` only the best of all that is proven is kept.

    Args:
        work: folder of this job; may be ``folder``.
        folder: the work folders of the other jobs lie in it.
        event: why the CI runs.
        may_publish: whether what is proven may be published.

    Raises:
        UsageError: a file is not what the stages write.
    """
    parts = [Work(each.parent) for each in sorted(folder.glob("*/plan.json"))]
    if not parts and not work.plan.exists():
        return Prepared(Plan("", ()), (), False)
    settings, plans = read_settings((parts or [work])[0]), [read_plan(each) for each in parts]
    if plans:
        decisions = {each.key: each for plan in plans for each in plan.decisions}
        plan = Plan(plans[0].repo_id, tuple(decisions.values()))
        if any(each.repo_id != plan.repo_id for each in plans):
            raise not_ours(parts[-1].plan)
        if parts[0].template.is_file():
            _move(parts[0].template, work.template)
        _write(work, settings, plan, event, may_publish)
        for part in parts:
            for outcome in tuple(proofs(part)):
                for place in (Work.artefact, Work.report, Work.proven):
                    _move(place(part, outcome.key), place(work, outcome.key))
    else:
        plan = read_plan(work)
        _write(work, settings, plan, event, may_publish)
    outcomes = tuple(proofs(work))
    if settings.which == "best":
        _keep_best(work, outcomes)
    return Prepared(plan, tuple(outcome.key for outcome in proofs(work)), may_publish)


def _keep_best(work: Work, outcomes: Sequence[Outcome]) -> None:
    """Leave out what is proven and not the best; what was refused stays, to be reported."""
    proven = [(each.key, each.record) for each in outcomes if each.record is not None]
    best = best_record(proven)
    for key, _ in proven:
        if key != best:
            work.proven(key).unlink()


def _move(source: Path, target: Path) -> None:
    if not source.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        source.replace(target)
    except OSError:  # on another file system, or one that is not written to
        copy = shutil.copytree if source.is_dir() else shutil.copyfile
        copy(source, target)


def _write(work: Work, settings: Settings, plan: Plan, event: Event, may_publish: bool) -> None:
    # The template lies in the folder, wherever that is when a later stage reads it.
    write_json(work.settings, asdict(replace(settings, card_template=None)))
    content: dict[str, Any] = plan.to_dict()
    write_json(work.plan, content | {RUN: event.run, PUBLISH: may_publish})


def _require_access(settings: Settings, progress: Progress) -> None:
    """Find before a long conversion what the hub would refuse after it."""
    from slogpt_hf.hub.client import hub_of
    from slogpt_hf.hub.preflight import require_write_access
    from slogpt_hf.hub.state import DEFAULT_BRANCH, read_state

    repo_id = settings.repo_id or ""
    with hub_of(settings, repo_id, progress.line) as hub:
        state = read_state(hub, repo_id, DEFAULT_BRANCH)
        assert hub.credentials is not None
        require_write_access(
            hub, state.repo_id, hub.credentials, exists=state.exists, create=settings.create
        )


def _kept(work: Work, settings: Settings, roots: Sequence[Path]) -> Settings:
    """The settings as they hold in a container that does not see the training repository."""
    if settings.card_template:
        try:
            shutil.copyfile(settings.card_template, work.template)
        except OSError as error:
            raise UsageError(
                f"{settings.card_template}: cannot be read: {error.strerror}.",
                hint="Check --card-template.",
            ) from error
    tokenizer = settings.tokenizer
    if tokenizer and roots and not any((root / tokenizer).exists() for root in roots):
        _fetch_tokenizer(tokenizer, work.cache)
    token_file = settings.token_file
    return replace(
        settings,
        hub=absolute(settings.hub),
        signing_key=absolute(settings.signing_key),
        output=None,
        token_file=None if token_file == "-" else absolute(token_file),
    )


def _fetch_tokenizer(repo_id: str, cache: Path) -> None:
    """Put the tokenizer of a Hub repository into a cache, from which it is loaded offline."""
    if not REPO_ID.fullmatch(repo_id):
        return  # a file that is not there; proving says so with the checkpoint's name
    from huggingface_hub import snapshot_download

    from slogpt_hf.hub.client import readable_errors

    with readable_errors("fetching the tokenizer", repo_id):
        snapshot_download(repo_id, allow_patterns=TOKENIZER_FILES, cache_dir=cache)
