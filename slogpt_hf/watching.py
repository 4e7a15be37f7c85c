"""Watching: look, release what is new, and look again; as a daemon or once."""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from slogpt_hf.errors import HubError, SloGPTError, TagConflictError, UsageError, first_line
from slogpt_hf.files import absolute, stamp_of
from slogpt_hf.planning import Decision, Plan, best_of, plan_releases
from slogpt_hf.progress import SILENT, Progress
from slogpt_hf.redaction import without_secrets
from slogpt_hf.settings import Settings
from slogpt_hf.watch import Candidate
from slogpt_hf.watch.event import Event
from slogpt_hf.watch.fetching import Fetched, fetch
from slogpt_hf.watch.memory import Memory, Verdict, load_memory, save_memory

INTERVAL = re.compile(r"(\d{1,6}(?:\.\d{1,3})?)\s*(s|m|h|d)?", re.ASCII)
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
LONGEST_INTERVAL = 30 * 86400.0
FIRST_WAIT_SECONDS = 30.0  # after a failure
LONGEST_WAIT_SECONDS = 900.0  # after failures; the interval where that is longer
QUIET_SECONDS = 2.0  # that a file on disk is left alone before it is taken
MOST_REASON = 500  # characters
# Exit codes of what another try would only repeat: unreadable, not equal, gate invalid.
FINAL = frozenset({3, 4, 5})
STAYS = "is still being written"


def released_as(path: Path, settings: Settings, progress: Progress, candidate: Candidate) -> str:
    """Release a fetched checkpoint; what to say about it."""
    from slogpt_hf.release import release_checkpoints

    (release,) = release_checkpoints([path], settings, progress, candidate.provenance)
    verb = "released as" if release.released else "released before as"
    return f"{verb} {release.tag} (commit {release.commit[:12]}, {release.url})"


@dataclass(frozen=True)
class Steps:
    """What a look does, in turn; and the clock."""

    plan: Callable[[Sequence[str], Settings, Event | None, Progress], Plan] = plan_releases
    fetch: Callable[[Candidate, Path, Settings, Progress], Fetched] = fetch
    best_of: Callable[[Sequence[tuple[str, Fetched]], Settings], str | None] = best_of
    release: Callable[[Path, Settings, Progress, Candidate], str] = released_as
    now: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    random: Callable[[], float] = random.random


@dataclass
class Shutdown:
    """SIGTERM and SIGINT of a daemon.

    Idle, looking or downloading, it ends at once. A release under way is finished first: its proof
    may have taken long, and a supervisor that cannot wait kills, which does no harm either. The
    second signal gives the release up.
    """

    busy: bool = False
    requested: bool = False

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handle the signals for the time of the block, in the main thread."""
        before = {each: signal.signal(each, self._handle) for each in _SIGNALS}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    @contextmanager
    def finishing(self) -> Iterator[None]:
        """A block that the first signal does not interrupt; what follows it does not begin."""
        self.busy = True
        try:
            yield
        finally:
            self.busy = False
        if self.requested:
            raise Stopped

    def _handle(self, number: int, frame: FrameType | None) -> None:
        first, self.requested = not self.requested, True
        if not first:
            raise KeyboardInterrupt
        if not self.busy:
            raise Stopped


_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(BaseException):
    """A daemon was told to end, and may."""


@dataclass
class _Watch:
    """One call of ``watch``: what it was told, and what it remembers."""

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
        if self.said.get(key) != text:
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
        event: of the CI at hand.
        progress: told of every decision, once.
        steps: what a look does.

    Returns:
        The exit code: of one look the worst of its checkpoints, of a daemon that was told to
        end 0.

    Raises:
        UsageError: a source or setting cannot be meant, as far as the first look tells.
        SloGPTError: of one look, what kept it from looking.
    """
    if settings.token_file == "-":
        raise UsageError(
            "standard input: is read once, and watching needs the token again and again.",
            hint="Name a file by --token-file, or set HF_TOKEN.",
        )
    anchored, steps, shutdown = _anchored(settings), steps or Steps(), Shutdown()
    this = _Watch(sources, anchored, state, event, progress, steps, shutdown, Memory())
    this.memory = load_memory(state, this.tell)
    if interval is None:
        return max(_look(this), default=0)
    try:
        with shutdown.installed():
            _look_forever(this, interval)
    except Stopped:
        pass
    this.tell("stopped.")
    return 0


def seconds_of(text: str) -> float:
    """Seconds of an interval such as ``30s``, ``5m``, ``1h`` or ``1d``; without a unit seconds.

    Raises:
        UsageError: it is none, shorter than a second or longer than 30 days.
    """
    match = INTERVAL.fullmatch(text.strip())
    seconds = float(match[1]) * SECONDS[match[2] or "s"] if match else 0.0
    if not 1 <= seconds <= LONGEST_INTERVAL:
        raise UsageError(
            f"--interval {text[:40]!r} is no interval of 1 s to 30 d.", hint="Write e.g. 30s or 5m."
        )
    return seconds


def wait_after(failures: int, interval: float, chance: float) -> float:
    """Seconds to the next look after so many failures in a row.

    The first ones are short, for what passes soon; they double, up to 15 minutes or the interval.
    Of that, a half to all: daemons that fail together must not come back together.

    Args:
        failures: from 1.
        interval: of the daemon, in seconds.
        chance: from 0 to 1.
    """
    first = min(interval, FIRST_WAIT_SECONDS)
    longest = min(max(interval, LONGEST_WAIT_SECONDS), first * 2.0 ** min(failures - 1, 30))
    return longest * (0.5 + 0.5 * chance)


