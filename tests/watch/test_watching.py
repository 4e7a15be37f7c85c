"""Looks, decisions, waits and signals, with steps that do nothing and a clock of their own."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from slogpt_hf import watching
from slogpt_hf.errors import (
    CheckpointError,
    GateInvalidError,
    HubError,
    ParityError,
    SloGPTError,
    TagConflictError,
    UsageError,
)
from slogpt_hf.intervals import seconds_of, wait_after
from slogpt_hf.planning import Decision, Plan
from slogpt_hf.progress import Progress
from slogpt_hf.settings import Settings
from slogpt_hf.shutdown import Stopped
from slogpt_hf.watch import Candidate, Provenance, stores
from slogpt_hf.watch.event import Event
from slogpt_hf.watch.fetching import Fetched
from slogpt_hf.watching import Steps, watch

SETTINGS = Settings(repo_id="me/model")
NOON = "1970-01-01T12:00:00Z "
Action = Callable[[], Any]


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


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(stores, "_learned", {})
    monkeypatch.setattr(watching.tempfile, "tempdir", str(tmp_path))  # type: ignore[attr-defined]
    monkeypatch.chdir(tmp_path)
    yield World(tmp_path)
    assert Path.cwd() == tmp_path
    assert not list(tmp_path.glob("slogpt-hf-watch-*")), "a look left files behind"


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


# One look


def test_a_line_for_every_decision(world: World) -> None:
    world.plans = [
        [
            decision("a.pt", "released as v1.0.0", wanted=False),
            decision("b.pt"),
            decision("c.pt", branch=None),
        ]
    ]
    code, texts = once(world)
    assert code == 0
    assert texts == [
        "a.pt on main: released as v1.0.0",
        "b.pt on main: new; converting and proving it.",
        "b.pt on main: released as v2 (commit 0123, http://hub)",
        "c.pt: new; converting and proving it.",
        "c.pt: released as v4 (commit 0123, http://hub)",
    ]
    assert world.log == ["fetch b.pt", "release b.pt", "fetch c.pt", "release c.pt"]


def test_nothing_is_found(world: World) -> None:
    world.plans = [[]]
    assert once(world) == (0, ["no checkpoints were found."])


def test_only_what_is_wanted_is_fetched_and_nothing_of_it_stays(world: World) -> None:
    world.plans = [[decision(n) for n in ("a", "b")] + [decision("c", wanted=False)]]
    world.releasing["b"] = lambda: seen.extend(path.exists() for path in world.folders)
    seen: list[bool] = []
    once(world)
    assert seen == [False, True], "a's files were to go before b's come"
    assert world.log == ["fetch a", "release a", "fetch b", "release b"]


@pytest.mark.parametrize(
    "error",
    [UsageError("a"), CheckpointError("b"), ParityError("c"), GateInvalidError("d")],
)
def test_what_is_refused_stops_no_other(world: World, error: SloGPTError) -> None:
    world.plans = [[decision("a"), decision("b")]]
    world.releasing["a"] = error
    code, texts = once(world)
    assert code == error.exit_code
    assert texts[1] == f"a on main: {refused(code, str(error))}"
    assert texts[-1].startswith("b on main: released as")


def test_the_exit_code_is_the_worst(world: World) -> None:
    world.plans = [[decision("a"), decision("b"), decision("c")]]
    world.releasing = {"a": ParityError("a"), "b": TagConflictError("b")}
    assert once(world)[0] == TagConflictError.exit_code


def test_behind_a_hub_that_refuses_nothing_is_tried(world: World) -> None:
    world.plans = [[decision("a"), decision("b")]]
    world.releasing["a"] = HubError("the hub is away.")
    with pytest.raises(HubError, match="the hub is away"):
        once(world)
    assert world.log == ["fetch a", "release a"]


def test_what_cannot_be_fetched_stops_no_other(world: World) -> None:
    """A file that is gone; it would end a daemon in its first look, too."""
    world.plans = [[decision("a"), decision("b")]]
    world.fetching["a"] = UsageError("a: no such checkpoint.")
    code, texts = once(world)
    assert code == 2
    assert texts[0] == "a on main: a: no such checkpoint."
    assert texts[-1].startswith("b on main: released as")


def test_nothing_overtakes_what_cannot_be_fetched_on_its_branch(world: World) -> None:
    other = decision("c", branch="train/c")
    world.plans = [[decision("a"), decision("b"), other]]
    world.fetching["a"] = HubError("its store is away.")
    code, texts = once(world)
    assert code == 6
    assert texts[1] == "b on main: waits for the one before it, which cannot be fetched."
    assert world.log == ["fetch a", "fetch c", "release c"]


def test_quietly_the_worst_is_raised(world: World) -> None:
    world.plans = [[decision("a"), decision("b")]]
    world.releasing = {"a": CheckpointError("a"), "b": ParityError("b")}
    with pytest.raises(ParityError, match="b"):
        watch(["."], SETTINGS, steps=world.steps(), progress=Lines(quiet=True))


def test_a_pull_request_publishes_nothing(world: World) -> None:
    world.plans = [[decision("a"), decision("b", "released as v1.0.0", wanted=False)]]
    event = Event("pull_request", is_pull_request=True)
    code, texts = once(world, event=event)
    assert (code, world.log) == (0, [])
    assert texts == [
        "a on main: new; a pull request publishes nothing.",
        "b on main: released as v1.0.0",
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Settings(), "No repository is named"),
        (replace(SETTINGS, token_file="-"), "standard input"),
    ],
)
def test_what_cannot_be_meant(world: World, settings: Settings, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        once(world, settings)
    assert world.looks == 0


def test_paths_mean_the_same_in_the_checkpoints_folder(world: World, tmp_path: Path) -> None:
    seen: list[Settings] = []
    world.plans = [[decision("a")]]
    steps = replace(
        world.steps(),
        release=lambda path, settings, progress, found: seen.append(settings) or "released",  # type: ignore[func-returns-value]
    )
    given = replace(
        SETTINGS,
        hub="hub",
        token_file="token",
        signing_key="key",
        card_template="card",
        output="out",
        dataset="data/x",
        base="base.pt",
    )
    watch(["."], given, steps=steps)
    (used,) = seen
    assert used == replace(
        given,
        output=None,
        hub=str(tmp_path / "hub"),
        token_file=str(tmp_path / "token"),
        signing_key=str(tmp_path / "key"),
        card_template=str(tmp_path / "card"),
        report=str(tmp_path / "parity.json"),
    )


def test_no_secret_and_no_second_line_is_told(world: World) -> None:
    url = "https://me:hunter2hunter2@example.org/x?sig=abc"
    world.plans = [[decision("a", f"no\x1b[2J: {url}\nmore", wanted=False)]]
    _, (text,) = once(world)
    assert text == r"a on main: no\x1b[2J: https://***@example.org/x?***"


# Which one


def test_the_best_is_released_and_the_others_are_not(world: World, tmp_path: Path) -> None:
    settings, state = replace(SETTINGS, which="best"), tmp_path / "state"
    world.plans = [[decision("a"), decision("b"), decision("c")]]
    code, texts = once(world, settings, state=state)
    assert code == 0
    assert world.log == ["fetch a", "fetch b", "fetch c", "release a"]
    assert texts[2:] == [f"{name} on main: not the best, which is a on main" for name in "bc"]
    world.log.clear()
    world.plans = [[decision("b"), decision("c")]]
    code, texts = once(world, settings, state=state)
    assert (code, world.log) == (0, [])
    assert texts == [f"{name} on main: not the best, which is a on main" for name in "bc"]


def test_of_the_best_nothing_is_settled_before_it_is_released(world: World) -> None:
    settings = replace(SETTINGS, which="best")
    world.plans = [[decision("a"), decision("b")]]
    world.releasing["a"] = ParityError("differs")
    code, texts = once(world, settings)
    assert code == 4 and not any("not the best" in text for text in texts)
    world.fetching["b"] = HubError("away")
    world.log.clear()
    assert once(world, settings)[0] == 6
    assert world.log == ["fetch a", "fetch b"], "the best may be the one that is missing"
    world.plans = [[]]
    assert once(world, settings) == (0, ["no checkpoints were found."])


# What is remembered


@pytest.mark.parametrize("error", [CheckpointError("x"), ParityError("x"), GateInvalidError("x")])
def test_what_another_try_would_repeat_is_not_tried_again(
    world: World, tmp_path: Path, error: SloGPTError
) -> None:
    state = tmp_path / "state"
    world.plans = [[decision("a")]]
    world.releasing["a"] = error
    assert once(world, state=state)[0] == error.exit_code
    again = once(world, state=state)
    assert again == (0, [f"a on main: {refused(error.exit_code, 'x')}"])
    assert world.log == ["fetch a", "release a"]


@pytest.mark.parametrize("what", ["settings", "content", "commit", "version", "state"])
def test_something_else_is_tried(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    state, settings, other = tmp_path / "state", SETTINGS, decision("a")
    world.plans = [[decision("a")]]
    world.releasing["a"] = CheckpointError("x")
    once(world, state=state)
    if what == "settings":
        settings = replace(settings, dataset="y")
    elif what == "content":
        other = decision("a", sha256="e" * 64)
    elif what == "commit":
        other = decision("a", provenance=Provenance(commit="d" * 40))
    elif what == "version":
        state.write_text(state.read_text().replace(watching.Verdict("").tool, "0.0.1"))
    else:
        state.write_text("{")
    world.plans, world.looks = [[other]], 0
    assert once(world, settings, state=state)[0] == 3
    assert world.log == ["fetch a", "release a"] * 2


@pytest.mark.parametrize("error", [UsageError("x"), TagConflictError("x")])
def test_what_may_do_another_time_is_tried_again(
    world: World, tmp_path: Path, error: SloGPTError
) -> None:
    state = tmp_path / "state"
    world.plans = [[decision("a")]]
    world.releasing["a"] = error
    assert once(world, state=state)[0] == once(world, state=state)[0] == error.exit_code
    assert world.log == ["fetch a", "release a"] * 2


def test_the_ledger_alone_knows_what_is_released(world: World, tmp_path: Path) -> None:
    """Somebody may delete a release from the hub to have it made again."""
    state = tmp_path / "state"
    world.plans = [[decision("a")]]
    once(world, state=state)
    once(world, state=state)
    assert world.log == ["fetch a", "release a"] * 2
    assert not state.exists(), "there was nothing to remember"


def stored(etag: str | None = "1") -> Decision:
    url = "https://example.org/a.pt"
    provenance = Provenance(url=url, etag=etag)
    learned = stores._learned.get(stores.object_id(url, etag) or "", "")
    return decision(url, sha256=learned, kind="store", place=url, provenance=provenance)


def test_a_download_teaches_the_digest_of_an_object(world: World, tmp_path: Path) -> None:
    state, url = tmp_path / "state", "https://example.org/a.pt"
    world.plans = [lambda: [stored()]]
    world.releasing[url] = ParityError("x")
    assert once(world, state=state)[0] == 4
    assert stored().candidate.sha256 == "d" * 64
    assert once(world, state=state)[0] == 0
    stores._learned.clear()  # another process
    assert once(world, state=state)[0] == 0
    assert world.log == [f"fetch {url}", f"release {url}"]
    state.unlink()
    stores._learned.clear()
    assert once(world, state=state)[0] == 4
    assert len(world.log) == 4
    world.plans = [lambda: [stored("2")]]
    assert once(world, state=state)[0] == 0, "the same content under another etag"
    assert world.log[4:] == [f"fetch {url}"]


def test_what_nothing_tells_from_its_changes_is_always_fetched(world: World) -> None:
    world.plans = [lambda: [stored(None)]]
    texts = daemon(world, sleeping=1)
    assert len(world.log) == 4
    assert len([text for text in texts if text.endswith("converting and proving it.")]) == 1
    assert stores._learned == {}


def test_a_digest_that_was_learned_and_is_wrong_is_forgotten(world: World, tmp_path: Path) -> None:
    state, identity = tmp_path / "state", stores.object_id("https://example.org/a.pt", "1")
    content = {"schema": 1, "verdicts": {}, "digests": {identity: "e" * 64}}
    state.write_text(json.dumps(content))
    world.plans = [lambda: [stored()]]
    world.fetching["https://example.org/a.pt"] = CheckpointError("not the planned")
    assert once(world, state=state)[0] == 3
    world.fetching.clear()
    assert once(world, state=state)[0] == 0
    assert json.loads(state.read_text())["digests"] == {identity: "d" * 64}


def test_of_an_adapter_the_digest_of_the_object_alone_is_learned(world: World) -> None:
    world.plans = [lambda: [stored()]]
    once(world, replace(SETTINGS, base="base.pt"))
    assert stored().candidate.sha256 == (
        "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"  # of b"x"
    )


def test_a_state_file_that_cannot_be_written_is_said_once(world: World, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    world.plans = [[decision("a"), decision("b")]]
    world.releasing = {"a": ParityError("x"), "b": ParityError("x")}
    code, texts = once(world, state=tmp_path / "file" / "state")
    assert code == 4
    assert len([text for text in texts if "a restart may repeat work" in text]) == 1
    assert len(world.log) == 4


# Files on disk


def on_disk(path: Path, time: float) -> Decision:
    return decision(path.name, branch=None, kind="file", place=str(path), time=time)


def test_a_file_is_left_alone_while_it_is_written(world: World, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(b"1")
    world.plans = [[on_disk(path, world.clock - 0.5)]]
    world.sleeping = [lambda: path.write_bytes(b"more") and None]  # type: ignore[func-returns-value]
    assert once(world) == (0, ["a.pt: is still being written; the next look takes it."])
    assert (world.slept, world.log) == ([1.5], [])
    world.sleeping = [lambda: None]
    assert once(world)[0] == 0
    assert world.log == ["fetch a.pt", "release a.pt"]


def test_an_old_file_a_folder_and_one_from_the_future(world: World, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(b"1")
    (tmp_path / "b").mkdir()
    world.plans = [
        [on_disk(path, world.clock - 3), on_disk(tmp_path / "b", world.clock)],
        [on_disk(path, world.clock + 1e6)],
    ]
    once(world)
    assert world.slept == []
    world.sleeping = [lambda: None]
    once(world)
    assert world.slept == [2.0]


# The daemon


def test_it_looks_again_and_says_only_what_is_news(world: World) -> None:
    first, second = decision("a"), decision("b")
    known = replace(first, wanted=False, reason="released as v2")
    world.plans = [[first], [known], [known, second], [], [], [known]]
    texts = daemon(world, sleeping=5)
    assert world.looks == 6
    assert world.slept == [60.0] * 6
    assert texts == [
        "a on main: new; converting and proving it.",
        "a on main: released as v2 (commit 0123, http://hub)",
        "b on main: new; converting and proving it.",
        "b on main: released as v4 (commit 0123, http://hub)",
        "no checkpoints were found.",
        "a on main: released as v2",
    ]


def test_a_failure_is_waited_for_longer_each_time(world: World) -> None:
    away = HubError("the hub is away.")
    world.plans = [away, away, away, [], away]
    texts = daemon(world, sleeping=4, interval=3600)
    assert world.slept == [30.0, 60.0, 120.0, 3600, 30.0]
    assert texts == [
        "the hub is away; looking again in 30 s.",
        "the hub is away; looking again in 60 s.",
        "the hub is away; looking again in 2 min.",
        "no checkpoints were found.",
        "the hub is away; looking again in 30 s.",
    ]


def test_a_refusal_is_waited_for_and_what_is_settled_is_not(world: World) -> None:
    world.plans = [[decision("a"), decision("b")]]
    world.releasing["a"] = ParityError("differs")
    texts = daemon(world, sleeping=1)
    assert world.slept == [30.0, 60]
    assert texts[-1] == "b on main: released as v6 (commit 0123, http://hub)"
    assert "not everything could be released; looking again in 30 s." in texts
    assert len([text for text in texts if "differs" in text]) == 1


@pytest.mark.parametrize("error", [HubError("away"), CheckpointError("name"), OSError(28, "full")])
def test_what_may_pass_ends_no_daemon(world: World, error: Exception) -> None:
    world.plans = [error, []]
    (first, second) = daemon(world, sleeping=1)
    assert first.endswith("; looking again in 30 s.")
    assert second == "no checkpoints were found."


def test_what_cannot_be_meant_ends_the_first_look_alone(world: World) -> None:
    world.plans = [UsageError("s3://: is no bucket.")]
    with pytest.raises(UsageError, match="no bucket"):
        daemon(world)
    world.plans, world.looks = [[], UsageError("s3://: is no bucket.")], 0
    assert daemon(world, sleeping=1)[1].startswith("s3://: is no bucket; looking again")


def test_a_hub_that_nobody_serves(
    new_git: Callable[..., Any], world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real plan against a port that is closed; the client's own tries cost no time either."""
    from slogpt_hf.hub import attempts

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("HF_TOKEN", "hf_nobody")
    monkeypatch.setattr(attempts, "sleep", lambda seconds: None)
    git = new_git()
    git.commit({"ckpt.pt": b"1"})
    steps, lines = replace(world.steps(), plan=Steps().plan), Lines()
    world.sleeping = [lambda: None]
    code = watch([str(git.folder)], SETTINGS, 600, steps=steps, progress=lines)
    assert (code, world.log, world.slept) == (0, [], [30.0, 60.0])
    assert len([text for text in lines.told if "looking again in" in text]) == 2


