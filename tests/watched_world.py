"""A world of checkpoints to watch, without files, hubs and waiting."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slogpt_hf.errors import SloGPTError
from slogpt_hf.planning import Decision, Plan
from slogpt_hf.progress import Progress
from slogpt_hf.settings import Settings
from slogpt_hf.watch import Candidate, Provenance
from slogpt_hf.watch.fetching import Fetched
from slogpt_hf.watching import Steps, watch

SETTINGS = Settings(repo_id="me/model")
NOON = "1970-01-01T12:00:00Z "
Action = Callable[[], Any]


def kill(number: int = signal.SIGTERM) -> None:
    signal.raise_signal(number)


class Lines(Progress):
    """Keeps what it is told."""

    def __init__(self, quiet: bool = False) -> None:
        super().__init__(quiet=quiet)
        self.told: list[str] = []

    def line(self, text: str) -> None:
        self.told.append(text)

    @property
    def texts(self) -> list[str]:
        assert all(line.startswith(NOON[:11]) for line in self.told)
        return [line[len(NOON) :] for line in self.told]


def decision(
    name: str = "ckpt.pt",
    reason: str = "new",
    wanted: bool = True,
    branch: str | None = "main",
    sha256: str | None = None,
    **candidate: Any,
) -> Decision:
    sha256 = sha256 if sha256 is not None else f"{sum(name.encode()):064x}"
    found = Candidate(
        name,
        candidate.pop("kind", "git"),
        candidate.pop("place", "/repository"),
        candidate.pop("provenance", Provenance(commit="c" * 40, branch=branch)),
        sha256=sha256 or None,
        **candidate,
    )
    return Decision(f"key-{name}", found, wanted, reason)


@dataclass
class World:
    """What the steps of a watch find and do.

    Attributes:
        plans: of each look, the last again and again; an exception is raised.
        fetching: name to what fetching it raises.
        releasing: name to what releasing it raises, or does.
        sleeping: what happens in each sleep, in turn; after that a signal comes.
        log: what was done, in order.
    """

    root: Path
    plans: list[Any] = field(default_factory=list)
    fetching: dict[str, SloGPTError] = field(default_factory=dict)
    releasing: dict[str, SloGPTError | Action] = field(default_factory=dict)
    sleeping: list[Action] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    slept: list[float] = field(default_factory=list)
    looks: int = 0
    folders: list[Path] = field(default_factory=list)
    clock: float = 12 * 3600.0

    def plan(self, sources: Sequence[str], settings: Settings, event: Any, progress: Any) -> Plan:
        found = self.plans[min(self.looks, len(self.plans) - 1)]
        self.looks += 1
        if isinstance(found, BaseException):
            raise found
        return Plan("me/model", tuple(found() if callable(found) else found))

    def fetch(
        self, candidate: Candidate, folder: Path, settings: Settings, progress: Progress
    ) -> Fetched:
        self.log.append(f"fetch {candidate.name}")
        if error := self.fetching.get(candidate.name):
            raise error
        folder.mkdir(parents=True)
        self.folders.append(folder)
        path = folder / "ckpt.pt"
        path.write_bytes(b"x")
        return Fetched(path, folder, candidate.sha256 or "d" * 64)

    def best(
        self,
        fetched: Sequence[tuple[str, Fetched]],
        settings: Settings,
        released: float | None = None,
    ) -> str | None:
        return fetched[0][0] if fetched else None

    def release(
        self, path: Path, settings: Settings, progress: Progress, candidate: Candidate
    ) -> str:
        self.log.append(f"release {candidate.name}")
        assert path.is_file() and Path.cwd() in self.folders
        found = self.releasing.get(candidate.name)
        if isinstance(found, SloGPTError):
            raise found
        if found is not None:
            found()
        return f"released as v{len(self.log)} (commit 0123, http://hub)"

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        if self.sleeping:
            self.sleeping.pop(0)()
        else:
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL, "nobody is to sleep"
            kill()
            raise AssertionError("the signal did not end the sleep")

    def steps(self) -> Steps:
        return Steps(
            self.plan,
            self.fetch,
            self.best,
            self.release,
            lambda: self.clock,
            self.sleep,
            lambda: 1.0,
        )


def once(world: World, settings: Settings = SETTINGS, **options: Any) -> tuple[int, list[str]]:
    lines = Lines()
    code = watch(["."], settings, steps=world.steps(), progress=lines, **options)
    return code, lines.texts


def daemon(
    world: World,
    sleeping: int = 0,
    interval: float = 60,
    settings: Settings = SETTINGS,
    **more: Any,
) -> list[str]:
    """The lines of a daemon that sleeps so often before its last sleep, in which SIGTERM comes."""
    world.sleeping += [lambda: None] * sleeping
    lines = Lines()
    before = signal.getsignal(signal.SIGTERM)
    code = watch(["."], settings, interval, steps=world.steps(), progress=lines, **more)
    assert code == 0 and signal.getsignal(signal.SIGTERM) is before
    assert lines.texts[0].startswith("watching for me/model, every ")
    assert lines.texts[-1] == "stopped."
    return lines.texts[1:-1]


def refused(code: int, text: str) -> str:
    return f"refused (exit code {code}): {text}"
