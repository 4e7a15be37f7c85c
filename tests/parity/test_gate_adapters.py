"""Adapters: the artefact's merged weights against the model that runs them unmerged."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from slogpt_hf.checkpoints import Checkpoint
from slogpt_hf.checkpoints.adapters import Adapter, LowRank, RowScale
from slogpt_hf.parity import gate, merging
from slogpt_hf.parity.decoder import Decoder, linear
from slogpt_hf.parity.families import SLO, SLOUGHGPT
from slogpt_hf.parity.gate import n_passes, verify_artefact
from slogpt_hf.parity.merging import Merged, merge

Make = Callable[..., Checkpoint]
Write = Callable[..., Path]
State = dict[str, Tensor]
Fault = Callable[[State, Adapter, str], Tensor]

RANK, FACTOR = 3, 16 / 3
QUERY = "blocks.{i}.attn.q_proj"
PROJECTIONS = tuple(
    f"blocks.{i}.{module}" for i in range(2) for module in ("attn.q_proj", "attn.v_proj", "mlp.w2")
)


@pytest.fixture
def adapted(family_checkpoint: Make, holding: Make) -> Callable[..., Checkpoint]:
    """Makes a SloughGPT checkpoint with random adapters: ``(kind, dtype, modules, factor)``."""

    def make(
        kind: str = "LoRA",
        dtype: str = "float32",
        modules: tuple[str, ...] = PROJECTIONS,
        factor: float = FACTOR,
    ) -> Checkpoint:
        base = family_checkpoint("sloughgpt", dtype=dtype, n_kv_head=2)
        generator = torch.Generator().manual_seed(1)
        tensors, adapters = dict(base.tensors), {}

        def drawn(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator).to(getattr(torch, dtype))

        for module in modules:
            rows, columns = tensors[f"{module}.weight"].shape
            if kind == "LoRA":
                tensors[f"{module}.lora_A"] = 0.1 * drawn(RANK, columns)
                tensors[f"{module}.lora_B"] = 0.1 * drawn(rows, RANK)
                adapter: Adapter = LowRank(f"{module}.lora_A", f"{module}.lora_B", factor)
            else:
                tensors[f"{module}.lora_s"] = 1 + 0.2 * drawn(rows)
                adapter = RowScale(f"{module}.lora_s")
            adapters[f"{module}.weight"] = adapter
        return holding("sloughgpt", base.spec, tensors, adapters)

    return make


def exact(tensors: State, adapter: Adapter, name: str) -> Tensor:
    """The merged weight as the conversion documents it, written once more."""
    weight = tensors[name].double()
    if isinstance(adapter, RowScale):
        return tensors[adapter.s].double().unsqueeze(1) * weight
    a, b = tensors[adapter.a].double(), tensors[adapter.b].double()
    total = b[:, 0:1] * a[0:1]
    for r in range(1, RANK):
        total = total + b[:, r : r + 1] * a[r : r + 1]
    return weight + adapter.factor * total


def merged_tensors(checkpoint: Checkpoint, how: Fault = exact) -> State:
    tensors = dict(checkpoint.tensors)
    weights = {name: how(tensors, adapter, name) for name, adapter in checkpoint.adapters.items()}
    return {name: tensor for name, tensor in tensors.items() if "lora" not in name} | weights


@pytest.mark.parametrize("kind", ["LoRA", "IA3"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_merged_adapters_pass(kind: str, dtype: str, adapted: Make, family_artefact: Write) -> None:
    checkpoint = adapted(kind, dtype)
    told: list[int] = []
    folder = family_artefact(checkpoint, tensors=merged_tensors(checkpoint))
    report = verify_artefact(checkpoint, folder, advance=told.append)
    assert report.passed, report.failures
    assert report.merge_error is not None and 0 < report.merge_error < 1e-13
    assert report.oracle == (
        f"built-in plain-torch SloughGPT model; its adapters merged and rounded to {dtype}, "
        "merged and unmerged compared apart"
    )
    assert report.to_dict()["merge_error"] == report.merge_error
    assert "merge error" in report.summary()
    assert sum(told) == n_passes(checkpoint.spec, adapted=True) > n_passes(checkpoint.spec)


def test_an_adapter_of_the_head_passes(adapted: Make, family_artefact: Write) -> None:
    checkpoint = adapted(modules=("lm_head",))
    folder = family_artefact(checkpoint, tensors=merged_tensors(checkpoint))
    report = verify_artefact(checkpoint, folder)
    assert report.passed, report.failures
    assert report.head_equal


def test_an_artefact_in_another_dtype_is_the_rounded_merge(
    adapted: Make, family_artefact: Write
) -> None:
    checkpoint = adapted()
    folder = family_artefact(checkpoint, "bfloat16", tensors=merged_tensors(checkpoint))
    report = verify_artefact(checkpoint, folder)
    assert report.passed, report.failures


def scaled(by: float) -> Fault:
    def how(tensors: State, adapter: Adapter, name: str) -> Tensor:
        assert isinstance(adapter, LowRank)
        return exact(tensors, replace(adapter, factor=by * adapter.factor), name)

    return how


def forgotten(tensors: State, adapter: Adapter, name: str) -> Tensor:
    return tensors[name]


def forgotten_in_layer_1(tensors: State, adapter: Adapter, name: str) -> Tensor:
    return tensors[name] if name.startswith("blocks.1.") else exact(tensors, adapter, name)


def merged_twice(tensors: State, adapter: Adapter, name: str) -> Tensor:
    return exact({**tensors, name: exact(tensors, adapter, name)}, adapter, name)


def transposed(tensors: State, adapter: Adapter, name: str) -> Tensor:
    """A^T B^T where the product has the weight's shape: B and A taken for each other."""
    weight = tensors[name].double()
    delta = exact(tensors, adapter, name) - weight
    return weight + (delta.t() if weight.shape[0] == weight.shape[1] else delta)


