"""Every fact that ``--set`` opens is converted exactly, and its faults are caught."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from slogpt_hf.checkpoints import Checkpoint, read_checkpoint
from slogpt_hf.checkpoints.dialects import slo
from slogpt_hf.checkpoints.parts import tensor_shapes
from slogpt_hf.conversion import plan_conversion, write_model
from slogpt_hf.parity.gate import verify_artefact

Facts = dict[str, Any]
SIZES = {"n_layer": 2, "n_head": 4, "n_embd": 32, "block_size": 24, "vocab_size": 37}
SCALED = {"attention_multiplier": 0.2, "embedding_multiplier": 3.0}
SCALED |= {"residual_multiplier": 0.7, "logit_multiplier": 0.3}
MODERN = {"use_rope": True, "use_rmsnorm": True, "use_swiglu": True, "bias": False}
ROTARY = {"use_rope": True, "bias": True}
# name: (what model_args say, what is given, the class)
SPECS: dict[str, tuple[Facts, Facts, str]] = {
    **{
        f"GPT-2, {name}": ({"bias": True}, {"activation": name}, "GPT2LMHeadModel")
        for name in ("gelu_tanh", "quick_gelu", "relu", "relu2", "silu")
    },
    "one k/v head": ({"bias": True, "n_kv_head": 1}, {}, "GPTBigCodeForCausalLM"),
    "one k/v head, no bias, tanh": (
        {"bias": False, "n_kv_head": 1},
        {"activation": "gelu_tanh"},
        "GPTBigCodeForCausalLM",
    ),
    "two k/v heads": ({"bias": True, "n_kv_head": 2}, {}, "SloGPTForCausalLM"),
    "muP": ({"bias": True}, {"attention_multiplier": 0.125}, "SloGPTForCausalLM"),
    "GPT-2, scaled": ({"bias": False}, SCALED, "SloGPTForCausalLM"),
    "Llama, scaled": (MODERN, SCALED, "GraniteForCausalLM"),
    "Llama, halves": (MODERN, {"rotary_pairs": "halves"}, "LlamaForCausalLM"),
    "Llama, gated tanh GELU": (MODERN, {"activation": "gelu_tanh"}, "LlamaForCausalLM"),
    "Llama, grouped": (MODERN | {"n_kv_head": 2}, {"rope_theta": 5e5}, "LlamaForCausalLM"),
    "Starcoder2, ReLU": (ROTARY, {"activation": "relu"}, "Starcoder2ForCausalLM"),
    "Starcoder2, scaled": (ROTARY, SCALED, "SloGPTForCausalLM"),
    "Arcee, squared ReLU": (
        ROTARY | {"use_rmsnorm": True},
        {"activation": "relu2"},
        "ArceeForCausalLM",
    ),
    "StableLM, eps": (
        {"use_rope": True, "use_swiglu": True, "bias": False},
        {"norm_eps": 1e-3},
        "StableLmForCausalLM",
    ),
    "ours, halves and ReLU": (
        {"use_rope": True, "use_swiglu": True, "bias": True},
        {"rotary_pairs": "halves", "activation": "relu"},
        "SloGPTForCausalLM",
    ),
}


def checkpoint_with(recorded: Facts, given: Facts, path: Path) -> Checkpoint:
    """A Slo checkpoint with random weights."""
    args = SIZES | recorded
    n_kv_head = args.get("n_kv_head", SIZES["n_head"])
    plain = {name: value for name, value in args.items() if name != "n_kv_head"}
    spec = replace(slo.spec_from_model_args(plain), n_kv_head=n_kv_head)
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, Tensor] = {}
    for name, shape in tensor_shapes(slo.names(spec), spec).items():
        drawn = 0.3 * torch.randn(shape, generator=generator)
        tensors[name] = drawn + ("ln_" in name and name.endswith("weight"))
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"]
    torch.save({"model": tensors, "model_args": args, "iter_num": 1, "config": {}}, path)
    return read_checkpoint(path, given)


@pytest.mark.parametrize("name", SPECS)
def test_it_is_converted_exactly_and_its_faults_are_caught(name: str, tmp_path: Path) -> None:
    recorded, given, target = SPECS[name]
    checkpoint = checkpoint_with(recorded, given, tmp_path / "ckpt.pt")
    assert {n: getattr(checkpoint.spec, n) for n in given} == given
    conversion = plan_conversion(checkpoint)
    assert conversion.target.class_name == target
    folder = tmp_path / "artefact"
    folder.mkdir()
    write_model(checkpoint, conversion, folder)
    report = verify_artefact(checkpoint, folder)
    assert report.passed, (report.failures, report.missed)
    assert report.shaken_error is not None and report.caught > 8


@pytest.mark.parametrize("name", ["attention_multiplier", "logit_multiplier"])
def test_a_multiplier_of_nothing_is_refused(name: str, tmp_path: Path) -> None:
    from slogpt_hf.errors import CheckpointError

    checkpoint = checkpoint_with({"bias": True}, {}, tmp_path / "ckpt.pt")
    changed = replace(checkpoint, spec=replace(checkpoint.spec, **{name: 0.0}))
    with pytest.raises(CheckpointError, match=f"{name} is 0"):
        plan_conversion(changed)
