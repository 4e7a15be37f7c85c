"""The plan: which checkpoints are new, by the one question that counts: is it in the ledger?"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from slogpt_hf.card.ledger import is_number, ledger, merged_ledgers
from slogpt_hf.card.record import Record
from slogpt_hf.errors import CheckpointError, HubError, UsageError
from slogpt_hf.files import is_folder
from slogpt_hf.progress import SILENT, Progress
from slogpt_hf.settings import Settings
from slogpt_hf.watch import Candidate, Provenance
from slogpt_hf.watch.event import Event
from slogpt_hf.watch.fetching import Fetched
from slogpt_hf.watch.sources import branches_of, find_candidates

if TYPE_CHECKING:
    from slogpt_hf.hub.client import Hub
    from slogpt_hf.hub.state import RepoState

MOST_JOBS = 256  # of a job matrix, https://docs.github.com/actions/reference/limits
KEY_DIGITS = 12
KEY = re.compile(r"[0-9a-z-]{1,40}", re.ASCII)
MOST_BRANCHES = 100  # of the hub, where a template does not tell which one a release goes to
REFUSALS = (401, 403, 404)
NEW = "new"
Read = TypeVar("Read")


@dataclass(frozen=True)
class Decision:
    """What is to become of a candidate.

    Attributes:
        key: short, of ``[0-9a-z-]``, the same in every plan with this checkpoint.
        candidate: what was found.
        wanted: it is to be released.
        reason: why, or why not, for people.
        tag: of the release that it was released as.
        version: of that release.
        release_commit: id of that release's commit on the hub, if the ledger tells.
    """

    key: str
    candidate: Candidate
    wanted: bool
    reason: str
    tag: str | None = None
    version: str | None = None
    release_commit: str | None = None


@dataclass(frozen=True)
class Plan:
    """A decision about every candidate, in the order in which they are to be released.

    Attributes:
        repo_id: where to.
        decisions: about what was found.
        best_loss: lowest validation loss of what is released already; None if none is known.
    """

    repo_id: str
    decisions: tuple[Decision, ...]
    best_loss: float | None = None

    @property
    def wanted(self) -> tuple[Decision, ...]:
        """The decisions for what is to be released."""
        return tuple(decision for decision in self.decisions if decision.wanted)

    def matrix(self) -> dict[str, list[dict[str, str | None]]]:
        """A job matrix: a job for each of the first 256 that are wanted."""
        return {
            "include": [
                {
                    "key": decision.key,
                    "name": decision.candidate.name,
                    "branch": decision.candidate.provenance.branch,
                    "commit": decision.candidate.provenance.commit,
                    "sha256": decision.candidate.sha256,
                }
                for decision in self.wanted[:MOST_JOBS]
            ]
        }

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON has it."""
        decisions = [asdict(each) for each in self.decisions]
        return {"repo_id": self.repo_id, "best_loss": self.best_loss, "decisions": decisions}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Plan:
        """The plan that ``to_dict`` gave; what else ``content`` holds is left out.

        Raises:
            KeyError, TypeError, ValueError: it is none.
        """
        decisions = tuple(map(_decision, content["decisions"]))
        return _checked(cls(content["repo_id"], decisions, content.get("best_loss")))


def plan_releases(
    sources: Sequence[str],
    settings: Settings,
    event: Event | None = None,
    progress: Progress = SILENT,
) -> Plan:
    """Find checkpoints, and decide about each whether it is to be released.

    Nothing is downloaded but the ledger. Where ``which`` is ``best``, everything new is wanted;
    ``best_of`` chooses among the fetched.

    Args:
        sources: as ``find_candidates`` takes them.
        settings: ``repo_id`` is needed.
        event: of the CI at hand.
        progress: told what happens.

    Raises:
        UsageError: a source or setting cannot be meant.
        HubError: the hub, or a source, refused or could not be reached.
        CheckpointError: the name of a checkpoint is not UTF-8.
    """
    if settings.repo_id is None:
        raise UsageError("No repository is named.", hint="Pass --repo-id NAMESPACE/NAME.")
    with _ledgers(settings, event, progress) as read:
        known = [read(branch) for branch in branches_of(sources, settings, event) or (None,)]
        entries = merged_ledgers(*(each.entries for each in known))
        candidates = find_candidates(sources, settings, event, entries, progress)
        ledgers = {each: read(each) for each in {c.provenance.branch for c in candidates}}
    losses = [e["checkpoint"].get("val_loss") for each in ledgers.values() for e in each.entries]
    best_loss = min((loss for loss in losses if is_number(loss)), default=None)
    return Plan(settings.repo_id, _decisions(candidates, ledgers, settings), best_loss)


