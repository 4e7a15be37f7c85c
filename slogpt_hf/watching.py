"""Watching: look, release what is new, and look again; as a daemon or once."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import chdir
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from slogpt_hf.errors import HubError, SloGPTError, TagConflictError, UsageError, first_line
from slogpt_hf.files import absolute, sha256_of, stamp_of
from slogpt_hf.intervals import spoken, wait_after
from slogpt_hf.planning import Decision, Plan, best_of, plan_releases
from slogpt_hf.progress import SILENT, Progress
from slogpt_hf.redaction import without_secrets
from slogpt_hf.settings import Settings
from slogpt_hf.shutdown import Shutdown, Stopped
from slogpt_hf.smoke import SmokeError
from slogpt_hf.watch import Candidate
from slogpt_hf.watch.event import Event
from slogpt_hf.watch.fetching import Fetched, fetch
from slogpt_hf.watch.memory import Memory, Verdict, load_memory, save_memory
from slogpt_hf.watch.stores import forget, learn, object_id

QUIET_SECONDS = 2.0  # that a file on disk is left alone before it is taken
MOST_REASON = 500  # characters
# Exit codes of what another try would only repeat: unreadable, not equal, gate invalid.
FINAL = frozenset({3, 4, 5})
STAYS = "is still being written; the next look takes it."
WAITS = "waits for the one before it, which cannot be fetched."
NOTHING = ""  # key of the line that says so


def released_as(path: Path, settings: Settings, progress: Progress, candidate: Candidate) -> str:
    """Release a fetched checkpoint; what to say about it."""
    from slogpt_hf.parity.claims import MOST_ASSUMED, claim
    from slogpt_hf.parity.stated import stated
    from slogpt_hf.release import release_checkpoints

    (release,) = release_checkpoints([path], settings, progress, candidate.provenance)
    verb = "released as" if release.released else "released before as"
    words = claim(stated(release.record["parity"]), MOST_ASSUMED)
    return f"{verb} {release.tag} (commit {release.commit[:12]}, {release.url}), {words}"


@dataclass(frozen=True)
class Steps:
    """What a look does, in turn; and the clock."""

    plan: Callable[[Sequence[str], Settings, Event | None, Progress], Plan] = plan_releases
    fetch: Callable[[Candidate, Path, Settings, Progress], Fetched] = fetch
    best_of: Callable[..., str | None] = best_of
    release: Callable[[Path, Settings, Progress, Candidate], str] = released_as
    now: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    random: Callable[[], float] = random.random


@dataclass
class _Watch:
    """One call of ``watch``: what it was told, what it remembers, and the last line of each."""

    sources: Sequence[str]
    settings: Settings
    state: Path | None
    event: Event | None
    progress: Progress
    steps: Steps
    shutdown: Shutdown
    memory: Memory
    said: dict[str, str] = field(default_factory=dict)
    unwritable: str | None = None

    def tell(self, text: str) -> None:
        """One line with the time."""
        moment = datetime.fromtimestamp(self.steps.now(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self.progress.line(f"{moment} {first_line(without_secrets(text), MOST_REASON)}")

    def tell_of(self, key: str, text: str) -> None:
        """One line about something, unless the last one about it said the same."""
        before = self.said.get(key, "")
        # The plan says less about a release than the line of the release itself.
        if text != before and not before.startswith(f"{text} ("):
            self.said[key] = text
            self.tell(text)

    def remember(self) -> None:
        """Write the state file; where that fails it is said once, and all goes on."""
        problem = save_memory(self.memory, self.state)
        if problem and problem != self.unwritable:
            self.tell(f"{problem} Going on without; a restart may repeat work.")
        self.unwritable = problem


def watch(
    sources: Sequence[str],
    settings: Settings,
    interval: float | None = None,
    state: Path | None = None,
    event: Event | None = None,
    progress: Progress = SILENT,
    steps: Steps | None = None,
) -> int:
    """Release what is new: once, or again and again until a signal comes.

    Args:
        sources: as ``find_candidates`` takes them.
        settings: where to and how; ``repo_id`` is needed.
        interval: seconds from the end of a look to the next; None to look once.
        state: file that remembers what need not be tried again; it may be lost at any time.
        event: of the CI at hand; nothing is published for a pull request.
        progress: told of every decision, once.
        steps: what a look does.

    Returns:
        The exit code: of one look the worst of its checkpoints, of a daemon that was told to
        end 0.

    Raises:
        UsageError: a source or setting cannot be meant, as far as the first look tells.
        SloGPTError: of one look, what kept it from looking; what became of the worst checkpoint
            where ``progress`` is quiet.
    """
    if settings.repo_id is None:
        raise UsageError("No repository is named.", hint="Pass --repo-id NAMESPACE/NAME.")
    if settings.token_file == "-":
        raise UsageError(
            "standard input: is read once, and watching needs the token again and again.",
            hint="Name a file by --token-file, or set HF_TOKEN.",
        )
    anchored, steps, shutdown = _anchored(settings), steps or Steps(), Shutdown()
    this = _Watch(sources, anchored, state, event, progress, steps, shutdown, Memory())
    this.memory = load_memory(state, this.tell)
    learn(this.memory.digests)
    if interval is None:
        worst = max(_look(this), key=lambda error: error.exit_code, default=None)
        if worst is not None and progress.quiet:
            raise worst
        return worst.exit_code if worst else 0
    try:
        with shutdown.installed():
            _look_forever(this, interval)
    except Stopped:
        pass
    this.tell("stopped.")
    return 0


def _look_forever(this: _Watch, interval: float) -> None:
    failures, first = 0, True
    this.tell(f"watching for {this.settings.repo_id}, every {spoken(interval)}.")
    while True:
        problem = ""
        try:
            if _look(this, this.progress if first else SILENT):
                problem = "not everything could be released"
        except UsageError as error:
            if first:
                raise  # what cannot be meant will not be meant later
            problem = str(error)
        except (SloGPTError, OSError) as error:
            problem = str(error)
        first = False
        failures = failures + 1 if problem else 0
        seconds = wait_after(failures, interval, this.steps.random()) if problem else interval
        if problem:
            this.tell(f"{problem.rstrip('.')}; looking again in {spoken(seconds)}.")
        this.shutdown.check()
        this.steps.sleep(seconds)
        this.shutdown.check()


def _look(this: _Watch, progress: Progress | None = None) -> list[SloGPTError]:
    """One look; what became of the checkpoints that were refused now, or may do another time.

    Raises:
        SloGPTError: what kept it from looking, or the hub's refusal, behind which nothing is
            tried: versions depend on the releases before them.
    """
    steps, settings = this.steps, this.settings
    plan = steps.plan(this.sources, settings, this.event, progress or this.progress)
    keys = set(map(_key, plan.decisions)) or {NOTHING}
    this.said = {key: text for key, text in this.said.items() if key in keys}
    if not plan.decisions:
        this.tell_of(NOTHING, "no checkpoints were found.")
    for decision in plan.decisions:
        if not decision.wanted:
            _tell_of(this, decision, decision.reason)
        elif this.event and this.event.is_pull_request:
            _tell_of(this, decision, f"{decision.reason}; a pull request publishes nothing.")
    if this.event and this.event.is_pull_request:
        return []
    wanted = [decision for decision in plan.wanted if _is_to_be_tried(this, decision)]
    with tempfile.TemporaryDirectory(prefix="slogpt-hf-watch-") as temporary:
        if settings.which == "best":
            return _release_best(this, wanted, Path(temporary), plan.best_loss)
        return _release_each(this, wanted, Path(temporary))


def _release_each(this: _Watch, wanted: Sequence[Decision], folder: Path) -> list[SloGPTError]:
    errors: list[SloGPTError] = []
    waiting: set[tuple[str, str | None]] = set()
    for decision in wanted:
        this.shutdown.check()
        line = (decision.candidate.kind, decision.candidate.provenance.branch)
        if line in waiting:
            _tell_of(this, decision, WAITS)
            continue
        try:
            found = _fetched(this, decision, folder)
            error = _published(this, decision, found) if isinstance(found, Fetched) else found
        finally:
            shutil.rmtree(folder / decision.key, ignore_errors=True)
        if error is not None:
            errors.append(error)
        if error is not None and error is found and isinstance(error, HubError):
            waiting.add(line)  # who cannot be reached now must not be released as the latest later
    return errors


def _release_best(
    this: _Watch, wanted: Sequence[Decision], folder: Path, best_loss: float | None
) -> list[SloGPTError]:
    fetched: dict[str, tuple[Decision, Fetched]] = {}
    errors: list[SloGPTError] = []
    for decision in wanted:
        this.shutdown.check()
        found = _fetched(this, decision, folder)
        if isinstance(found, Fetched):
            fetched[decision.key] = decision, found
        elif found is not None:
            errors.append(found)
    if errors:
        return errors  # the best may be among those that could not be fetched
    pairs = [(key, found) for key, (_, found) in fetched.items()]
    best = this.steps.best_of(pairs, this.settings, best_loss)
    if best is None:
        for other, found in fetched.values():
            _settle(this, other, found.sha256, "not better than what is released")
        return []
    decision, found = fetched.pop(best)
    if (error := _published(this, decision, found)) is not None:
        return [error]
    for other, found in fetched.values():
        _settle(this, other, found.sha256, f"not the best, which is {_shown(decision.candidate)}")
    return []


def _fetched(this: _Watch, decision: Decision, folder: Path) -> Fetched | SloGPTError | None:
    """The checkpoint on disk, or what kept it; None if it is not to be released after all."""
    candidate, settings = decision.candidate, this.settings
    identity = object_id(candidate.provenance.url, candidate.provenance.etag)
    try:
        found = this.steps.fetch(candidate, folder / decision.key, settings, this.progress)
    except SloGPTError as error:
        if identity and this.memory.digests.pop(identity, None):  # it may be what was wrong
            forget(identity)
            this.remember()
        _tell_of(this, decision, str(error))
        return error
    if identity and identity not in this.memory.digests:
        own = sha256_of(found.path) if settings.base else found.sha256
        this.memory.digests[identity] = own
        learn({identity: own})
        this.remember()
    if verdict := this.memory.verdict(_identity(this, candidate, found.sha256)):
        _tell_of(this, decision, verdict.reason)
        return None
    return found


def _published(this: _Watch, decision: Decision, found: Fetched) -> SloGPTError | None:
    """Convert, prove and publish one checkpoint; why it was refused, None if it was not.

    Raises:
        HubError: the hub refused, or could not be reached.
    """
    candidate = decision.candidate
    if _key(decision) not in this.said:
        this.tell(f"{_shown(candidate)}: {decision.reason}; converting and proving it.")
    with this.shutdown.finishing():
        try:
            # Datasets, tokenizers and bases are those of the checkpoint's own commit.
            with chdir(found.root):
                said = this.steps.release(found.shown, this.settings, this.progress, candidate)
        except SmokeError as error:  # the next look finds it released
            _tell_of(this, decision, str(error))
            return error
        except SloGPTError as error:
            if isinstance(error, HubError) and not isinstance(error, TagConflictError):
                raise
            reason = f"refused (exit code {error.exit_code}): {error}"
            if error.exit_code in FINAL:
                _settle(this, decision, found.sha256, reason)
            else:
                _tell_of(this, decision, reason)
            return error
        _tell_of(this, decision, said)
    return None


def _is_to_be_tried(this: _Watch, decision: Decision) -> bool:
    candidate = decision.candidate
    identity = _identity(this, candidate, candidate.sha256) if candidate.sha256 else ""
    if verdict := this.memory.verdict(identity):
        _tell_of(this, decision, verdict.reason)
        return False
    if candidate.kind == "file" and not _is_quiet(candidate, this.steps):
        _tell_of(this, decision, STAYS)
        return False
    return True


def _is_quiet(candidate: Candidate, steps: Steps) -> bool:
    """Whether nothing wrote to a file on disk for a while, which is waited for.

    A file that changes later is found out too: its digest is compared when it is fetched, and its
    stamp while it is converted.
    """
    path, age = Path(candidate.place), steps.now() - (candidate.time or 0)
    if age > QUIET_SECONDS or not path.is_file():
        return True
    before = stamp_of(path)
    steps.sleep(QUIET_SECONDS - max(age, 0))
    return before == stamp_of(path)


def _settle(this: _Watch, decision: Decision, digest: str, reason: str) -> None:
    """Remember that a checkpoint is not to be tried again with these settings."""
    _tell_of(this, decision, reason)
    identity = _identity(this, decision.candidate, digest)
    this.memory.verdicts[identity] = Verdict(first_line(without_secrets(reason), MOST_REASON))
    this.remember()


def _tell_of(this: _Watch, decision: Decision, reason: str) -> None:
    this.tell_of(_key(decision), f"{_shown(decision.candidate)}: {reason}")


def _shown(candidate: Candidate) -> str:
    branch = candidate.provenance.branch
    return f"{candidate.name} on {branch}" if branch else candidate.name


def _key(decision: Decision) -> str:
    """What a line is about. A file on disk is another one when its content is."""
    found, source = decision.candidate, decision.candidate.provenance
    content = found.sha256 if found.kind == "file" else source.etag
    return json.dumps([found.place, found.name, source.branch, source.commit, content])


def _identity(this: _Watch, candidate: Candidate, digest: str) -> str:
    """What a verdict is about: content, commit (which has the vocabulary) and settings."""
    commit = candidate.provenance.commit if candidate.kind == "git" else None
    content = json.dumps([digest, commit, asdict(this.settings)], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _anchored(settings: Settings) -> Settings:
    """Settings whose paths mean the same in any folder, but those of the training repository."""
    return replace(
        settings,
        output=None,
        hub=absolute(settings.hub),
        token_file=absolute(settings.token_file),
        signing_key=absolute(settings.signing_key),
        card_template=absolute(settings.card_template),
        report=str(Path(settings.report).absolute()),
    )
