"""Watching again and again: failures, waits and signals."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from watched_world import SETTINGS, Lines, World, daemon, decision, kill

from slogpt_hf.errors import (
    CheckpointError,
    HubError,
    ParityError,
    SloGPTError,
    TagConflictError,
    UsageError,
)
from slogpt_hf.intervals import seconds_of, wait_after
from slogpt_hf.planning import Decision
from slogpt_hf.shutdown import Stopped
from slogpt_hf.watching import Steps, watch


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
