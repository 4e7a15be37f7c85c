"""What is not as it was written, or rests on less than was required, is not published."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from slogpt_hf import build, release
from slogpt_hf.checkpoints.assumptions import Assumption
from slogpt_hf.cli import run
from slogpt_hf.errors import ParityError
from slogpt_hf.settings import Settings

Write = Callable[..., Path]
GELU = Assumption("activation", "gelu", "No file records it.", "exact (erf) GELU")
LEVELS = ("assumed", "corroborated", "witnessed")
LEFT = {"assumed": (GELU,), "corroborated": (GELU,), "witnessed": ()}
IS_MET = {
    ("assumed", None),
    ("corroborated", None),
    ("corroborated", "corroborated"),
    *(("witnessed", each) for each in (None, "corroborated", "witnessed")),
}


@pytest.fixture(scope="module")
def path(slo_checkpoint: Write) -> Path:
    """A checkpoint of one layer with its vocabulary."""
    checkpoint = slo_checkpoint(n_layer=1, n_head=2, n_embd=16, block_size=12)
    characters = "\n " + "".join(map(chr, range(65, 65 + 35)))
    stoi = {c: i for i, c in enumerate(characters)}
    meta = {"itos": dict(enumerate(characters)), "stoi": stoi}
    (checkpoint.parent / "meta.pkl").write_bytes(pickle.dumps(meta))
    return checkpoint


@pytest.fixture
def proven_at(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Has every proof from now on rest on what is named."""
    real = build.verified

    def at(level: str | None, note: str = "") -> None:
        def verified(*arguments: Any) -> Any:
            return replace(
                real(*arguments),
                level=level,
                family="nanoGPT",
                assumptions=LEFT[level] if level else (),
                witness_note=note,
                notes=("the loss was not compared",),
            )

        monkeypatch.setattr(build, "verified", verified)

    return at


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("required", [None, "corroborated", "witnessed"])
def test_less_than_required_is_not_made(
    path: Path,
    proven_at: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    level: str,
    required: str | None,
) -> None:
    monkeypatch.chdir(tmp_path)
    proven_at(level, "No class has these names.")
    settings = Settings(require_witness=required)
    if (level, required) in IS_MET:
        record = build.convert(path, tmp_path / "out", settings)
        assert record["parity"]["level"] == level and record["parity"]["family"] == "nanoGPT"
        told = [(each["name"], each["value"]) for each in record["parity"]["assumptions"]]
        assert told == [(each.name, each.value) for each in LEFT[level]]
        return
    with pytest.raises(ParityError) as raised:
        build.convert(path, tmp_path / "out", settings)
    message = str(raised.value)
    for words in (
        f"require-witness asks for {required}, but the proof is {level}: proven equal to nanoGPT",
        "nothing confirmed: exact (erf) GELU. Of witnesses: No class has these names; the loss was "
        "not compared. Nothing was published.",
        "--reference FILE.py:CLASS",
        "--reference auto",
        "slogpt_hf.record_parity",
        "The whole report is in parity.json.",
    ):
        assert words in message, words
    assert ("val.bin" in message) == (required == "corroborated")
    assert json.loads((tmp_path / "parity.json").read_text())["level"] == level
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("level", [None, *LEVELS])
@pytest.mark.parametrize("required", ["corroborated", "witnessed"])
def test_push_honours_it_from_the_record(
    path: Path, proven_at: Callable[..., None], tmp_path: Path, level: str | None, required: str
) -> None:
    proven_at(level)
    build.convert(path, tmp_path / "out", Settings())
    settings = Settings(repo_id="me/x", hub=str(tmp_path / "hub"), require_witness=required)
    if level and (level, required) in IS_MET:
        assert release.push(tmp_path / "out", settings).released
        return
    with pytest.raises(
        ParityError, match="Convert the checkpoint again: name the trainer"
    ) as raised:
        release.push(tmp_path / "out", settings)
    assert level or "level of the proof is not known" in str(raised.value)
    assert not list((tmp_path / "hub").rglob("*.safetensors"))


