"""The stages of a CI job: prepare, prove, publish, report. What each leaves lies in one folder.

The stages are apart so that the code that reads a checkpoint meets neither token nor network, and
the code that meets the token reads no checkpoint. ``Work`` says which stage writes what.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from slogpt_hf.build import convert
from slogpt_hf.card.record import RECORD_FILE, REPORT_FILE, dump_json, read_record
from slogpt_hf.ci.outcome import Outcome
from slogpt_hf.errors import SloGPTError, UsageError
from slogpt_hf.files import write_atomically
from slogpt_hf.planning import Decision, Plan, best_of, plan_releases
from slogpt_hf.progress import Progress
from slogpt_hf.settings import REPO_ID, Settings
from slogpt_hf.watch import Candidate, Provenance
from slogpt_hf.watch.event import Event
from slogpt_hf.watch.fetching import Fetched, fetch

# Of a repository on the Hub, what a tokenizer is loaded from.
TOKENIZER_FILES = ["*token*", "vocab*", "merges.txt", "*.model", "config.json"]


@dataclass(frozen=True)
class Work:
    """The folder that the stages of a job hand on.

    ``prepare`` writes all but the last two. ``prove`` may write below ``proof`` alone, ``publish``
    below ``releases``; neither ``checkpoints`` nor ``cache`` is needed once ``prove`` has ended.
    """

    folder: Path

    @property
    def plan(self) -> Path:
        """The plan, and of the event what later stages need."""
        return self.folder / "plan.json"

    @property
    def settings(self) -> Path:
        """The settings as environment and settings file of the training repository have them."""
        return self.folder / "settings.json"

    @property
    def fetched(self) -> Path:
        """Key to where the checkpoint lies."""
        return self.folder / "fetched.json"

    @property
    def checkpoints(self) -> Path:
        """Folder of fetched checkpoints, by key."""
        return self.folder / "checkpoints"

    @property
    def cache(self) -> Path:
        """The Hub client's cache: a tokenizer of the Hub."""
        return self.folder / "cache"

    @property
    def template(self) -> Path:
        """Copy of the card's template."""
        return self.folder / "card-template.jinja"

    @property
    def proof(self) -> Path:
        """Folder that ``prove`` may write: artefacts, parity reports, outcomes, each by key."""
        return self.folder / "proof"

    @property
    def releases(self) -> Path:
        """Folder of the outcomes of ``publish``, by key."""
        return self.folder / "releases"

    def artefact(self, key: str) -> Path:
        """The proven artefact of a checkpoint."""
        return self.proof / "artefacts" / key

    def report(self, key: str) -> Path:
        """The parity report of a checkpoint."""
        return self.proof / "reports" / f"{key}.json"


def prepare(
    work: Work, settings: Settings, event: Event | None, progress: Progress, key: str | None = None
) -> Plan:
    """Find what is new and fetch it, so that proving needs no network.

    Args:
        work: folder of the job.
        settings: of the training repository, which is the current folder.
        event: why the CI runs.
        progress: told what happens.
        key: of the only checkpoint to fetch; all that are wanted by default.

    Returns:
        The plan, with the wanted decisions of ``key`` alone where it is given.

    Raises:
        UsageError: a setting cannot be meant, or the plan has no such key.
        HubError: hub or store refused or could not be reached.
        CheckpointError: what was fetched is not what was planned.
    """
    plan = plan_releases(sources_of(settings), settings, event, progress)
    chosen = [decision for decision in plan.wanted if key in (None, decision.key)]
    if key is not None and not chosen:
        raise UsageError(
            f"{key!r} is not a checkpoint to be released.", hint="Run the stage plan again."
        )
    work.proof.mkdir(parents=True, exist_ok=True)
    fetched = {
        decision.key: fetch(decision.candidate, work.checkpoints / decision.key, settings, progress)
        for decision in chosen
    }
    kept = _kept(work, settings, [found.root for found in fetched.values()])
    is_pull_request = event is not None and event.is_pull_request
    _write(work.settings, asdict(kept))
    _write(work.plan, plan.to_dict() | {"run": event and event.run, "publish": not is_pull_request})
    _write(
        work.fetched,
        {
            name: {"path": str(found.path), "root": str(found.root), "sha256": found.sha256}
            for name, found in fetched.items()
        },
    )
    return plan