def best_of(
    fetched: Sequence[tuple[str, Fetched]], settings: Settings, released: float | None = None
) -> str | None:
    """The key of the checkpoint with the lowest validation loss; the last of those if several.

    Without any that records one, or can be read, it is the last: proving it says what is wrong.

    Args:
        fetched: key and place of each.
        settings: how they are read.
        released: the lowest loss of what is released already; one that is not below it is not the
            best, and the answer is None.
    """
    from slogpt_hf.checkpoints import read_checkpoint

    def loss_of(found: Fetched) -> float | None:
        base = found.root / settings.base if settings.base else None
        try:
            return read_checkpoint(found.path, settings.given, base).facts.val_loss
        except (CheckpointError, UsageError):
            return None

    return _lowest([(key, loss_of(found)) for key, found in fetched], released)


def best_record(
    records: Sequence[tuple[str, Mapping[str, Any]]], released: float | None = None
) -> str | None:
    """The key of the record with the lowest validation loss, as ``best_of`` has it."""
    losses = [(key, record["checkpoint"].get("val_loss")) for key, record in records]
    return _lowest(losses, released)


def _lowest(losses: Sequence[tuple[str, float | None]], released: float | None) -> str | None:
    best: tuple[float, str] | None = None
    for key, loss in losses:  # one that is not a number has diverged
        if loss is not None and is_number(loss) and (best is None or loss <= best[0]):
            best = (loss, key)
    if released is not None:
        return best[1] if best and best[0] < released else None
    return best[1] if best else next((key for key, _ in reversed(losses)), None)


@dataclass(frozen=True)
class _Ledger:
    """What the hub knows of; ``problem`` says why it could not be asked."""

    entries: tuple[Record, ...] = ()
    problem: str = ""

    def release_of(self, sha256: str | None) -> Record | None:
        same = (each for each in self.entries if each["checkpoint"].get("sha256") == sha256)
        return next(same, None) if sha256 else None


def _decisions(
    candidates: Sequence[Candidate], ledgers: Mapping[str | None, _Ledger], settings: Settings
) -> tuple[Decision, ...]:
    decisions: list[Decision] = []
    seen: dict[str, Candidate] = {}
    keys: set[str] = set()
    for candidate in candidates:
        key, n = _key(candidate), 1
        while key in keys:
            n += 1
            key = f"{_key(candidate)}-{n}"
        keys.add(key)
        known = ledgers[candidate.provenance.branch]
        decisions.append(_decision_about(key, candidate, known, seen, settings))
        if candidate.sha256:
            seen.setdefault(candidate.sha256, candidate)
    return tuple(_latest(decisions) if settings.which == "latest" else decisions)


def _decision_about(
    key: str,
    candidate: Candidate,
    known: _Ledger,
    seen: Mapping[str, Candidate],
    settings: Settings,
) -> Decision:
    if release := known.release_of(candidate.sha256):
        tag, version, commit = release["tag"], release["version"], release.get("commit")
        return Decision(key, candidate, False, f"released as {tag}", tag, version, commit)
    if twin := seen.get(candidate.sha256 or ""):
        return Decision(key, candidate, False, f"the same as {twin.name}")
    if candidate.sha256 is None and settings.base and candidate.kind != "store":
        reason = f"its base {settings.base} is not known, so it may be new"
    elif candidate.sha256 is None:
        reason = "its digest is not known before it is fetched"
    elif settings.which == "best":
        reason = "new; the best is chosen when all are fetched"
    else:
        reason = f"new; {known.problem}" if known.problem else NEW
    return Decision(key, candidate, True, reason)


