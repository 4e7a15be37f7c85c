"""The table of targets: the class for every architecture, and its tensors, no more and no less."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from slogpt_hf.checkpoints import Checkpoint, read_checkpoint
from slogpt_hf.conversion import plan_conversion
from slogpt_hf.conversion.operations import PairsToHalves
from slogpt_hf.conversion.targets import config_for, plan_for, target_for
from slogpt_hf.errors import UsageError

Write = Callable[..., Path]
Convert = Callable[..., tuple[Checkpoint, Path]]

GPT2, LLAMA, STARCODER2, STABLELM, ARCEE, CUSTOM = (
    "GPT2LMHeadModel",
    "LlamaForCausalLM",
    "Starcoder2ForCausalLM",
    "StableLmForCausalLM",
    "ArceeForCausalLM",
    "SloGPTForCausalLM",
)
# SLOGPT.md's table: (use_rope, use_swiglu, use_rmsnorm) to the class (without bias, with bias)
TABLE = {
    (False, False, False): (GPT2, GPT2),
    (True, True, True): (LLAMA, LLAMA),
    (True, False, False): (STARCODER2, STARCODER2),
    (True, True, False): (STABLELM, CUSTOM),
    (True, False, True): (ARCEE, ARCEE),
    (False, False, True): (CUSTOM, CUSTOM),
    (False, True, True): (CUSTOM, CUSTOM),
    (False, True, False): (CUSTOM, CUSTOM),
}


def test_class_of_every_architecture(slo_checkpoint: Write, switches: dict[str, bool]) -> None:
    conversion = plan_conversion(read_checkpoint(slo_checkpoint(**switches)))
    rope, swiglu, rmsnorm, bias = switches.values()
    assert conversion.target.class_name == TABLE[rope, swiglu, rmsnorm][bias]
    is_custom = conversion.target.class_name == CUSTOM
    assert (conversion.target.modeling_file is not None) == is_custom


def test_nine_are_native_and_seven_custom() -> None:
    classes = list(itertools.chain.from_iterable(TABLE.values()))
    assert (classes.count(CUSTOM), len(classes)) == (7, 16)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_targets_are_the_state_dict_of_the_class(
    slo_checkpoint: Write, convert: Convert, switches: dict[str, bool], tied: bool
) -> None:
    checkpoint, folder = convert(slo_checkpoint(tied=tied, **switches))
    conversion = plan_conversion(checkpoint)
    config: Any = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=True)
    assert type(model).__name__ == conversion.target.class_name
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if tied and conversion.target.class_name != STABLELM:
        del expected["lm_head.weight"]
    sources = checkpoint.tensors.shapes
    assert conversion.plan.target_shapes(sources) == expected


def test_no_token_id_has_a_meaning(slo_checkpoint: Write, switches: dict[str, bool]) -> None:
    spec = read_checkpoint(slo_checkpoint(**switches)).spec
    config = config_for(spec, target_for(spec), "float32")
    assert [config[f"{kind}_token_id"] for kind in ("bos", "eos", "pad")] == [None] * 3
    assert config["vocab_size"] == 37


def test_keys_are_permuted_by_their_own_head_count(slo_checkpoint: Write) -> None:
    checkpoint = read_checkpoint(slo_checkpoint(use_rope=True))
    spec = replace(checkpoint.spec, n_kv_head=2)
    plan = plan_for(spec, checkpoint.parts, target_for(spec), {})
    heads = {move.target.split(".")[-2]: move.operations for move in plan.moves if move.operations}
    assert heads == {"q_proj": (PairsToHalves(4),), "k_proj": (PairsToHalves(2),)}


@pytest.mark.parametrize(("dtype", "size"), [(None, 4), ("float16", 2), ("float64", 8)])
def test_estimated_size_is_what_is_written(
    slo_checkpoint: Write, convert: Convert, dtype: str | None, size: int
) -> None:
    path = slo_checkpoint(bias=False)
    checkpoint, folder = convert(path, dtype)
    conversion = plan_conversion(checkpoint, dtype)
    header_bytes = int.from_bytes((folder / "model.safetensors").open("rb").read(8), "little")
    written = (folder / "model.safetensors").stat().st_size
    assert conversion.n_bytes == written - 8 - header_bytes
    zeros = sum(zeros.shape[0] for zeros in conversion.plan.zeros)
    assert conversion.n_bytes == size * (checkpoint.n_parameters + zeros)


def test_unknown_dtype_is_a_usage_error(slo_checkpoint: Write) -> None:
    with pytest.raises(UsageError, match="'int8' is not one of float64, float32"):
        plan_conversion(read_checkpoint(slo_checkpoint()), "int8")
