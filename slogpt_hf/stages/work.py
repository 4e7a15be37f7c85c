"""The folder that the stages of a job hand on, and the files in it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from slogpt_hf.card.ledger import published_record
from slogpt_hf.card.record import RECORD_FILE
from slogpt_hf.ci.outcome import Outcome
from slogpt_hf.errors import UsageError
from slogpt_hf.files import write_atomically
from slogpt_hf.planning import Decision, Plan
from slogpt_hf.settings import NAMES, Settings
from slogpt_hf.watch.fetching import Fetched

PUBLISH = "publish"  # of plan.json: whether the job may
RUN = "run"  # of plan.json: URL of the run, for people
# Of an outcome, what lies beside it and is not written into its file.
BESIDE = ("record", "report", "artefact", "report_path")
PROOFS, PUBLICATIONS = ("proven", "refused"), ("released", "known", "unpublished")  # of a status
FAILED = ("refused", "unpublished")
REMARKED = (*FAILED, "released", "proven")  # of which a job says something beside the log
LARGEST_FILE = 32 << 20  # bytes of a file that is read whole
STAMPS = {"version": "0.0.0", "tag": "v0.0.0"}  # of a record, in place of those it gets


@dataclass(frozen=True)
class Work:
    """The folder that the stages of a job hand on.

    ``prepare`` writes all but the last three. ``prove`` may write below ``proof`` alone,
    ``publish`` below ``releases``; ``report`` writes the files for a CI that takes none of its own
    accord. Neither ``checkpoints`` nor ``cache`` is needed once ``prove`` has ended.
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

    @property
    def summary(self) -> Path:
        """The run as Markdown, where the CI has no page for it."""
        return self.folder / "summary.md"

    @property
    def outputs(self) -> Path:
        """The outputs as dotenv or properties, where the CI has no other way to take them."""
        return self.folder / "outputs.env"

    def artefact(self, key: str) -> Path:
        """The proven artefact of a checkpoint."""
        return self.proof / "artefacts" / key

    def report(self, key: str) -> Path:
        """The parity report of a checkpoint."""
        return self.proof / "reports" / f"{key}.json"

    def proven(self, key: str) -> Path:
        """What ``prove`` says of a checkpoint."""
        return self.proof / "outcomes" / f"{key}.json"

    def published(self, key: str) -> Path:
        """What ``publish`` says of a checkpoint."""
        return self.releases / f"{key}.json"


def outcomes_of(work: Work) -> tuple[Outcome, ...]:
    """What became of every checkpoint of the job so far, in the order of the plan.

    Of a job that found nothing new, what was released before.

    Raises:
        UsageError: a file is not what the stages write.
    """
    plan, fetched = read_plan(work), read_fetched(work)
    if not fetched:
        return known_outcomes(plan)
    proven = {outcome.key: outcome for outcome in proofs(work)}
    is_chosen = proven and read_settings(work).which == "best"
    outcomes = []
    for decision in plan.decisions:
        if outcome := proven.get(decision.key):
            published = _kept_at(work, work.published(decision.key), PUBLICATIONS)
            outcomes.append(_told(work, decision, published) if published else outcome)
        elif decision.key in fetched and not is_chosen:
            message = "The stage prove ended before this checkpoint was proven."
            unproven = Outcome(decision.key, "", "refused", message=message, exit_code=1)
            outcomes.append(_told(work, decision, unproven))
    return tuple(outcomes)


def known_outcomes(plan: Plan) -> tuple[Outcome, ...]:
    """What was released before, of a plan, in its order."""
    return tuple(
        Outcome(
            decision.key,
            decision.candidate.name,
            "known",
            decision.candidate.provenance.branch,
            decision.candidate.provenance.commit,
            repo_id=plan.repo_id,
            version=decision.version,
            tag=decision.tag,
            release_commit=decision.release_commit,
        )
        for decision in plan.decisions
        if decision.tag
    )


def proofs(work: Work) -> Iterator[Outcome]:
    """What ``prove`` says of every checkpoint that was fetched for it, in the order of the plan.

    It says whether and why; which checkpoint that is about, and where it goes to, is not its to
    say.

    Raises:
        UsageError: an outcome, or the record of an artefact, is not what ``prove`` writes.
    """
    plan, fetched = read_plan(work), read_fetched(work)
    for decision in plan.decisions:
        path = work.proven(decision.key)
        if decision.key in fetched and (found := _kept_at(work, path, PROOFS)):
            said = Outcome(
                found.key,
                found.name,
                found.status,
                message=found.message,
                exit_code=found.exit_code,
                repo_id=plan.repo_id,
            )
            outcome = _told(work, decision, said)
            if outcome.record is not None:
                _require_same(work, decision, fetched[decision.key], outcome.record)
            yield outcome


def with_files(work: Work, outcome: Outcome) -> Outcome:
    """An outcome with record, report and their paths, which may have moved between jobs."""
    artefact, path = work.artefact(outcome.key), work.report(outcome.key)
    report, record = _read_proof(work, path), _read_proof(work, artefact / RECORD_FILE)
    if record is not None and published_record(record | STAMPS) is None:
        raise not_ours(artefact / RECORD_FILE)
    return replace(
        outcome,
        tensor=_text(report.get("first_divergence")) if report else None,
        record=record,
        report=report,
        artefact=str(artefact) if record else None,
        report_path=str(path) if report else None,
    )


