"""The first stage: find what is new and fetch it, so that proving needs no network."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from slogpt_hf.card.record import artefact_files
from slogpt_hf.ci.detect import CI, NONE
from slogpt_hf.ci.outcome import Outcome
from slogpt_hf.errors import UsageError
from slogpt_hf.files import absolute
from slogpt_hf.planning import MOST_JOBS, Decision, Plan, best_record, plan_releases
from slogpt_hf.progress import Progress
from slogpt_hf.settings import REPO_ID, Settings
from slogpt_hf.stages.work import (
    PUBLISH,
    RUN,
    Work,
    proofs,
    read_fetched,
    read_json,
    read_plan,
    read_settings,
    write_json,
)
from slogpt_hf.watch.event import Event
from slogpt_hf.watch.fetching import Fetched, fetch
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
        return gather(work, job.artefacts, ci.event, may_publish, settings.repo_id)
    plan = plan_releases(sources_of(settings), settings, ci.event, progress)
    for decision in plan.decisions:
        progress.line(f"    plan: {decision.candidate.name}: {decision.reason}")
    if not plan.decisions:
        progress.line("    plan: no checkpoints were found.")
    if (left := len(plan.wanted) - MOST_JOBS) > 0 and job.name == "plan":
        progress.line(f"    plan: {left} more than a matrix holds; the next run takes them.")
    if plan.wanted and may_publish and job.name != "prove" and _is_publishers(settings, ci):
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
    _start_anew(work, plan.decisions)
    fetched = {
        decision.key: fetch(decision.candidate, work.checkpoints / decision.key, settings, progress)
        for decision in plan.wanted
        if key in (None, decision.key)
    }
    roots = [found.root for found in fetched.values()]
    _write(work, _kept(work, settings, roots), plan, fetched, event, may_publish)
    return tuple(fetched)


def _start_anew(work: Work, decisions: Sequence[Decision]) -> None:
    """Remove what a run before said about the same checkpoints, perhaps with other settings."""
    work.proof.mkdir(parents=True, exist_ok=True)
    for decision in decisions:
        for path in (work.proven(decision.key), work.published(decision.key)):
            path.unlink(missing_ok=True)
    work.template.unlink(missing_ok=True)


def _is_publishers(settings: Settings, ci: CI) -> bool:
    """Whether the credentials that are at hand here are those of whoever publishes.

    They are on GitHub, and where no CI is. Other CIs may give the job that proves a token that
    only reads, or none; a wrong one they have noticed by now, as it could not read the ledger.
    """
    from slogpt_hf.hub.credentials import EMBEDDED, source_of

    if settings.token_file == "-":  # it is read once
        return False
    return ci.name in (GITHUB, NONE.name) or source_of(settings) == EMBEDDED


def gather(
    work: Work, folder: Path, event: Event, may_publish: bool, repo_id: str | None = None
) -> Prepared:
    """Make one work folder of those that the proving jobs left, so that one job publishes.

    Each speaks of the checkpoints alone that were fetched for it. Of ``which: best`` only the best
    of all that is proven is kept.

    Args:
        work: folder of this job; may be ``folder``.
        folder: the work folders of the other jobs lie in it.
        event: why the CI runs.
        may_publish: whether what is proven may be published; no if a proving job says no.
        repo_id: of the Hub repository that this job is for; None for that of the others.

    Raises:
        UsageError: a file is not what the stages write, there is none, or it is of another
            repository.
    """
    parts = [Work(each.parent) for each in sorted(folder.glob("*/plan.json"))]
    if not parts and not work.plan.is_file():
        raise UsageError(
            f"{folder}: holds no work folder of a proving job.",
            hint="The proving jobs say why, or the artifacts were downloaded to somewhere else.",
        )
    sources = parts or [work]
    settings, plans = read_settings(sources[0]), [read_plan(each) for each in sources]
    wanted = repo_id or settings.repo_id
    for source, plan in zip(sources, plans, strict=True):
        for found in (plan.repo_id, read_settings(source).repo_id):
            if found != wanted:
                raise UsageError(
                    f"{source.folder}: is of {found}, not of {wanted}.",
                    hint="Gather what the proving jobs of this very run left.",
                )
        may_publish = may_publish and read_json(source.plan).get(PUBLISH) is True
    decisions = {each.key: each for plan in plans for each in plan.decisions}
    losses = [plan.best_loss for plan in plans if plan.best_loss is not None]
    plan = Plan(plans[0].repo_id, tuple(decisions.values()), min(losses, default=None))
    fetched = {key: each for part in sources for key, each in read_fetched(part).items()}
    for part in parts:
        for outcome in tuple(proofs(part)):
            for place in (Work.artefact, Work.report, Work.proven):
                _move(place(part, outcome.key), place(work, outcome.key))
    if parts:
        _move(parts[0].template, work.template)
    _write(work, settings, plan, fetched, event, may_publish)
    if settings.which == "best":
        _keep_best(work, tuple(proofs(work)), plan.best_loss)
    return Prepared(plan, tuple(outcome.key for outcome in proofs(work)), may_publish)


def _keep_best(work: Work, outcomes: Sequence[Outcome], released: float | None) -> None:
    """Leave out what is proven and not the best; what was refused stays, to be reported."""
    proven = [
        (each.key, each.record)
        for each in outcomes
        if each.status == "proven" and each.record is not None
    ]
    best = best_record(proven, released)
    for key, _ in proven:
        if key != best:
            work.proven(key).unlink()


def _move(source: Path, target: Path) -> None:
    """Move a file or folder, in place of what a gathering before left; nothing if it is gone."""
    if not source.exists():
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            shutil.rmtree(target)
        try:
            source.replace(target)
        except OSError:  # on another file system, or one that is not written to
            for name, file in (artefact_files(source) if source.is_dir() else {"": source}).items():
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target / name)
    except OSError as error:
        raise UsageError(
            f"{target}: cannot be written: {error.strerror or error}.",
            hint="Check the disk's free space and the folder's permissions.",
        ) from error


def _write(
    work: Work,
    settings: Settings,
    plan: Plan,
    fetched: Mapping[str, Fetched],
    event: Event,
    may_publish: bool,
) -> None:
    # The template lies in the folder, wherever that is when a later stage reads it.
    write_json(work.settings, asdict(replace(settings, card_template=None)))
    content: dict[str, Any] = plan.to_dict()
    write_json(work.plan, content | {RUN: event.run, PUBLISH: may_publish})
    write_json(
        work.fetched,
        {
            key: {"path": str(found.path), "root": str(found.root), "sha256": found.sha256}
            for key, found in fetched.items()
        },
    )


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
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import EntryNotFoundError

    from slogpt_hf.hub.client import readable_errors

    with readable_errors("fetching the tokenizer", repo_id):
        snapshot_download(repo_id, allow_patterns=TOKENIZER_FILES, cache_dir=cache)
        with suppress(EntryNotFoundError):  # the cache then knows that there is none
            hf_hub_download(repo_id, "config.json", cache_dir=cache)
