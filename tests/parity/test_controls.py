"""Negative controls: every fault is caught wherever it can occur, and leaves nothing behind."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from slogpt_hf.checkpoints import Checkpoint
from slogpt_hf.parity import controls, gate
from slogpt_hf.parity.controls import Shaking, shake
from slogpt_hf.parity.decoder import Decoder
from slogpt_hf.parity.families import FAMILIES
from slogpt_hf.parity.faults import FAULTS, Fault, Patient
from slogpt_hf.parity.gate import verify_artefact
from slogpt_hf.parity.shaken import Noise, Shaken, route_to, shaken_fetch
from slogpt_hf.parity.streamed import StoredTensors, stream_artefact

Make = Callable[..., Checkpoint]
Write = Callable[..., Path]
Convert = Callable[..., tuple[Checkpoint, Path]]

OTHERS: dict[str, tuple[str, dict[str, int]]] = {
    "llama2c, grouped": ("llama2c", {"n_kv_head": 2}),
    "sloughgpt": ("sloughgpt", {}),
    "sloughgpt, grouped": ("sloughgpt", {"n_kv_head": 2}),
    "nanogpt": ("nanogpt", {}),
}
IDS = torch.tensor([[1, 2, 3, 4, 5, 36], [6, 7, 8, 9, 10, 0]])


def cannot_occur(checkpoint: Checkpoint) -> set[str]:
    """The faults that a model has no place for, by its architecture."""
    spec = checkpoint.spec
    rotary, bias = spec.positions == "rotary", spec.linear_bias
    # The custom class keeps interleaved pairs, so its q and k are never permuted.
    native = (spec.norm, spec.mlp, bias) != ("layernorm", "gated", True)
    permuted = rotary and spec.rotary_pairs == "interleaved" and native
    grouped = spec.n_kv_head != spec.n_head
    where = {
        "positions off by one": not rotary,
        "q and k not permuted": permuted,
        "k permuted by the query head count": permuted and grouped,
        "biases of q and k not permuted": permuted and bias,
        "q and k swapped": rotary and native and not grouped,
        "attention multiplier dropped": spec.attention_multiplier is not None,
        "residual multiplier dropped": spec.residual_multiplier != 1.0,
        "embedding multiplier dropped": spec.embedding_multiplier != 1.0,
        "logit multiplier dropped": spec.logit_multiplier != 1.0,
        "gate and up swapped": spec.mlp == "gated",
        "theta off by one": rotary,
        "a dropped bias": bias,
    }
    return {name for name, can in where.items() if not can}


@dataclass
class Ward:
    """A converted model on shaken weights."""

    original: Decoder
    patient: Patient

    def shake(self) -> Shaking:
        """The comparison and its controls."""
        with torch.no_grad():
            return shake(self.original, self.patient, IDS, 1e-10)


def ward_for(checkpoint: Checkpoint, folder: Path) -> Ward:
    """What the gate makes of a checkpoint and its artefact."""
    stored = StoredTensors(folder)
    name = type(stream_artefact(folder, torch.float32, stored).model).__name__
    route = route_to(checkpoint, name, stored)
    assert route is not None
    noise = Noise(checkpoint.tensors, route.same)
    fetch, planted = shaken_fetch(stored, route, noise), dict[str, torch.Tensor]()
    model = stream_artefact(
        folder,
        torch.float64,
        stored,
        fetch=lambda name: planted[name] if name in planted else fetch(name),
    )
    original = Decoder(FAMILIES[checkpoint.dialect], checkpoint.spec, Shaken(noise))
    return Ward(original, Patient(checkpoint.spec, route, model, fetch, stored, planted))


def inside(model: torch.nn.Module) -> dict[str, dict[str, Any]]:
    """Every plain attribute and buffer of every module, as it is now."""
    kinds = (int, float, str, bool, torch.Tensor)
    found = {
        name: {k: copy.copy(v) for k, v in vars(module).items() if isinstance(v, kinds)}
        | {f"buffer {k}": v.clone() for k, v in module._buffers.items() if v is not None}
        for name, module in model.named_modules()
    }
    return found | {"config": copy.deepcopy(model.config.to_dict())}  # type: ignore[operator, union-attr]


def same(a: dict[str, dict[str, Any]], b: dict[str, dict[str, Any]]) -> bool:
    return a.keys() == b.keys() and all(
        a[m].keys() == b[m].keys()
        and all(
            torch.equal(v, b[m][k]) if isinstance(v, torch.Tensor) else v == b[m][k]
            for k, v in a[m].items()
        )
        for m in a
    )


def assert_caught(checkpoint: Checkpoint, folder: Path) -> None:
    ward = ward_for(checkpoint, folder)
    before = inside(ward.patient.model.model)
    found = ward.shake()
    assert found.error < 1e-13 and found.place is None
    assert [control.name for control in found.controls] == [fault.name for fault in FAULTS]
    outcomes = {control.name: control.outcome for control in found.controls}
    none = cannot_occur(checkpoint)
    assert outcomes == {n: "cannot occur" if n in none else "caught" for n in outcomes}
    assert all((c.error is None) == (c.name in none) for c in found.controls)
    assert all(c.error is None or c.error > 1e-9 for c in found.controls)
    assert ward.patient.planted == {} and same(inside(ward.patient.model.model), before)
    assert ward.shake() == found


def test_every_fault_is_caught_in_every_architecture(
    switches: dict[str, bool], slo_checkpoint: Write, convert: Convert
) -> None:
    assert_caught(*convert(slo_checkpoint(**switches)))


@pytest.mark.parametrize("kind", OTHERS)
def test_every_fault_is_caught_in_every_family(
    kind: str, family_checkpoint: Make, family_artefact: Write
) -> None:
    dialect, sizes = OTHERS[kind]
    checkpoint = family_checkpoint(dialect, **sizes)
    assert_caught(checkpoint, family_artefact(checkpoint))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_every_fault_is_caught_in_every_dtype(
    dtype: str, tied: bool, slo_checkpoint: Write, convert: Convert
) -> None:
    """A flipped bit is another one in each."""
    switches = {"use_rope": True, "use_swiglu": True, "use_rmsnorm": True}
    assert_caught(*convert(slo_checkpoint(dtype=dtype, tied=tied, **switches)))


SMALL: dict[str, dict[str, int]] = {
    "one token": {"block_size": 1},
    "two tokens": {"block_size": 2},
    "heads of two features": {"n_embd": 8, "n_head": 4},
    "one head": {"n_head": 1},
    "one head of two features": {"n_embd": 2, "n_head": 1},
    "one id": {"vocab_size": 1},
    "two ids": {"vocab_size": 2},
}


@pytest.mark.parametrize("sizes", SMALL)
@pytest.mark.parametrize(
    "switches",
    [{}, {"use_rope": True, "use_swiglu": True, "use_rmsnorm": True}, {"use_rope": True}],
    ids=["GPT2", "Llama", "Starcoder2"],
)
def test_a_small_model_is_no_false_alarm(
    sizes: str, switches: dict[str, bool], slo_checkpoint: Write, convert: Convert
) -> None:
    """Where a fault changes nothing, it cannot occur."""
    report = verify_artefact(*convert(slo_checkpoint(**switches, **SMALL[sizes])))
    assert report.passed, (report.failures, report.missed)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_controls_do_not_depend_on_the_attention_that_a_config_prefers(
    attention: str, slo_checkpoint: Write, convert: Convert, tmp_path: Path
) -> None:
    checkpoint, folder = convert(slo_checkpoint(use_rope=True))
    folder = Path(shutil.copytree(folder, tmp_path / "artefact"))
    path = folder / "config.json"
    named = dict.fromkeys(("attn_implementation", "_attn_implementation"), attention)
    path.write_text(json.dumps(json.loads(path.read_text()) | named))
    report = verify_artefact(checkpoint, folder)
    assert report.passed, (report.failures, report.missed)


@pytest.mark.parametrize("stage", ["entry", "block", "exit", "head"])
def test_a_fault_that_is_not_caught_makes_the_gate_invalid(
    stage: Any, slo_checkpoint: Write, convert: Convert, monkeypatch: pytest.MonkeyPatch
) -> None:
    harmless = Fault("does nothing", stage, lambda patient: nullcontext())
    monkeypatch.setattr(controls, "FAULTS", (*FAULTS[:2], harmless))
    report = verify_artefact(*convert(slo_checkpoint()))
    assert report.verdict == "invalid" and not report.passed
    assert report.missed == ("does nothing",) and report.failures == ()
    assert report.to_dict()["missed"] == ["does nothing"]
    assert [c.outcome for c in report.controls] == ["caught", "caught", "missed"]


@pytest.mark.parametrize("name", [fault.name for fault in FAULTS])
def test_each_fault_made_harmless_is_named(
    name: str, slo_checkpoint: Write, convert: Convert, monkeypatch: pytest.MonkeyPatch
) -> None:
    blunted = tuple(
        replace(f, plant=lambda patient: nullcontext()) if f.name == name else f for f in FAULTS
    )
    monkeypatch.setattr(controls, "FAULTS", blunted)
    found = ward_for(*convert(slo_checkpoint(n_layer=1))).shake()
    assert [c.name for c in found.controls if c.outcome == "missed"] == [name]


def test_a_failed_artefact_is_failed_and_not_invalid(
    slo_checkpoint: Write, convert: Convert, monkeypatch: pytest.MonkeyPatch
) -> None:
    harmless = Fault("does nothing", "head", lambda patient: nullcontext())
    monkeypatch.setattr(controls, "FAULTS", (harmless,))
    _, folder = convert(slo_checkpoint())
    other, _ = convert(slo_checkpoint(seed=1))
    report = verify_artefact(other, folder)
    assert report.verdict == "failed" and not report.passed


def test_an_artefact_of_other_names_has_no_controls(
    slo_checkpoint: Write, convert: Convert, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way from the checkpoint's tensors to its tensors is not known."""
    monkeypatch.setattr(gate, "route_to", lambda *arguments: None)
    report = verify_artefact(*convert(slo_checkpoint()))
    assert report.passed and report.controls == () and report.shaken_error is None
