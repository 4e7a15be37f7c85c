"""Adapters, folders and refusals of the other dialects, through the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

Cli = Callable[..., Any]
DISTRIBUTED = Path(__file__).parents[1] / "data" / "distributed"
ALPHA = "lora_alpha=8"


def saved(content: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


@pytest.fixture
def step(golden: Callable[[str], Path]) -> Path:
    return golden("sloughgpt-step/step_200.pt")


def lora_of(state: dict[str, Tensor]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    pieces = {}
    for name in [n for n in state if n.endswith(("q_proj.weight", "w2.weight"))]:
        rows, columns = state[name].shape
        module = name.removesuffix(".weight")
        pieces[f"{module}.lora_A"] = torch.randn(4, columns, generator=generator) * 0.1
        pieces[f"{module}.lora_B"] = torch.randn(rows, 4, generator=generator) * 0.1
    return pieces


@pytest.fixture
def tuned(step: Path, tmp_path: Path) -> Path:
    content = torch.load(step, weights_only=True)
    content["model_state_dict"] |= lora_of(content["model_state_dict"])
    return saved(content, tmp_path / "step_300.pt")


@pytest.fixture
def adapter(step: Path, tmp_path: Path) -> Path:
    pieces = lora_of(torch.load(step, weights_only=True)["model_state_dict"])
    metadata = {"type": "lora", "rank": 4, "alpha": 8}
    return saved(pieces | {"metadata": metadata}, tmp_path / "adapter.pt")


def test_adapter_is_merged_and_said(cli: Cli, tuned: Path, tmp_path: Path) -> None:
    refused = cli("convert-model", "-", tuned, tmp_path / "none")
    assert (refused.code, "Traceback" in refused.text) == (3, False)
    assert "does not record lora_alpha" in refused.err and "--set lora_alpha=" in refused.err
    assert not (tmp_path / "none").exists()

    out = tmp_path / "artefact"
    assert cli("convert-model", "-", tuned, out, "--set", ALPHA).code == 0
    card = (out / "README.md").read_text()
    assert "A LoRA adapter with alpha 8 was merged into 4 weights" in card
    assert "with its adapters unmerged" in card
    record = json.loads((out / "release.json").read_text())
    assert record["parity"]["merge_error"] <= 1e-10
    assert record["checkpoint"]["set"] == {"lora_alpha": 8}

    assert cli("verify", tuned, out, "--set", ALPHA).code == 0
    other = cli("verify", tuned, out, "--set", "lora_alpha=9")
    assert (other.code, "NOT equal" in other.text) == (4, True)


def test_base_alone_is_not_the_adapted_model(
    cli: Cli, step: Path, adapter: Path, tmp_path: Path
) -> None:
    out = tmp_path / "base"
    assert cli("convert-model", "-", step, out).code == 0
    assert cli("verify", adapter, out, "--base", step).code == 4


def test_adapter_only(cli: Cli, step: Path, adapter: Path, tmp_path: Path) -> None:
    alone = cli("release", adapter, "--repo-id", "me/a", "--hub", tmp_path / "hub")
    assert alone.code == 3
    assert "holds an adapter only" in alone.err and "--base CHECKPOINT" in alone.err
    where = ("--repo-id", "me/a", "--hub", tmp_path / "hub", "--json")
    first = cli("release", adapter, "--base", step, *where)
    assert first.code == 0, first.err
    again = cli("release", adapter, "--base", step, *where)
    assert [r["released"] for r in (*first.json, *again.json)] == [True, False]
    assert first.json[0]["record"]["checkpoint"]["step"] is None
    notes = " ".join(first.json[0]["record"]["checkpoint"]["notes"])
    assert "adapter.pt adapts step_200.pt" in notes and "2 files" in notes


def test_sharded_folder_is_one_release_however_many_wrote_it(
    cli: Cli, character_dataset: Callable[[int], Path], tmp_path: Path
) -> None:
    rows = cli("inspect", DISTRIBUTED / "slo-two", "--json").json["spec"]["vocab_size"]
    dataset = character_dataset(rows)
    weights = []
    for name in ("slo-one", "slo-two"):
        out = tmp_path / name
        outcome = cli("convert-model", dataset, DISTRIBUTED / name, out)
        assert outcome.code == 0, outcome.err
        weights.append((out / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_run_folder(cli: Cli, step: Path, tmp_path: Path) -> None:
    content = torch.load(step, weights_only=True)
    run = tmp_path / "checkpoint_step_200_20260401"
    saved(content["model_state_dict"], run / "model.pt")
    about = {"step": 200, "eval_loss": 2.25, "config": content["config"], "stoi": content["stoi"]}
    (run / "metadata.json").write_text(json.dumps(about))
    where = ("--repo-id", "me/run", "--hub", tmp_path / "hub", "--json")
    outcome = cli("release", run, *where)
    assert outcome.code == 0, outcome.err
    checkpoint = outcome.json[0]["record"]["checkpoint"]
    assert (checkpoint["file"], checkpoint["step"]) == (run.name, 200)
    assert checkpoint["val_loss"] == 2.25
    # What metadata.json says is part of what is released.
    (run / "metadata.json").write_text(json.dumps(about | {"step": 201}))
    assert cli("release", run, *where).json[0]["version"] == "1.0.1"


@pytest.mark.parametrize("change", [-1, 1])
@pytest.mark.parametrize("name", ["model_v0.bin", "model_v1.bin", "model_v2_q80.bin"])
def test_bin_of_another_length(
    cli: Cli, golden: Callable[[str], Path], tmp_path: Path, name: str, change: int
) -> None:
    content = golden(f"llama2c-tied/{name}").read_bytes()
    path = tmp_path / "weights"
    path.write_bytes(content + b"x" if change > 0 else content[:-1])
    outcome = cli("convert-model", "-", path, tmp_path / "out")
    assert outcome.code == 3
    assert f"{len(content) + change} bytes where {len(content)} follow" in outcome.err
    assert not (tmp_path / "out").exists()


def test_demonstration_dict(cli: Cli, tmp_path: Path) -> None:
    layers = {
        f"layer_{i}_{name}": torch.ones(4, 4)
        for i in range(4)
        for name in ("ln_1", "attn_qkv", "attn_proj", "ln_2", "ffn")
    }
    outer = ("token_embedding_table", "position_embedding_table", "final_layer_norm")
    content = layers | {name: torch.ones(4, 4) for name in (*outer, "output_projection")}
    outcome = cli("inspect", saved(content | {"n_layer": 4}, tmp_path / "demo.pt"))
    assert outcome.code == 3
    assert "flat demonstration dict" in outcome.err and "layer_3_ffn_proj" in outcome.err


def test_unknown_file(cli: Cli, tmp_path: Path) -> None:
    state = {f"encoder.{i}.w": torch.ones(i + 1, 2) for i in range(3)}
    outcome = cli("inspect", saved({"state_dict": state}, tmp_path / "model.pt"))
    assert outcome.code == 3 and "Traceback" not in outcome.text
    for part in ("transformer.wte.weight (Slo)", "encoder.0.w (1, 2)", "please report"):
        assert part in outcome.err
    (tmp_path / "noise").write_bytes(bytes(range(200, 256)))
    outcome = cli("inspect", tmp_path / "noise")
    assert outcome.code == 3
    for part in ("torch.save file", ".sou file", "safetensors file", "llama2.c .bin file"):
        assert part in outcome.err
