"""Logits that a trainer records: what is written, what is read, and whom it convicts."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from slogpt_hf.checkpoints import Checkpoint, read_checkpoint
from slogpt_hf.errors import CheckpointError
from slogpt_hf.parity import decoder
from slogpt_hf.parity.decoder import Decoder
from slogpt_hf.parity.families import SLO
from slogpt_hf.parity.gate import verify_artefact
from slogpt_hf.parity.oracles import recorded_beside
from slogpt_hf.recorded import record_parity

Write = Callable[..., Path]
Convert = Callable[..., tuple[Checkpoint, Path]]
IDS = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, 9, 36]], dtype=torch.int32)


class Tiny(nn.Module):
    """A model as simple as can be, which drops out while it is trained."""

    def __init__(self, vocabulary: int = 7) -> None:
        super().__init__()
        self.table = nn.Embedding(40, vocabulary)
        self.dropout = nn.Dropout(0.5)

    def forward(self, ids: Tensor) -> Any:
        return self.dropout(self.table(ids))


class LikeNanoGPT(Tiny):
    """Logits of every position only when it is told the targets."""

    def forward(self, ids: Tensor, targets: Tensor | None = None) -> Any:
        logits = super().forward(ids)
        return (logits, logits.mean()) if targets is not None else (logits[:, [-1]], None)


class LikeTransformers(Tiny):
    def forward(self, ids: Tensor) -> Any:
        from types import SimpleNamespace

        return SimpleNamespace(logits=super().forward(ids))


class Wrapper(nn.Module):
    """What ``torch.compile`` and DistributedDataParallel put around a model."""

    def __init__(self, name: str, model: nn.Module) -> None:
        super().__init__()
        setattr(self, name, model)

    def forward(self, *arguments: Any) -> Any:
        raise AssertionError("the wrapper is not run")


@pytest.mark.parametrize("kind", [Tiny, LikeNanoGPT, LikeTransformers])
@pytest.mark.parametrize("training", [True, False])
def test_what_is_recorded_is_what_safetensors_reads(
    kind: type[Tiny], training: bool, tmp_path: Path
) -> None:
    model = kind().train(training)
    written = record_parity(model, tmp_path / "ckpt.pt", IDS)
    assert written == tmp_path / "parity.safetensors"
    assert model.training == training and model.dropout.training == training
    found = load_file(written)
    assert found.keys() == {"input_ids", "logits"}
    assert found["input_ids"].dtype == torch.int64 and found["logits"].dtype == torch.float32
    assert torch.equal(found["input_ids"], IDS.long())
    assert torch.equal(found["logits"], model.table(IDS).detach())
    with safe_open(written, framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
    save_file(found, tmp_path / "again.safetensors", metadata={"format": "pt"})
    again = load_file(tmp_path / "again.safetensors")
    assert all(torch.equal(found[name], again[name]) for name in found)
    assert [path.name for path in tmp_path.glob(".*")] == []


@pytest.mark.parametrize("names", [["_orig_mod"], ["module"], ["module", "_orig_mod"]])
def test_wrappers_are_taken_off(names: list[str], tmp_path: Path) -> None:
    inner = LikeNanoGPT()
    model: nn.Module = inner
    for name in names:
        model = Wrapper(name, model)
    written = record_parity(model, tmp_path / "x.safetensors", IDS)
    assert written == tmp_path / "x.safetensors"
    assert torch.equal(load_file(written)["logits"], inner.table(IDS).detach())


def test_a_model_in_bfloat16_is_recorded_as_it_computes(tmp_path: Path) -> None:
    model = Tiny().bfloat16()
    found = load_file(record_parity(model, tmp_path / "ckpt.pt", IDS))["logits"]
    assert torch.equal(found, model.table(IDS).detach().float())


class LastOnly(Tiny):
    def forward(self, ids: Tensor) -> Any:
        return super().forward(ids)[:, [-1]], None


class Flat(Tiny):
    def forward(self, ids: Tensor) -> Any:
        return super().forward(ids).flatten(0, 1)


@pytest.mark.parametrize("kind", [LastOnly, Flat])
def test_logits_of_another_shape_are_refused(kind: type[Tiny], tmp_path: Path) -> None:
    model = kind().train()
    with pytest.raises(ValueError, match="not the logits"):
        record_parity(model, tmp_path / "ckpt.pt", IDS)
    assert model.training and list(tmp_path.iterdir()) == []


RECORD = """
import sys
import torch
import slogpt_hf
model = torch.nn.Embedding(9, 4)
slogpt_hf.record_parity(model, sys.argv[1], torch.tensor([[1, 2]]))
print(sorted({name.partition(".")[0] for name in sys.modules}))
"""


def test_recording_imports_torch_and_nothing_else(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", RECORD, str(tmp_path / "ckpt.pt")],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert (tmp_path / "parity.safetensors").is_file()
    for name in ("transformers", "safetensors", "huggingface_hub", "click", "yaml", "PIL"):
        assert repr(name) not in result.stdout


class Original(nn.Module):
    """The Slo model of a checkpoint, as the trainer would call it."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.inner = Decoder(SLO, checkpoint.spec, checkpoint.tensors)

    def forward(self, ids: Tensor, targets: Tensor | None = None) -> Any:
        return decoder.logits(self.inner, ids, torch.float32), None