def sources_of(settings: Settings) -> tuple[str, ...]:
    """Where to look for checkpoints: the repository around, and the URLs among the globs."""
    urls = tuple(pattern for pattern in settings.checkpoints if "://" in pattern)
    return urls if len(urls) == len(settings.checkpoints) else (".", *urls)


def prove(work: Work, progress: Progress) -> tuple[Outcome, ...]:
    """Convert every fetched checkpoint and prove it equal; no network, no token.

    A checkpoint that is refused does not keep the others from being proven.

    Raises:
        UsageError: ``prepare`` did not run, or the folder cannot be written.
    """
    settings, plan, fetched = _settings(work), _plan(work), _fetched(work)
    run = _read(work.plan).get("run")
    decisions = {decision.key: decision for decision in plan.decisions if decision.key in fetched}
    if settings.which == "best":
        best = best_of(tuple(fetched.items()), settings)
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
    report.unlink(missing_ok=True)
    progress.line(f"   prove: {candidate.name}")
    source = _source(candidate, run)
    path = fetched.path
    if path.is_relative_to(fetched.root):
        path = path.relative_to(fetched.root)  # as messages shall name it
    try:
        # Datasets, tokenizers and bases are those of the checkpoint's own commit.
        with chdir(fetched.root):
            convert(path, artefact, replace(settings, report=str(report)), progress, source)
    except SloGPTError as error:
        outcome = Outcome(
            key,
            candidate.name,
            "refused",
            source.branch,
            source.commit,
            message=str(error),
            exit_code=error.exit_code,
        )
    else:
        report.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(artefact / REPORT_FILE, report)
        outcome = Outcome(
            key,
            candidate.name,
            "proven",
            source.branch,
            source.commit,
            repo_id=settings.repo_id,
        )
    _keep(work.proof / "outcomes" / f"{key}.json", outcome)
    return _with_files(work, outcome)


def publish(work: Work, progress: Progress) -> tuple[Outcome, ...]:
    """Publish what was proven, in the order of the plan; reads no checkpoint.

    After one that the hub refuses, those behind it are not tried: their versions depend on it.

    Raises:
        UsageError: ``prove`` did not run, or the event is a pull request.
    """
    if not _read(work.plan).get("publish"):
        raise UsageError(
            "A pull request proves and never publishes.", hint="Publish when it is merged."
        )
    settings = _settings(work)
    outcomes: list[Outcome] = []
    for outcome in proofs(work):
        if outcome.status != "proven":
            continue
        failed = next((each for each in outcomes if each.status == "unpublished"), None)
        if failed is None:
            outcomes.append(_published(work, outcome, settings, progress))
        else:
            message = f"Not tried, since {failed.name} before it could not be published."
            outcomes.append(
                replace(outcome, status="unpublished", message=message, exit_code=failed.exit_code)
            )
        _keep(work.releases / f"{outcome.key}.json", outcomes[-1])
    return tuple(outcomes)


def _published(work: Work, outcome: Outcome, settings: Settings, progress: Progress) -> Outcome:
    from slogpt_hf.release import push

    try:
        release = push(work.artefact(outcome.key), settings, progress)
    except SloGPTError as error:
        return replace(outcome, status="unpublished", message=str(error), exit_code=error.exit_code)
    return replace(
        outcome,
        status="released" if release.released else "known",
        repo_id=release.repo_id,
        version=release.version,
        tag=release.tag,
        release_commit=release.commit,
        url=release.url,
    )


def outcomes_of(work: Work) -> tuple[Outcome, ...]:
    """What became of every checkpoint of the job so far, in the order of the plan.

    Raises:
        UsageError: an outcome is not what the stages write.
    """
    published = {proof.key: _kept_at(work.releases / f"{proof.key}.json") for proof in proofs(work)}
    return tuple(_with_files(work, published[proof.key] or proof) for proof in proofs(work))


