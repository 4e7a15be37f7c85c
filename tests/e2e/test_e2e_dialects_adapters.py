"""Adapters and checkpoints of several files: released by the command line, read back, judged."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

Cli = Callable[..., Any]
Files = dict[str, Path]

RANK, ALPHA = 4, 16
MODULES = tuple(f"blocks.{i}.{m}" for i in (0, 1) for m in ("attn.q_proj", "mlp.w2"))
TARGETS = {"attn.q_proj": "self_attn.q_proj", "mlp.w2": "mlp.down_proj"}
LORA = ("--set", f"lora_alpha={ALPHA}")
DISTRIBUTED = Path(__file__).parents[1] / "data" / "distributed"


@pytest.fixture(scope="module")
def step_file(golden: Callable[[str], Path]) -> Path:
    return golden("sloughgpt-step") / "step_200.pt"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, step_file: Path) -> Files:
    """The golden step file with LoRA and with IA3 beside its weights, LoRA alone, and a folder."""
    folder = tmp_path_factory.mktemp("adapters")
    content = torch.load(step_file, weights_only=True)
    weights, generator = content["model_state_dict"], torch.Generator().manual_seed(3)
    low_rank, scales = {}, {}
    for module in MODULES:
        rows, columns = weights[f"{module}.weight"].shape
        low_rank[f"{module}.lora_A"] = 0.1 * torch.randn(RANK, columns, generator=generator)
        low_rank[f"{module}.lora_B"] = 0.1 * torch.randn(rows, RANK, generator=generator)
        scales[f"{module}.lora_s"] = 1 + 0.2 * torch.randn(rows, generator=generator)
    metadata = {"type": "lora", "rank": RANK, "alpha": ALPHA}
    paths = {name: folder / f"{name}.pt" for name in ("lora", "ia3", "alone")}
    torch.save(content | {"model_state_dict": weights | low_rank}, paths["lora"])
    torch.save(content | {"model_state_dict": weights | scales}, paths["ia3"])
    torch.save(low_rank | {"metadata": metadata}, paths["alone"])
    run = folder / "checkpoint_step_200_20250101"
    run.mkdir()
    torch.save(weights, run / "model.pt")
    recorded = {"step": 200, "config": content["config"], "metrics": {"eval_loss": 2.25}}
    recorded |= {"stoi": content["stoi"], "itos": content["itos"]}
    (run / "metadata.json").write_text(json.dumps(recorded))
    return paths | {"run": run}


@pytest.fixture(scope="module")
def artefacts(
    tmp_path_factory: pytest.TempPathFactory,
    files: Files,
    step_file: Path,
    character_dataset: Callable[[int], Path],
    cli: Cli,
    snapshot: Callable[..., Path],
) -> Files:
    """Released by tag ``v1.0.0`` to one hub and downloaded with the real client."""
    hub = tmp_path_factory.mktemp("hub") / "hub"
    cases: dict[str, tuple[Any, ...]] = {
        "base": (step_file,),
        "lora": (files["lora"], *LORA),
        "alone": (files["alone"], "--base", step_file),
        "ia3": (files["ia3"],),
        "run": (files["run"],),
        "slo-two": (DISTRIBUTED / "slo-two", "--dataset", character_dataset(13)),
        "sloughgpt-two": (DISTRIBUTED / "sloughgpt-two",),
    }
    folders = {}
    for name, arguments in cases.items():
        outcome = cli("release", *arguments, "--repo-id", f"me/{name}", "--hub", hub)
        assert outcome.code == 0, outcome.err
        folders[name] = snapshot(hub, f"me/{name}")
    return folders


def logits(folder: Path, ids: Tensor, adapter: Mapping[str, Tensor] | None = None) -> Tensor:
    """What transformers computes in float64, with an adapter run beside the weights."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    adapter = adapter or {}
    for module in MODULES if adapter else ():
        _, layer, name = module.split(".", 2)
        linear = model.get_submodule(f"model.layers.{layer}.{TARGETS[name]}")
        parts = {k.rpartition("_")[2]: v.double() for k, v in adapter.items() if module in k}
        linear.register_forward_hook(with_adapter(parts))
    with torch.no_grad():
        result: Tensor = model(ids).logits
    return result