def test_the_command_says_what_was_proven(
    path: Path,
    proven_at: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    proven_at("assumed")
    assert run(["convert-model", "-", str(path), "out"]) == 0
    known = "proven equal to nanoGPT as slogpt-hf knows it; assumed: exact (erf) GELU"
    captured = capsys.readouterr()
    assert captured.out.endswith(f", made of {path}, {known}\n") and known in captured.err
    hub = ["--repo-id", "me/x", "--hub", "hub"]
    assert run(["push", "out", *hub]) == 0
    assert f"  proof   {known}\n" in capsys.readouterr().out
    assert run(["releases", "me/x", "--hub", "hub"]) == 0
    heading, row = capsys.readouterr().out.splitlines()
    assert heading.split()[4] == "level" and row.split()[4] == "assumed"
    assert run(["verify-release", "me/x@v1.0.0", "--hub", "hub", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["level"] == "assumed" and found["assumptions"][0]["value"] == "gelu"
    (check,) = (each for each in found["checks"] if each["name"] == "level")
    assert check == {"name": "level", "status": "ok", "detail": f"assumed: {known}"}
    proven_at("witnessed")
    assert run(["release", str(path), *hub, "--dtype", "float16"]) == 0
    assert "proof   proven equal to the trainer's own model\n" in capsys.readouterr().out


def test_verify_fails_below_what_is_required(
    path: Path,
    proven_at: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    proven_at("assumed")
    build.convert(path, tmp_path / "out", Settings())
    assert run(["verify", str(path), "out"]) == 0
    shown = capsys.readouterr().out
    assert "\nlevel           assumed\n" in shown
    assert "assumed         exact (erf) GELU: No file records it.\n" in shown
    for more in ([], ["--json"]):
        assert run(["verify", str(path), "out", "--require-witness", "witnessed", *more]) == 4


def changed(folder: Path) -> None:
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)


CHANGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a flipped bit": (changed, "model.safetensors"),
    "other settings": (
        lambda folder: (folder / "generation_config.json").write_text("{}"),
        "generation_config.json",
    ),
    "a new file": (lambda folder: (folder / "modeling.py").write_text("1"), "modeling.py"),
    "a file less": (lambda folder: (folder / "vocab.json").unlink(), "vocab.json"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_what_changed_while_it_was_proven_is_not_made(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """As the code of ``--reference`` could, after the comparison."""
    change, name = CHANGES[kind]
    real = build.verified

    def verified(*arguments: Any) -> Any:
        report = real(*arguments)
        change(arguments[1])
        return report

    monkeypatch.setattr(build, "verified", verified)
    with pytest.raises(ParityError, match=f"{name} of the artefact changed while it was being"):
        build.convert(path, tmp_path / "out", Settings())
    assert not (tmp_path / "out").exists()


def test_the_record_has_the_digests_of_what_lies_there(path: Path, tmp_path: Path) -> None:
    from slogpt_hf.card.record import hash_files

    record = build.convert(path, tmp_path / "out", Settings())
    assert record["files"] == hash_files(tmp_path / "out")
    assert {"parity.json", "parity.png", "model.safetensors"} <= record["files"].keys()


def test_a_function_that_earlier_versions_did_not_know_is_another_release(path: Path) -> None:
    checkpoint = build.open_checkpoint(path, Settings())
    choice = build.tokenizer_for(checkpoint, Settings())

    def identity(**spec: Any) -> str:
        changed = replace(checkpoint, spec=replace(checkpoint.spec, **spec))
        return build.identity_of("0" * 64, changed, choice, Settings())

    found = [identity(), identity(activation="gelu_tanh"), identity(activation="relu")]
    assert len(set(found)) == 3 and identity(activation="gelu") == found[0]
