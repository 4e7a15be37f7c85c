"""Faults that are on no list, planted in artefacts on disk: the gate does not pass them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from slogpt_hf.checkpoints import Checkpoint
from slogpt_hf.errors import CheckpointError
from slogpt_hf.parity.gate import verify_artefact

Write = Callable[..., Path]
Convert = Callable[..., tuple[Checkpoint, Path]]
Artefact = Callable[..., tuple[Checkpoint, Path]]
Tensors = dict[str, Tensor]

GPT2: dict[str, Any] = {}
LLAMA = {"use_rope": True, "use_swiglu": True, "use_rmsnorm": True, "bias": False}
STARCODER2 = {"use_rope": True}
STABLELM = {"use_rope": True, "use_swiglu": True, "bias": False}
ARCEE = {"use_rope": True, "use_rmsnorm": True}


@pytest.fixture
def artefact(tmp_path: Path, slo_checkpoint: Write, convert: Convert) -> Artefact:
    """Converts a checkpoint of the given switches into a folder that a test may spoil."""

    def make(**switches: Any) -> tuple[Checkpoint, Path]:
        checkpoint, folder = convert(slo_checkpoint(**switches))
        return checkpoint, Path(shutil.copytree(folder, tmp_path / "artefact"))

    return make


def set_config(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def change(folder: Path, edit: Callable[[Tensors], None]) -> None:
    path = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    edit(tensors)
    save_file({k: v.contiguous() for k, v in tensors.items()}, path, metadata={"format": "pt"})


def rope(**fields: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0} | fields}


CONFIGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "more and smaller heads": (
        LLAMA,
        {"num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 4},
    ),
    "fewer and larger heads": (GPT2, {"n_head": 2}),
    "rotary scaled": (LLAMA, rope(rope_type="linear", factor=2.0)),
    "rotary scaled by YaRN": (
        STARCODER2,
        rope(rope_type="yarn", factor=1.5, original_max_position_embeddings=16),
    ),
    "rotary on half of the features": (
        STABLELM,
        rope(partial_rotary_factor=0.5) | {"partial_rotary_factor": 0.5},
    ),
    "a window that only the last token leaves": (STARCODER2, {"sliding_window": 23}),
    "attention scaled by the layer": (GPT2, {"scale_attn_by_inverse_layer_idx": True}),
    "attention not scaled": (GPT2, {"scale_attn_weights": False}),
    "sigmoid GELU": (GPT2, {"activation_function": "quick_gelu"}),
    "clipped GELU": (ARCEE, {"hidden_act": "gelu_10"}),
    "another gate": (LLAMA, {"hidden_act": "gelu"}),
    "an epsilon off by one part in a thousand": (LLAMA, {"rms_norm_eps": 1.001e-6}),
}


@pytest.mark.parametrize("fault", CONFIGS)
def test_a_config_of_another_function_fails(fault: str, artefact: Artefact) -> None:
    switches, fields = CONFIGS[fault]
    checkpoint, folder = artefact(**switches)
    set_config(folder, **fields)
    report = verify_artefact(checkpoint, folder)
    assert report.verdict == "failed", report.summary()
    assert report.first_divergence


@pytest.mark.parametrize(
    ("switches", "field", "value"),
    [
        (LLAMA, "rope_theta", 500_000.0),
        (STABLELM, "partial_rotary_factor", 0.25),
        (LLAMA, "partial_rotary_factor", 0.5),  # which no newer word says otherwise
        (GPT2, "torch_dtype", "float16"),
    ],
)
def test_what_only_transformers_4_reads_is_compared(
    switches: dict[str, Any], field: str, value: Any, artefact: Artefact
) -> None:
    checkpoint, folder = artefact(**switches)
    set_config(folder, **{field: value})
    report = verify_artefact(checkpoint, folder)
    assert [f for f in report.failures if f.startswith(f"config.json: {field} is {value!r}, but")]
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({k: config[k] for k in config if k != field}))
    assert verify_artefact(checkpoint, folder).passed  # as releases of earlier versions lack it


def swap_blocks(tensors: Tensors) -> None:
    for name in [name for name in tensors if ".0." in name]:
        other = name.replace(".0.", ".1.")
        tensors[name], tensors[other] = tensors[other], tensors[name]


def through_bfloat16(name: str) -> Callable[[Tensors], None]:
    def edit(tensors: Tensors) -> None:
        tensors[name] = tensors[name].bfloat16().float()

    return edit


def negated(*names: str) -> Callable[[Tensors], None]:
    def edit(tensors: Tensors) -> None:
        for name in names:
            tensors[name] = -tensors[name]

    return edit


def shift_k_bias(tensors: Tensors) -> None:
    """Adds the same to every score of a query, which softmax takes away again."""
    tensors["transformer.h.0.attn.c_attn.bias"][32:64] += 1.0


def lose_the_least_value_of_the_last_position(tensors: Tensors) -> None:
    row = tensors["transformer.wpe.weight"][23]
    row[row.abs().argmin()] *= 1 + 1e-6


ATTENTION = "model.layers.0.self_attn"
WEIGHTS: dict[str, tuple[dict[str, Any], Callable[[Tensors], None]]] = {
    "blocks in each other's place": (LLAMA, swap_blocks),
    "one tensor stored by way of bfloat16": (
        LLAMA,
        through_bfloat16("model.layers.1.mlp.down_proj.weight"),
    ),
    # Scores stay as they are: only the tensors themselves, or other weights, show it.
    "q and k negated": (
        LLAMA,
        negated(f"{ATTENTION}.q_proj.weight", f"{ATTENTION}.k_proj.weight"),
    ),
    "a bias of k that softmax cancels": (GPT2, shift_k_bias),
    "the least value of the last position": (GPT2, lose_the_least_value_of_the_last_position),
}


@pytest.mark.parametrize("fault", WEIGHTS)
def test_weights_of_another_model_fail(fault: str, artefact: Artefact) -> None:
    switches, edit = WEIGHTS[fault]
    checkpoint, folder = artefact(**switches)
    change(folder, edit)
    report = verify_artefact(checkpoint, folder)
    assert report.verdict == "failed", report.summary()


def test_a_head_that_is_stored_though_it_is_tied_passes_if_it_is_the_same(
    artefact: Artefact,
) -> None:
    checkpoint, folder = artefact(**LLAMA)

    def store_head(tensors: Tensors) -> None:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()

    change(folder, store_head)
    report = verify_artefact(checkpoint, folder)
    assert report.embedding_equal and report.head_equal and report.fp64_error < 1e-13


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_of_which_versions_of_transformers_disagree_is_an_error(
    tied: bool, artefact: Artefact
) -> None:
    """Stored, its own, and tied by the config: some load it, and some the embedding."""
    checkpoint, folder = artefact(**LLAMA, tied=tied)

    def store_head(tensors: Tensors) -> None:
        tensors["lm_head.weight"] = torch.ones(37, 32)

    change(folder, store_head)
    set_config(folder, tie_word_embeddings=True)
    with pytest.raises(CheckpointError, match=r"ties the head, but lm_head\.weight is stored"):
        verify_artefact(checkpoint, folder)


@pytest.mark.parametrize("value", [None, [], ["LlamaForCausalLM", "GPT2LMHeadModel"], ["Other"]])
def test_what_a_config_calls_its_class_does_not_spare_it_the_controls(
    value: Any, artefact: Artefact
) -> None:
    checkpoint, folder = artefact(**LLAMA)
    set_config(folder, architectures=value)
    report = verify_artefact(checkpoint, folder)
    assert report.passed, report.failures
    assert report.shaken_error is not None and report.controls


def test_an_adapter_beside_the_weights_is_an_error(artefact: Artefact) -> None:
    checkpoint, folder = artefact(**LLAMA)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"adapter_config\.json"):
        verify_artefact(checkpoint, folder)


@pytest.mark.parametrize("fields", [{"qk_layernorm": True}, {"use_parallel_residual": True}])
def test_a_config_that_asks_for_other_tensors_is_an_error(
    fields: dict[str, Any], artefact: Artefact
) -> None:
    checkpoint, folder = artefact(**STABLELM)
    set_config(folder, **fields)
    with pytest.raises(CheckpointError, match=r"(missing|unexpected) tensors"):
        verify_artefact(checkpoint, folder)


def test_a_tied_head_is_stored_twice_or_as_earlier_versions_did(artefact: Artefact) -> None:
    checkpoint, folder = artefact(**STABLELM, tied=True)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    head, embedding = tensors["lm_head.weight"], tensors["model.embed_tokens.weight"]
    assert torch.equal(head, embedding)
    twice = verify_artefact(checkpoint, folder)
    save_file({n: t for n, t in tensors.items() if n != "lm_head.weight"}, path, {"format": "pt"})
    once = verify_artefact(checkpoint, folder)
    for report in (twice, once):
        outcomes = {control.name: control.outcome for control in report.controls}
        assert report.passed and outcomes["head tied wrongly"] == "caught"
        assert "missed" not in outcomes.values()
    save_file(tensors | {"lm_head.weight": head + 1e-6}, path, {"format": "pt"})
    with pytest.raises(CheckpointError, match="ties the head"):
        verify_artefact(checkpoint, folder)
