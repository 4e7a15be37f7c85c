"""The folder that the stages of a job hand on, and the files in it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from slogpt_hf.card.record import RECORD_FILE, dump_json, read_record
from slogpt_hf.ci.outcome import Outcome
from slogpt_hf.errors import UsageError
from slogpt_hf.files import write_atomically
from slogpt_hf.planning import Plan
from slogpt_hf.settings import Settings
from slogpt_hf.watch.fetching import Fetched

PUBLISH = "publish"  # of plan.json: whether the job may
RUN = "run"  # of plan.json: URL of the run, for people
# Of an outcome, what lies beside it and is not written into its file.
BESIDE = ("record", "report", "artefact", "report_path")


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

    Raises:
        UsageError: an outcome is not what the stages write.
    """
    published = {proof.key: _kept_at(work.published(proof.key)) for proof in proofs(work)}
    return tuple(with_files(work, published[proof.key] or proof) for proof in proofs(work))


def proofs(work: Work) -> Iterator[Outcome]:
    """What ``prove`` says of every checkpoint, in the order of the plan.

    Raises:
        UsageError: an outcome is not what ``prove`` writes.
    """
    for decision in read_plan(work).decisions:
        if found := _kept_at(work.proven(decision.key)):
            # Which checkpoint it is about is not for the proof to say.
            named = replace(found, key=decision.key, name=decision.candidate.name)
            yield with_files(work, named)


def with_files(work: Work, outcome: Outcome) -> Outcome:
    """An outcome with record, report and their paths, which may have moved between jobs."""
    artefact, path = work.artefact(outcome.key), work.report(outcome.key)
    report = read_or_none(path)
    is_whole = (artefact / RECORD_FILE).is_file()
    return replace(
        outcome,
        tensor=_text(report.get("first_divergence")) if report else None,
        record=read_record(artefact) if is_whole else None,
        report=report,
        artefact=str(artefact) if is_whole else None,
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
    content: dict[str, Any] = read_json(work.settings)
    known: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in content.items()}
    try:
        settings = Settings(**known)
    except TypeError as error:
        raise not_ours(work.settings) from error
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
    except (TypeError, KeyError, AttributeError) as error:
        raise not_ours(work.fetched) from error


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file of the folder whole."""
    write_atomically(path, dump_json(content))


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


def _kept_at(path: Path) -> Outcome | None:
    if (found := read_or_none(path)) is None:
        return None
    named = {each.name for each in fields(Outcome)} - set(BESIDE)
    texts = {name: value for name, value in found.items() if name != "exit_code"}
    is_text = all(value is None or isinstance(value, str) for value in texts.values())
    if not found.keys() <= named or not is_text or not isinstance(found.get("exit_code"), int):
        raise not_ours(path)
    try:
        return Outcome(**found)
    except TypeError as error:
        raise not_ours(path) from error


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