def ranks_crossed(tensors: State, adapter: Adapter, name: str) -> Tensor:
    assert isinstance(adapter, LowRank)
    return exact({**tensors, adapter.a: tensors[adapter.a].flip(0)}, adapter, name)


def columns_scaled(tensors: State, adapter: Adapter, name: str) -> Tensor:
    assert isinstance(adapter, RowScale)
    weight, s = tensors[name].double(), tensors[adapter.s].double()
    return weight * s if weight.shape[0] == weight.shape[1] else s[:, None] * weight


def rounded_before_the_sum(tensors: State, adapter: Adapter, name: str) -> Tensor:
    delta = exact(tensors, adapter, name) - tensors[name].double()
    return tensors[name].double() + delta.bfloat16().double()


FAULTS: dict[str, tuple[str, Fault, str]] = {
    "not merged": ("LoRA", forgotten, "layer 0"),
    "not merged in one layer": ("LoRA", forgotten_in_layer_1, "layer 1"),
    "merged twice": ("LoRA", merged_twice, "layer 0"),
    "alpha not divided by the rank": ("LoRA", scaled(RANK), "layer 0"),
    "alpha forgotten": ("LoRA", scaled(1 / FACTOR), "layer 0"),
    "subtracted": ("LoRA", scaled(-1), "layer 0"),
    "B and A transposed": ("LoRA", transposed, "layer 0"),
    "ranks crossed": ("LoRA", ranks_crossed, "layer 0"),
    "delta rounded before the sum": ("LoRA", rounded_before_the_sum, "layer 0"),
    "scales not merged": ("IA3", forgotten, "layer 0"),
    "scales merged twice": ("IA3", merged_twice, "layer 0"),
    "columns scaled": ("IA3", columns_scaled, "layer 0"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_wrong_merge_in_the_artefact_is_caught_and_placed(
    fault: str, adapted: Make, family_artefact: Write
) -> None:
    kind, how, where = FAULTS[fault]
    checkpoint = adapted(kind)
    folder = family_artefact(checkpoint, tensors=merged_tensors(checkpoint, how))
    report = verify_artefact(checkpoint, folder)
    assert not report.passed
    assert report.first_divergence and report.first_divergence.split(",")[0] == where
    assert any("float64 relative error" in failure for failure in report.failures)
    assert report.merge_error is not None and report.merge_error < 1e-13


def test_a_merge_that_conversion_and_gate_share_is_judged_by_the_unmerged_model(
    adapted: Make, family_artefact: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Had the documented order itself been wrong, artefact and merged oracle would agree."""

    def wrong(tensors: State, name: str, adapter: Adapter) -> Tensor:
        return scaled(1 + 1e-6)(tensors, adapter, name)

    checkpoint = adapted()
    folder = family_artefact(checkpoint, tensors=merged_tensors(checkpoint, scaled(1 + 1e-6)))
    monkeypatch.setattr(merging, "merge", wrong)
    report = verify_artefact(checkpoint, folder)
    assert not report.passed and report.fp64_error <= 1e-10
    assert len(report.failures) == 1 and "merged adapters do not compute" in report.failures[0]
    assert report.first_divergence == "its merged adapters"
    assert report.merge_error is not None and report.merge_error > 1e-10


def test_unknown_factor_never_passes(adapted: Make, family_artefact: Write) -> None:
    checkpoint = adapted(factor=math.nan)
    folder = family_artefact(checkpoint, tensors=merged_tensors(checkpoint, forgotten))
    report = verify_artefact(checkpoint, folder)
    assert not report.passed and report.merge_error == math.inf
    assert any("merged adapters" in failure for failure in report.failures)
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["merge_error"] is None


def test_an_adapter_that_no_linear_layer_has_never_passes(
    adapted: Make, family_artefact: Write
) -> None:
    checkpoint = adapted(modules=("tok_emb",))
    folder = family_artefact(checkpoint, tensors=merged_tensors(checkpoint))
    report = verify_artefact(checkpoint, folder)
    assert not report.passed
    assert report.merge_error is not None and report.merge_error > 1e-3


def test_without_adapters_nothing_is_merged(
    family_checkpoint: Make, family_artefact: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: object) -> None:
        raise AssertionError

    monkeypatch.setattr(gate, "Merged", never)
    monkeypatch.setattr(gate, "_merge_error", never)
    checkpoint, told = family_checkpoint("sloughgpt"), []
    folder = family_artefact(checkpoint)
    report = verify_artefact(checkpoint, folder, advance=told.append)
    assert report.passed and report.merge_error is None
    assert sum(told) == n_passes(checkpoint.spec)


@pytest.mark.parametrize("kind", ["LoRA", "IA3"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_merge_has_the_documented_bits(kind: str, dtype: str, adapted: Make) -> None:
    checkpoint = adapted(kind, dtype)
    tensors = dict(checkpoint.tensors)
    for name, adapter in checkpoint.adapters.items():
        ours = merge(tensors, name, adapter)
        assert ours.dtype == torch.float64
        assert torch.equal(ours, exact(tensors, adapter, name))


def test_merged_tensors_hold_no_adapter(adapted: Make) -> None:
    checkpoint = adapted()
    ours = Merged(checkpoint.tensors, checkpoint.adapters)
    assert len(ours) == len(list(ours)) == len(checkpoint.tensors) - 2 * len(PROJECTIONS)
    assert not any("lora" in name for name in ours)
    assert ours["norm.weight"] is checkpoint.tensors["norm.weight"]


@pytest.mark.parametrize("kind", ["LoRA", "IA3"])
def test_a_linear_layer_computes_what_the_adapters_documentation_says(
    kind: str, adapted: Make
) -> None:
    checkpoint = adapted(kind)
    model = Decoder(SLOUGHGPT, checkpoint.spec, checkpoint.tensors, checkpoint.adapters)
    module = QUERY.format(i=1)
    t = {name: checkpoint.tensors[name].double() for name in checkpoint.tensors if module in name}
    x = torch.randn(2, 5, 32, dtype=torch.float64)
    base = x @ t[f"{module}.weight"].t()
    if kind == "LoRA":
        wanted = base + FACTOR * (x @ t[f"{module}.lora_A"].t()) @ t[f"{module}.lora_B"].t()
    else:
        wanted = base * t[f"{module}.lora_s"]
    assert torch.allclose(linear(model, module, x), wanted, rtol=1e-12, atol=1e-12)


def test_a_bias_is_added_after_the_adapter(family_checkpoint: Make) -> None:
    tensors = {
        "m.weight": torch.ones(2, 2),
        "m.bias": torch.tensor([10.0, 20.0]),
        "m.lora_s": torch.tensor([2.0, 3.0]),
    }
    spec = family_checkpoint("llama2c").spec
    model = Decoder(SLO, spec, tensors, {"m.weight": RowScale("m.lora_s")})
    assert linear(model, "m", torch.ones(1, 2)).tolist() == [[14.0, 26.0]]
