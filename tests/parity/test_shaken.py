"""Shaken weights show what zero biases and unit norms hide."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from slogpt_hf.checkpoints import Checkpoint, read_checkpoint
from slogpt_hf.conversion import plan_conversion, targets, write_model
from slogpt_hf.parity import shaken
from slogpt_hf.parity.gate import verify_artefact
from slogpt_hf.parity.shaken import Noise, Shaken

Write = Callable[..., Path]
Convert = Callable[..., tuple[Checkpoint, Path]]
Golden = Callable[[str], Path]
GOLDEN = Path(__file__).parents[1] / "data" / "golden"
FILES = sorted(
    path
    for pattern in ("*.pt", "*.sou", "*.bin")
    for path in GOLDEN.glob(f"*/{pattern}")
    if path.name != "tokenizer.bin"
)
MODERN = {"use_rope": True, "use_swiglu": True, "use_rmsnorm": True, "bias": True}


@pytest.fixture
def fresh(slo_content: Callable[..., dict[str, Any]], tmp_path: Path) -> Callable[..., Checkpoint]:
    """Makes a checkpoint as training starts: biases are zeros, norms are ones."""

    def make(**switches: Any) -> Checkpoint:
        content = slo_content(**switches)
        for name, tensor in content["model"].items():
            if name.endswith("bias"):
                tensor.zero_()
            elif tensor.dim() == 1:
                tensor.fill_(1.0)
        torch.save(content, tmp_path / "ckpt.pt")
        return read_checkpoint(tmp_path / "ckpt.pt")

    return make


def written(checkpoint: Checkpoint, folder: Path) -> Path:
    folder.mkdir()
    write_model(checkpoint, plan_conversion(checkpoint), folder, max_shard_bytes=10**9)
    return folder


def without_bias_permutation(spec: Any, target: Any, role: str, kind: str) -> Any:
    return () if kind == "bias" else OPERATIONS(spec, target, role, kind)


OPERATIONS = targets._operations


def swapped_norms(target: Any) -> tuple[tuple[str, str], ...]:
    other = {"norm1": "norm2", "norm2": "norm1"}
    return tuple((module, other.get(role, role)) for module, role in target.block)


def plant_bias_fault(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(targets, "_operations", without_bias_permutation)


def plant_norm_fault(patch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    wrong = replace(targets.LLAMA, block=swapped_norms(targets.LLAMA))
    patch.setitem(targets.NATIVE, ("rotary", "rmsnorm", "gated"), (wrong,))


HIDDEN = {"biases not permuted": plant_bias_fault, "norms swapped": plant_norm_fault}


@pytest.mark.parametrize("fault", HIDDEN)
def test_a_fault_of_the_conversion_that_fresh_weights_hide_is_caught(
    fault: str,
    fresh: Callable[..., Checkpoint],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checkpoint = fresh(**MODERN)
    clean = written(checkpoint, tmp_path / "clean")
    HIDDEN[fault](monkeypatch)
    folder = written(checkpoint, tmp_path / "artefact")
    # What is stored is the same: no comparison of these weights can show the fault.
    ours, theirs = (load_file(each / "model.safetensors") for each in (folder, clean))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    report = verify_artefact(checkpoint, folder)
    assert report.verdict == "failed"
    assert report.fp64_error < 1e-13 and report.embedding_equal and report.head_equal
    assert report.shaken_error is not None and report.shaken_error > 1e-6
    assert [f.partition(":")[0] for f in report.failures] == [
        "On shaken weights the artefact is not equal"
    ]
    assert report.first_divergence == "layer 0, on shaken weights"


def test_fresh_weights_pass(fresh: Callable[..., Checkpoint], tmp_path: Path) -> None:
    checkpoint = fresh(**MODERN)
    report = verify_artefact(checkpoint, written(checkpoint, tmp_path / "artefact"))
    assert report.passed, report.failures
    assert report.shaken_error is not None and report.shaken_error < 1e-13


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_golden_passes_with_its_controls(path: Path, tmp_path: Path) -> None:
    """Q8_0 files among them."""
    given: dict[str, Any] = {}
    if path.suffix == ".sou" or path.name.startswith(("step", "model.pt")):
        given = {}
    try:
        checkpoint = read_checkpoint(path, given, None)
    except Exception as error:  # what a file does not record is given
        words = str(error)
        given = {"n_head": 4} if "n_head" in words else {}
        given |= {"block_size": 64} if "block_size" in words else {}
        checkpoint = read_checkpoint(path, given, None)
    folder = written(checkpoint, tmp_path / "artefact")
    report = verify_artefact(checkpoint, folder)
    assert report.passed, (report.failures, report.missed)
    assert report.shaken_error is not None and report.shaken_error < 1e-12
    assert sum(control.outcome == "caught" for control in report.controls) >= 14


def test_noise_is_the_same_for_the_same_name() -> None:
    tensors = {"a": torch.randn(3, 4), "b": torch.zeros(5), "c": torch.randn(3, 4)}
    one, other = Noise(tensors, {}), Noise(tensors, {})
    first = one.of("a").clone()
    one.of("b")
    assert torch.equal(one.of("a"), first) and torch.equal(other.of("a"), first)
    assert not torch.equal(one.of("c"), first)
    assert first.dtype == torch.float64


def test_what_is_all_zeros_or_all_ones_is_not_special_any_more() -> None:
    tensors = {"bias": torch.zeros(64), "norm": torch.ones(64), "matrix": torch.randn(64, 64)}
    found = Shaken(Noise(tensors, {}))
    assert set(found) == set(tensors) and len(found) == 3
    for name, value in found.items():
        change = (value - tensors[name]).abs()
        assert (change > 0).all() and len(value.unique()) == value.numel()
        assert 0.001 < change.mean() < 0.3


def test_a_tied_head_is_shaken_as_its_embedding(slo_checkpoint: Write) -> None:
    checkpoint = read_checkpoint(slo_checkpoint())
    noise = Noise(checkpoint.tensors, {"lm_head.weight": "transformer.wte.weight"})
    found = Shaken(noise)
    assert torch.equal(found["lm_head.weight"], found["transformer.wte.weight"])
    loose = Shaken(Noise(checkpoint.tensors, {}))
    assert not torch.equal(loose["lm_head.weight"], loose["transformer.wte.weight"])


CLIPPED = {
    "GPT2": ({}, {"activation_function": "gelu_10"}),
    "Starcoder2": ({"use_rope": True}, {"hidden_act": "gelu_10"}),
}


@pytest.mark.parametrize("kind", CLIPPED)
def test_an_activation_that_is_clipped_beyond_the_inputs_is_caught(
    kind: str, slo_checkpoint: Write, convert: Convert, tmp_path: Path
) -> None:
    """GELU up to 10, which these weights never reach."""
    import json
    import shutil

    switches, fields = CLIPPED[kind]
    checkpoint, folder = convert(slo_checkpoint(**switches))
    folder = Path(shutil.copytree(folder, tmp_path / "artefact"))
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    report = verify_artefact(checkpoint, folder)
    assert report.verdict == "failed" and report.fp64_error < 1e-13
    assert report.first_divergence == "layer 0, its MLP loud, on shaken weights"


@pytest.mark.parametrize("bit", [0, 1])
def test_the_last_bit_of_the_least_weight_is_compared(
    bit: int, slo_checkpoint: Write, convert: Convert, tmp_path: Path
) -> None:
    import shutil

    checkpoint, folder = convert(slo_checkpoint())
    folder = Path(shutil.copytree(folder, tmp_path / "artefact"))
    path, name = folder / "model.safetensors", "transformer.h.1.mlp.c_fc.weight"
    tensors = load_file(path)
    values = tensors[name].view(-1)
    index = int(values.abs().argmin())
    values[index : index + 1].view(torch.int32)[0] ^= 1 << bit
    save_file(tensors, path, metadata={"format": "pt"})
    report = verify_artefact(checkpoint, folder)
    assert report.fp64_error < 1e-10
    assert report.verdict == "failed" and report.first_divergence == name
    assert report.failures == (f"Stored tensors are not the original's, bit for bit: {name}.",)


def test_the_seed_is_fixed() -> None:
    """Two runs of one release say the same."""
    value = Noise({"a": torch.ones(2)}, {}).of("a")
    assert shaken.SEED == 20260101
    assert torch.equal(value, Noise({"a": torch.ones(2)}, {}).of("a"))
