"""The modeling file computes the original's logits, cached and padded or not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from slogpt_hf.conversion.modeling_slogpt import CACHE, SloGPTConfig, SloGPTForCausalLM

Models = Callable[..., SloGPTForCausalLM]
Ids = Callable[..., Tensor]
Measure = Callable[[Tensor, Tensor], float]

GOLDEN = Path(__file__).parents[2] / "data" / "golden"
GOLDENS = (
    "slo-classic",
    "slo-learned-rmsnorm-swiglu",
    "slo-modern",
    "slo-rope-layernorm-gelu",
    "slo-rope-rmsnorm-gelu",
)
CLASSIC = {"positions": "learned", "norm": "layernorm", "mlp": "plain", "bias": True}
MODERN = {"positions": "rotary", "norm": "rmsnorm", "mlp": "gated", "bias": False}


def reference_logits(state: dict[str, Tensor], config: SloGPTConfig, ids: Tensor) -> Tensor:
    """The four switches written out with complex numbers and an explicit softmax; no transformers.

    Args:
        state: parameters by checkpoint name, fp64.
        ids: (B, T) int64.

    Returns:
        (B, T, V) fp64.
    """
    heads, size = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    steps = ids.shape[1]

    def linear(x: Tensor, name: str) -> Tensor:
        y = x @ state[f"{name}.weight"].T
        return y + state[f"{name}.bias"] if config.bias else y

    def norm(x: Tensor, name: str) -> Tensor:
        if config.norm == "layernorm":
            x = x - x.mean(-1, keepdim=True)
        x = x / ((x * x).mean(-1, keepdim=True) + config.norm_eps).sqrt()
        x = x * state[f"{name}.weight"]
        has_bias = config.norm == "layernorm" and config.bias
        return x + state[f"{name}.bias"] if has_bias else x

    def turn(x: Tensor) -> Tensor:
        frequencies = config.rope_theta ** (-torch.arange(0, size, 2).double() / size)
        angles = torch.outer(torch.arange(steps).double(), frequencies)
        pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], size // 2, 2))
        turned = pairs * torch.polar(torch.ones_like(angles), angles)
        return torch.view_as_real(turned).reshape(x.shape)

    def attention(x: Tensor, name: str) -> Tensor:
        parts = linear(x, f"{name}.c_attn").split(config.hidden_size, -1)
        q, k, v = (p.reshape(len(ids), steps, heads, size).permute(0, 2, 1, 3) for p in parts)
        if config.positions == "rotary":
            q, k = turn(q), turn(k)
        future = torch.ones(steps, steps, dtype=torch.bool).triu(1)
        scores = (q @ k.mT / size**0.5).masked_fill(future, float("-inf"))
        y = (scores.exp() / scores.exp().sum(-1, keepdim=True)) @ v
        return linear(y.permute(0, 2, 1, 3).reshape(x.shape), f"{name}.c_proj")

    def mlp(x: Tensor, name: str) -> Tensor:
        if config.mlp == "gated":
            gate = linear(x, f"{name}.w1")
            return linear(gate * torch.sigmoid(gate) * linear(x, f"{name}.w3"), f"{name}.w2")
        h = linear(x, f"{name}.c_fc")
        return linear(h * 0.5 * (1 + torch.erf(h / 2**0.5)), f"{name}.c_proj")

    x = state["transformer.wte.weight"][ids]
    if config.positions == "learned":
        x = x + state["transformer.wpe.weight"][:steps]
    for i in range(config.num_hidden_layers):
        block = f"transformer.h.{i}"
        x = x + attention(norm(x, f"{block}.ln_1"), f"{block}.attn")
        x = x + mlp(norm(x, f"{block}.ln_2"), f"{block}.mlp")
    return norm(x, "transformer.ln_f") @ state["lm_head.weight"].T


def golden_model(name: str) -> SloGPTForCausalLM:
    checkpoint = torch.load(GOLDEN / name / "ckpt.pt", weights_only=True, map_location="cpu")
    facts = checkpoint["model_args"]
    config = SloGPTConfig(
        vocab_size=facts["vocab_size"],
        max_position_embeddings=facts["block_size"],
        hidden_size=facts["n_embd"],
        intermediate_size=4 * facts["n_embd"],
        num_hidden_layers=facts["n_layer"],
        num_attention_heads=facts["n_head"],
        positions="rotary" if facts.get("use_rope") else "learned",
        norm="rmsnorm" if facts.get("use_rmsnorm") else "layernorm",
        norm_eps=1e-6 if facts.get("use_rmsnorm") else 1e-5,
        mlp="swiglu" if facts.get("use_swiglu") else "gelu",
        bias=facts["bias"],
    )
    model = SloGPTForCausalLM(config).eval()
    prefix = json.loads((GOLDEN / name / "about.json").read_text())["prefix"]
    weights = {key.removeprefix(prefix): value for key, value in checkpoint["model"].items()}
    model.load_state_dict(weights, strict=True)
    return model


@pytest.mark.parametrize("name", GOLDENS)
def test_golden_logits(name: str, relative_error: Measure, lifted: Any) -> None:
    golden = load_file(GOLDEN / name / "golden.safetensors")
    noise = json.loads((GOLDEN / name / "about.json").read_text())["fp32_noise"]
    model = golden_model(name)
    with torch.no_grad():
        logits = model(golden["input_ids"]).logits
        # The original's rotary tables stay fp32 when the model becomes fp64.
        with lifted(dtypes=False):
            logits_fp64 = model.double()(golden["input_ids"]).logits
    assert float((logits - golden["logits"]).abs().max()) <= 4 * noise
    assert relative_error(logits_fp64, golden["logits_fp64"]) < 1e-12


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_equals_the_formula(
    architecture: dict[str, Any],
    tied: bool,
    shaken: Models,
    tokens: Ids,
    relative_error: Measure,
    lifted: Any,
) -> None:
    model = shaken(architecture, tie_word_embeddings=tied).double()
    ids = tokens(3, 16)
    with torch.no_grad(), lifted():
        expected = reference_logits(model.state_dict(), model.config, ids)
        assert relative_error(model(ids).logits, expected) < 1e-12


def test_parameter_names_are_the_checkpoints(architecture: dict[str, Any], shaken: Models) -> None:
    linears = ["attn.c_attn", "attn.c_proj"]
    linears += ["mlp.w1", "mlp.w2", "mlp.w3"] if architecture["mlp"] == "gated" else []
    linears += ["mlp.c_fc", "mlp.c_proj"] if architecture["mlp"] == "plain" else []
    with_bias = linears + ["ln_1", "ln_2"] * (architecture["norm"] == "layernorm")
    block = {f"{name}.weight" for name in [*linears, "ln_1", "ln_2"]}
    block |= {f"{name}.bias" for name in with_bias if architecture["bias"]}
    names = {"transformer.wte.weight", "lm_head.weight", "transformer.ln_f.weight"}
    names |= {f"transformer.h.{i}.{name}" for i in range(2) for name in block}
    if architecture["positions"] == "learned":
        names.add("transformer.wpe.weight")
    if "ln_1.bias" in block:
        names.add("transformer.ln_f.bias")
    state = shaken(architecture).state_dict()
    assert set(state) == names
    assert state["transformer.h.0.attn.c_attn.weight"].shape == (96, 32)


def test_sdpa_and_eager_agree(
    extreme: dict[str, Any], shaken: Models, tokens: Ids, relative_error: Measure, lifted: Any
) -> None:
    model, ids = shaken(extreme).double(), tokens(2, 9)
    mask = torch.tensor([[0] * 3 + [1] * 6, [1] * 9])
    with torch.no_grad(), lifted():
        model.set_attn_implementation("sdpa")
        sdpa = model(ids, attention_mask=mask).logits
        model.set_attn_implementation("eager")
        eager = model(ids, attention_mask=mask).logits
    assert relative_error(eager[mask.bool()], sdpa[mask.bool()]) < 1e-12
    assert sdpa.isfinite().all()


def test_dropout_acts_in_training_only(
    extreme: dict[str, Any], shaken: Models, tokens: Ids
) -> None:
    ids = tokens(1, 9)
    plain, dropping = shaken(extreme), shaken(extreme, dropout=0.5)
    assert torch.equal(plain(ids).logits, dropping(ids).logits)
    assert torch.equal(plain(ids).logits, plain.train()(ids).logits)
    assert not torch.allclose(plain(ids).logits, dropping.train()(ids).logits)
    dropped: list[torch.nn.Module] = []
    for module in dropping.modules():
        if isinstance(module, torch.nn.Dropout):
            module.register_forward_hook(lambda module, *_: dropped.append(module))
    dropping(ids)
    assert len(dropped) == 1 + 2 * dropping.config.num_hidden_layers


def test_compiles_to_one_graph(extreme: dict[str, Any], shaken: Models, tokens: Ids) -> None:
    model, ids = shaken(extreme), tokens(2, 9)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(ids).logits, model(ids).logits)


def test_a_row_of_padding_is_finite(extreme: dict[str, Any], shaken: Models, tokens: Ids) -> None:
    mask = torch.tensor([[0] * 9, [1] * 9])
    assert shaken(extreme)(tokens(2, 9), attention_mask=mask).logits.isfinite().all()


def test_cache_changes_nothing(
    architecture: dict[str, Any], shaken: Models, tokens: Ids, relative_error: Measure, lifted: Any
) -> None:
    model, ids = shaken(architecture).double(), tokens(2, 12)
    with torch.no_grad(), lifted():
        full = model(ids).logits
        cache, parts = None, []
        for chunk in ids.split([4, 1, 1, 5, 1], dim=1):
            output = model(chunk, cache=cache, use_cache=True)
            cache = output[CACHE]
            parts.append(output.logits)
    assert relative_error(torch.cat(parts, dim=1), full) < 1e-12


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(
    architecture: dict[str, Any],
    side: str,
    shaken: Models,
    tokens: Ids,
    relative_error: Measure,
    lifted: Any,
) -> None:
    model, ids = shaken(architecture).double(), tokens(2, 9)
    real = slice(3, None) if side == "left" else slice(0, 6)
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[0] = 0
    mask[0, real] = 1
    with torch.no_grad(), lifted():
        padded = model(ids, attention_mask=mask).logits
        assert relative_error(padded[0, real], model(ids[:1, real]).logits[0]) < 1e-12
        assert relative_error(padded[1], model(ids[1:]).logits[0]) < 1e-12


def test_left_padding_with_cache(
    extreme: dict[str, Any], shaken: Models, tokens: Ids, relative_error: Measure, lifted: Any
) -> None:
    model, ids = shaken(extreme).double(), tokens(1, 9)
    padded = torch.cat([torch.zeros(1, 4, dtype=torch.long), ids], dim=1)
    mask = torch.tensor([[0] * 4 + [1] * 9])
    with torch.no_grad(), lifted():
        first = model(padded[:, :8], attention_mask=mask[:, :8], use_cache=True)
        second = model(padded[:, 8:], attention_mask=mask, cache=first[CACHE]).logits
        assert relative_error(second, model(ids).logits[:, 4:]) < 1e-12


def test_padding_does_not_use_up_positions(
    extreme: dict[str, Any], shaken: Models, tokens: Ids, relative_error: Measure, lifted: Any
) -> None:
    ids = tokens(1, 20)
    mask = torch.tensor([[0] * 4 + [1] * 16])
    model = shaken(extreme).double()
    with torch.no_grad(), lifted():
        padded = model(ids, attention_mask=mask).logits[:, 4:]
        assert relative_error(padded, model(ids[:, 4:]).logits) < 1e-12


def test_too_long_for_learned_positions(shaken: Models, tokens: Ids) -> None:
    model = shaken(CLASSIC)
    assert model(tokens(1, 16)).logits.shape == (1, 16, 37)
    with pytest.raises(ValueError, match=r"position 16.*max_position_embeddings=16"):
        model(tokens(1, 17))
    with pytest.raises(ValueError, match="max_position_embeddings=16"):
        model.generate(tokens(1, 10), max_new_tokens=10, do_sample=False)


def test_rotary_positions_are_relative_and_have_no_end(
    shaken: Models, tokens: Ids, relative_error: Measure, lifted: Any
) -> None:
    model, ids = shaken(MODERN).double(), tokens(1, 40)
    far = torch.arange(40)[None] + 12345
    with torch.no_grad(), lifted():
        assert relative_error(model(ids, position_ids=far).logits, model(ids).logits) < 1e-10