# Signals


def kill(number: int = signal.SIGTERM) -> None:
    signal.raise_signal(number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_while_it_looks(world: World, number: int) -> None:
    world.plans = [lambda: kill(number) or [decision("a")]]  # type: ignore[func-returns-value]
    assert daemon(world) == []
    assert (world.log, world.slept) == ([], [])


def test_a_signal_lets_a_release_end_and_no_other_begin(world: World) -> None:
    world.plans = [[decision("a"), decision("b")]]
    world.releasing["a"] = kill
    texts = daemon(world)
    assert texts[-1] == "a on main: released as v2 (commit 0123, http://hub)"
    assert (world.log, world.slept) == (["fetch a", "release a"], [])


@pytest.mark.parametrize("error", [ParityError("x"), TagConflictError("x"), HubError("x")])
def test_a_signal_counts_whatever_became_of_the_release(world: World, error: SloGPTError) -> None:
    def fail() -> None:
        kill()
        raise error

    world.plans = [[decision("a"), decision("b")]]
    world.releasing["a"] = fail
    texts = daemon(world)
    assert texts[-1].endswith("x; looking again in 30 s." if type(error) is HubError else ": x")
    assert (world.log, world.slept) == (["fetch a", "release a"], [])


def test_the_second_signal_gives_the_release_up(world: World) -> None:
    def twice() -> None:
        kill()
        kill(signal.SIGINT)

    world.plans = [[decision("a")]]
    world.releasing["a"] = twice
    with pytest.raises(KeyboardInterrupt):
        daemon(world)
    assert world.log == ["fetch a", "release a"]


def test_a_signal_that_is_lost_where_it_came_counts_later(world: World) -> None:
    def lost() -> list[Decision]:
        with suppress(Stopped):
            kill()
        return [decision("a")]

    world.plans = [lost]
    assert daemon(world) == []
    world.plans = [lambda: lost()[:0]]
    assert daemon(world) == ["no checkpoints were found."]
    assert (world.log, world.slept) == ([], [])


# Intervals and waits


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("5m", 300), ("1.5 h", 5400), ("1d", 86400), (" 90 ", 90), ("30d", 2592000)],
)
def test_intervals(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0.5s", "31d", "5x", "-5s", "1e3", "nan", "٣s", "5m 3s"])
def test_what_is_no_interval(text: str) -> None:
    with pytest.raises(UsageError, match="is no interval"):
        seconds_of(text)


@pytest.mark.parametrize(
    ("interval", "waits"),
    [
        (1.0, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900]),
        (600.0, [30, 60, 120, 240, 480, 900, 900]),
        (86400.0, [30, 60, 120, 240, 480, 960, 1920, 3840, 7680, 15360, 30720, 61440, 86400]),
    ],
)
def test_waits(interval: float, waits: list[float]) -> None:
    for failures, longest in enumerate(waits, 1):
        assert wait_after(failures, interval, 1.0) == longest
        assert wait_after(failures, interval, 0.0) == longest / 2
    assert wait_after(10**6, interval, 1.0) == waits[-1]


def test_what_is_said_of_a_release(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from slogpt_hf import release

    made = SimpleNamespace(released=True, tag="v1.0.0", commit="c" * 40, url="http://hub")
    calls: list[Any] = []

    def record(*arguments: Any) -> list[Any]:
        calls.append(arguments)
        return [made]

    monkeypatch.setattr(release, "release_checkpoints", record)
    found, progress = decision("a").candidate, Lines()
    said = watching.released_as(tmp_path, SETTINGS, progress, found)
    assert said == f"released as v1.0.0 (commit {'c' * 12}, http://hub)"
    assert calls == [([tmp_path], SETTINGS, progress, found.provenance)]
    made.released = False
    assert watching.released_as(tmp_path, SETTINGS, progress, found).startswith(
        "released before as v1.0.0 ("
    )
