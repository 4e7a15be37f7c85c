"""What a file says twice must agree, and what it says of another function is not ignored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from slogpt_hf.checkpoints import read_checkpoint
from slogpt_hf.checkpoints.unknown import require_known
from slogpt_hf.errors import CheckpointError, UsageError

StateDict = Callable[..., dict[str, Tensor]]
CONFIG = {"vocab_size": 11, "n_embed": 16, "n_layer": 2, "n_head": 4, "block_size": 8}
Q = "blocks.0.attn.q_proj"


def saved(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


@pytest.fixture
def written(state_dict: StateDict, tmp_path: Path) -> Callable[..., Path]:
    """A SloughGPT checkpoint with these dicts beside its weights."""

    def write(**beside: Any) -> Path:
        return saved({"model": state_dict("sloughgpt"), **beside}, tmp_path / "model.pt")

    return write


@pytest.mark.parametrize(
    "beside",
    [
        {"metadata": {"n_head": 8}},
        {"hparams": {"n_heads": 8}},
        {"training_info": {"args": {"num_attention_heads": 8}}},
        {"n_head": 8},
    ],
)
def test_two_places_that_disagree(written: Callable[..., Path], beside: dict[str, Any]) -> None:
    path = written(config=CONFIG, **beside)
    with pytest.raises(CheckpointError, match=r"records .* = 8") as caught:
        read_checkpoint(path)
    assert "--set n_head=" in caught.value.hint
    assert read_checkpoint(path, {"n_head": 4}).spec.n_head == 4
    with pytest.raises(UsageError, match="records"):
        read_checkpoint(path, {"n_head": 2})


def test_model_args_count_whatever_config_says(state_dict: StateDict, tmp_path: Path) -> None:
    """nanoGPT's config keeps the defaults that a resumed run did not use."""
    args = {"n_heads": 4, "max_seq_len": 8}
    content = {"model": state_dict("llama2c"), "model_args": args, "config": {"n_heads": 2}}
    assert read_checkpoint(saved(content, tmp_path / "c.pt")).spec.n_head == 4


@pytest.mark.parametrize("place", ["hparams", "cfg", "args", "model_config"])
def test_any_place_is_looked_at(written: Callable[..., Path], place: str) -> None:
    path = written(**{place: {"n_head": 4, "block_size": 8}})
    assert read_checkpoint(path).spec.n_head == 4
    with pytest.raises(UsageError, match=f"records {place}.n_head = 4"):
        read_checkpoint(path, {"n_head": 8})


@pytest.mark.parametrize("name", ["norm_eps", "rms_norm_eps", "layer_norm_epsilon", "ln_eps"])
def test_recorded_eps_by_any_name(written: Callable[..., Path], name: str) -> None:
    assert read_checkpoint(written(config=CONFIG | {name: 0.01})).spec.norm_eps == 0.01


@pytest.mark.parametrize("name", ["rope_theta", "rope_base", "rotary_base"])
def test_recorded_theta_by_any_name(written: Callable[..., Path], name: str) -> None:
    assert read_checkpoint(written(config=CONFIG | {name: 5e5})).spec.rope_theta == 5e5


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rope_scaling", {"factor": 2}),
        ("sliding_window", 4),
        ("logit_scale", 2.0),
        ("qk_norm", True),
        ("use_rope", False),
        ("use_swiglu", False),
        ("a_switch_of_another_fork", True),
    ],
)
def test_another_function_is_refused(written: Callable[..., Path], name: str, value: Any) -> None:
    with pytest.raises(CheckpointError, match=rf"config\.{name} is"):
        require_known(read_checkpoint(written(config=CONFIG | {name: value})))


def test_what_the_spec_can_say_is_used(written: Callable[..., Path]) -> None:
    said = {"activation": "gelu_new", "logit_multiplier": 2.0}
    checkpoint = read_checkpoint(written(config=CONFIG | said))
    require_known(checkpoint)
    spec = checkpoint.spec
    assert (spec.activation, spec.logit_multiplier) == ("gelu_tanh", 2.0)


