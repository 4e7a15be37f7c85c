from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from slogpt_hf.watch import memory as module
from slogpt_hf.watch.memory import Memory, Verdict, load_memory, save_memory

DIGEST = "0123456789abcdef" * 4


def loaded(path: Path | None) -> tuple[Memory, list[str]]:
    told: list[str] = []
    return load_memory(path, told.append), told


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    memory = Memory({"a": Verdict("refused: é\n")}, {"b": DIGEST})
    path = tmp_path / "new folder" / "state.json"
    assert save_memory(memory, path) is None
    assert loaded(path) == (memory, [])
    assert [each.name for each in path.parent.iterdir()] == ["state.json"]


def test_without_a_file(tmp_path: Path) -> None:
    assert save_memory(Memory({"a": Verdict("x")}), None) is None
    assert loaded(None) == (Memory(), [])
    assert loaded(tmp_path / "lost.json") == (Memory(), [])


def test_another_version_tries_again() -> None:
    memory = Memory({"old": Verdict("x", "0.0.1"), "own": Verdict("y")})
    assert memory.verdict("old") is None
    assert memory.verdict("other") is None
    assert memory.verdict("own") == Verdict("y")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"{}",
        b'"' + b"[" * 100_000,
        b"[" * 100_000,
        b'{"schema": 2, "verdicts": {}, "digests": {}}',
        b'{"schema": 1, "verdicts": {}}',
        b'{"schema": 1, "verdicts": [], "digests": {}}',
        b'{"schema": 1, "verdicts": {"a": "text"}, "digests": {}}',
        b'{"schema": 1, "verdicts": {"a": {"reason": 1}}, "digests": {}}',
        b'{"schema": 1, "verdicts": {"a": {"reason": "x", "tool": []}}, "digests": {}}',
        b'{"schema": 1, "verdicts": {"a": {"reason": "x", "more": 1}}, "digests": {}}',
        b'{"schema": 1, "verdicts": {}, "digests": {"a": null}}',
        b'{"schema": 1, "verdicts": {}, "digests": {"a": "no digest"}}',
        b'{"schema": 1, "verdicts": {}, "digests": "text"}',
    ],
)
def test_a_damaged_file_is_as_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "state.json"
    path.write_bytes(content)
    memory, (told,) = loaded(path)
    assert memory == Memory()
    assert told == f"{path}: cannot be read as a state file; beginning without."
    assert save_memory(Memory({}, {"b": DIGEST}), path) is None
    assert loaded(path) == (Memory({}, {"b": DIGEST}), [])


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        memory, told = loaded(path)
        assert (memory, len(told)) == (Memory(), 1)


def test_a_file_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.json"
    save_memory(Memory({}, {"b": DIGEST}), path)
    monkeypatch.setattr(module, "MOST_BYTES", path.stat().st_size - 1)
    memory, told = loaded(path)
    assert (memory, len(told)) == (Memory(), 1)


def test_where_it_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    problem = save_memory(Memory(), tmp_path / "file" / "state.json")
    assert problem is not None and "cannot be written" in problem


def test_the_oldest_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_ENTRIES", 2)
    names = ("a", "b", "c")
    memory = Memory({name: Verdict(name) for name in names}, dict.fromkeys(names, DIGEST))
    save_memory(memory, tmp_path / "state.json")
    kept, _ = loaded(tmp_path / "state.json")
    assert list(kept.verdicts) == list(kept.digests) == ["b", "c"]
    assert json.loads((tmp_path / "state.json").read_text())["schema"] == module.SCHEMA
