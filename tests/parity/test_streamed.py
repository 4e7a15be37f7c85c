"""The streamed artefact is the one that ``from_pretrained`` loads, bit for bit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from slogpt_hf.checkpoints import Checkpoint
from slogpt_hf.errors import CheckpointError
from slogpt_hf.parity import loading
from slogpt_hf.parity.float64 import Float64Everywhere
from slogpt_hf.parity.lockstep import splits, states_of, steps
from slogpt_hf.parity.streamed import StoredTensors, Streamed, stream_artefact

Make = Callable[..., Checkpoint]
Write = Callable[..., Path]
Convert = Callable[..., tuple[Checkpoint, Path]]

IDS = torch.tensor([[1, 2, 3, 4, 5, 36], [6, 7, 8, 9, 10, 0]])
ROTARY = {"use_rope": True, "bias": False}
CLASSES: dict[str, dict[str, Any]] = {
    "GPT2LMHeadModel": {},
    "LlamaForCausalLM": {"use_rope": True, "use_swiglu": True, "use_rmsnorm": True},
    "Starcoder2ForCausalLM": {"use_rope": True},
    "StableLmForCausalLM": {**ROTARY, "use_swiglu": True},
    "ArceeForCausalLM": {**ROTARY, "use_rmsnorm": True},
    "SloGPTForCausalLM": {"use_rope": True, "use_swiglu": True},
    "SloGPTForCausalLM, learned": {"use_rmsnorm": True, "tied": False},
}
GROUPED: dict[str, dict[str, Any]] = {
    "LlamaForCausalLM, grouped, tied": {"n_kv_head": 2, "tied": True},
    "LlamaForCausalLM, grouped, untied": {"n_kv_head": 2},
}


@pytest.fixture(params=[*CLASSES, *GROUPED])
def folder(
    request: pytest.FixtureRequest,
    slo_checkpoint: Write,
    convert: Convert,
    family_checkpoint: Make,
    family_artefact: Write,
) -> Path:
    """An artefact of each class."""
    name = str(request.param)
    if name in GROUPED:
        return family_artefact(family_checkpoint("llama2c", **GROUPED[name]))
    folder = convert(slo_checkpoint(**CLASSES[name]))[1]
    assert loading.class_name(folder) == name.partition(",")[0]
    return folder


@pytest.fixture
def classic(slo_checkpoint: Write, convert: Convert, tmp_path: Path) -> Path:
    """A GPT-2 artefact that a test may spoil."""
    return Path(shutil.copytree(convert(slo_checkpoint())[1], tmp_path / "classic"))


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def streamed(folder: Path, dtype: torch.dtype = torch.float32) -> Streamed:
    return stream_artefact(folder, dtype, StoredTensors(folder))


def assert_equal(folder: Path, dtype: torch.dtype) -> None:
    exact = Float64Everywhere() if dtype == torch.float64 else nullcontext()
    with exact:
        model: Any = loading.load_artefact(folder, dtype)
        wanted = model(input_ids=IDS, use_cache=False, output_hidden_states=True)
    ours = streamed(folder, dtype)
    with ours.computing():
        found = ours.model(input_ids=IDS, use_cache=False).logits
    assert found.dtype == dtype and torch.equal(found, wanted.logits)
    states = list(states_of(ours, IDS))
    # The last hidden state that transformers gives is the one behind the final norm.
    inner = [*wanted.hidden_states[:-1], states[-2], wanted.hidden_states[-1]]
    assert len(states) == len(inner) == len(ours.blocks) + 2
    assert all(torch.equal(a, b) for a, b in zip(states, inner, strict=True))
    assert torch.equal(ours.final_state(IDS), states[-1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_logits_and_states_are_those_of_from_pretrained(folder: Path, dtype: torch.dtype) -> None:
    assert_equal(folder, dtype)


def test_a_pass_leaves_no_weight_in_memory(folder: Path) -> None:
    model = streamed(folder)
    list(states_of(model, IDS))
    model.final_state(IDS)
    assert all(p.is_meta and not p.requires_grad for p in model.model.parameters())
    assert not model.model.training


def test_blocks_one_by_one_are_one_forward_pass(folder: Path) -> None:
    model = streamed(folder)
    x, calls = model.enter(IDS)
    for index, call in enumerate(calls):
        x = model.block(index, x, call)
    assert torch.equal(model.leave(IDS, x), model.final_state(IDS))
    assert steps(model, IDS) and splits(model, IDS)
    assert not any("forward" in vars(block) for block in model.blocks)


def test_sizes_and_names(folder: Path) -> None:
    model = streamed(folder)
    assert model.sizes == {"vocab_size": 37, "block_size": 24, "n_layer": 2, "n_embd": 32}
    config = json.loads((folder / "config.json").read_text())
    tied = config["tie_word_embeddings"]
    # llama.cpp looks for the head of a tied StableLM as a tensor of its own.
    written = model.head_name != model.embedding_name
    assert written == (not tied or config["model_type"] == "stablelm")
    head, embedding = model.raw(model.head_name), model.raw(model.embedding_name)
    assert torch.equal(head, embedding) == tied
    assert model.raw(model.head_name).shape == (37, 32)


def test_weights_are_let_go_when_a_pass_fails(classic: Path) -> None:
    model = streamed(classic)
    with pytest.raises(IndexError):
        model.final_state(torch.tensor([[99]]))
    assert all(p.is_meta for p in model.model.parameters())
    assert not any("forward" in vars(block) for block in model.blocks)


def test_shards_are_one_model(slo_checkpoint: Write, convert: Convert) -> None:
    path = slo_checkpoint(use_rope=True)
    _, folder = convert(path, max_shard_bytes=9000)
    assert len(list(folder.glob("*.safetensors"))) > 3
    assert_equal(folder, torch.float32)


def spoil(folder: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    path = folder / "model.safetensors"
    tensors = dict(load_file(path))
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def set_config(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_missing_tensors_are_named(classic: Path) -> None:
    spoil(classic, lambda t: t.__delitem__("transformer.h.1.mlp.c_fc.bias"))
    with pytest.raises(CheckpointError, match=r"missing tensors: transformer\.h\.1\.mlp\.c_fc\.b"):
        streamed(classic)


def test_a_head_that_is_missing_and_not_tied_is_named(classic: Path) -> None:
    set_config(classic, tie_word_embeddings=False)
    with pytest.raises(CheckpointError, match=r"missing tensors: lm_head\.weight"):
        streamed(classic)


def test_unexpected_tensors_are_named(classic: Path) -> None:
    spoil(classic, lambda t: t.update({f"more.{i}": torch.ones(1) for i in range(8)}))
    with pytest.raises(CheckpointError, match=r"unexpected tensors: more\.0, .* and 2 more\."):
        streamed(classic)


def test_tensors_of_another_shape_are_named(classic: Path) -> None:
    spoil(classic, lambda t: t.update({"transformer.ln_f.weight": torch.ones(31)}))
    with pytest.raises(CheckpointError, match=r"mismatched tensors: transformer\.ln_f\.weight"):
        streamed(classic)


def test_the_file_that_transformers_takes_is_the_one_that_is_read(
    slo_checkpoint: Write, convert: Convert, classic: Path
) -> None:
    """Shards of another model beside a whole file: nobody loads them."""
    _, other = convert(slo_checkpoint(seed=1), max_shard_bytes=9000)
    before = streamed(classic).final_state(IDS)
    for path in other.glob("model*"):
        shutil.copy(path, classic)
    assert torch.equal(streamed(classic).final_state(IDS), before)
    assert_equal(classic, torch.float32)


def test_a_tensor_that_two_files_hold_is_an_error(
    slo_checkpoint: Write, convert: Convert, tmp_path: Path
) -> None:
    _, shards = convert(slo_checkpoint(), max_shard_bytes=9000)
    folder = Path(shutil.copytree(shards, tmp_path / "shards"))
    first, second = sorted(folder.glob("*.safetensors"))[:2]
    save_file(load_file(first) | load_file(second), second, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="which another file holds too"):
        StoredTensors(folder)


@pytest.mark.parametrize("content", [b"{", b"[]", b"{}", b'{"weight_map": 1}'])
def test_a_damaged_index_is_an_error(classic: Path, content: bytes) -> None:
    (classic / "model.safetensors").unlink()
    (classic / "model.safetensors.index.json").write_bytes(content)
    with pytest.raises(CheckpointError, match="no index of weights"):
        StoredTensors(classic)


@pytest.mark.parametrize("field", ["quantization_config", "transformers_weights"])
def test_a_config_under_which_other_weights_are_loaded_is_an_error(
    classic: Path, field: str
) -> None:
    set_config(classic, **{field: {"quant_method": "fp8"}})
    with pytest.raises(CheckpointError, match=f"sets {field}"):
        streamed(classic)