@pytest.mark.parametrize(
    "neutral",
    [{"activation": "SiLU"}, {"sliding_window": None}, {"qk_norm": False}, {"use_rope": True}],
)
def test_neutral_facts_pass(written: Callable[..., Path], neutral: dict[str, Any]) -> None:
    assert read_checkpoint(written(config=CONFIG | neutral)).spec.n_head == 4


def test_two_state_dicts(written: Callable[..., Path], state_dict: StateDict) -> None:
    path = written(config=CONFIG, model_state_dict=state_dict("sloughgpt"))
    with pytest.raises(CheckpointError, match="under each of model, model_state_dict"):
        read_checkpoint(path)


def test_a_given_field_that_is_recorded_is_no_fact_of_the_users(
    written: Callable[..., Path],
) -> None:
    checkpoint = read_checkpoint(written(config=CONFIG), {"n_head": 4, "norm_eps": 1e-6})
    assert checkpoint.given == {"norm_eps": 1e-6}
    assert "n_head" not in " ".join(checkpoint.notes)


def lora(state: dict[str, Tensor], rank: int = 2) -> dict[str, Tensor]:
    return {f"{Q}.lora_A": torch.ones(rank, 16), f"{Q}.lora_B": torch.ones(16, rank)}


@pytest.fixture
def adapted(state_dict: StateDict, tmp_path: Path) -> Callable[..., Any]:
    """Reads an adapter-only file over its base: ``(adapter fields, base fields)``."""

    def read(adapter: dict[str, Any], base: dict[str, Any], **given: Any) -> Any:
        state = state_dict("sloughgpt")
        below = saved({"model": state, "config": CONFIG | base}, tmp_path / "base.pt")
        path = saved({"model": lora(state), **adapter}, tmp_path / "adapter.pt")
        return read_checkpoint(path, given, below)

    return read


def test_alpha_of_the_base_is_not_the_adapters(adapted: Callable[..., Any]) -> None:
    with pytest.raises(CheckpointError, match="does not record lora_alpha"):
        adapted({}, {"lora_alpha": 32})
    with pytest.raises(CheckpointError, match="does not record lora_alpha"):
        adapted({"metadata": {"alpha": 0.99, "optimizer": "rmsprop"}}, {})


@pytest.mark.parametrize(
    ("place", "fields"),
    [
        ("metadata", {"rank": 2, "alpha": 8}),
        ("metadata", {"lora_alpha": 8}),
        ("lora_config", {"alpha": 8}),
        ("adapter_config", {"r": 2, "lora_alpha": 8, "use_rslora": False}),
    ],
)
def test_alpha_where_adapters_record_it(
    adapted: Callable[..., Any], place: str, fields: dict[str, Any]
) -> None:
    checkpoint = adapted({place: fields}, {})
    assert checkpoint.adapters[f"{Q}.weight"].factor == 4
    assert checkpoint.given == {}
    with pytest.raises(UsageError, match=r"--set lora_alpha=4: but .* records .*alpha = 8"):
        adapted({place: fields}, {}, lora_alpha=4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rank": 2, "alpha": 8, "lora_alpha": 32}, "is 8, but"),
        ({"rank": 3, "alpha": 8}, "rank is 3, but the tensors have rank 2"),
        ({"r": 8, "lora_alpha": 8}, "r is 8, but the tensors have rank 2"),
        ({"rank": 2, "alpha": 8, "use_rslora": True}, "only plain LoRA is merged"),
        ({"rank": 2, "alpha": 8, "use_dora": True}, "only plain LoRA is merged"),
        ({"rank": 2, "alpha": 8, "alpha_pattern": {"q": 3}}, "only plain LoRA is merged"),
        ({"rank": 2, "alpha": -1}, "alpha is a positive number"),
    ],
)
def test_adapters_that_compute_something_else(
    adapted: Callable[..., Any], fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        adapted({"metadata": fields}, {})


@pytest.mark.parametrize("place", ["config", "model_args", "metadata"])
def test_an_adapter_does_not_change_its_base(adapted: Callable[..., Any], place: str) -> None:
    with pytest.raises(CheckpointError, match="n_head = 8"):
        adapted({place: {"n_head": 8, "lora_alpha": 4}}, {})
