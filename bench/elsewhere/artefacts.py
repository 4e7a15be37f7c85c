"""Small artefacts of every class and condition that the table "where it runs" tells apart."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from slogpt_hf.checkpoints import Spec, read_checkpoint
from slogpt_hf.checkpoints.dialects import slo
from slogpt_hf.checkpoints.parts import tensor_shapes
from slogpt_hf.conversion import plan_conversion, write_model
from slogpt_hf.conversion.configs import ACTIVATIONS

SIZES = {"n_layer": 2, "n_head": 4, "n_embd": 64, "block_size": 32, "vocab_size": 320}
ROTARY, RMS, GATED = {"use_rope": True}, {"use_rmsnorm": True}, {"use_swiglu": True}
# Class to the model_args that lead to it, whether its plainest case has biases in attention and MLP
# (what else it has is then tried with them), and whether the other is the same class.
CLASSES: dict[str, tuple[dict[str, Any], bool, bool]] = {
    "GPT2LMHeadModel": ({}, False, True),
    "GPTBigCodeForCausalLM": ({"n_kv_head": 1}, False, True),
    "LlamaForCausalLM": (ROTARY | RMS | GATED, False, True),
    "GraniteForCausalLM": (ROTARY | RMS | GATED | {"residual_multiplier": 0.5}, False, True),
    "Starcoder2ForCausalLM": (ROTARY, True, True),
    "StableLmForCausalLM": (ROTARY | GATED, False, False),
    "ArceeForCausalLM": (ROTARY | RMS, False, True),
    "SloGPTForCausalLM": (RMS | GATED, False, True),
}


@dataclass(frozen=True)
class Case:
    """One artefact.

    Attributes:
        target_class: its class.
        activation: of its MLP.
        bias: whether attention and MLP have biases.
        tied: whether the head is the embedding.
        differs: the field in which it differs from the class's plainest case; None in none.
        value: of that field, where it is none of these.
    """

    target_class: str
    activation: str
    bias: bool
    tied: bool = False
    differs: str | None = None
    value: Any = None

    def __str__(self) -> str:
        value = {"activation": self.activation, "bias": self.bias, "tied": self.tied}
        more = f", {self.differs}={value.get(self.differs, self.value)}" if self.differs else ""
        return f"{self.target_class}{more}"


def cases() -> Iterator[Case]:
    """Each class, plain, and each other value of one field at a time; the plain one comes first."""
    for name, (arguments, bias, either) in CLASSES.items():
        usual = "silu" if arguments.get("use_swiglu") else "gelu"
        plain = Case(name, usual, bias)
        yield plain
        yield replace(plain, tied=True, differs="tied")
        if either:
            yield replace(plain, bias=not bias, differs="bias")
        yield replace(plain, differs="norm_eps", value=0.01)
        if arguments.get("use_rope"):
            yield replace(plain, differs="rope_theta", value=500_000.0)
            yield replace(plain, differs="n_kv_head", value=2)
        for activation in sorted(ACTIVATIONS):
            if activation != usual:
                yield replace(plain, activation=activation, differs="activation")


def write(case: Case, folder: Path) -> Path:
    """Convert a random checkpoint of the case into ``folder / "model"``; nothing is proven."""
    arguments = SIZES | {"dropout": 0.0, "bias": case.bias} | CLASSES[case.target_class][0]
    given: dict[str, Any] = {"activation": case.activation}
    more = {} if case.value is None else {case.differs: case.value}
    if case.differs == "norm_eps":
        given |= more
        more = {}
    content = {"model_args": arguments | more, "iter_num": 1, "best_val_loss": 1.0, "config": {}}
    path = folder / "ckpt.pt"
    torch.save(content | {"model": _weights(arguments | more, case.tied)}, path)
    checkpoint = read_checkpoint(path, given)
    out = folder / "model"
    out.mkdir()
    made = write_model(checkpoint, plan_conversion(checkpoint), out)
    if made.target_class != case.target_class:
        raise SystemExit(f"{case}: became {made.target_class}")
    return out


def _weights(arguments: dict[str, Any], tied: bool) -> dict[str, torch.Tensor]:
    """Seeded; large enough that every activation is at work, and no bias or norm is trivial."""
    generator = torch.Generator().manual_seed(0)
    spec: Spec = slo.spec_from_model_args(arguments)
    spec = replace(spec, n_kv_head=arguments.get("n_kv_head", spec.n_head))
    found = {}
    for name, shape in tensor_shapes(slo.names(spec), spec).items():
        values = torch.randn(shape, generator=generator)
        if len(shape) == 2:
            values *= 0.5 if "transformer.w" in name else 1.0 / math.sqrt(shape[1])
        else:
            values = 0.3 * values + (1 if name.endswith("weight") else 0)
        found[name] = values
    if tied:
        found["lm_head.weight"] = found["transformer.wte.weight"]
    return found