def _latest(decisions: Sequence[Decision]) -> Iterator[Decision]:
    """Of each branch the last decision alone, if it is wanted."""
    counted = (each for each in decisions if each.wanted or each.tag)
    last = {each.candidate.provenance.branch: each.key for each in counted}
    for each in decisions:
        if each.wanted and each.key != last[each.candidate.provenance.branch]:
            each = replace(each, wanted=False, reason="an earlier one; --which latest")
        yield each


def _key(candidate: Candidate) -> str:
    if candidate.sha256:
        return candidate.sha256[:KEY_DIGITS]
    found = candidate.provenance
    text = "\0".join((candidate.name, found.commit or found.etag or str(candidate.time)))
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_DIGITS]


@contextmanager
def _ledgers(
    settings: Settings, event: Event | None, progress: Progress
) -> Iterator[Callable[[str | None], _Ledger]]:
    """What reads the ledger that counts for a training branch, each once."""
    repo_id, is_pull_request = settings.repo_id or "", bool(event and event.is_pull_request)
    if settings.hub and not is_folder(Path(settings.hub)):
        yield lambda branch: _Ledger()
        return
    from slogpt_hf.hub.attempts import status_of
    from slogpt_hf.hub.client import hub_of
    from slogpt_hf.hub.credentials import has_identity

    # A job that publishes nothing may be given no identity to exchange; most ledgers are public.
    if is_pull_request or not has_identity():
        settings = replace(settings, oidc=False)
    known: dict[str | None, _Ledger] = {}
    with hub_of(settings, repo_id, progress.line) as hub:

        def read(branch: str | None) -> _Ledger:
            revision = _revision(settings, branch)
            if revision not in known:
                known[revision] = _Ledger(_entries(hub, repo_id, revision, settings.revision))
            return known[revision]

        def read_or_none(branch: str | None) -> _Ledger:
            try:
                return read(branch)
            except HubError as error:
                if not is_pull_request or status_of(error.__cause__ or error) not in REFUSALS:
                    raise
                return _Ledger((), f"the ledger of {repo_id} cannot be read without a token")

        yield read_or_none


def _revision(settings: Settings, branch: str | None) -> str | None:
    """The branch of the hub that releases go to; None where only the checkpoint tells."""
    from slogpt_hf.hub.versions import ref_from

    values = {"branch": branch, "date": datetime.now(UTC).strftime("%Y-%m-%d")}
    if "{step}" in settings.revision or (branch is None and "{branch}" in settings.revision):
        return None
    return ref_from(settings.revision, values, "revision")


def _entries(hub: Hub, repo_id: str, revision: str | None, template: str) -> tuple[Record, ...]:
    from slogpt_hf.hub.state import DEFAULT_BRANCH, read_state

    state = read_state(hub, repo_id, revision or DEFAULT_BRANCH)
    return state.ledger if revision else _entries_of_all(hub, state, template)


def _entries_of_all(hub: Hub, state: RepoState, template: str) -> tuple[Record, ...]:
    """The releases on every branch that a template may stand for."""
    from slogpt_hf.hub.state import record_at

    expression = re.sub(r"\\\{\w+\\\}", ".+", re.escape(template)) + "(?:-candidates)?"
    branches = [name for name in state.branches if re.fullmatch(expression, name)]
    heads = dict.fromkeys(state.branches[name] for name in branches[:MOST_BRANCHES])
    records = (record_at(hub, state.repo_id, head) for head in heads)
    return merged_ledgers(state.ledger, *(ledger(record) for record in records))


def _decision(content: Mapping[str, Any]) -> Decision:
    candidate = dict(content["candidate"])
    provenance = _checked(Provenance(**candidate.pop("provenance")))
    found = _checked(Candidate(provenance=provenance, **candidate))
    decision = _checked(Decision(**dict(content) | {"candidate": found}))
    if not KEY.fullmatch(decision.key):  # it becomes the name of files
        raise ValueError(f"{decision.key!r} is no key")
    return decision


def _checked(read: Read) -> Read:
    """A value that was read, if every field is of its type."""
    for name, kind in get_type_hints(type(read)).items():
        if not _is_a(getattr(read, name), kind):
            raise TypeError(f"{name} is not of its type")
    return read


def _is_a(value: Any, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    is_whole = isinstance(value, int) and float in get_args(kind)
    return is_whole or isinstance(value, get_origin(kind) if get_origin(kind) is tuple else kind)
