"""LoRA and IA3: read beside the weights or apart from them, merged by the plan, proven unmerged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from slogpt_hf.checkpoints import read_checkpoint
from slogpt_hf.checkpoints.adapters import LowRank, RowScale
from slogpt_hf.conversion import plan_conversion, write_model
from slogpt_hf.conversion.plain_writer import write_weights_plain
from slogpt_hf.errors import CheckpointError, UsageError
from slogpt_hf.parity.gate import verify_artefact

StateDict = Callable[..., dict[str, Tensor]]
CONFIG = {"vocab_size": 11, "n_embed": 16, "n_layer": 2, "n_head": 4, "block_size": 8}
Q, DOWN = "blocks.0.attn.q_proj", "blocks.1.mlp.w2"
RANK, ALPHA = 2, 16.0


def lora(tensors: dict[str, Tensor], *modules: str) -> dict[str, Tensor]:
    """LoRA tensors for these modules."""
    generator = torch.Generator().manual_seed(3)
    pieces: dict[str, Tensor] = {}
    for module in modules:
        rows, columns = tensors[f"{module}.weight"].shape
        pieces[f"{module}.lora_A"] = torch.randn(RANK, columns, generator=generator)
        pieces[f"{module}.lora_B"] = torch.randn(rows, RANK, generator=generator)
    return pieces


def scales(tensors: dict[str, Tensor], *modules: str) -> dict[str, Tensor]:
    """IA3 tensors for these modules."""
    rows = {module: tensors[f"{module}.weight"].shape[0] for module in modules}
    return {f"{m}.lora_s": torch.linspace(0.5, 1.5, n) for m, n in rows.items()}


def saved(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


def converted(path: Path, folder: Path, **options: Any) -> dict[str, Tensor]:
    """The artefact's tensors; the gate has found it equal to the unmerged original."""
    checkpoint = read_checkpoint(path, **options)
    folder.mkdir(exist_ok=True)
    conversion = plan_conversion(checkpoint)
    write_model(checkpoint, conversion, folder)
    (folder / "plain").mkdir()
    write_weights_plain(
        conversion.plan, checkpoint.tensors, folder / "plain", dtype=conversion.dtype,
        max_shard_bytes=10**9,
    )  # fmt: skip
    plain = folder / "plain" / "model.safetensors"
    assert plain.read_bytes() == (folder / "model.safetensors").read_bytes()
    report = verify_artefact(checkpoint, folder)
    assert report.passed, report.failures
    assert report.merge_error is not None and report.merge_error <= 1e-10
    return load_file(folder / "model.safetensors")


def test_lora_beside_the_weights(state_dict: StateDict, tmp_path: Path) -> None:
    state = state_dict("sloughgpt")
    pieces = lora(state, Q, DOWN)
    content = {"model_state_dict": state | pieces, "step": 5, "config": CONFIG}
    path = saved(content, tmp_path / "step_5.pt")
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    assert "does not record lora_alpha, which" in caught.value.message
    assert "--set lora_alpha=..." in caught.value.hint
    written = converted(path, tmp_path / "artefact", given={"lora_alpha": 16})
    for module, target in ((Q, "layers.0.self_attn.q_proj"), (DOWN, "layers.1.mlp.down_proj")):
        exact = state[f"{module}.weight"].double() + ALPHA / RANK * (
            pieces[f"{module}.lora_B"].double() @ pieces[f"{module}.lora_A"].double()
        )
        found = written[f"model.{target}.weight"].double()
        assert torch.allclose(found, exact, rtol=1e-6, atol=1e-6)
        assert not torch.equal(found.float(), state[f"{module}.weight"])
    note = " ".join(read_checkpoint(path, {"lora_alpha": 16}).notes)
    assert "A LoRA adapter of rank 2 with alpha 16 is merged into 2 weights" in note


def test_merge_is_in_the_plan(state_dict: StateDict, tmp_path: Path) -> None:
    state = state_dict("sloughgpt")
    content = {"model_state_dict": state | lora(state, Q), "config": CONFIG}
    checkpoint = read_checkpoint(saved(content, tmp_path / "s.pt"), {"lora_alpha": 16})
    (merge,) = plan_conversion(checkpoint).plan.merges
    assert merge.source == f"{Q}.weight"
    assert merge.adapter == LowRank(f"{Q}.lora_A", f"{Q}.lora_B", ALPHA / RANK)
    assert checkpoint.n_parameters == sum(tensor.numel() for tensor in state.values())


def test_ia3_beside_the_weights(state_dict: StateDict, tmp_path: Path) -> None:
    state = state_dict("sloughgpt")
    pieces = scales(state, Q, DOWN)
    path = saved({"model": state | pieces, "config": CONFIG}, tmp_path / "model.pt")
    assert read_checkpoint(path).adapters[f"{Q}.weight"] == RowScale(f"{Q}.lora_s")
    written = converted(path, tmp_path / "artefact")
    expected = (pieces[f"{DOWN}.lora_s"].double()[:, None] * state[f"{DOWN}.weight"]).float()
    assert torch.equal(written["model.layers.1.mlp.down_proj.weight"], expected)


