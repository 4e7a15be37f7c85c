"""The gate on the families beside Slo: clean artefacts pass, planted faults do not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from slogpt_hf.checkpoints import Checkpoint
from slogpt_hf.parity.gate import verify_artefact

Make = Callable[..., Checkpoint]
Write = Callable[..., Path]
State = dict[str, Tensor]
Fault = Callable[[State], None]

ATTENTION = "model.layers.1.self_attn."
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama2c": ("llama2c", {}),
    "llama2c, tied": ("llama2c", {"tied": True}),
    "llama2c, grouped": ("llama2c", {"n_kv_head": 2}),
    "llama2c, single k/v head, tied": ("llama2c", {"n_kv_head": 1, "tied": True}),
    "llama2c, one layer, one head": ("llama2c", {"n_layer": 1, "n_head": 1, "n_kv_head": 1}),
    "sloughgpt": ("sloughgpt", {}),
    "sloughgpt, grouped": ("sloughgpt", {"n_kv_head": 2}),
    "sloughgpt, single k/v head": ("sloughgpt", {"n_kv_head": 1}),
    "sloughgpt, equal head": ("sloughgpt", {"tied": True}),
    "nanogpt": ("nanogpt", {}),
    "nanogpt, equal head": ("nanogpt", {"tied": True}),
    "nanogpt, other hidden size": ("nanogpt", {"n_hidden": 20}),
}
TITLES = {"llama2c": "llama2.c", "sloughgpt": "SloughGPT", "nanogpt": "NanoGPT variant"}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_passes(shape: str, family_checkpoint: Make, family_artefact: Write) -> None:
    dialect, sizes = SHAPES[shape]
    checkpoint = family_checkpoint(dialect, **sizes)
    report = verify_artefact(checkpoint, family_artefact(checkpoint), text_ids=[3, 1, 4])
    assert report.passed, report.failures
    assert report.oracle == f"built-in plain-torch {TITLES[dialect]} model"
    assert report.first_divergence is None and report.merge_error is None
    assert report.embedding_equal and report.head_equal
    assert report.to_dict()["merge_error"] is None
    assert "merge" not in report.summary()


@pytest.mark.parametrize("dialect", TITLES)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_every_dtype_passes(
    dialect: str, dtype: str, family_checkpoint: Make, family_artefact: Write
) -> None:
    checkpoint = family_checkpoint(dialect, dtype=dtype)
    report = verify_artefact(checkpoint, family_artefact(checkpoint))
    assert report.passed, report.failures
    assert report.dtype == dtype


@pytest.mark.parametrize("dialect", TITLES)
def test_a_cast_artefact_is_compared_with_the_equally_rounded_original(
    dialect: str, family_checkpoint: Make, family_artefact: Write
) -> None:
    checkpoint = family_checkpoint(dialect, tied=dialect == "llama2c")
    report = verify_artefact(checkpoint, family_artefact(checkpoint, "bfloat16"))
    assert report.passed, report.failures


def edit(change: Callable[[Tensor], Tensor], *names: str) -> Fault:
    def fault(state: State) -> None:
        for name in names:
            state[name] = change(state[name])

    return fault


def swap(a: str, b: str) -> Fault:
    def fault(state: State) -> None:
        state[a], state[b] = state[b], state[a]

    return fault


def to_pairs(heads: int) -> Callable[[Tensor], Tensor]:
    """Rows of every head from halves back to neighbouring pairs."""
    return lambda w: w.view(heads, 2, -1, w.shape[1]).transpose(1, 2).reshape(w.shape)


def pairs_to_halves(heads: int) -> Callable[[Tensor], Tensor]:
    return lambda w: w.view(heads, -1, 2, w.shape[1]).transpose(1, 2).reshape(w.shape)


def by_the_query_heads(w: Tensor) -> Tensor:
    """k of 2 heads, permuted as if it had the 4 of the query."""
    return pairs_to_halves(4)(to_pairs(2)(w))


def heads_reversed(w: Tensor) -> Tensor:
    return w.view(2, -1, w.shape[1]).flip(0).reshape(w.shape)


def repeated_wrongly(w: Tensor) -> Tensor:
    """Columns of the output as if query head h took k/v head h % 2 and not h // 2."""
    return w.view(w.shape[0], 4, -1)[:, [0, 2, 1, 3]].reshape(w.shape)


def stale_row(w: Tensor) -> Tensor:
    w[5] *= 1.01
    return w


def stale(w: Tensor) -> Tensor:
    return w * 1.0001


