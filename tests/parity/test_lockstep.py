"""Layer by layer: the first layer and part that diverge are named, whatever the class."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from slogpt_hf.checkpoints import Checkpoint
from slogpt_hf.parity import gate
from slogpt_hf.parity.checks import UNPLACED
from slogpt_hf.parity.gate import verify_artefact
from slogpt_hf.parity.lockstep import layer_names, worst_layers
from slogpt_hf.parity.report import Layer, ParityReport
from slogpt_hf.parity.streamed import Streamed, stream_artefact

Write = Callable[..., Path]
Convert = Callable[..., tuple[Checkpoint, Path]]
Pair = tuple[Checkpoint, Path]

ROTARY = {"use_rope": True, "bias": False}
LLAMA_PARTS = {
    "norm 1": "model.layers.1.input_layernorm.weight",
    "attention": "model.layers.1.self_attn.v_proj.weight",
    "norm 2": "model.layers.1.post_attention_layernorm.weight",
}
SLO_PARTS = {
    "norm 1": "transformer.h.1.ln_1.weight",
    "attention": "transformer.h.1.attn.c_proj.weight",
    "norm 2": "transformer.h.1.ln_2.weight",
}
CLASSES: dict[str, tuple[dict[str, bool], dict[str, str]]] = {
    "GPT2": ({}, {**SLO_PARTS, "MLP": "transformer.h.1.mlp.c_fc.weight"}),
    "Llama": (
        {"use_rope": True, "use_swiglu": True, "use_rmsnorm": True},
        {**LLAMA_PARTS, "MLP": "model.layers.1.mlp.gate_proj.weight"},
    ),
    "Starcoder2": ({"use_rope": True}, {**LLAMA_PARTS, "MLP": "model.layers.1.mlp.c_fc.bias"}),
    "StableLM": (
        {**ROTARY, "use_swiglu": True},
        {**LLAMA_PARTS, "MLP": "model.layers.1.mlp.down_proj.weight"},
    ),
    "Arcee": (
        {**ROTARY, "use_rmsnorm": True},
        {**LLAMA_PARTS, "MLP": "model.layers.1.mlp.up_proj.weight"},
    ),
    "SloGPT": (
        {"use_rope": True, "use_swiglu": True},
        {**SLO_PARTS, "MLP": "transformer.h.1.mlp.w2.weight"},
    ),
}


@pytest.fixture
def pair(tmp_path: Path, slo_checkpoint: Write, convert: Convert) -> Callable[..., Pair]:
    """Converts a checkpoint of the given switches into a folder that a test may spoil."""

    def make(**switches: Any) -> Pair:
        checkpoint, folder = convert(slo_checkpoint(**switches))
        return checkpoint, Path(shutil.copytree(folder, tmp_path / "artefact"))

    return make


def spoil(folder: Path, name: str) -> None:
    path = folder / "model.safetensors"
    tensors = dict(load_file(path))
    tensors[name] = tensors[name] * 1.001
    save_file(tensors, path, metadata={"format": "pt"})


def assert_only_from(report: ParityReport, place: str) -> None:
    """Every layer before the place is equal, and it is not."""
    names = [layer.name for layer in report.layers]
    errors = [layer.fp64_error for layer in report.layers]
    assert max(errors[: names.index(place)], default=0.0) < 1e-13
    assert errors[names.index(place)] > 1e-8


@pytest.mark.parametrize("part", ["norm 1", "attention", "norm 2", "MLP"])
@pytest.mark.parametrize("kind", CLASSES)
def test_layer_and_part_are_named(kind: str, part: str, pair: Callable[..., Pair]) -> None:
    switches, names = CLASSES[kind]
    checkpoint, folder = pair(**switches)
    spoil(folder, names[part])
    report = verify_artefact(checkpoint, folder)
    assert report.verdict == "failed"
    assert report.first_divergence == f"layer 1, {part}"
    assert_only_from(report, "layer 1")


def test_embedding_and_final_norm_are_named(pair: Callable[..., Pair]) -> None:
    checkpoint, folder = pair(tied=False)
    shutil.copytree(folder, other := folder.with_name("other"))
    spoil(folder, "transformer.wpe.weight")
    report = verify_artefact(checkpoint, folder)
    assert report.first_divergence == "embedding and positions"
    assert_only_from(report, "embedding and positions")
    spoil(other, "transformer.ln_f.weight")
    report = verify_artefact(checkpoint, other)
    assert report.first_divergence == "final norm or head"
    assert_only_from(report, "final norm")


def test_every_place_is_reported(pair: Callable[..., Pair]) -> None:
    checkpoint, folder = pair()
    report = verify_artefact(checkpoint, folder)
    assert tuple(layer.name for layer in report.layers) == layer_names(2)
    assert layer_names(2) == ("embedding and positions", "layer 0", "layer 1", "final norm")
    assert all(layer.fp64_error < 1e-13 for layer in report.layers)
    assert all(layer.fp32_noise > 0 for layer in report.layers[1:])
    assert [(p.first, p.last) for p in report.positions] == [(i, i) for i in range(24)]


def test_the_worst_of_several_batches_is_kept() -> None:
    a = [Layer("x", 1.0, 2.0, 3.0), Layer("y", 1.0, math.nan, 1.0)]
    b = [Layer("x", 0.5, 4.0, 1.0), Layer("y", 2.0, 1.0, 1.0)]
    assert worst_layers([a, b]) == (Layer("x", 1.0, 4.0, 3.0), Layer("y", 2.0, math.inf, 1.0))
    assert worst_layers([[], []]) == ()


@pytest.fixture
def without_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Classes that show no list of their blocks."""

    def hidden(*arguments: Any, **options: Any) -> Streamed:
        return replace(stream_artefact(*arguments, **options), blocks=())

    monkeypatch.setattr(gate, "stream_artefact", hidden)