def with_adapter(parts: dict[str, Tensor]) -> Callable[..., Tensor]:
    def hook(_: Any, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        if "s" in parts:
            return output * parts["s"]
        return output + ALPHA / RANK * (inputs[0] @ parts["A"].T @ parts["B"].T)

    return hook


@pytest.mark.parametrize("kind", ["lora", "alone", "ia3"])
def test_merged_is_what_the_unmerged_model_computes(
    kind: str, artefacts: Files, files: Files, golden: Callable[[str], Path]
) -> None:
    content = torch.load(files[kind], weights_only=True)
    state = content.get("model_state_dict", content)
    adapter = {name: tensor for name, tensor in state.items() if ".lora_" in name}
    ids = load_file(golden("sloughgpt-step") / "golden.safetensors")["input_ids"]
    unmerged = logits(artefacts["base"], ids, adapter)
    merged = logits(artefacts[kind], ids)
    # Merged weights are rounded to float32 once, the unmerged ones before.
    assert (merged - unmerged).abs().max().item() < 1e-5
    assert (merged - logits(artefacts["base"], ids)).abs().max().item() > 0.1


def test_an_adapter_alone_makes_what_one_beside_the_weights_makes(artefacts: Files) -> None:
    weights = [(artefacts[name] / "model.safetensors").read_bytes() for name in ("lora", "alone")]
    assert weights[0] == weights[1]


def test_the_card_says_merged(artefacts: Files) -> None:
    def card(name: str) -> str:
        return (artefacts[name] / "README.md").read_text()

    assert "LoRA adapter of rank 4 with alpha 16 is merged into 4 weights" in card("lora")
    assert "given by hand: lora\\_alpha=16" in card("lora")
    assert "LoRA adapter of rank 4 with alpha 16 is merged into 4 weights" in card("alone")
    assert "given by hand" not in card("alone")
    assert "step\\_200.pt" in card("alone")
    assert "IA3 adapter is merged into 4 weights" in card("ia3")
    for name in ("lora", "alone", "ia3"):
        assert "its adapters merged and rounded to float32, merged and unmerged" in card(name)
    assert "adapter" not in card("base")


@pytest.mark.parametrize(
    ("kind", "options", "artefact", "code"),
    [
        ("lora", LORA, "lora", 0),
        ("lora", LORA, "base", 4),
        ("lora", ("--set", "lora_alpha=8"), "lora", 4),
        ("ia3", (), "ia3", 0),
        ("ia3", (), "base", 4),
        ("lora", LORA, "ia3", 4),
        ("alone", ("--base",), "alone", 0),
        ("alone", ("--base",), "base", 4),
    ],
)
def test_verify(
    kind: str,
    options: tuple[str, ...],
    artefact: str,
    code: int,
    files: Files,
    artefacts: Files,
    step_file: Path,
    cli: Cli,
) -> None:
    more = (*options, step_file) if options == ("--base",) else options
    outcome = cli("verify", files[kind], artefacts[artefact], *more, "--quiet")
    assert outcome.code == code, outcome.text
    assert ("NOT equal" in outcome.out) == (code == 4)
    assert ("layer 0" in outcome.err) == (code == 4)


def test_what_an_adapter_lacks_is_asked_for(files: Files, step_file: Path, cli: Cli) -> None:
    outcome = cli("inspect", files["lora"])
    assert outcome.code == 3 and outcome.out == ""
    assert "does not record lora_alpha" in outcome.err and "--set lora_alpha=" in outcome.err
    outcome = cli("inspect", files["alone"])
    assert outcome.code == 3 and "--base CHECKPOINT" in outcome.err
    outcome = cli("inspect", files["alone"], "--base", step_file, "--set", "lora_alpha=8")
    assert outcome.code == 2 and "records metadata.alpha = 16" in outcome.err
    outcome = cli("inspect", files["ia3"], "--base", step_file)
    assert outcome.code == 2 and "has weights of its own" in outcome.err
    outcome = cli("inspect", files["alone"], "--base", files["lora"])
    assert outcome.code == 3 and "has an adapter of its own" in outcome.err


def test_a_run_folder_is_its_step_file(artefacts: Files) -> None:
    """Same weights and vocabulary, so the same files; what was recorded is in the card."""
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (artefacts["run"] / name).read_bytes() == (artefacts["base"] / name).read_bytes()
    record = json.loads((artefacts["run"] / "release.json").read_text())
    assert record["checkpoint"]["step"] == 200
    assert record["checkpoint"]["file"] == "checkpoint_step_200_20250101"
    assert "is 2 files; its SHA-256" in (artefacts["run"] / "README.md").read_text()


def test_sharded_checkpoints_hold_the_tensors_that_were_saved(artefacts: Files) -> None:
    """The values of ``tests/data/distributed/make.py``: the j-th tensor is sin(k + 1000 j)."""

    def saved(j: int, shape: tuple[int, ...]) -> Tensor:
        return torch.sin(torch.arange(torch.Size(shape).numel()) + 1000.0 * j).reshape(shape)

    slo = load_file(artefacts["slo-two"] / "model.safetensors")
    assert torch.equal(slo["transformer.wte.weight"], saved(0, (13, 16)))
    assert torch.equal(slo["transformer.h.0.mlp.c_proj.weight"], saved(7, (16, 64)).T)
    sloughgpt = load_file(artefacts["sloughgpt-two"] / "model.safetensors")
    assert torch.equal(sloughgpt["model.embed_tokens.weight"], saved(0, (13, 16)))
    assert torch.equal(sloughgpt["model.layers.0.self_attn.k_proj.weight"], saved(3, (8, 16)))
    assert torch.equal(sloughgpt["model.layers.0.mlp.down_proj.weight"], saved(8, (16, 64)))
    assert torch.equal(sloughgpt["lm_head.weight"], saved(11, (13, 16)))
    records = [
        json.loads((artefacts[name] / "release.json").read_text())
        for name in ("slo-two", "sloughgpt-two")
    ]
    assert [record["checkpoint"]["step"] for record in records] == [300, 40]
    assert {record["checkpoint"]["container"] for record in records} == {
        "torch.distributed.checkpoint folder"
    }
    assert records[1]["model"]["spec"]["n_kv_head"] == 2
