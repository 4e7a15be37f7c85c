"""The oracles and the gate against logits that the original trainers' models computed."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import load_file
from torch import Tensor

from slogpt_hf.checkpoints import Checkpoint, Spec, read_checkpoint
from slogpt_hf.parity import decoder, loading
from slogpt_hf.parity.decoder import Decoder, logits
from slogpt_hf.parity.families import FAMILIES, LLAMA2C, NANOGPT, SLO, SLOUGHGPT
from slogpt_hf.parity.gate import verify_artefact

GOLDEN_SLO = (
    "slo-classic",
    "slo-modern",
    "slo-learned-rmsnorm-swiglu",
    "slo-rope-layernorm-gelu",
    "slo-rope-rmsnorm-gelu",
)
GOLDEN_LLAMA2C = ("llama2c-tied", "llama2c-gqa-untied")
OTHERS = (*GOLDEN_LLAMA2C, "sloughgpt-step", "sloughgpt-sou", "nanogpt-variant")
Golden = Callable[[str], Path]
Convert = Callable[..., tuple[Checkpoint, Path]]


def state_dict(folder: Path) -> dict[str, Tensor]:
    """The checkpoint's tensors, read without the package."""
    path = next(path for path in folder.iterdir() if path.suffix in (".pt", ".sou"))
    content = path.read_bytes()
    if path.suffix == ".sou":
        content = content[12 + int.from_bytes(content[8:12], "little") :]
    saved = torch.load(io.BytesIO(content), weights_only=True)
    tensors = saved.get("model") or saved.get("model_state_dict") or saved
    return {name.removeprefix("_orig_mod."): tensor for name, tensor in tensors.items()}


def spec_of(about: dict[str, Any], tensors: dict[str, Tensor]) -> Spec:
    """The architecture from the golden's notes, for every family."""
    args = about.get("model_args") or about["config"]
    family = FAMILIES[about["dialect"]]
    rotary = args.get("use_rope", family.positions is None)
    rms = args.get("use_rmsnorm", family.positions is None)
    swiglu = args.get("use_swiglu", family.positions is None)
    n_head = args.get("n_head") or args["n_heads"]
    n_embd = args.get("n_embd") or args.get("n_embed") or args["dim"]
    first = family.blocks.format(i=0)
    mlp = family.mlp["gated" if swiglu else "plain"][0]
    head, embedding = (f"{name}.weight" for name in (family.head, family.embedding))
    return Spec(
        positions="rotary" if rotary else "learned",
        norm="rmsnorm" if rms else "layernorm",
        mlp="gated" if swiglu else "plain",
        activation="silu" if swiglu else "gelu",
        linear_bias=args.get("bias", False),
        norm_bias=args.get("bias", family is NANOGPT) and not rms,
        n_layer=args.get("n_layer") or args["n_layers"],
        n_head=n_head,
        n_kv_head=args.get("n_kv_heads", n_head),
        n_embd=n_embd,
        n_hidden=tensors[f"{first}{mlp}.weight"].shape[0],
        vocab_size=args["vocab_size"],
        block_size=args.get("block_size") or args["max_seq_len"],
        norm_eps=1e-6 if rms and family is SLO else 1e-5,
        tied=torch.equal(tensors[head], tensors[embedding]),
        rope_theta=10_000.0 if rotary else None,
        rotary_pairs=("halves" if family is SLOUGHGPT else "interleaved") if rotary else None,
    )


def about(folder: Path) -> dict[str, Any]:
    """What the golden's notes say."""
    content: dict[str, Any] = json.loads((folder / "about.json").read_text())
    return content


def original(folder: Path) -> Decoder:
    """The oracle of a golden checkpoint."""
    notes, tensors = about(folder), state_dict(folder)
    return Decoder(FAMILIES[notes["dialect"]], spec_of(notes, tensors), tensors)


