"""Watching: what one look does, with everything around it replaced."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from watched_world import SETTINGS, Lines, World, decision, once, refused

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
from slogpt_hf.hub.releases import Release
from slogpt_hf.planning import Decision
from slogpt_hf.settings import Settings
from slogpt_hf.smoke import SmokeError
from slogpt_hf.watch.event import Event
from slogpt_hf.watching import watch

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


def test_what_is_released_and_does_not_load_is_told_and_not_refused(world: World) -> None:
    release = Release(True, "me/model", "1.0.0", "v1.0.0", "c" * 40, "main", "http://hub", {})
    world.plans = [[decision("a"), decision("b")]]
    world.releasing["a"] = SmokeError("v1.0.0 does not load.", release, hint="Look.")
    code, texts = once(world)
    assert code == SmokeError.exit_code == 4
    assert texts[1] == "a on main: v1.0.0 does not load. Look."
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


def test_what_is_said_of_a_release(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from slogpt_hf import release

    parity = {"verdict": "passed", "level": "witnessed"}
    made = SimpleNamespace(released=True, tag="v1.0.0", commit="c" * 40, url="http://hub")
    made.record = {"parity": parity}
    calls: list[Any] = []

    def record(*arguments: Any) -> list[Any]:
        calls.append(arguments)
        return [made]

    monkeypatch.setattr(release, "release_checkpoints", record)
    found, progress = decision("a").candidate, Lines()
    said = watching.released_as(tmp_path, SETTINGS, progress, found)
    words = "proven equal to the trainer's own model"
    assert said == f"released as v1.0.0 (commit {'c' * 12}, http://hub), {words}"
    assert calls == [([tmp_path], SETTINGS, progress, found.provenance)]
    made.released = False
    assert watching.released_as(tmp_path, SETTINGS, progress, found).startswith(
        "released before as v1.0.0 ("
    )