def proofs(work: Work) -> Iterator[Outcome]:
    """What ``prove`` says of every checkpoint, in the order of the plan.

    Raises:
        UsageError: an outcome is not what ``prove`` writes.
    """
    for decision in _plan(work).decisions:
        if found := _kept_at(work.proof / "outcomes" / f"{decision.key}.json"):
            # Which checkpoint it is about is not for the proof to say.
            named = replace(found, key=decision.key, name=decision.candidate.name)
            yield _with_files(work, named)


def _with_files(work: Work, outcome: Outcome) -> Outcome:
    """An outcome with record, report and their paths, which may have moved between jobs."""
    artefact, path = work.artefact(outcome.key), work.report(outcome.key)
    report = _read_or_none(path)
    is_whole = (artefact / RECORD_FILE).is_file()
    return replace(
        outcome,
        tensor=report.get("first_divergence") if report else None,
        record=read_record(artefact) if is_whole else None,
        report=report,
        artefact=str(artefact) if is_whole else None,
        report_path=str(path) if report else None,
    )


def _source(candidate: Candidate, run: str | None) -> Provenance:
    return replace(candidate.provenance, run=run)


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
    if tokenizer and not any((root / tokenizer).exists() for root in roots):
        _fetch_tokenizer(tokenizer, work.cache)
    return replace(
        settings,
        hub=_absolute(settings.hub),
        signing_key=_absolute(settings.signing_key),
        card_template=None,
        output=None,
        token_file=None if settings.token_file == "-" else _absolute(settings.token_file),
    )


def _fetch_tokenizer(repo_id: str, cache: Path) -> None:
    """Put the tokenizer of a Hub repository into a cache, from which it is loaded offline."""
    if not REPO_ID.fullmatch(repo_id):
        return  # a file that is not there; proving says so with the checkpoint's name
    from huggingface_hub import snapshot_download

    from slogpt_hf.hub.client import readable_errors

    with readable_errors("fetching the tokenizer", repo_id):
        snapshot_download(repo_id, allow_patterns=TOKENIZER_FILES, cache_dir=cache)


def _absolute(path: str | None) -> str | None:
    return str(Path(path).absolute()) if path else None


def _settings(work: Work) -> Settings:
    content = _read(work.settings)
    try:
        settings = Settings(
            **{name: tuple(v) if isinstance(v, list) else v for name, v in content.items()}
        )
    except TypeError as error:
        raise _not_ours(work.settings) from error
    template = str(work.template) if work.template.is_file() else None
    return replace(settings, card_template=template)


def _plan(work: Work) -> Plan:
    content = _read(work.plan)
    try:
        return Plan.from_dict(content)
    except (TypeError, KeyError, ValueError) as error:
        raise _not_ours(work.plan) from error


def _fetched(work: Work) -> dict[str, Fetched]:
    try:
        return {
            key: Fetched(Path(found["path"]), Path(found["root"]), found["sha256"])
            for key, found in _read(work.fetched).items()
        }
    except (TypeError, KeyError, AttributeError) as error:
        raise _not_ours(work.fetched) from error


def _keep(path: Path, outcome: Outcome) -> None:
    """Write an outcome without what lies beside it."""
    facts = asdict(replace(outcome, record=None, report=None, artefact=None, report_path=None))
    _write(path, facts)


def _kept_at(path: Path) -> Outcome | None:
    if (found := _read_or_none(path)) is None:
        return None
    try:
        return Outcome(**found)
    except TypeError as error:
        raise _not_ours(path) from error


def _write(path: Path, content: Mapping[str, Any]) -> None:
    write_atomically(path, dump_json(content))


def _read(path: Path) -> dict[str, Any]:
    if (content := _read_or_none(path)) is None:
        raise UsageError(
            f"{path.parent}: holds no {path.name}.", hint="Run the stage prepare before this one."
        )
    return content


def _read_or_none(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _not_ours(path) from error
    if not isinstance(content, dict):
        raise _not_ours(path)
    return content


def _not_ours(path: Path) -> UsageError:
    return UsageError(
        f"{path}: is not what the stages of a job write.", hint="Run the stage prepare again."
    )