def cast_as_the_trainer_does(dialect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bring back, in float64, the casts to float32 that the trainers' models do.

    All keep float32 rotary tables. llama2.c and SloughGPT normalise in float32, llama2.c rounds
    q and k to float32 before it rotates them. The NanoGPT variant spells out the scores, which
    casts nothing, but rounds differently.
    """
    table, rotate, norm = decoder.rotary_table, decoder.rotate, decoder.norm

    def single_table(spec: Spec, length: int, dtype: torch.dtype) -> Tensor:
        return table(spec, length, torch.float32).to(dtype)

    def single_norm(model: Decoder, module: str, x: Tensor) -> Tensor:
        values, weight = x.float(), model.tensors[f"{module}.weight"].to(x.dtype)
        mean = values.pow(2).mean(-1, keepdim=True)
        return (values * torch.rsqrt(mean + model.spec.norm_eps)).to(x.dtype) * weight

    def single_rotate(spec: Spec, x: Tensor, at: Tensor) -> Tensor:
        return rotate(spec, x.float().to(x.dtype), at)

    def spelled_out(q: Tensor, k: Tensor, v: Tensor, is_causal: bool, scale: None) -> Tensor:
        scores = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.shape[-1]))
        seen = torch.ones(scores.shape[-2:]).tril() == 1
        return scores.masked_fill(~seen, -math.inf).softmax(-1) @ v

    monkeypatch.setattr(decoder, "rotary_table", single_table)
    monkeypatch.setattr(decoder, "norm", norm if dialect in ("slo", "nanogpt") else single_norm)
    if dialect == "llama2c":
        monkeypatch.setattr(decoder, "rotate", single_rotate)
    if dialect == "nanogpt":
        monkeypatch.setattr(F, "scaled_dot_product_attention", spelled_out)


def assert_recorded(model: Decoder, recorded: dict[str, Tensor], noise: float) -> None:
    """As near as another processor may come; where this was written, all bits are equal."""
    ids, exact = recorded["input_ids"], recorded["logits_fp64"]
    error = (logits(model, ids, torch.float64) - exact).abs().max() / exact.abs().max()
    assert error <= 1e-13
    assert (logits(model, ids, torch.float32) - recorded["logits"]).abs().max() <= 4 * noise


@pytest.mark.parametrize("name", [*GOLDEN_SLO, *OTHERS])
def test_oracle_computes_the_recorded_logits(
    golden: Golden, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes, recorded = about(golden(name)), load_file(golden(name) / "golden.safetensors")
    model = original(golden(name))
    single = logits(model, recorded["input_ids"], torch.float32)
    assert (single - recorded["logits"]).abs().max() <= 4 * notes["fp32_noise"]
    cast_as_the_trainer_does(notes["dialect"], monkeypatch)
    assert_recorded(model, recorded, notes["fp32_noise"])


def dequantised(path: Path, like: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a llama2.c v2 file, in the order that its ``export.py`` writes them."""
    content = path.read_bytes()
    fields = np.frombuffer(content, "<i4", 9)
    n_layer, shared = fields[4], content[36]
    group = int.from_bytes(content[37:41], "little")
    layers = [f"layers.{i}." for i in range(n_layer)]
    whole = [f"{layer}{norm}.weight" for norm in ("attention_norm", "ffn_norm") for layer in layers]
    kinds = [f"attention.w{kind}" for kind in "qkvo"] + [f"feed_forward.w{i}" for i in "123"]
    parts = ["tok_embeddings.weight"]
    parts += [f"{layer}{kind}.weight" for kind in kinds for layer in layers]
    at, tensors = 256, {}

    def taken(dtype: str, count: int) -> Tensor:
        nonlocal at
        values = np.frombuffer(content, dtype, count, at).copy()
        at += values.nbytes
        return torch.from_numpy(values)

    for name in [*whole, "norm.weight"]:
        tensors[name] = taken("<f4", like[name].numel())
    for name in parts + ([] if shared else ["output.weight"]):
        count = like[name].numel()
        values, scales = taken("i1", count), taken("<f4", count // group)
        tensors[name] = (values.view(-1, group) * scales[:, None]).view(like[name].shape)
    assert at == len(content)
    return tensors


@pytest.mark.parametrize("name", GOLDEN_LLAMA2C)
def test_oracle_computes_the_recorded_logits_of_quantised_weights(
    golden: Golden, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes, whole = about(golden(name)), original(golden(name))
    recorded = load_file(golden(name) / "golden_q80.safetensors")
    tensors = dequantised(golden(name) / "model_v2_q80.bin", dict(whole.tensors))
    assert ("output.weight" in tensors) != notes["shared_classifier"]
    model = Decoder(LLAMA2C, whole.spec, tensors)
    cast_as_the_trainer_does("llama2c", monkeypatch)
    assert_recorded(model, recorded, notes["fp32_noise"])
    error = logits(whole, recorded["input_ids"], torch.float32) - recorded["logits"]
    assert error.abs().max() > 100 * notes["fp32_noise"]


@pytest.mark.parametrize("name", OTHERS)
def test_gate_passes_the_artefact_of_a_golden_checkpoint(
    golden: Golden,
    holding: Callable[..., Checkpoint],
    family_artefact: Callable[..., Path],
    name: str,
) -> None:
    model, dialect = original(golden(name)), about(golden(name))["dialect"]
    checkpoint = holding(dialect, model.spec, model.tensors)
    folder = family_artefact(checkpoint)
    recorded = load_file(golden(name) / "golden.safetensors")
    report = verify_artefact(checkpoint, folder, text_ids=recorded["input_ids"][0].tolist())
    assert report.passed, report.failures
    single = loading.load_artefact(folder, torch.float32)
    with torch.no_grad():
        ours = loading.logits(single, recorded["input_ids"])
    assert (ours - recorded["logits"]).abs().max() <= report.fp32_bound


@pytest.mark.parametrize("name", GOLDEN_SLO)
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
        ours = loading.logits(model, recorded["input_ids"])
    assert (ours - recorded["logits"]).abs().max() <= report.fp32_bound


@pytest.mark.parametrize("name", GOLDEN_SLO)
def test_golden_checkpoint_reads_as_what_it_is(golden: Golden, name: str) -> None:
    checkpoint = read_checkpoint(golden(name) / "ckpt.pt")
    notes = about(golden(name))
    assert checkpoint.dialect == notes["dialect"]
    assert f"torch.{checkpoint.dtype}" == notes["dtype"]
    assert checkpoint.facts.val_loss == pytest.approx(notes["val_loss"])
    assert checkpoint.facts.step == notes["trained_steps"]
    assert checkpoint.spec == spec_of(notes, state_dict(golden(name)))