@pytest.mark.usefixtures("without_blocks")
def test_a_class_without_a_list_of_blocks_is_compared_whole(pair: Callable[..., Pair]) -> None:
    checkpoint, folder = pair()
    report = verify_artefact(checkpoint, folder)
    assert report.passed, report.failures
    assert report.layers == () and report.fp64_error < 1e-13
    spoil(folder, "transformer.h.1.ln_1.weight")
    report = verify_artefact(checkpoint, folder)
    assert report.verdict == "failed" and report.first_divergence == UNPLACED


FOREIGN = {
    "blocks in another order": ("for block in self.h:", "for block in reversed(self.h):"),
    "a block is skipped": ("for block in self.h:", "for block in self.h[:-1]:"),
    "a block runs twice": ("for block in self.h:", "for block in [*self.h, self.h[-1]]:"),
    "blocks wrong from a length on": (
        "for block in self.h:",
        "for block in self.h if T < 20 else self.h[:-1]:",
    ),
    "logits are scaled from a length on": (
        "        loss = None\n",
        "        logits = logits * (1.0 if logits.shape[1] < 20 else 1.1)\n        loss = None\n",
    ),
    "the final norm has another epsilon": (
        "        self.gradient_checkpointing = False\n",
        "        self.ln_f.eps *= 1.5\n",
    ),
    "an embedding is a class that scales": (
        "self.wte = nn.Embedding(config.vocab_size, config.hidden_size)\n",
        "self.wte = nn.Embedding(config.vocab_size, config.hidden_size)\n"
        "        scaled = lambda self, ids: 1.001 * nn.Embedding.forward(self, ids)\n"
        "        self.wte.__class__ = type('Scaled', (nn.Embedding,), {'forward': scaled})\n",
    ),
    "attention is capped": (
        "y, weights = attention(self, q, k, v, ",
        "q = 50.0 * torch.tanh(q / 50.0)\n        y, weights = attention(self, q, k, v, ",
    ),
    "dropout is left on": (
        "return self.dropout(self.w2(self.act(self.w1(x)) * self.w3(x)))",
        "return F.dropout(self.w2(self.act(self.w1(x)) * self.w3(x)), 0.01)",
    ),
}


@pytest.mark.parametrize("fault", FOREIGN)
def test_foreign_code_that_computes_something_else_fails(
    fault: str, pair: Callable[..., Pair]
) -> None:
    checkpoint, folder = pair(use_rope=True, use_swiglu=True)
    path = folder / "modeling_slogpt.py"
    before, after = FOREIGN[fault]
    source = path.read_text()
    assert source.count(before) == 1
    path.write_text(source.replace(before, after))
    report = verify_artefact(checkpoint, folder, trust_remote_code=True)
    assert report.verdict == "failed"
    assert json.dumps(report.to_dict(), allow_nan=False)
