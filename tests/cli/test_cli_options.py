"""Options that reach what they name, and what a command says that does not do what was asked."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slogpt_hf.cli import run
from slogpt_hf.settings import Settings

SMALL = {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 12}
VOCABULARY = {
    "dataset": "mine",
    "tokenizer": "folder",
    "unknown": "?",
    "allow_spare_ids": True,
}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def characters(tmp_path: Path) -> Path:
    """A vocabulary of 30 characters; the checkpoint has 37 rows."""
    stoi = {chr(ord("A") + i): i for i in range(30)}
    content = {"vocab_size": 30, "stoi": stoi, "itos": {i: c for c, i in stoi.items()}}
    (tmp_path / "characters").mkdir()
    (tmp_path / "characters" / "meta.pkl").write_bytes(pickle.dumps(content))
    return tmp_path / "characters"


def test_demo_and_verify_of_a_checkpoint_with_spare_ids(
    slo_checkpoint: Callable[..., Path], characters: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(slo_checkpoint(**SMALL))
    asked = ["--dataset", str(characters)]
    assert run(["demo", path, *asked]) == 3
    assert "--allow-spare-ids" in capsys.readouterr().err
    asked.append("--allow-spare-ids")
    assert run(["demo", path, *asked, "--unknown", "B"]) == 0
    assert "Released demo/checkpoint 1.0.0" in capsys.readouterr().out
    assert run(["convert-model", str(characters), path, "artefact", "--allow-spare-ids"]) == 0
    assert run(["verify", path, "artefact", "-q", "--dataset", str(characters)]) == 3
    assert run(["verify", path, "artefact", "-q", *asked]) == 0


def test_vocabulary_of_the_demo_is_that_of_the_release(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Settings] = []

    def release(paths: list[Path], settings: Settings, *_: Any) -> list[Any]:
        seen.append(settings)
        return []

    monkeypatch.setattr("slogpt_hf.release.release_checkpoints", release)
    options = [f"--{k.replace('_', '-')}={v}" for k, v in VOCABULARY.items() if v is not True]
    assert run(["demo", "x.pt", *options, "--allow-spare-ids"]) == 0
    (settings,) = seen
    assert {name: getattr(settings, name) for name in VOCABULARY} == VOCABULARY


@pytest.mark.parametrize("option", [["--tokenizer", "x"], ["--dataset", "x"], ["--unknown", "x"]])
def test_vocabulary_of_the_demos_own_model_cannot_be_chosen(
    option: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["demo", *option]) == 2
    assert "CHECKPOINT" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_verify_takes_a_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Settings] = []

    def verify(path: Path, artefact: Path, settings: Settings, *_: Any) -> None:
        seen.append(settings)
        raise KeyboardInterrupt

    monkeypatch.setattr("slogpt_hf.build.verify", verify)
    assert run(["verify", "x.pt", "artefact", "--tokenizer", "folder"]) == 130
    assert seen[0].tokenizer == "folder"


def test_demo_says_that_it_uses_what_was_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("slogpt_hf.release.release_checkpoints", lambda *_: [])
    first = ["demo", "--variant", "classic", "--steps", "1"]
    assert run(first) == 0
    assert "as it is" not in capsys.readouterr().err
    assert run([*first[:-1], "5"]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert "slogpt-hf-demo/out-classic/ckpt.pt as it is" in line
    assert "for a new one remove slogpt-hf-demo/out-classic or name another --folder" in line