def _look_forever(this: _Watch, interval: float) -> None:
    failures, first = 0, True
    this.tell(f"watching {' '.join(this.sources)} for {this.settings.repo_id}.")
    while True:
        problem = ""
        try:
            codes = _look(this, this.progress if first else SILENT)
            if any(codes):
                problem = "not everything could be released"
        except UsageError as error:
            if first:
                raise  # what cannot be meant will not be meant later
            problem = str(error)
        except SloGPTError as error:
            problem = str(error)
        first = False
        failures = failures + 1 if problem else 0
        seconds = wait_after(failures, interval, this.steps.random()) if problem else interval
        if problem:
            this.tell(f"{problem.rstrip('.')}; looking again in {_spoken(seconds)}.")
        this.steps.sleep(seconds)


def _look(this: _Watch, progress: Progress | None = None) -> list[int]:
    """One look: exit codes of the checkpoints that may succeed another time, or were refused now.

    Raises:
        SloGPTError: what kept it from looking, or the hub's refusal, behind which nothing is
            tried: versions depend on the releases before them.
    """
    steps, settings = this.steps, this.settings
    plan = steps.plan(this.sources, settings, this.event, progress or this.progress)
    said, this.said = this.said, {}
    this.said = {key: said[key] for key in _keys(plan) & said.keys()}
    if not plan.decisions:
        this.tell_of("", "no checkpoints were found.")
    for decision in plan.decisions:
        if not decision.wanted:
            _tell_of(this, decision, decision.reason)
    wanted = [decision for decision in plan.wanted if _is_to_be_tried(this, decision)]
    with tempfile.TemporaryDirectory(prefix="slogpt-hf-watch-") as temporary:
        folder = Path(temporary)
        if settings.which == "best":
            return _release_best(this, wanted, folder)
        return [_release(this, decision, folder) for decision in wanted]


def _release(this: _Watch, decision: Decision, folder: Path) -> int:
    try:
        found = _fetched(this, decision, folder)
        return _publish(this, decision, found) if found else 0
    finally:
        shutil.rmtree(folder / decision.key, ignore_errors=True)


def _release_best(this: _Watch, wanted: Sequence[Decision], folder: Path) -> list[int]:
    found = {each.key: (each, _fetched(this, each, folder)) for each in wanted}
    fetched = {key: result for key, (_, result) in found.items() if result}
    best = this.steps.best_of(tuple(fetched.items()), this.settings)
    if best is None:
        return []
    code = _publish(this, found[best][0], fetched[best])
    for key, result in fetched.items():
        if key != best and code == 0:
            reason = f"not the best, which is {found[best][0].candidate.name}"
            _settle(this, found[key][0], result.sha256, reason)
    return [code]


def _fetched(this: _Watch, decision: Decision, folder: Path) -> Fetched | None:
    """The checkpoint on disk; None if it is not to be released after all."""
    candidate, settings = decision.candidate, this.settings
    found = this.steps.fetch(candidate, folder / decision.key, settings, this.progress)
    if (identity := _object_identity(candidate)) and this.memory.digests.get(identity) is None:
        this.memory.digests[identity] = found.sha256
        this.remember()
    if verdict := this.memory.verdict(_identity(this, candidate, found.sha256)):
        _tell_of(this, decision, verdict.reason)
        return None
    return found


def _publish(this: _Watch, decision: Decision, found: Fetched) -> int:
    """Convert, prove and publish one checkpoint; its exit code.

    Raises:
        HubError: the hub refused, or could not be reached.
    """
    this.tell(f"{decision.candidate.name}: {decision.reason}; converting and proving it.")
    try:
        # Datasets, tokenizers and bases are those of the checkpoint's own commit.
        with this.shutdown.finishing(), chdir(found.root):
            said = this.steps.release(found.shown, this.settings, this.progress, decision.candidate)
            _settle(this, decision, found.sha256, said)
    except SloGPTError as error:
        if isinstance(error, HubError) and not isinstance(error, TagConflictError):
            raise
        reason = f"refused (exit code {error.exit_code}): {error}"
        if error.exit_code in FINAL:
            _settle(this, decision, found.sha256, reason)
        else:
            _tell_of(this, decision, reason)
        return error.exit_code
    return 0


def _is_to_be_tried(this: _Watch, decision: Decision) -> bool:
    candidate = decision.candidate
    digest = candidate.sha256 or this.memory.digests.get(_object_identity(candidate) or "")
    if digest and (verdict := this.memory.verdict(_identity(this, candidate, digest))):
        _tell_of(this, decision, verdict.reason)
        return False
    if candidate.kind == "file" and not _is_quiet(candidate, this.steps):
        _tell_of(this, decision, f"{STAYS}; the next look takes it.")
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
    found = decision.candidate
    where = f" on {found.provenance.branch}" if found.provenance.branch else ""
    this.tell_of(_key(decision), f"{found.name}{where}: {reason}")


def _key(decision: Decision) -> str:
    found = decision.candidate
    return f"{found.place} {found.name} {found.provenance.branch} {decision.key}"


def _keys(plan: Plan) -> set[str]:
    return (
        {"", *map(_key, plan.decisions)} if not plan.decisions else set(map(_key, plan.decisions))
    )


def _identity(this: _Watch, candidate: Candidate, digest: str) -> str:
    """What a verdict is about: content, commit (which has the vocabulary) and settings."""
    commit = candidate.provenance.commit if candidate.kind == "git" else None
    return _hashed([digest, commit, asdict(this.settings)])


def _object_identity(candidate: Candidate) -> str | None:
    """What stands for the content of an object that has no digest."""
    found = candidate.provenance
    if candidate.kind != "store" or found.etag is None:
        return None
    return _hashed([found.url, found.etag])


def _hashed(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


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


def _spoken(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