@pytest.mark.parametrize("dialect", ["llama2c", "nanogpt"])
def test_lora_in_other_dialects(state_dict: StateDict, tmp_path: Path, dialect: str) -> None:
    """Interleaved pairs and a stack of q, k and v: merged before rows are taken and permuted."""
    state = state_dict(dialect)
    module = {"llama2c": "layers.0.attention.wk", "nanogpt": "blocks.0.attn.c_attn"}[dialect]
    content = {"model": state | lora(state, module), "config": CONFIG | {"lora_alpha": 4}}
    converted(saved(content, tmp_path / "model.pt"), tmp_path / "artefact")


def adapter_file(state: dict[str, Tensor], folder: Path, nested: bool) -> Path:
    metadata = {"type": "lora", "rank": RANK, "alpha": ALPHA}
    pieces: dict[str, Any] = lora(state, Q, DOWN)
    content = {"model_state_dict": pieces} if nested else pieces
    return saved({**content, "metadata": metadata}, folder / "adapter.pt")


@pytest.mark.parametrize("nested", [True, False])
def test_adapter_only_needs_its_base(state_dict: StateDict, tmp_path: Path, nested: bool) -> None:
    state = state_dict("sloughgpt")
    base = saved({"model_state_dict": state, "step": 99, "config": CONFIG}, tmp_path / "step_99.pt")
    adapter = adapter_file(state, tmp_path, nested)
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(adapter)
    assert "holds an adapter only" in caught.value.message
    assert "--base CHECKPOINT" in caught.value.hint
    written = converted(adapter, tmp_path / "artefact", base=base)
    both = saved(
        {"model": state | lora(state, Q, DOWN), "config": CONFIG | {"lora_alpha": ALPHA}},
        tmp_path / "both.pt",
    )
    expected = converted(both, tmp_path / "expected")
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[name], expected[name]) for name in expected)
    checkpoint = read_checkpoint(adapter, base=base)
    assert checkpoint.files == (adapter, base)
    assert checkpoint.facts.step is None  # the base's 99 steps did not lead to these weights
    assert "adapter.pt adapts step_99.pt" in " ".join(checkpoint.notes)
    with pytest.raises(CheckpointError, match="changed while it was being released"):
        base.touch()
        checkpoint.require_unchanged()


def test_base_for_a_checkpoint_with_weights(state_dict: StateDict, tmp_path: Path) -> None:
    state = state_dict("sloughgpt")
    path = saved({"model": state, "config": CONFIG}, tmp_path / "model.pt")
    with pytest.raises(UsageError, match="has weights of its own"):
        read_checkpoint(path, base=path)


def test_base_with_an_adapter_of_its_own(state_dict: StateDict, tmp_path: Path) -> None:
    state = state_dict("sloughgpt")
    base = saved({"model": state | lora(state, Q), "config": CONFIG}, tmp_path / "base.pt")
    with pytest.raises(CheckpointError, match="cannot be a base"):
        read_checkpoint(adapter_file(state, tmp_path, True), base=base)


def without(name: str) -> Callable[[dict[str, Tensor]], None]:
    return lambda state: state.__delitem__(name)


SPOILED: dict[str, tuple[Callable[[dict[str, Tensor]], None], str]] = {
    "no B": (without(f"{Q}.lora_B"), "expected lora_A and lora_B, or lora_s alone"),
    "no A": (without(f"{Q}.lora_A"), "expected lora_A and lora_B, or lora_s alone"),
    "no weight": (without(f"{Q}.weight"), f"there is no matrix {Q}.weight for its adapter"),
    "other rank": (
        lambda state: state.update({f"{Q}.lora_B": torch.ones(16, 3)}),
        "lora_B has shape (16, 3), expected (16, 2)",
    ),
    "transposed": (
        lambda state: state.update({f"{Q}.lora_A": torch.ones(16, 2)}),
        "lora_A has shape (16, 2), expected (16, 16)",
    ),
    "both kinds": (
        lambda state: state.update({f"{Q}.lora_s": torch.ones(16)}),
        "expected lora_A and lora_B, or lora_s alone",
    ),
    "of the head": (
        lambda state: state.update(lora(state, "lm_head")),
        "no projection of attention or MLP",
    ),
    "integers": (
        lambda state: state.update({f"{Q}.lora_A": torch.ones(2, 16, dtype=torch.int8)}),
        "lora_A has dtype int8",
    ),
}


@pytest.mark.parametrize("kind", SPOILED)
def test_adapter_that_does_not_fit(state_dict: StateDict, tmp_path: Path, kind: str) -> None:
    spoil, message = SPOILED[kind]
    state = state_dict("sloughgpt")
    state |= lora(state, Q)
    spoil(state)
    path = saved({"model": state, "config": CONFIG | {"lora_alpha": 2}}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    assert message in caught.value.message


def test_recorded_rank_must_be_that_of_the_tensors(state_dict: StateDict, tmp_path: Path) -> None:
    state = state_dict("sloughgpt")
    base = saved({"model": state, "config": CONFIG}, tmp_path / "base.pt")
    metadata = {"type": "lora", "rank": 3, "alpha": ALPHA}
    path = saved(lora(state, Q) | {"metadata": metadata}, tmp_path / "adapter.pt")
    with pytest.raises(CheckpointError, match="rank is 3, but the tensors have rank 2"):
        read_checkpoint(path, base=base)
