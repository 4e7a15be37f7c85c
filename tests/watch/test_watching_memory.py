"""What a watch remembers, and what it asks again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from watched_world import SETTINGS, World, daemon, decision, once, refused

from slogpt_hf import watching
from slogpt_hf.errors import (
    CheckpointError,
    GateInvalidError,
    ParityError,
    SloGPTError,
    TagConflictError,
    UsageError,
)
from slogpt_hf.planning import Decision
from slogpt_hf.watch import Provenance, stores


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
