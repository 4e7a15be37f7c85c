"""The gate can fail: planted faults are caught, placed and explained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from slogpt_hf.checkpoints import Checkpoint
from slogpt_hf.conversion.operations import PairsToHalves
from slogpt_hf.errors import CheckpointError, UsageError
from slogpt_hf.parity.comparing import Compared
from slogpt_hf.parity.gate import verify_artefact
from slogpt_hf.parity.inputs import inputs_for

Convert = Callable[..., tuple[Checkpoint, Path]]
Write = Callable[..., Path]
Tensors = dict[str, Tensor]

CLASSIC: dict[str, bool] = {"bias": True}
LLAMA = {"use_rope": True, "use_swiglu": True, "use_rmsnorm": True, "bias": True}
STARCODER2 = {"use_rope": True, "bias": True}
ARCEE = {"use_rope": True, "use_rmsnorm": True, "bias": False}
CUSTOM = {"use_rope": True, "use_swiglu": True, "bias": True}


@pytest.fixture
def artefact(
    tmp_path: Path, slo_checkpoint: Write, convert: Convert
) -> Callable[..., tuple[Checkpoint, Path]]:
    """Converts a checkpoint of the given switches into a folder that a test may spoil."""

    def make(**switches: Any) -> tuple[Checkpoint, Path]:
        checkpoint, folder = convert(slo_checkpoint(**switches))
        return checkpoint, Path(shutil.copytree(folder, tmp_path / "artefact"))

    return make


def spoil_weights(folder: Path, fault: Callable[[Tensors], None]) -> None:
    path = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    fault(tensors)
    same = before.keys() == tensors.keys() and all(
        torch.equal(tensors[name], before[name]) for name in before
    )
    assert not same, "the fault changes nothing"
    save_file({k: v.contiguous() for k, v in tensors.items()}, path, metadata={"format": "pt"})


def spoil_config(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    assert fields.keys() <= config.keys()
    path.write_text(json.dumps(config | fields))


def swap(a: str, b: str) -> Callable[[Tensors], None]:
    def fault(tensors: Tensors) -> None:
        tensors[a], tensors[b] = tensors[b], tensors[a]

    return fault


def not_permuted(*names: str) -> Callable[[Tensors], None]:
    """Rotary rows as the original has them: interleaved pairs where halves belong."""

    def fault(tensors: Tensors) -> None:
        for name in names:
            tensors[name] = PairsToHalves(4).inverse(tensors[name])

    return fault


def transposed(name: str) -> Callable[[Tensors], None]:
    def fault(tensors: Tensors) -> None:
        tensors[name] = tensors[name].t()

    return fault


def stale_row(name: str, row: int) -> Callable[[Tensors], None]:
    def fault(tensors: Tensors) -> None:
        tensors[name][row] *= 1.01

    return fault


def zeroed(name: str) -> Callable[[Tensors], None]:
    def fault(tensors: Tensors) -> None:
        tensors[name].zero_()

    return fault


def flipped_bit(name: str, bit: int) -> Callable[[Tensors], None]:
    def fault(tensors: Tensors) -> None:
        tensors[name].view(-1).view(torch.int32)[-1] ^= 1 << bit

    return fault


LLAMA_1 = "model.layers.1."
QK = (f"{LLAMA_1}self_attn.q_proj", f"{LLAMA_1}self_attn.k_proj")
WEIGHT_FAULTS: dict[str, tuple[dict[str, bool], Callable[[Tensors], None], str]] = {
    "norms of a block swapped": (
        CLASSIC,
        swap("transformer.h.1.ln_1.weight", "transformer.h.1.ln_2.weight"),
        "layer 1",
    ),
    "norms of two blocks swapped": (
        ARCEE,
        swap("model.layers.0.input_layernorm.weight", "model.layers.1.input_layernorm.weight"),
        "layer 0",
    ),
    "final norm's bias lost": (CLASSIC, zeroed("transformer.ln_f.bias"), "final norm or head"),
    "q and k weights not permuted": (
        LLAMA,
        not_permuted(*(f"{module}.weight" for module in QK)),
        "layer 1",
    ),
    "q and k biases not permuted": (
        LLAMA,
        not_permuted(*(f"{module}.bias" for module in QK)),
        "layer 1",
    ),
    "only k not permuted": (STARCODER2, not_permuted(f"{QK[1]}.weight"), "layer 1"),
    "q and k swapped": (ARCEE, swap(f"{QK[0]}.weight", f"{QK[1]}.weight"), "layer 1"),
    "gate and up swapped": (
        LLAMA,
        swap("model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.up_proj.weight"),
        "layer 0",
    ),
    "square matrix transposed": (
        CLASSIC,
        transposed("transformer.h.0.attn.c_proj.weight"),
        "layer 0",
    ),
    "square matrix transposed, custom class": (
        CUSTOM,
        transposed("transformer.h.1.attn.c_proj.weight"),
        "layer 1",
    ),
    "one stale embedding row": (
        CLASSIC,
        stale_row("transformer.wte.weight", 36),
        "embedding and positions",
    ),
    "last position stale": (
        CLASSIC,
        stale_row("transformer.wpe.weight", 23),
        "embedding and positions",
    ),
    "bias of v lost": (LLAMA, zeroed(f"{LLAMA_1}self_attn.v_proj.bias"), "layer 1"),
    "top bit of one mantissa flipped": (
        CUSTOM,
        flipped_bit("transformer.h.1.mlp.w3.weight", 22),
        "layer 1",
    ),
    "a low bit of one mantissa flipped": (
        LLAMA,
        flipped_bit("model.layers.0.mlp.up_proj.weight", 8),
        "layer 0",
    ),
}


@pytest.mark.parametrize("fault", WEIGHT_FAULTS)
def test_fault_in_the_weights_is_caught_and_placed(artefact: Convert, fault: str) -> None:
    switches, plant, where = WEIGHT_FAULTS[fault]
    checkpoint, folder = artefact(**switches)
    spoil_weights(folder, plant)
    report = verify_artefact(checkpoint, folder)
    assert not report.passed
    assert report.first_divergence and report.first_divergence.split(",")[0] == where
    assert any("float64 relative error" in f and "> 1e-10" in f for f in report.failures)
    assert report.embedding_equal == (fault != "one stale embedding row")
    assert "NOT equal" in report.summary()
    json.dumps(report.to_dict(), allow_nan=False)


ROPE_10001 = {"rope_parameters": {"rope_type": "default", "rope_theta": 10_001.0}}
CONFIG_FAULTS: dict[str, tuple[dict[str, bool], dict[str, Any], str]] = {
    "LayerNorm eps": (CLASSIC, {"layer_norm_epsilon": 1.1e-5}, "layer 0"),
    "RMSNorm eps": (LLAMA, {"rms_norm_eps": 1e-5}, "layer 0"),
    "eps of the custom class": (CUSTOM, {"norm_eps": 1e-6}, "layer 0"),
    "tanh GELU": (CLASSIC, {"activation_function": "gelu_new"}, "layer 0"),
    "tanh GELU, Starcoder2": (STARCODER2, {"hidden_act": "gelu_pytorch_tanh"}, "layer 0"),
    "rotary base": (LLAMA, ROPE_10001, "layer 0"),
    "rotary base of the custom class": (CUSTOM, {"rope_theta": 10_001.0}, "layer 0"),
    "heads": (CLASSIC, {"n_head": 8}, "layer 0"),
}


@pytest.mark.parametrize("fault", CONFIG_FAULTS)
def test_fault_in_the_config_is_caught_and_placed(artefact: Convert, fault: str) -> None:
    switches, fields, where = CONFIG_FAULTS[fault]
    checkpoint, folder = artefact(**switches)
    spoil_config(folder, **fields)
    report = verify_artefact(checkpoint, folder)
    assert not report.passed
    assert report.first_divergence and report.first_divergence.split(",")[0] == where
    assert any("float64 relative error" in failure for failure in report.failures)


def test_large_faults_break_the_float32_bound_too(artefact: Convert) -> None:
    checkpoint, folder = artefact(**CLASSIC)
    spoil_weights(folder, transposed("transformer.h.0.attn.c_proj.weight"))
    report = verify_artefact(checkpoint, folder)
    assert any("float32 error" in failure for failure in report.failures)
    assert report.fp32_error > report.fp32_bound


def test_nan_in_the_artefact_fails(artefact: Convert) -> None:
    checkpoint, folder = artefact(**CLASSIC)

    def fault(tensors: Tensors) -> None:
        tensors["transformer.h.1.mlp.c_fc.bias"][0] = float("nan")

    spoil_weights(folder, fault)
    report = verify_artefact(checkpoint, folder)
    assert not report.passed
    assert report.first_divergence == "layer 1, MLP"
    assert report.fp64_error == float("inf")


def test_embedding_row_that_no_input_reaches_is_caught(artefact: Convert) -> None:
    checkpoint, folder = artefact(tied=False, block_size=4, vocab_size=9000, n_embd=8, n_head=2)
    batches = inputs_for(checkpoint.spec)
    run = {i for batch in batches for i in batch.ids.flatten().tolist()}
    row = next(i for i in range(9000) if i not in run)
    spoil_weights(folder, stale_row("transformer.wte.weight", row))
    report = verify_artefact(checkpoint, folder)
    assert not report.passed
    assert report.failures == ("The embedding's rows differ from the original's.",)
    assert report.first_divergence == "embedding and positions"
    assert report.head_equal and report.to_dict()["head_equal"]


def test_difference_in_the_head_too_small_for_logits_is_caught(artefact: Convert) -> None:
    checkpoint, folder = artefact(tied=False, vocab_size=9000, n_embd=8, n_head=2)

    def fault(tensors: Tensors) -> None:
        weight = tensors["lm_head.weight"].view(-1)
        weight[weight.abs().argmin()] = 0.0

    spoil_weights(folder, fault)
    report = verify_artefact(checkpoint, folder)
    assert report.embedding_equal and not (report.head_equal or report.passed)
    assert "The head's rows differ from the original's." in report.failures
    assert report.first_divergence == "final norm or head"


def test_float32_only_fault_is_not_blamed_on_a_layer(
    artefact: Convert, monkeypatch: pytest.MonkeyPatch
) -> None:
    from slogpt_hf.parity import checks, lockstep

    checkpoint, folder = artefact(**CLASSIC)
    genuine = lockstep.compare

    def coarser(*arguments: Any) -> Compared:
        found = genuine(*arguments)
        return replace(found, comparison=replace(found.comparison, fp32_error=1.0))

    monkeypatch.setattr(lockstep, "compare", coarser)
    report = verify_artefact(checkpoint, folder)
    assert not report.passed
    assert report.first_divergence == checks.FLOAT32_ONLY


def test_missing_tensor_is_an_error_that_names_it(artefact: Convert) -> None:
    checkpoint, folder = artefact(**CLASSIC)

    def fault(tensors: Tensors) -> None:
        del tensors["transformer.h.1.mlp.c_fc.bias"]

    spoil_weights(folder, fault)
    with pytest.raises(CheckpointError, match=r"missing tensors: transformer\.h\.1\.mlp\.c_fc"):
        verify_artefact(checkpoint, folder)


def test_unexpected_tensor_is_an_error_that_names_it(artefact: Convert) -> None:
    checkpoint, folder = artefact(**LLAMA)

    def fault(tensors: Tensors) -> None:
        tensors["model.layers.2.input_layernorm.weight"] = torch.ones(32)

    spoil_weights(folder, fault)
    with pytest.raises(CheckpointError, match=r"unexpected tensors: model\.layers\.2\.input"):
        verify_artefact(checkpoint, folder)


def test_tensor_of_another_shape_is_an_error(artefact: Convert) -> None:
    checkpoint, folder = artefact(**CLASSIC)

    def fault(tensors: Tensors) -> None:
        tensors["transformer.ln_f.weight"] = torch.ones(31)

    spoil_weights(folder, fault)
    with pytest.raises(CheckpointError):
        verify_artefact(checkpoint, folder)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'"gpt2"',
        b"\xff\xfe",
        b"{}",
        b'{"model_type": "gpt3"}',
        b'{"model_type": "gpt2", "dtype": "float33"}',
        b'{"model_type": "gpt2", "dtype": "int8"}',
        b'{"model_type": "gpt2", "dtype": "nn"}',
        b'{"model_type": "gpt2", "n_layer": "two"}',
        b'{"model_type": "gpt2", "n_layer": 3}',
    ],
)
def test_damaged_config_is_an_error(artefact: Convert, content: bytes) -> None:
    checkpoint, folder = artefact(**CLASSIC)
    (folder / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match="artefact"):
        verify_artefact(checkpoint, folder)


@pytest.mark.parametrize("length", [0, 7, 8, 100, 5000])
def test_truncated_weights_are_an_error(artefact: Convert, length: int) -> None:
    checkpoint, folder = artefact(**CLASSIC)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CheckpointError, match="artefact"):
        verify_artefact(checkpoint, folder)


def test_folder_that_is_no_artefact_is_a_usage_error(artefact: Convert, tmp_path: Path) -> None:
    checkpoint, _ = artefact(**CLASSIC)
    with pytest.raises(UsageError, match=r"no config\.json"):
        verify_artefact(checkpoint, tmp_path)


def test_artefact_of_another_checkpoint_fails(artefact: Convert, slo_checkpoint: Write) -> None:
    from slogpt_hf.checkpoints import read_checkpoint

    _, folder = artefact(**CLASSIC)
    other = read_checkpoint(slo_checkpoint(**CLASSIC, seed=1))
    report = verify_artefact(other, folder)
    assert not report.passed
    assert not report.embedding_equal


def test_changed_modeling_file_does_not_run_unless_trusted(
    artefact: Convert, tmp_path: Path
) -> None:
    checkpoint, folder = artefact(**CUSTOM)
    canary = tmp_path / "ran"
    path = folder / "modeling_slogpt.py"
    path.write_text(path.read_text() + f"\nopen({str(canary)!r}, 'w').close()\n")
    with pytest.raises(UsageError, match=r"modeling_slogpt\.py.*--trust-remote-code"):
        verify_artefact(checkpoint, folder)
    assert not canary.exists()
    report = verify_artefact(checkpoint, folder, trust_remote_code=True)
    assert report.passed, report.failures
    assert canary.exists()


@pytest.mark.parametrize(
    "reference", ["evil.SloGPTForCausalLM", "someone/evil--modeling_slogpt.SloGPTForCausalLM"]
)
def test_auto_map_to_code_elsewhere_does_not_run(artefact: Convert, reference: str) -> None:
    checkpoint, folder = artefact(**CUSTOM)
    auto_map = json.loads((folder / "config.json").read_text())["auto_map"]
    spoil_config(folder, auto_map=auto_map | {"AutoModelForCausalLM": reference})
    with pytest.raises(UsageError, match="--trust-remote-code"):
        verify_artefact(checkpoint, folder)


def test_another_python_file_does_not_run(artefact: Convert) -> None:
    checkpoint, folder = artefact(**CUSTOM)
    (folder / "more.py").write_text("")
    with pytest.raises(UsageError, match=r"more\.py"):
        verify_artefact(checkpoint, folder)


def test_custom_class_without_its_modeling_file_is_refused(artefact: Convert) -> None:
    checkpoint, folder = artefact(**CUSTOM)
    (folder / "modeling_slogpt.py").unlink()
    with pytest.raises(CheckpointError, match=r"lacks modeling_slogpt\.py"):
        verify_artefact(checkpoint, folder)
