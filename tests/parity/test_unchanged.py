"""An artefact that another program writes to meanwhile is no artefact that differs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from slogpt_hf.checkpoints import Checkpoint
from slogpt_hf.errors import CheckpointError
from slogpt_hf.parity import checks
from slogpt_hf.parity.finding import Check, Finding
from slogpt_hf.parity.gate import Examination, verify_artefact

Write = Callable[..., Path]
Convert = Callable[..., tuple[Checkpoint, Path]]
WEIGHTS = "model.safetensors"


@pytest.fixture
def pair(slo_checkpoint: Write, convert: Convert, tmp_path: Path) -> tuple[Checkpoint, Path]:
    checkpoint, folder = convert(slo_checkpoint(n_layer=1))
    return checkpoint, Path(shutil.copytree(folder, tmp_path / "artefact"))


def written_by_another(path: Path) -> None:
    """Other weights under the same name."""
    tensors = {name: tensor * 2 for name, tensor in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})


def zeroed_in_place(path: Path) -> None:
    """As a mapped file shows it whose blocks were lost, the second half of it zeros."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2)
        file.write(bytes(size - size // 2))


def another_file(path: Path) -> None:
    path.with_name("adapter.bin").write_bytes(b"x")


@pytest.mark.parametrize("change", [written_by_another, zeroed_in_place, another_file])
@pytest.mark.parametrize("before", ["behaviour", "logits, layers and rows"])
def test_a_change_while_it_is_verified_is_said(
    change: Any, before: str, pair: tuple[Checkpoint, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def meddle(subject: Examination) -> Finding:
        change(subject.folder / WEIGHTS)
        return Finding(("something differs: 1 > 0.",))

    at = next(i for i, check in enumerate(checks.CHECKS) if check.name == before)
    rows = (*checks.CHECKS[:at], Check("meddling", meddle))
    if before == "logits, layers and rows":
        rows = (*rows, checks.CHECKS[at])
    monkeypatch.setattr("slogpt_hf.parity.gate.CHECKS", rows)
    with pytest.raises(CheckpointError, match="changed on disk while it was verified"):
        verify_artefact(*pair)


def test_tensors_that_were_equal_and_are_not_show_it_without_a_stamp(
    pair: tuple[Checkpoint, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    def meddle(subject: Examination) -> Finding:
        path = subject.folder / WEIGHTS
        found = path.stat()
        zeroed_in_place(path)
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
        return Finding(("loaded whole: inf > 0e+00.",))

    at = next(i for i, check in enumerate(checks.CHECKS) if check.name == "behaviour")
    monkeypatch.setattr(
        "slogpt_hf.parity.gate.CHECKS", (*checks.CHECKS[:at], Check("meddling", meddle))
    )
    with pytest.raises(CheckpointError, match=r"while it was verified: .*(wte|wpe|weight|bias)"):
        verify_artefact(*pair)


def test_what_differs_and_did_not_change_is_not_equal(pair: tuple[Checkpoint, Path]) -> None:
    checkpoint, folder = pair
    written_by_another(folder / WEIGHTS)
    assert verify_artefact(checkpoint, folder).verdict == "failed"
