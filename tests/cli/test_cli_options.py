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


TAKERS = {
    "inspect": (["x.pt"], "slogpt_hf.inspection.inspect_checkpoint", 1),
    "convert-model": (["-", "x.pt", "out"], "slogpt_hf.build.convert", 2),
    "verify": (["x.pt", "artefact"], "slogpt_hf.build.verify", 2),
    "release": (["x.pt"], "slogpt_hf.release.release_checkpoints", 1),
}


@pytest.mark.parametrize("name", TAKERS)
def test_fields_and_base_reach_every_command_that_reads_a_checkpoint(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, function, position = TAKERS[name]
    seen: list[Settings] = []

    def called(*values: Any, **_: Any) -> None:
        seen.append(values[position])
        raise KeyboardInterrupt

    monkeypatch.setattr(function, called)
    monkeypatch.setenv("SLOGPT_SET", "block_size=64 n_head=2")
    (tmp_path / ".slogpt-hf.yml").write_text("set: {block_size: 32, norm_eps: 1.0e-6}\n")
    options = ["--set", "n_head=8", "--set=use_rope=true", "--base", "base.pt"]
    assert run([name, *arguments, *options]) == 130
    assert seen[0].given == {"n_head": 8, "block_size": 64, "norm_eps": 1e-6, "use_rope": True}
    assert seen[0].base_path == Path("base.pt")


@pytest.mark.parametrize("name", ["convert-model", "verify", "release"])
def test_a_reference_reaches_what_proves(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, function, position = TAKERS[name]
    seen: list[Settings] = []

    def called(*values: Any, **_: Any) -> None:
        seen.append(values[position])
        raise KeyboardInterrupt

    monkeypatch.setattr(function, called)
    assert run([name, *arguments, "--reference", "model.py:GPT"]) == 130
    assert seen[0].reference == "model.py:GPT"


@pytest.mark.parametrize("name", ["convert-model", "verify", "release"])
def test_a_required_witness_reaches_what_proves(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, function, position = TAKERS[name]
    seen: list[Settings] = []

    def called(*values: Any, **_: Any) -> None:
        seen.append(values[position])
        raise KeyboardInterrupt

    monkeypatch.setattr(function, called)
    assert run([name, *arguments, "--require-witness", "corroborated"]) == 130
    assert seen[0].require_witness == "corroborated"
    assert run([name, *arguments, "--require-witness", "assumed"]) == 2


@pytest.mark.parametrize("name", ["convert-model", "release"])
def test_unquantised_reaches_what_writes_a_card(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, function, position = TAKERS[name]
    seen: list[Settings] = []

    def called(*values: Any, **_: Any) -> None:
        seen.append(values[position])
        raise KeyboardInterrupt

    monkeypatch.setattr(function, called)
    assert run([name, *arguments, "--unquantised", "original.pt"]) == 130
    assert seen[0].unquantised == "original.pt"


@pytest.mark.parametrize("name", TAKERS)
@pytest.mark.parametrize("text", ["n_head=x", "n_head", "=3", "n_head=nan", "n_head=inf"])
def test_field_that_is_none_is_a_usage_error(
    name: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is read: the checkpoint is not even there."""
    assert run([name, *TAKERS[name][0], "--set", text]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and repr(text) in captured.err and "n_head=8" in captured.err
    assert list(tmp_path.iterdir()) == []
