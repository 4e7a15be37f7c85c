"""Every dialect in every layout: what is read, what follows from shapes, what must be given."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from slogpt_hf.checkpoints import Checkpoint, read_checkpoint
from slogpt_hf.checkpoints.reader import DIALECTS
from slogpt_hf.errors import CheckpointError, UsageError

StateDict = Callable[..., dict[str, Tensor]]
LLAMA2C_ARGS = {
    "dim": 16,
    "n_layers": 2,
    "n_heads": 4,
    "n_kv_heads": 2,
    "vocab_size": 11,
    "hidden_dim": 24,
    "multiple_of": 32,
    "max_seq_len": 8,
    "dropout": 0.0,
}
SLOUGH_CONFIG = {"vocab_size": 11, "n_embed": 16, "n_layer": 2, "n_head": 4, "block_size": 8}
STOI = {c: i for i, c in enumerate("abcdefghijk")}
ITOS = {i: c for c, i in STOI.items()}


def saved(content: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


def error(path: Path, **given: Any) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path, given)
    assert "\n" not in str(caught.value)
    return caught.value


GOLDEN_FILES = {
    "llama2c-tied/ckpt.pt": ("llama2c", (4, 4, 64, 176, 96, 40)),
    "llama2c-tied/model_v0.bin": ("llama2c", (4, 4, 64, 176, 96, 40)),
    "llama2c-tied/model_v1.bin": ("llama2c", (4, 4, 64, 176, 96, 40)),
    "llama2c-tied/model_v2_q80.bin": ("llama2c", (4, 4, 64, 176, 96, 40)),
    "llama2c-gqa-untied/ckpt.pt": ("llama2c", (4, 2, 64, 176, 101, 40)),
    "llama2c-gqa-untied/model_v0.bin": ("llama2c", (4, 2, 64, 176, 101, 40)),
    "llama2c-gqa-untied/model_v1.bin": ("llama2c", (4, 2, 64, 176, 101, 40)),
    "llama2c-gqa-untied/model_v2_q80.bin": ("llama2c", (4, 2, 64, 176, 101, 40)),
    "nanogpt-variant/model.pt": ("nanogpt", (4, 4, 48, 192, 65, 40)),
    "sloughgpt-step/step_200.pt": ("sloughgpt", (4, 4, 64, 192, 65, 48)),
}


@pytest.mark.parametrize("name", GOLDEN_FILES)
def test_golden_files(golden: Callable[[str], Path], name: str) -> None:
    folder, _, file = name.partition("/")
    dialect, sizes = GOLDEN_FILES[name]
    checkpoint = read_checkpoint(golden(folder) / file)
    spec = checkpoint.spec
    assert checkpoint.dialect == dialect
    assert sizes == (
        spec.n_head,
        spec.n_kv_head,
        spec.n_embd,
        spec.n_hidden,
        spec.vocab_size,
        spec.block_size,
    )
    assert spec.tied == ("llama2c-tied" in name)
    assert (checkpoint.vocabulary is not None) == (dialect != "llama2c")


def test_golden_sou_needs_what_no_file_records(golden: Callable[[str], Path]) -> None:
    path = golden("sloughgpt-sou") / "model.sou"
    caught = error(path)
    assert "does not record n_head and block_size" in caught.message
    assert "--set n_head=... --set block_size=..." in caught.hint
    assert "n_head divides the width 64: one of 1, 2, 4, 8, 16, 32." in caught.hint
    checkpoint = read_checkpoint(path, {"n_head": 4, "block_size": 48})
    assert (checkpoint.spec.n_head, checkpoint.spec.block_size) == (4, 48)
    assert checkpoint.facts.profile["name"] == "Golden"
    assert checkpoint.facts.dataset == "shakespeare"
    assert "given by hand: n_head=4, block_size=48" in " ".join(checkpoint.notes)


def sloughgpt_forms(state: dict[str, Tensor], folder: Path) -> dict[str, Path]:
    """One model in every layout that the trainer has."""
    run = folder / "checkpoint_step_5_20260401"
    saved(state, run / "model.pt")
    metadata = {"step": 5, "eval_loss": 1.5, "config": SLOUGH_CONFIG, "stoi": STOI}
    (run / "metadata.json").write_text(json.dumps(metadata))
    save_file(
        state,
        folder / "model.safetensors",
        {"step": "5", "eval_loss": "1.5"} | {k: str(v) for k, v in SLOUGH_CONFIG.items()},
    )
    texts = {"stoi": STOI, "itos": ITOS}
    return {
        "step": saved(
            {
                "model_state_dict": state,
                "step": 5,
                "epoch": 1,
                "metrics": {"eval_loss": 1.5, "loss": 1.4},
                "timestamp": "2026-04-01T00:00:00",
                "config": SLOUGH_CONFIG,
                "chars": list(STOI),
                **texts,
            },
            folder / "step_5.pt",
        ),
        "checkpoint step": saved(
            {
                "model_state_dict": state,
                "optimizer_state_dict": {"state": {0: {"exp_avg": torch.ones(3)}}},
                "scheduler_state_dict": {"last_epoch": 1},
                "step": 5,
                "epoch": 1,
                "train_loss": 1.4,
                "training_info": SLOUGH_CONFIG | {"eval_loss": 1.5},
                **texts,
            },
            folder / "checkpoint_step_5.pt",
        ),
        "model.pt": saved(
            {
                "model": state,
                "vocab_size": 11,
                "step": 5,
                "metrics": {"eval_loss": 1.5},
                "config": {k: v for k, v in SLOUGH_CONFIG.items() if k != "vocab_size"},
                **texts,
            },
            folder / "model.pt",
        ),
        "model.pt with metadata": saved(
            {
                "model_state_dict": state,
                "metadata": SLOUGH_CONFIG | texts | {"step": 5, "eval_loss": 1.5},
            },
            folder / "metadata.pt",
        ),
        "folder": run,
        "safetensors": folder / "model.safetensors",
    }


@pytest.mark.parametrize("n_kv_head", [1, 2, 4])
def test_sloughgpt_in_every_layout(state_dict: StateDict, tmp_path: Path, n_kv_head: int) -> None:
    state = state_dict("sloughgpt", n_kv_head=n_kv_head)
    for name, path in sloughgpt_forms(state, tmp_path).items():
        checkpoint = read_checkpoint(path)
        assert checkpoint.spec.n_kv_head == n_kv_head, name
        assert (checkpoint.facts.step, checkpoint.facts.val_loss) == (5, 1.5), name
        assert not checkpoint.spec.tied
        assert checkpoint.spec.rotary_pairs == "halves"
        assert all(torch.equal(checkpoint.tensors[key], state[key]) for key in state), name
        if name != "safetensors":
            assert checkpoint.vocabulary and checkpoint.vocabulary.ids == STOI, name


def test_names_of_files_decide_nothing(state_dict: StateDict, tmp_path: Path) -> None:
    forms = sloughgpt_forms(state_dict("sloughgpt"), tmp_path)
    for form in ("step", "safetensors"):
        renamed = tmp_path / "weights.bin"
        renamed.write_bytes(forms[form].read_bytes())
        assert read_checkpoint(renamed).dialect == "sloughgpt"
        renamed.unlink()


def test_head_that_equals_the_embedding(state_dict: StateDict, tmp_path: Path) -> None:
    state = state_dict("sloughgpt")
    state["lm_head.weight"] = state["tok_emb.weight"].clone()
    path = saved({"model": state, "config": SLOUGH_CONFIG}, tmp_path / "m.pt")
    assert read_checkpoint(path).spec.tied


@pytest.mark.parametrize("bundled", [True, False])
def test_nanogpt_variant(state_dict: StateDict, tmp_path: Path, bundled: bool) -> None:
    state = state_dict("nanogpt")
    content: Any = {"model_state_dict": state, "metadata": {"n_head": 4, "stoi": STOI}}
    path = saved(content if bundled else state, tmp_path / "model.pt")
    checkpoint = read_checkpoint(path, {} if bundled else {"n_head": 4})
    assert (checkpoint.dialect, checkpoint.spec.block_size) == ("nanogpt", 8)
    assert (checkpoint.spec.norm_bias, checkpoint.spec.linear_bias) == (True, False)
    if not bundled:
        assert "does not record n_head, which" in error(path).message


@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "module."])
def test_llama2c_as_its_trainer_saves_it(
    state_dict: StateDict, tmp_path: Path, prefix: str
) -> None:
    state = {f"{prefix}{name}": tensor for name, tensor in state_dict("llama2c").items()}
    state |= {f"{prefix}freqs_cos": torch.ones(8, 2), f"{prefix}freqs_sin": torch.ones(8, 2)}
    content = {
        "model": state,
        "optimizer": {"state": {}},
        "model_args": LLAMA2C_ARGS,
        "iter_num": 9,
        "best_val_loss": torch.tensor(2.5),
        "config": {"dataset": "tinystories", "learning_rate": 5e-4},
    }
    checkpoint = read_checkpoint(saved(content, tmp_path / "ckpt.pt"))
    assert checkpoint.spec.n_kv_head == 2
    assert checkpoint.spec.norm_eps == 1e-5
    assert (checkpoint.facts.step, checkpoint.facts.val_loss) == (9, 2.5)
    assert checkpoint.facts.dataset == "tinystories"
    assert ("norm_eps", 1e-5) in {(a.name, a.value) for a in checkpoint.assumptions}


def test_recorded_eps_is_used(state_dict: StateDict, tmp_path: Path) -> None:
    content = {"model": state_dict("llama2c"), "model_args": LLAMA2C_ARGS | {"norm_eps": 1e-6}}
    path = saved(content, tmp_path / "ckpt.pt")
    assert read_checkpoint(path).spec.norm_eps == 1e-6
    assert "norm_eps" not in {each.name for each in read_checkpoint(path).assumptions}
    with pytest.raises(UsageError, match=r"records model_args.norm_eps = 1e-06"):
        read_checkpoint(path, {"norm_eps": 1e-5})


@pytest.mark.parametrize(
    ("args", "fragments"),
    [
        ({"dim": 32}, ("model_args.dim is 32", "tok_embeddings.weight has shape (11, 16)")),
        ({"hidden_dim": 25}, ("model_args.hidden_dim is 25", "feed_forward")),
        ({"n_layers": 3}, ("model_args.n_layers is 3", "holds 2 blocks")),
        ({"n_kv_heads": 4}, ("model_args.n_kv_heads is 4", "2 heads of 4")),
        ({"n_heads": 5}, ("model_args.n_heads is 5", "does not fit the width n_embd 16")),
        ({"n_heads": 16}, ("even head size",)),
        ({"vocab_size": 12}, ("model_args.vocab_size is 12", "(11, 16)")),
        ({"max_seq_len": None}, ("does not record block_size",)),
        ({"n_heads": None}, ("does not record n_head,", "one of 4.")),
    ],
)
def test_model_args_that_contradict_the_tensors(
    state_dict: StateDict, tmp_path: Path, args: dict[str, Any], fragments: tuple[str, ...]
) -> None:
    content = {"model": state_dict("llama2c"), "model_args": LLAMA2C_ARGS | args}
    caught = str(error(saved(content, tmp_path / "ckpt.pt")))
    for fragment in fragments:
        assert fragment in caught


def slo_state(slo_content: Callable[..., dict[str, Any]], **args: Any) -> dict[str, Any]:
    model: dict[str, Any] = slo_content(**args)["model"]
    return model


def test_bare_slo_state_dict(slo_content: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    path = saved(slo_state(slo_content, use_rope=True, bias=False), tmp_path / "bare.pt")
    assert "does not record use_rmsnorm" in error(path).message
    caught = error(path, use_rmsnorm=False)
    assert "does not record n_head and block_size" in caught.message
    spec = read_checkpoint(path, {"use_rmsnorm": False, "n_head": 4, "block_size": 24}).spec
    assert (spec.norm, spec.positions, spec.mlp) == ("layernorm", "rotary", "plain")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n_heads": 4}, "--set n_heads: is no field of a NanoGPT variant model"),
        ({"use_rope": True}, "--set use_rope: is no field"),
        ({"lora_alpha": 4}, "without a LoRA adapter"),
        ({"n_head": 8}, "records metadata.n_head = 4"),
    ],
)
def test_fields_that_cannot_be_given(
    state_dict: StateDict, tmp_path: Path, given: dict[str, Any], message: str
) -> None:
    content = {"model_state_dict": state_dict("nanogpt"), "metadata": {"n_head": 4}}
    with pytest.raises(UsageError, match=message):
        read_checkpoint(saved(content, tmp_path / "model.pt"), given)


@pytest.mark.parametrize("n_head", [0, -4, 2.5, True])
def test_heads_that_cannot_be(state_dict: StateDict, tmp_path: Path, n_head: Any) -> None:
    path = saved(state_dict("nanogpt"), tmp_path / "m.pt")
    with pytest.raises(UsageError, match=f"--set n_head={n_head}: is not a positive whole number"):
        read_checkpoint(path, {"n_head": n_head})


def test_heads_that_do_not_fit(state_dict: StateDict, tmp_path: Path) -> None:
    caught = error(saved(state_dict("nanogpt"), tmp_path / "m.pt"), n_head=3)
    assert "--set n_head is 3" in caught.message


def demonstration() -> dict[str, Any]:
    layer = {
        "ln_1": torch.ones(8),
        "attn_qkv": torch.ones(24, 8),
        "attn_proj": torch.ones(8, 8),
        "ln_2": torch.ones(8),
        "ffn": torch.ones(32, 8),
    }
    return {
        "n_embed": 8,
        "n_layer": 4,
        "n_head": 2,
        "vocab_size": 11,
        "token_embedding_table": torch.ones(11, 8),
        "position_embedding_table": torch.ones(16, 8),
        "final_layer_norm": torch.ones(8),
        "output_projection": torch.ones(11, 8),
    } | {f"layer_{i}_{name}": tensor for i in range(4) for name, tensor in layer.items()}


def test_demonstration_dict_is_refused_by_name(tmp_path: Path) -> None:
    caught = error(saved(demonstration(), tmp_path / "model.pt"))
    assert "flat demonstration dict" in caught.message
    assert "no function to reproduce" in caught.message
    for i in range(4):
        assert f"layer_{i}_ffn_proj" in caught.message


def test_unknown_names_are_shown_with_their_shapes(tmp_path: Path) -> None:
    state = {f"encoder.{i}.w": torch.ones(i + 1, 2) for i in range(20)}
    caught = error(saved({"state_dict": state, "epoch": 3}, tmp_path / "model.pt"))
    for dialect in DIALECTS:
        assert dialect.mark in caught.message
    assert "20 tensors under 'state_dict': encoder.0.w (1, 2), encoder.1.w (2, 2)" in caught.message
    assert "and 12 more" in caught.message
    assert "report" in caught.hint


def test_marks_are_unique() -> None:
    assert len({dialect.mark for dialect in DIALECTS}) == len(DIALECTS)


def unread(checkpoint: Checkpoint) -> str:
    return checkpoint.container


def test_layout_is_named(state_dict: StateDict, tmp_path: Path) -> None:
    forms = sloughgpt_forms(state_dict("sloughgpt"), tmp_path)
    names = {unread(read_checkpoint(path)) for path in forms.values()}
    assert names == {"torch.save file", "run folder", "safetensors file"}


def test_plain_nanogpt_has_no_switches(golden: Callable[[str], Path], tmp_path: Path) -> None:
    """Its train.py knows neither use_rope nor use_swiglu nor use_rmsnorm."""
    path = golden("slo-classic") / "ckpt.pt"
    content = torch.load(path, weights_only=True)
    args = content["model_args"]
    content["model_args"] = {k: v for k, v in args.items() if not k.startswith("use_")}
    plain = read_checkpoint(saved(content, tmp_path / "ckpt.pt"))
    assert plain.spec == read_checkpoint(path).spec