@pytest.fixture
def pair(slo_checkpoint: Write, convert: Convert, tmp_path: Path) -> tuple[Checkpoint, Path, Path]:
    """A checkpoint beside which nothing lies yet, its artefact, and its folder."""
    shutil.copy(slo_checkpoint(use_rope=True), tmp_path / "ckpt.pt")
    checkpoint, folder = convert(tmp_path / "ckpt.pt")
    return checkpoint, folder, tmp_path


def test_a_recording_of_these_weights_agrees(pair: tuple[Checkpoint, Path, Path]) -> None:
    checkpoint, folder, place = pair
    assert recorded_beside(checkpoint) is None
    record_parity(Original(checkpoint), place / "ckpt.pt", IDS.long())
    report = verify_artefact(checkpoint, folder)
    assert report.passed, report.failures
    (witness,) = report.witnesses
    assert witness.name == "recorded logits" and witness.agrees
    assert witness.error <= witness.bound and witness.built_in_error == 0
    assert (witness.batch, witness.length, witness.fp64_error) == (2, 5, None)
    json.dumps(report.to_dict(), allow_nan=False)


def test_a_recording_of_other_weights_fails(
    pair: tuple[Checkpoint, Path, Path], slo_checkpoint: Write
) -> None:
    checkpoint, folder, place = pair
    other = read_checkpoint(slo_checkpoint(use_rope=True, seed=1))
    record_parity(Original(other), place / "ckpt.pt", IDS.long())
    report = verify_artefact(checkpoint, folder)
    assert report.verdict == "failed" and not report.witnesses[0].agrees
    assert "another model or another recording" in report.failures[0]
    assert report.first_divergence == "recorded logits"


def test_one_logit_that_was_not_recorded_fails(pair: tuple[Checkpoint, Path, Path]) -> None:
    checkpoint, folder, place = pair
    path = record_parity(Original(checkpoint), place / "ckpt.pt", IDS.long())
    content = load_file(path)
    content["logits"][1, 4, 36] = float("nan")
    save_file(content, path)
    report = verify_artefact(checkpoint, folder)
    assert report.verdict == "failed" and report.witnesses[0].error == float("inf")


def test_the_recording_of_a_checkpoint_goes_before_that_of_its_folder(
    pair: tuple[Checkpoint, Path, Path],
) -> None:
    checkpoint, _, place = pair
    record_parity(Original(checkpoint), place / "ckpt.parity.safetensors", IDS[:1].long())
    record_parity(Original(checkpoint), place / "ckpt.pt", IDS.long())
    found = recorded_beside(checkpoint)
    assert found is not None and found.ids.shape == (1, 5)


def logits_for(*shape: int) -> dict[str, Tensor]:
    return {"input_ids": torch.zeros(shape[:2], dtype=torch.int64), "logits": torch.zeros(shape)}


DAMAGED: dict[str, dict[str, Tensor] | bytes] = {
    "empty": b"",
    "text": b"{}",
    "cut": b"\x40\x00\x00\x00\x00\x00\x00\x00{",
    "no ids": {"logits": torch.zeros(1, 2, 37)},
    "no logits": {"input_ids": torch.zeros(1, 2, dtype=torch.int64)},
    "another vocabulary": logits_for(1, 2, 36),
    "too long": logits_for(1, 25, 37),
    "no rows": logits_for(0, 2, 37),
    "flat ids": {"input_ids": torch.zeros(2, dtype=torch.int64), "logits": torch.zeros(1, 2, 37)},
    "more ids": logits_for(1, 2, 37) | {"input_ids": torch.zeros(1, 3, dtype=torch.int64)},
    "unknown ids": logits_for(1, 2, 37) | {"input_ids": torch.tensor([[0, 37]])},
    "negative ids": logits_for(1, 2, 37) | {"input_ids": torch.tensor([[0, -1]])},
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_and_foreign_recordings_are_errors(
    damage: str, pair: tuple[Checkpoint, Path, Path]
) -> None:
    checkpoint, folder, place = pair
    content = DAMAGED[damage]
    if isinstance(content, bytes):
        (place / "parity.safetensors").write_bytes(content)
    else:
        save_file(content, place / "parity.safetensors")
    with pytest.raises(CheckpointError, match=r"parity\.safetensors"):
        verify_artefact(checkpoint, folder)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_rounded_artefact_is_held_to_what_was_recorded_before_rounding(
    dtype: str, slo_checkpoint: Write, convert: Convert
) -> None:
    checkpoint = read_checkpoint(slo_checkpoint(n_layer=1))
    source = Decoder(SLO, checkpoint.spec, checkpoint.tensors)
    logits = decoder.logits(source, IDS.long(), torch.float32)
    place = checkpoint.path.parent / "parity.safetensors"
    save_file({"input_ids": IDS.long(), "logits": logits}, place)
    _, folder = convert(checkpoint.path, dtype=dtype)
    report = verify_artefact(read_checkpoint(checkpoint.path), folder)
    assert report.passed, report.failures
    (witness,) = report.witnesses
    assert witness.built_in_error <= witness.bound < witness.error
    assert 0.5 * witness.rounding < witness.error < 2 * witness.rounding
    save_file({"input_ids": IDS.long(), "logits": logits + 3 * witness.bound}, place)
    report = verify_artefact(read_checkpoint(checkpoint.path), folder)
    assert "the built-in model, so this is another model" in report.failures[0]
