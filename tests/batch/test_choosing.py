"""What the arguments of a command stand for, and what the artefacts are called."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slogpt_hf.batch.choosing import _names, chosen
from slogpt_hf.errors import UsageError

GLOBS = ("**/ckpt*.pt", "https://example.com/x.git")
Make = Callable[..., None]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Writes files, each later than the one before, in the current folder."""
    monkeypatch.chdir(tmp_path)

    def write(*names: str) -> None:
        for second, name in enumerate(names, 1):
            path = Path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
            os.utime(path, (second, second))

    return write


def named(arguments: list[str]) -> dict[str, str]:
    found = chosen(arguments, GLOBS)
    assert found is not None
    return {str(each.path): each.name for each in found}


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors", ".metadata"])
def test_one_path_is_as_ever(make: Make, name: str) -> None:
    make("run/ckpt.pt", "empty/notes.txt", f"whole/{name}", "whole/ckpt.pt")
    for path in ("run/ckpt.pt", "missing.pt", "whole", "empty", "missing[0].pt"[:7]):
        assert chosen([path], GLOBS) is None


def test_a_folder_stands_for_the_checkpoints_in_it_in_the_order_of_time(make: Make) -> None:
    make("runs/b/ckpt.pt", "runs/a/ckpt.pt", "runs/a/other.pt", "runs/ckpt_9.pt")
    assert list(named(["runs"]).items()) == [
        ("runs/b/ckpt.pt", "b-ckpt"),
        ("runs/a/ckpt.pt", "a-ckpt"),
        ("runs/ckpt_9.pt", "ckpt_9"),
    ]
    assert named(["runs/a"]) == {"runs/a/ckpt.pt": "ckpt"}


def test_a_glob_is_expanded_unless_a_file_has_its_name(make: Make) -> None:
    make("runs/a/step_1.pt", "runs/b/step_2.pt", "odd[1].pt")
    assert named(["runs/*/*.pt"]) == {
        "runs/a/step_1.pt": "a-step_1",
        "runs/b/step_2.pt": "b-step_2",
    }
    assert chosen(["odd[1].pt"], GLOBS) is None
    with pytest.raises(UsageError, match="no file is like that"):
        chosen(["runs/*/*.bin"], GLOBS)


def test_paths_stay_in_their_order_and_come_once(make: Make) -> None:
    make("z/ckpt.pt", "a/ckpt.pt")
    assert list(named(["z/ckpt.pt", "a/ckpt.pt", "z/ckpt.pt"])) == ["z/ckpt.pt", "a/ckpt.pt"]
    assert list(named(["z/ckpt.pt", "a/../z/ckpt.pt", "a/ckpt.pt"])) == ["z/ckpt.pt", "a/ckpt.pt"]
    assert list(named(["a/ckpt.pt", "*/ckpt.pt"])) == ["a/ckpt.pt", "z/ckpt.pt"]
    assert named(["gone/x.pt", "z/ckpt.pt"]) == {"gone/x.pt": "gone-x.pt", "z/ckpt.pt": "z-ckpt"}


def test_the_same_path_below_two_folders_has_the_names_of_these(make: Make) -> None:
    make("runs/a/ckpt.pt", "runs/b/ckpt.pt", "runs/b/x/ckpt.pt")
    both = {"runs/a/ckpt.pt": "a-ckpt", "runs/b/ckpt.pt": "b-ckpt", "runs/b/x/ckpt.pt": "b-x-ckpt"}
    assert named(["runs/a", "runs/b"]) == both
    assert named(["runs/b", "runs/a/*.pt"]) == both
    assert named(["runs/a/ckpt.pt", "runs/b"]) == both


def test_names_that_would_be_one_are_told_apart(make: Make) -> None:
    make("r/a.pt", "r/a.bin", "r/b/c.pt", "r/b-c.pt")
    names = list(named(["r/**/*.pt", "r/*.bin"]).values())
    assert names == ["a", "b-c", "b-c.pt", "a.bin"]


@given(st.lists(st.from_regex(r"(?:[a-c.-]{1,2}/){0,2}[a-c.-]{1,2}", fullmatch=True), min_size=1))
def test_every_name_is_one_part_of_a_path_and_its_own(paths: list[str]) -> None:
    root = Path("/nowhere")
    names = list(_names([(root / path, root) for path in paths]))
    assert len(set(names)) == len(paths)
    assert all(Path(name).name == name and name not in ("", ".", "..") for name in names)