def keep(path: Path, outcome: Outcome) -> None:
    """Write an outcome without what lies beside it."""
    facts = asdict(replace(outcome, record=None, report=None))
    write_json(path, {name: value for name, value in facts.items() if name not in BESIDE})


def read_settings(work: Work) -> Settings:
    """The settings that ``prepare`` wrote.

    Raises:
        UsageError: it did not run, or wrote something else.
    """
    content = read_json(work.settings)
    if content.keys() != NAMES.keys() or not all(map(_is_setting, content, content.values())):
        raise not_ours(work.settings)
    known: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in content.items()}
    settings = Settings(**known)
    template = str(work.template) if work.template.is_file() else None
    return replace(settings, card_template=template)


def read_plan(work: Work) -> Plan:
    """The plan that ``prepare`` wrote.

    Raises:
        UsageError: it did not run, or wrote something else.
    """
    content = read_json(work.plan)
    try:
        return Plan.from_dict(content)
    except (TypeError, KeyError, ValueError) as error:
        raise not_ours(work.plan) from error


def read_fetched(work: Work) -> dict[str, Fetched]:
    """Where the fetched checkpoints lie, by key.

    Raises:
        UsageError: ``prepare`` did not run, or wrote something else.
    """
    try:
        return {
            key: Fetched(Path(found["path"]), Path(found["root"]), found["sha256"])
            for key, found in read_json(work.fetched).items()
        }
    except (TypeError, KeyError) as error:
        raise not_ours(work.fetched) from error


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file of the folder whole; in ASCII, which holds what UTF-8 cannot."""
    write_atomically(path, json.dumps(content, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """A file that ``prepare`` wrote.

    Raises:
        UsageError: it is not there, or something else.
    """
    if (content := read_or_none(path)) is None:
        raise UsageError(
            f"{path.parent}: holds no {path.name}.", hint="Run the stage prepare before this one."
        )
    return content


def read_or_none(path: Path) -> dict[str, Any] | None:
    """A file of the folder; None if it is not there."""
    try:
        if path.exists() and not (path.is_file() and path.stat().st_size <= LARGEST_FILE):
            raise not_ours(path)
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise not_ours(path) from error
    if not isinstance(content, dict):
        raise not_ours(path)
    return content


def not_ours(path: Path) -> UsageError:
    """The error for a file that some other program wrote."""
    return UsageError(
        f"{path}: is not what the stages of a job write.", hint="Run the stage prepare again."
    )


def _require_own(work: Work, path: Path) -> None:
    """Raise UsageError if a link leads to ``path``: what is proven lies where it seems to lie."""
    own = work.folder.resolve() / path.relative_to(work.folder)
    try:
        is_own = path.resolve() == own
    except (OSError, RuntimeError) as error:  # links in a circle
        raise not_ours(path) from error
    if not is_own:
        raise not_ours(path)


def _read_proof(work: Work, path: Path) -> dict[str, Any] | None:
    _require_own(work, path)
    return read_or_none(path)


def _kept_at(work: Work, path: Path, statuses: Collection[str]) -> Outcome | None:
    if (found := _read_proof(work, path)) is None:
        return None
    names = {each.name for each in fields(Outcome)} - set(BESIDE)
    texts = {name: value for name, value in found.items() if name != "exit_code"}
    is_text = all(value is None or isinstance(value, str) for value in texts.values())
    code, status = found.get("exit_code"), found.get("status")
    if found.keys() != names or not is_text or status not in statuses:
        raise not_ours(path)
    if type(code) is not int or not 0 <= code < 128 or found["message"] is None:
        raise not_ours(path)
    if status != "released" and (status in FAILED) != (code > 0):  # what is released may not load
        raise not_ours(path)
    return Outcome(**found)


def _told(work: Work, decision: Decision, outcome: Outcome) -> Outcome:
    """An outcome about the checkpoint of a decision, whatever it says that it is about."""
    source, name = decision.candidate.provenance, decision.candidate.name
    about = replace(
        outcome, key=decision.key, name=name, branch=source.branch, commit=source.commit
    )
    return with_files(work, about)


def _require_same(
    work: Work, decision: Decision, fetched: Fetched, record: Mapping[str, Any]
) -> None:
    """Raise unless an artefact is of the very checkpoint, whose branch the templates take."""
    source, planned = record["source"], decision.candidate.provenance
    found = (record["checkpoint"].get("sha256"), source.get("branch"), source.get("commit"))
    artefact = work.artefact(decision.key)
    if found != (fetched.sha256, planned.branch, planned.commit):
        raise not_ours(artefact / RECORD_FILE)
    for path in artefact.rglob("*"):
        if path.is_symlink():  # to a file of this job, which nobody proved
            raise not_ours(path)


def _is_setting(name: str, value: Any) -> bool:
    default = NAMES[name].default
    if isinstance(default, tuple):
        return isinstance(value, list) and all(isinstance(each, str) for each in value)
    return type(value) is type(default) or (default is None and isinstance(value, str))


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
