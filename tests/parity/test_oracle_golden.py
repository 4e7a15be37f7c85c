"""The oracle and the gate against logits that the original trainer's model computed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from slogpt_hf.checkpoints import Checkpoint, read_checkpoint
from slogpt_hf.parity import loading, slo
from slogpt_hf.parity.gate import verify_artefact

GOLDEN = (
    "slo-classic",
    "slo-modern",
    "slo-learned-rmsnorm-swiglu",
    "slo-rope-layernorm-gelu",
    "slo-rope-rmsnorm-gelu",
)
Golden = Callable[[str], Path]
Convert = Callable[..., tuple[Checkpoint, Path]]


@pytest.mark.parametrize("name", GOLDEN)
def test_oracle_computes_the_recorded_logits(golden: Golden, name: str) -> None:
    checkpoint = read_checkpoint(golden(name) / "ckpt.pt")
    recorded = load_file(golden(name) / "golden.safetensors")
    noise = json.loads((golden(name) / "about.json").read_text())["fp32_noise"]

    def oracle(dtype: torch.dtype, table_dtype: torch.dtype | None = None) -> torch.Tensor:
        ids = recorded["input_ids"]
        return slo.logits(checkpoint.spec, checkpoint.tensors, ids, dtype, table_dtype)

    exact = recorded["logits_fp64"]
    # The trainer's model kept float32 rotary tables in its float64 run.
    error = (oracle(torch.float64, torch.float32) - exact).abs().max() / exact.abs().max()
    assert error <= 1e-13
    assert (oracle(torch.float32) - recorded["logits"]).abs().max() <= 4 * noise


@pytest.mark.parametrize("name", GOLDEN)
def test_artefact_of_a_golden_checkpoint_passes_and_gives_its_logits(
    golden: Golden, convert: Convert, name: str
) -> None:
    checkpoint, folder = convert(golden(name) / "ckpt.pt")
    recorded = load_file(golden(name) / "golden.safetensors")
    text = recorded["input_ids"][0].tolist()
    report = verify_artefact(checkpoint, folder, text_ids=text)
    assert report.passed, report.failures
    assert [c.name for c in report.comparisons][-1] == "real text"
    model = loading.load_artefact(folder, torch.float32)
    with torch.no_grad():
        logits = loading.logits(model, recorded["input_ids"])
    assert (logits - recorded["logits"]).abs().max() <= report.fp32_bound


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_checkpoint_reads_as_what_it_is(golden: Golden, name: str) -> None:
    checkpoint = read_checkpoint(golden(name) / "ckpt.pt")
    about = json.loads((golden(name) / "about.json").read_text())
    args = about["model_args"]
    assert checkpoint.dialect == about["dialect"]
    assert f"torch.{checkpoint.dtype}" == about["dtype"]
    assert checkpoint.facts.val_loss == pytest.approx(about["val_loss"])
    assert checkpoint.facts.step == about["trained_steps"]
    assert checkpoint.spec.tied
    sizes = ("n_layer", "n_head", "n_embd", "block_size", "vocab_size")
    assert {size: getattr(checkpoint.spec, size) for size in sizes} == {s: args[s] for s in sizes}
