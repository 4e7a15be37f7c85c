"""Recorded facts are used, known to be neutral, or named; what no file records is assumed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from slogpt_hf.checkpoints import Checkpoint, read_checkpoint
from slogpt_hf.checkpoints.unknown import require_known, witness_in_sight
from slogpt_hf.errors import CheckpointError, UsageError
from slogpt_hf.settings import Settings

Content = Callable[..., dict[str, Any]]
StateDict = Callable[..., dict[str, Tensor]]
Write = Callable[..., Path]
MUP = {
    "mup_enabled": True,
    "mup_disable_attention_scaling": False,
    "mup_disable_hidden_lr_scaling": False,
    "mup_width_multiplier": 4.0,
    "mup_input_alpha": 10.0,
    "mup_output_alpha": 2.0,
}
SIZES = {"n_layer": 2, "n_head": 4, "n_embd": 32, "block_size": 24, "vocab_size": 37}


def given(*said: str) -> dict[str, Any]:
    return Settings(set=said).given


def saved(content: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


def names(checkpoint: Checkpoint) -> list[str]:
    return [entry.where for entry in checkpoint.unknown]


def assumed(checkpoint: Checkpoint) -> dict[str, Any]:
    return {each.name: each.value for each in checkpoint.assumptions}


def test_mup_is_used(slo_checkpoint: Write) -> None:
    checkpoint = read_checkpoint(slo_checkpoint(**MUP))
    require_known(checkpoint)
    spec = checkpoint.spec
    assert spec.attention_multiplier == 1 / 8
    assert (spec.embedding_multiplier, spec.logit_multiplier) == (10.0, 0.5)
    settled = {"attention_multiplier", "embedding_multiplier", "logit_multiplier"}
    assert not settled & assumed(checkpoint).keys()
    off = read_checkpoint(slo_checkpoint(**MUP | {"mup_enabled": False}))
    require_known(off)
    assert off.spec.attention_multiplier is None and off.spec.embedding_multiplier == 1
    usual = read_checkpoint(slo_checkpoint(**MUP | {"mup_disable_attention_scaling": True}))
    assert usual.spec.attention_multiplier is None


@pytest.mark.parametrize(
    "args",
    [
        {"use_post_ln": True},
        {"softmax_variant_attn": "consmax"},
        {"softmax1": True},
        {"use_parallel_mlp": True},
        {"n_exp": 4},
        {"window_pattern": "SSSL"},
        {"rope_scaling": {"type": "linear", "factor": 2.0}},
        {"partial_rotary_factor": 0.5},
        {"alibi": True},
        {"causal": False},
        {"norm_first": False},
        {"scale_attn_weights": False},
        {"logit_softcap": 30.0},
        {"activation": "softplus"},
        {"mup_width_multiplier": 4.0},
        {"a_new_switch": True},
        {"strength": 0.3},
        {"name_of_it": "x", "residual_name": "y"},
        {"model": {"something": 3}},
        {"attention_multiplier": "0.5"},
        {"logit_multiplier": float("nan")},
        {"embedding_multiplier": -3.0},
        {"residual_multiplier": [0.5]},
        {"mup_enabled": "true", "mup_input_alpha": 10.0},
        {"activation": {"name": "relu"}},
        {"attn": {"type": "linear"}},
        {"mlp_config": {"name": "something"}},
        {"approximate": "sigmoid"},
        {"rope_scaling": {"type": "yarn", "factor": 1.0, "attention_factor": 1.5}},
        {"attn_scaler": 0.5},
        {"loss_softcap": 15.0},
        {"nope_every": 4},
        {"layers_without_attention": [0]},
        {"mask_future": False},
        {"size": 3},
    ],
)
def test_what_is_neither_used_nor_neutral_is_named(
    slo_checkpoint: Write, args: dict[str, Any]
) -> None:
    checkpoint = read_checkpoint(slo_checkpoint(**args))
    assert checkpoint.unknown
    with pytest.raises(CheckpointError) as caught:
        require_known(checkpoint)
    entry = checkpoint.unknown[-1]
    assert f"{entry.where} is " in caught.value.message
    assert f"--set ignore={entry.name}" in caught.value.hint
    assert "--reference FILE.py:CLASS" in caught.value.hint
    assert entry.where in " ".join(checkpoint.notes)


@pytest.mark.parametrize(
    "args",
    [
        {"dropout": 0.1, "attn_pdrop": 0.1, "init_std": 0.02, "flash": True, "compile": True},
        {"learning_rate": 6e-4, "weight_decay": 0.1, "betas": (0.9, 0.95), "seed": 1337},
        {"causal": True, "norm_first": True, "scale_attn_weights": True},
        {"a_new_switch": False, "another": None, "third": "none", "fourth": 0, "fifth": []},
        {"embed_scale": 1.0, "some_multiplier": 1, "residual_scale": 1.0},
        {"window_size": 24, "window_pattern": "L", "sliding_window": -1},
        {"n_kv_group": None, "norm_variant_attn": "layernorm", "softmax_variant_attn": "softmax"},
        {"softmax1": False, "softmaxn_param": 1, "n_exp": 1, "rope": False},
        {"head_dim": 8, "position_embedding_type": "absolute", "tie_weights": True},
        {"label_smoothing": 0.1, "use_kv_cache": True, "pin_memory": True, "scaler": 1},
        {"arch": "gpt", "model": "gpt2-mini", "tp_size": 8, "freeze_embeddings": True},
        {"top_k": 200, "mode": "train", "keep_last": 3, "sampler": "x", "flops": 3.0},
        {"zero_init": True, "use_xformers": True, "use_ema": True, "pad_token": "x", "mfu": 0.3},
        {"activation": {"name": "gelu"}, "model_card": {"name": "x"}, "max_len": 24},
        {"attention": {"type": "causal", "dropout": 0.1}, "approximate": "erf"},
        {"rope_scaling": {"type": "linear", "factor": 1.0}, "layers_to_freeze": [0]},
    ],
)
def test_neutral_entries_are_no_unknown_ones(slo_checkpoint: Write, args: dict[str, Any]) -> None:
    assert names(read_checkpoint(slo_checkpoint(**args))) == []


def test_what_cannot_be_judged_is_not_called_another_function(slo_checkpoint: Write) -> None:
    told = [str(each) for each in read_checkpoint(slo_checkpoint(size=3, max_len=9)).unknown]
    assert told == ["model_args.size is 3", "model_args.max_len is 9"]


def test_a_scaling_of_rotary_frequencies_is_named_once(slo_checkpoint: Write) -> None:
    scaling = {"type": "linear", "factor": 2.0, "low": 3}
    assert names(read_checkpoint(slo_checkpoint(rope_scaling=scaling))) == [
        "model_args.rope_scaling"
    ]


def test_two_names_of_one_fact_must_agree(slo_checkpoint: Write) -> None:
    path = slo_checkpoint(norm_eps=1e-5, layer_norm_eps=1e-6)
    with pytest.raises(CheckpointError, match=r"norm_eps = 1e-05 and .*layer_norm_eps = 1e-06"):
        read_checkpoint(path)
    assert read_checkpoint(path, given("norm_eps=1e-6")).spec.norm_eps == 1e-6
    with pytest.raises(CheckpointError, match=r"other\.norm_eps"):
        read_checkpoint(slo_checkpoint(norm_eps=1e-5, other={"norm_eps": 1e-6}))
    assert read_checkpoint(slo_checkpoint(n_embd=32, rotary={"dim": 8})).spec.n_embd == 32


def test_config_beside_model_args_holds_the_trainers_globals(
    slo_content: Content, tmp_path: Path
) -> None:
    content = slo_content()
    content["config"] |= {"anything": "at all", "qk_norm": True}
    assert names(read_checkpoint(saved(content, tmp_path / "c.pt"))) == ["config.qk_norm"]


@pytest.mark.parametrize("place", ["config", "hyper_parameters", "hparams", "settings_of_mine"])
def test_a_models_own_settings_are_read_to_the_last_entry(
    slo_content: Content, tmp_path: Path, place: str
) -> None:
    settings = {**SIZES, "bias": True, "lr": 1e-3, "strange": 7, "inner": {"other": 2}}
    path = saved({"state_dict": slo_content()["model"], place: settings}, tmp_path / "c.pt")
    assert names(read_checkpoint(path)) == [f"{place}.strange", f"{place}.inner.other"]


def test_an_unknown_entry_is_accepted_by_hand(slo_checkpoint: Write) -> None:
    path = slo_checkpoint(a_new_switch=True, strength=0.3)
    checkpoint = read_checkpoint(path, given("ignore=a_new_switch"))
    assert names(checkpoint) == ["model_args.strength"]
    both = read_checkpoint(path, given("ignore=strength", "ignore=a_new_switch"))
    require_known(both)
    assert both.given == {"ignore": ["a_new_switch", "strength"]}
    assert json.loads(json.dumps(both.given)) == both.given
    assert (
        "Accepted by hand: model_args.a_new_switch, which is True in the file and not known here."
        in both.notes
    )
    assert [a.value for a in both.assumptions[:2]] == ["a_new_switch", "strength"]
    for name in ("not_there", "n_head"):
        with pytest.raises(UsageError, match=f"--set ignore={name}"):
            read_checkpoint(path, given(f"ignore={name}"))


def test_a_witness_in_sight(slo_checkpoint: Write) -> None:
    checkpoint = read_checkpoint(slo_checkpoint(a_new_switch=True))
    assert not witness_in_sight(checkpoint, None)
    assert witness_in_sight(checkpoint, "model.py:GPT")
    (checkpoint.path.parent / "parity.safetensors").touch()
    assert witness_in_sight(checkpoint, None)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ({"activation_variant": "relu"}, "relu"),
        ({"activation_function": "gelu_pytorch_tanh"}, "gelu_tanh"),
        ({"hidden_act": "gelu_new"}, "gelu_tanh"),
        ({"act_fn": "NewGELU"}, "gelu_tanh"),
        ({"mlp_type": "squared_relu"}, "relu2"),
        ({"use_relu2": True}, "relu2"),
        ({"approximate": "tanh"}, "gelu_tanh"),
    ],
)
def test_a_recorded_activation_is_used(
    slo_checkpoint: Write, args: dict[str, Any], expected: str
) -> None:
    checkpoint = read_checkpoint(slo_checkpoint(**args))
    require_known(checkpoint)
    assert checkpoint.spec.activation == expected
    assert "activation" not in assumed(checkpoint)
    with pytest.raises(UsageError, match=r"--set activation=silu: but .* records"):
        read_checkpoint(checkpoint.path, given("activation=silu"))


def test_gelu_alone_does_not_say_which(slo_checkpoint: Write) -> None:
    path = slo_checkpoint(activation="gelu")
    assert assumed(read_checkpoint(path))["activation"] == "gelu"
    assert read_checkpoint(path, given("gelu=tanh")).spec.activation == "gelu_tanh"


def test_a_gate_where_there_is_none(slo_checkpoint: Write) -> None:
    with pytest.raises(CheckpointError, match="activation is 'swiglu', but its MLP has two"):
        read_checkpoint(slo_checkpoint(use_swiglu=False, activation="swiglu"))


@pytest.mark.parametrize(
    ("said", "fact", "value"),
    [
        ("activation=gelu_tanh", "activation", "gelu_tanh"),
        ("activation=gelu_new", "activation", "gelu_tanh"),
        ("eps=1e-6", "norm_eps", 1e-6),
        ("theta=5e5", "rope_theta", 5e5),
        ("pairs=halves", "rotary_pairs", "halves"),
        ("scale=0.125", "attention_multiplier", 0.125),
        ("embedding_multiplier=2", "embedding_multiplier", 2.0),
        ("residual_multiplier=0.5", "residual_multiplier", 0.5),
        ("logit_multiplier=2", "logit_multiplier", 2.0),
        ("norm=rmsnorm", "norm", "rmsnorm"),
    ],
)
def test_facts_that_can_be_set(slo_checkpoint: Write, said: str, fact: str, value: Any) -> None:
    path = slo_checkpoint(use_rope=True, bias=False)
    assert fact in assumed(read_checkpoint(path))
    checkpoint = read_checkpoint(path, given(said))
    assert getattr(checkpoint.spec, fact) == value
    first = checkpoint.assumptions[0]
    assert (first.name, first.value) == (fact, value)
    assert "by hand" in first.why
    assert [each.name for each in checkpoint.assumptions].count(fact) == 1


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("activation=foo", "is none of gelu, gelu_tanh, quick_gelu, relu, relu2, silu"),
        ("pairs=sideways", "is none of interleaved, halves"),
        ("norm=batchnorm", "is none of layernorm, rmsnorm"),
        ("n_head=four", "is not NAME=VALUE"),
        ("activation=", "is not NAME=VALUE"),
        ("ignore=", "is not NAME=VALUE"),
    ],
)
def test_nonsense_names_the_choices(said: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        given(said)


@pytest.mark.parametrize("said", ["scale=-1", "scale=true", "norm=rmsnorm", "tied=false"])
def test_what_cannot_be_set(slo_checkpoint: Write, said: str) -> None:
    with pytest.raises(UsageError, match="--set"):
        read_checkpoint(slo_checkpoint(), given(said))


def test_files_that_betray_their_age(slo_content: Content, tmp_path: Path) -> None:
    content = slo_content()
    assert read_checkpoint(saved(content, tmp_path / "new.pt")).spec.activation == "gelu"
    del content["model_args"]["bias"]
    old = read_checkpoint(saved(content, tmp_path / "old.pt"))
    assert (old.spec.activation, old.assumptions[0].name) == ("gelu_tanh", "activation")
    assert "27 January 2023" in old.assumptions[0].why
    masks = {f"transformer.h.{i}.attn.bias": torch.ones(1, 1, 24, 24).tril() for i in range(2)}
    bare = slo_content(tied=False)["model"] | masks
    mingpt = read_checkpoint(saved(bare, tmp_path / "mingpt.pt"), {"n_head": 4})
    assert mingpt.spec.activation == "gelu_tanh"
    with_key = slo_content()
    with_key["model"] |= masks
    later = read_checkpoint(saved(with_key, tmp_path / "later.pt"))
    assert later.spec.activation == "gelu"
    assert "causal masks" in later.assumptions[0].why
    build = {"model": slo_content()["model"], "config": dict(SIZES), "step": 9, "val_loss": 3.1}
    assert read_checkpoint(saved(build, tmp_path / "b.pt")).spec.activation == "gelu_tanh"


def test_grouped_heads_in_a_stacked_matrix(slo_content: Content, tmp_path: Path) -> None:
    content = slo_content(n_kv_head=1)
    for name in [n for n in content["model"] if ".c_attn." in n]:
        content["model"][name] = content["model"][name][: 32 + 2 * 8]
    assert read_checkpoint(saved(content, tmp_path / "m.pt")).spec.n_kv_head == 1
    del content["model_args"]["n_kv_head"]
    path = saved(content, tmp_path / "m.pt")
    assert read_checkpoint(path).spec.n_kv_head == 1
    with pytest.raises(UsageError, match="n_kv_head"):
        read_checkpoint(saved(slo_content(n_kv_head=4), path), {"n_kv_head": 2})


def test_a_rotary_fork_by_another_name(slo_content: Content, tmp_path: Path) -> None:
    content = slo_content(use_rope=True, bias=False)
    del content["model_args"]["use_rope"]
    path = saved(content, tmp_path / "r.pt")
    with pytest.raises(CheckpointError, match=r"--set use_rope=true") as caught:
        read_checkpoint(path)
    assert "rotary_pairs" in caught.value.hint
    assert read_checkpoint(path, given("use_rope=true")).spec.positions == "rotary"
    content["model_args"]["rope"] = True
    assert read_checkpoint(saved(content, path)).spec.positions == "rotary"


@pytest.mark.parametrize("dialect", ["llama2c", "sloughgpt", "nanogpt"])
def test_a_head_that_is_not_there(state_dict: StateDict, tmp_path: Path, dialect: str) -> None:
    state = state_dict(dialect)
    del state["output.weight" if dialect == "llama2c" else "lm_head.weight"]
    sizes = {"n_head": 4, "block_size": 8}
    path = saved({"model": state, "config": sizes}, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match="--set tied=true"):
        read_checkpoint(path)
    checkpoint = read_checkpoint(path, given("tied=true"))
    assert checkpoint.spec.tied
    assert checkpoint.assumptions[0].name == "tied"
    path = saved({"model": state, "config": sizes | {"tie_weights": True}}, tmp_path / "m.pt")
    assert "tied" not in assumed(read_checkpoint(path))


def test_an_alias_in_the_metadata_of_safetensors(slo_content: Content, tmp_path: Path) -> None:
    model = {n: t.clone() for n, t in slo_content()["model"].items()}
    del model["transformer.wte.weight"]
    metadata = {n: str(v) for n, v in {**SIZES, "bias": True, "dropout": None}.items()}
    path = tmp_path / "gpt.safetensors"
    save_file(model, path, metadata | {"transformer.wte.weight": "lm_head.weight"})
    checkpoint = read_checkpoint(path)
    require_known(checkpoint)
    assert checkpoint.spec.tied and "tied" not in assumed(checkpoint)


def test_settings_beside_bare_weights(state_dict: StateDict, tmp_path: Path) -> None:
    path = saved(state_dict("llama2c"), tmp_path / "meta" / "consolidated.00.pth")
    params = {"dim": 16, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "vocab_size": -1}
    beside = path.parent / "params.json"
    beside.write_text(json.dumps(params | {"rope_theta": 5e5, "norm_eps": 1e-6}))
    checkpoint = read_checkpoint(path, {"block_size": 8})
    assert (checkpoint.spec.rope_theta, checkpoint.spec.norm_eps) == (5e5, 1e-6)
    assert beside in checkpoint.files
    assert not {"rope_theta", "norm_eps"} & assumed(checkpoint).keys()
    beside.write_text(json.dumps(params | {"use_scaled_rope": True}))
    assert names(read_checkpoint(path, {"block_size": 8})) == ["params.json.use_scaled_rope"]
    beside.write_text("{")
    assert "params.json is not read" in " ".join(
        read_checkpoint(path, {"n_head": 4, "block_size": 8}).notes
    )
    own = saved({"model": state_dict("llama2c"), "model_args": params | {"max_seq_len": 8}}, path)
    beside.write_text(json.dumps(params | {"rope_theta": 5e5}))
    assert read_checkpoint(own).spec.rope_theta == 10_000


def test_settings_beside_weights_that_record_their_sizes(
    slo_content: Content, tmp_path: Path
) -> None:
    model = {n: t.clone() for n, t in slo_content(tied=False)["model"].items()}
    path, beside = tmp_path / "m.safetensors", tmp_path / "config.json"
    save_file(model, path, {name: str(value) for name, value in SIZES.items()})
    beside.write_text(json.dumps({**SIZES, "logit_softcap": 30.0}))
    assert names(read_checkpoint(path)) == ["config.json.logit_softcap"]
    beside.write_text(json.dumps({**SIZES, "n_layer": 3, "logit_softcap": 30.0}))
    other = read_checkpoint(path)
    assert names(other) == [] and beside not in other.files
    assert "config.json is not read: its n_layer is another model's." in other.notes


def test_params_json_beside_a_bin_file(golden: Callable[[str], Path], tmp_path: Path) -> None:
    path = Path(shutil.copy(golden("llama2c-tied") / "model_v1.bin", tmp_path))
    params = {"dim": 64, "n_layers": 3, "n_heads": 4, "rope_theta": 5e5, "norm_eps": 1e-6}
    (tmp_path / "params.json").write_text(json.dumps(params | {"strange": 7}))
    checkpoint = read_checkpoint(path)
    assert (checkpoint.spec.rope_theta, checkpoint.spec.norm_eps) == (5e5, 1e-6)
    assert not {"rope_theta", "norm_eps"} & assumed(checkpoint).keys()
    assert names(checkpoint) == ["params.json.strange"]


def test_config_json_in_a_run_folder(slo_content: Content, tmp_path: Path) -> None:
    model = {n: t.clone() for n, t in slo_content(tied=False)["model"].items()}
    save_file(model, tmp_path / "model.safetensors")
    config = {**SIZES, "bias": True, "activation": "relu2"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    for path in (tmp_path, tmp_path / "model.safetensors"):
        checkpoint = read_checkpoint(path)
        assert (checkpoint.spec.activation, checkpoint.spec.n_head) == ("relu2", 4)


def test_every_spec_names_what_it_rests_on(
    slo_checkpoint: Write, switches: dict[str, bool]
) -> None:
    checkpoint = read_checkpoint(slo_checkpoint(**switches))
    found = assumed(checkpoint)
    always = {"activation", "norm_eps", "attention_multiplier", "positions", "norm_placement"}
    always |= {"embedding_multiplier", "residual_multiplier", "logit_multiplier", "qk_norm"}
    always |= {"parallel_residual", "attention_window", "softmax", "logit_softcap", "family"}
    assert always <= found.keys()
    rotary = {"rope_theta", "rotary_pairs", "partial_rotary", "rope_scaling"}
    assert (rotary <= found.keys()) == switches["use_rope"]
    assert ("gate" in found) == switches["use_swiglu"]
    assert len(found) == len(checkpoint.assumptions)
    json.dumps([[a.name, a.value, a.why, a.text] for a in checkpoint.assumptions])