GROUPED: dict[str, Any] = {"n_kv_head": 2}
Q, K, V, O = (f"{ATTENTION}{kind}_proj.weight" for kind in "qkvo")  # noqa: E741
GATE, UP = (f"model.layers.0.mlp.{kind}_proj.weight" for kind in ("gate", "up"))
WEIGHT_FAULTS: dict[str, tuple[str, dict[str, Any], Fault, str]] = {
    "q and k left as pairs": ("llama2c", {}, edit(to_pairs(4), Q, K), "layer 1"),
    "only q left as pairs": ("llama2c", {}, edit(to_pairs(4), Q), "layer 1"),
    "grouped k left as pairs": ("llama2c", GROUPED, edit(to_pairs(2), K), "layer 1"),
    "k permuted by the query's heads": (
        "llama2c",
        GROUPED,
        edit(by_the_query_heads, K),
        "layer 1",
    ),
    "halves permuted though they are halves": (
        "sloughgpt",
        {},
        edit(pairs_to_halves(4), Q, K),
        "layer 1",
    ),
    "gate and up swapped": ("llama2c", {}, swap(GATE, UP), "layer 0"),
    "gate and up swapped in SloughGPT": ("sloughgpt", GROUPED, swap(GATE, UP), "layer 0"),
    "q and k swapped": ("sloughgpt", {}, swap(Q, K), "layer 1"),
    "k and v swapped": ("llama2c", GROUPED, swap(K, V), "layer 1"),
    "k and v heads in another order": (
        "sloughgpt",
        GROUPED,
        edit(heads_reversed, K, V),
        "layer 1",
    ),
    "query heads take other k/v heads": (
        "sloughgpt",
        GROUPED,
        edit(repeated_wrongly, O),
        "layer 1",
    ),
    "norms of a block swapped": (
        "llama2c",
        {},
        swap(
            "model.layers.0.input_layernorm.weight",
            "model.layers.0.post_attention_layernorm.weight",
        ),
        "layer 0",
    ),
    "final norm stale": (
        "sloughgpt",
        {},
        edit(stale, "model.norm.weight"),
        "final norm or head",
    ),
    "one stale embedding row": (
        "llama2c",
        {},
        edit(stale_row, "model.embed_tokens.weight"),
        "embedding and positions",
    ),
    "one stale row of the head": (
        "sloughgpt",
        {},
        edit(stale_row, "lm_head.weight"),
        "final norm or head",
    ),
    "attention of NanoGPT not transposed": (
        "nanogpt",
        {},
        edit(torch.t, "transformer.h.0.attn.c_proj.weight"),
        "layer 0",
    ),
    "q and k of NanoGPT swapped": (
        "nanogpt",
        {},
        edit(
            lambda w: torch.cat([w[:, 32:64], w[:, :32], w[:, 64:]], dim=1),
            "transformer.h.1.attn.c_attn.weight",
        ),
        "layer 1",
    ),
    "bias where NanoGPT has none": (
        "nanogpt",
        {},
        edit(lambda b: b + 1e-6, "transformer.h.1.mlp.c_fc.bias"),
        "layer 1",
    ),
    "position of NanoGPT stale": (
        "nanogpt",
        {},
        edit(stale_row, "transformer.wpe.weight"),
        "embedding and positions",
    ),
}


@pytest.mark.parametrize("fault", WEIGHT_FAULTS)
def test_fault_in_the_weights_is_caught_and_placed(
    fault: str, family_checkpoint: Make, family_artefact: Write
) -> None:
    dialect, sizes, plant, where = WEIGHT_FAULTS[fault]
    checkpoint = family_checkpoint(dialect, **sizes)
    report = verify_artefact(checkpoint, family_artefact(checkpoint, fault=plant))
    assert not report.passed
    assert report.first_divergence and report.first_divergence.split(",")[0] == where
    assert any("float64 relative error" in failure for failure in report.failures)
    json.dumps(report.to_dict(), allow_nan=False)


CONFIG_FAULTS: dict[str, tuple[str, dict[str, Any]]] = {
    "eps of llama2.c": ("llama2c", {"rms_norm_eps": 1e-6}),
    "eps of SloughGPT": ("sloughgpt", {"rms_norm_eps": 1.1e-5}),
    "eps of NanoGPT": ("nanogpt", {"layer_norm_epsilon": 1e-6}),
    "tanh GELU": ("nanogpt", {"activation_function": "gelu_new"}),
    "rotary base": (
        "llama2c",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 10_001.0}},
    ),
}


@pytest.mark.parametrize("fault", CONFIG_FAULTS)
def test_fault_in_the_config_is_caught_and_placed(
    fault: str, family_checkpoint: Make, family_artefact: Write
) -> None:
    dialect, fields = CONFIG_FAULTS[fault]
    checkpoint = family_checkpoint(dialect)
    report = verify_artefact(checkpoint, family_artefact(checkpoint, **fields))
    assert not report.passed
    assert report.first_divergence and report.first_divergence.split(",")[0] == "layer 0"


def drop_head(state: State) -> None:
    del state["lm_head.weight"]


@pytest.mark.parametrize("dialect", TITLES)
def test_head_tied_though_it_is_its_own_is_caught(
    dialect: str, family_checkpoint: Make, family_artefact: Write
) -> None:
    checkpoint = family_checkpoint(dialect)
    folder = family_artefact(checkpoint, fault=drop_head, tie_word_embeddings=True)
    report = verify_artefact(checkpoint, folder)
    assert not report.passed and report.embedding_equal and not report.head_equal
    assert report.first_divergence == "final norm or head"


@pytest.mark.parametrize("dialect", TITLES)
def test_head_of_its_own_though_it_is_tied_is_caught(
    dialect: str, family_checkpoint: Make, family_artefact: Write
) -> None:
    checkpoint = family_checkpoint(dialect, tied=True)
    embedding = f"{'transformer.wte' if dialect == 'nanogpt' else 'model.embed_tokens'}.weight"

    def fault(state: State) -> None:
        state["lm_head.weight"] = stale_row(state[embedding].clone())

    folder = family_artefact(checkpoint, fault=fault, tie_word_embeddings=False)
    report = verify_artefact(checkpoint, folder)
    assert not report.passed and report.embedding_equal and not report.head_equal


def test_sizes_of_another_model_are_named(family_checkpoint: Make, family_artefact: Write) -> None:
    folder = family_artefact(family_checkpoint("llama2c", vocab_size=30))
    report = verify_artefact(family_checkpoint("llama2c"), folder)
    assert report.failures == ("The artefact's vocabulary size is 30, the original's is 37.",)
    assert report.oracle == "built-in plain-torch llama2.c model"
    assert report.merge_error is None
