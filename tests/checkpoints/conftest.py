"""State dicts of every dialect, their names written out as the trainers' models have them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

SIZES: dict[str, int] = {
    "n_layer": 2,
    "n_head": 4,
    "n_kv_head": 2,
    "n_embd": 16,
    "n_hidden": 24,
    "vocab_size": 11,
    "block_size": 8,
}


def _llama2c(s: dict[str, int]) -> dict[str, tuple[int, ...]]:
    n, kv = s["n_embd"], s["n_kv_head"] * s["n_embd"] // s["n_head"]
    shapes: dict[str, tuple[int, ...]] = {"tok_embeddings.weight": (s["vocab_size"], n)}
    for i in range(s["n_layer"]):
        for name, shape in {
            "attention.wq": (n, n),
            "attention.wk": (kv, n),
            "attention.wv": (kv, n),
            "attention.wo": (n, n),
            "feed_forward.w1": (s["n_hidden"], n),
            "feed_forward.w2": (n, s["n_hidden"]),
            "feed_forward.w3": (s["n_hidden"], n),
            "attention_norm": (n,),
            "ffn_norm": (n,),
        }.items():
            shapes[f"layers.{i}.{name}.weight"] = shape
    return shapes | {"norm.weight": (n,), "output.weight": (s["vocab_size"], n)}


def _sloughgpt(s: dict[str, int]) -> dict[str, tuple[int, ...]]:
    n, kv = s["n_embd"], s["n_kv_head"] * s["n_embd"] // s["n_head"]
    shapes: dict[str, tuple[int, ...]] = {"tok_emb.weight": (s["vocab_size"], n)}
    for i in range(s["n_layer"]):
        for name, shape in {
            "norm1": (n,),
            "attn.q_proj": (n, n),
            "attn.k_proj": (kv, n),
            "attn.v_proj": (kv, n),
            "attn.o_proj": (n, n),
            "norm2": (n,),
            "mlp.w1": (s["n_hidden"], n),
            "mlp.w2": (n, s["n_hidden"]),
            "mlp.w3": (s["n_hidden"], n),
        }.items():
            shapes[f"blocks.{i}.{name}.weight"] = shape
    return shapes | {"norm.weight": (n,), "lm_head.weight": (s["vocab_size"], n)}


def _nanogpt(s: dict[str, int]) -> dict[str, tuple[int, ...]]:
    n = s["n_embd"]
    shapes: dict[str, tuple[int, ...]] = {
        "token_embedding_table.weight": (s["vocab_size"], n),
        "position_embedding_table.weight": (s["block_size"], n),
    }
    for i in range(s["n_layer"]):
        for name, shape in {
            "ln_1.weight": (n,),
            "ln_1.bias": (n,),
            "attn.c_attn.weight": (3 * n, n),
            "attn.c_proj.weight": (n, n),
            "ln_2.weight": (n,),
            "ln_2.bias": (n,),
            "mlp.c_fc.weight": (4 * n, n),
            "mlp.c_proj.weight": (n, 4 * n),
        }.items():
            shapes[f"blocks.{i}.{name}"] = shape
    return shapes | {
        "ln_f.weight": (n,),
        "ln_f.bias": (n,),
        "lm_head.weight": (s["vocab_size"], n),
    }


SHAPES = {"llama2c": _llama2c, "sloughgpt": _sloughgpt, "nanogpt": _nanogpt}


@pytest.fixture(scope="session")
def state_dict() -> Callable[..., dict[str, Tensor]]:
    """Makes a state dict of seeded random values: ``(dialect, dtype="float32", **sizes)``."""

    def make(dialect: str, dtype: str = "float32", **sizes: Any) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(7)
        return {
            name: torch.randn(shape, generator=generator).to(getattr(torch, dtype))
            for name, shape in SHAPES[dialect](SIZES | sizes).items()
        }

    return make
