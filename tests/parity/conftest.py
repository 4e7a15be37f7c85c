"""Random checkpoints of every family, and artefacts written from them without the conversion."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from slogpt_hf.checkpoints import Checkpoint, Spec, TrainingFacts
from slogpt_hf.checkpoints.adapters import Adapter
from slogpt_hf.checkpoints.parts import Part
from slogpt_hf.checkpoints.tensors import Stored, Tensors
from slogpt_hf.conversion.targets import GPT2, LLAMA

State = dict[str, Tensor]

SIZES = {"n_layer": 2, "n_head": 4, "n_kv_head": 4, "n_embd": 32, "n_hidden": 48}
LLAMA_LIKE: dict[str, Any] = {
    "positions": "rotary",
    "norm": "rmsnorm",
    "mlp": "gated",
    "activation": "silu",
    "linear_bias": False,
    "norm_bias": False,
    "norm_eps": 1e-5,
    "rope_theta": 10_000.0,
}
KINDS: dict[str, dict[str, Any]] = {
    "llama2c": {**LLAMA_LIKE, "rotary_pairs": "interleaved"},
    "sloughgpt": {**LLAMA_LIKE, "rotary_pairs": "halves"},
    "nanogpt": {
        "positions": "learned",
        "norm": "layernorm",
        "mlp": "plain",
        "activation": "gelu",
        "linear_bias": False,
        "norm_bias": True,
        "norm_eps": 1e-5,
    },
}
# Module of the checkpoint -> module of the artefact.
OUTER = {
    "llama2c": {
        "tok_embeddings": "model.embed_tokens",
        "norm": "model.norm",
        "output": "lm_head",
    },
    "sloughgpt": {"tok_emb": "model.embed_tokens", "norm": "model.norm", "lm_head": "lm_head"},
    "nanogpt": {
        "token_embedding_table": "transformer.wte",
        "position_embedding_table": "transformer.wpe",
        "ln_f": "transformer.ln_f",
        "lm_head": "lm_head",
    },
}
HEADS = {"llama2c": "output", "sloughgpt": "lm_head", "nanogpt": "lm_head"}
BLOCKS = {
    "llama2c": ("layers.{i}.", "model.layers.{i}."),
    "sloughgpt": ("blocks.{i}.", "model.layers.{i}."),
    "nanogpt": ("blocks.{i}.", "transformer.h.{i}."),
}
INNER = {
    "llama2c": {
        "attention_norm": "input_layernorm",
        "attention.wq": "self_attn.q_proj",
        "attention.wk": "self_attn.k_proj",
        "attention.wv": "self_attn.v_proj",
        "attention.wo": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm",
        "feed_forward.w1": "mlp.gate_proj",
        "feed_forward.w2": "mlp.down_proj",
        "feed_forward.w3": "mlp.up_proj",
    },
    "sloughgpt": {
        "norm1": "input_layernorm",
        "attn.q_proj": "self_attn.q_proj",
        "attn.k_proj": "self_attn.k_proj",
        "attn.v_proj": "self_attn.v_proj",
        "attn.o_proj": "self_attn.o_proj",
        "norm2": "post_attention_layernorm",
        "mlp.w1": "mlp.gate_proj",
        "mlp.w2": "mlp.down_proj",
        "mlp.w3": "mlp.up_proj",
    },
    "nanogpt": {
        name: name
        for name in ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
    },
}


def to_halves(heads: int, weight: Tensor) -> Tensor:
    """Rows of every head from neighbouring pairs to the two halves."""
    rows, width = weight.shape
    return weight.view(heads, rows // heads // 2, 2, width).transpose(1, 2).reshape(rows, width)


def modules(dialect: str, n_layer: int) -> dict[str, str]:
    """Module of the checkpoint to module of the artefact, head and norms included."""
    ours, theirs = BLOCKS[dialect]
    blocks = {
        ours.format(i=i) + a: theirs.format(i=i) + b
        for i in range(n_layer)
        for a, b in INNER[dialect].items()
    }
    return OUTER[dialect] | blocks


def module_shape(spec: Spec, module: str) -> tuple[int, ...]:
    """Shape of the weight of a module of the artefact, as (out, in) where it is a matrix."""
    n, hidden, kv = spec.n_embd, spec.n_hidden, spec.n_kv_head * spec.head_dim
    last = module.rpartition(".")[2]
    shapes = {
        **dict.fromkeys(("embed_tokens", "wte", "lm_head"), (spec.vocab_size, n)),
        "wpe": (spec.block_size, n),
        **dict.fromkeys(("k_proj", "v_proj"), (kv, n)),
        **dict.fromkeys(("q_proj", "o_proj", "c_proj"), (n, n)),
        "c_attn": (3 * n, n),
        **dict.fromkeys(("gate_proj", "up_proj", "c_fc"), (hidden, n)),
        "down_proj": (n, hidden),
    }
    return (n, hidden) if module.endswith("mlp.c_proj") else shapes.get(last, (n,))


def parts_of(dialect: str, spec: Spec, names: Iterable[str]) -> dict[str, Part]:
    """Role to place; the embedding stands for a head that is not there."""
    held, parts = set(names), {}
    target = GPT2 if dialect == "nanogpt" else LLAMA
    roles = dict(target.outer) | {"lm_head": "head"}
    for i in range(spec.n_layer):
        prefix = target.blocks.format(i=i)
        roles |= {prefix + module: f"blocks.{i}.{role}" for module, role in target.block}
    for ours, theirs in modules(dialect, spec.n_layer).items():
        for kind in ("weight", "bias"):
            if f"{ours}.{kind}" in held:
                parts[f"{roles[theirs]}.{kind}"] = Part(f"{ours}.{kind}")
    return {"head.weight": parts["embed.weight"]} | parts


def checkpoint_of(
    dialect: str,
    spec: Spec,
    tensors: Mapping[str, Tensor],
    adapters: Mapping[str, Adapter] | None = None,
) -> Checkpoint:
    """A checkpoint that holds the given tensors."""

    def stored(tensor: Tensor) -> Stored:
        return Stored(tuple(tensor.shape), str(tensor.dtype)[6:], lambda: tensor)

    return Checkpoint(
        path=Path("model.pt"),
        container="a test",
        dialect=dialect,
        spec=spec,
        tensors=Tensors({name: stored(tensor) for name, tensor in tensors.items()}),
        parts=parts_of(dialect, spec, tensors),
        dtype=str(next(iter(tensors.values())).dtype)[6:],
        facts=TrainingFacts(),
        adapters=adapters or {},
    )


def random_checkpoint(
    dialect: str, *, dtype: str = "float32", seed: int = 0, tied: bool = False, **sizes: int
) -> Checkpoint:
    """A checkpoint whose every value is random; a tied one has no tensor for the head."""
    facts = {"vocab_size": 37, "block_size": 24} | SIZES | KINDS[dialect] | sizes
    spec = Spec(tied=tied, **facts)
    generator = torch.Generator().manual_seed(seed)

    def drawn(shape: tuple[int, ...], gain: float) -> Tensor:
        values = torch.randn(shape, generator=generator, dtype=torch.float64)
        scale = 1.5 / math.sqrt(shape[1]) if len(shape) == 2 else 0.3
        return (values * scale + gain).to(getattr(torch, dtype))

    tensors: State = {}
    for ours, theirs in modules(dialect, spec.n_layer).items():
        if tied and ours == HEADS[dialect]:
            continue
        shape = module_shape(spec, theirs)
        tensors[f"{ours}.weight"] = drawn(shape, 1.0 if len(shape) == 1 else 0.0)
        if spec.norm_bias and len(shape) == 1:
            tensors[f"{ours}.bias"] = drawn(shape, 0.0)
    return checkpoint_of(dialect, spec, tensors)


def artefact_state(checkpoint: Checkpoint, tensors: Mapping[str, Tensor]) -> State:
    """The tensors of the artefact that computes what a checkpoint with ``tensors`` computes."""
    spec, state = checkpoint.spec, {}
    for ours, theirs in modules(checkpoint.dialect, spec.n_layer).items():
        if spec.tied and theirs == "lm_head":
            continue
        weight = tensors[f"{ours}.weight"]
        if spec.rotary_pairs == "interleaved" and theirs.endswith(("q_proj", "k_proj")):
            weight = to_halves(spec.n_head if "q_proj" in theirs else spec.n_kv_head, weight)
        if ".c_" in theirs:  # GPT-2 stores (in, out) and always has biases
            state[f"{theirs}.bias"] = torch.zeros(weight.shape[0], dtype=weight.dtype)
            weight = weight.t()
        state[f"{theirs}.weight"] = weight
        if f"{ours}.bias" in tensors:
            state[f"{theirs}.bias"] = tensors[f"{ours}.bias"]
    return state


def artefact_config(spec: Spec, dtype: str) -> dict[str, Any]:
    """The ``config.json`` of the artefact."""
    common = {"vocab_size": spec.vocab_size, "tie_word_embeddings": spec.tied, "dtype": dtype}
    common |= dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    if spec.positions == "learned":
        return common | {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "n_positions": spec.block_size,
            "n_embd": spec.n_embd,
            "n_layer": spec.n_layer,
            "n_head": spec.n_head,
            "n_inner": spec.n_hidden,
            "activation_function": "gelu",
            "layer_norm_epsilon": spec.norm_eps,
        }
    return common | {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "max_position_embeddings": spec.block_size,
        "hidden_size": spec.n_embd,
        "intermediate_size": spec.n_hidden,
        "num_hidden_layers": spec.n_layer,
        "num_attention_heads": spec.n_head,
        "num_key_value_heads": spec.n_kv_head,
        "rms_norm_eps": spec.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": spec.rope_theta},
    }


@pytest.fixture(scope="session")
def family_checkpoint() -> Callable[..., Checkpoint]:
    """Makes a checkpoint: ``(dialect, dtype, seed, tied, **sizes)``."""
    return random_checkpoint


@pytest.fixture(scope="session")
def holding() -> Callable[..., Checkpoint]:
    """Makes a checkpoint: ``(dialect, spec, tensors, adapters)``."""
    return checkpoint_of


@pytest.fixture(scope="session")
def halves() -> Callable[[int, Tensor], Tensor]:
    """Moves the rows of (heads, weight) from neighbouring pairs to the two halves of a head."""
    return to_halves


@pytest.fixture
def family_artefact(tmp_path: Path) -> Callable[..., Path]:
    """Writes an artefact: ``(checkpoint, dtype, tensors, fault, **config)``.

    ``tensors`` are the checkpoint's own unless given; ``fault`` may change the artefact's tensors
    before they are written and must change them; ``config`` replaces fields of ``config.json``.
    """

    def write(
        checkpoint: Checkpoint,
        dtype: str | None = None,
        tensors: Mapping[str, Tensor] | None = None,
        fault: Callable[[State], None] | None = None,
        **config: Any,
    ) -> Path:
        folder = tmp_path / "artefact"
        folder.mkdir()
        dtype = dtype or checkpoint.dtype
        state = artefact_state(checkpoint, tensors or dict(checkpoint.tensors))
        state = {
            name: tensor.to(getattr(torch, dtype)).contiguous().clone()
            for name, tensor in state.items()
        }
        if fault:
            clean = {name: tensor.clone() for name, tensor in state.items()}
            fault(state)
            same = state.keys() == clean.keys() and all(
                torch.equal(state[name], clean[name]) for name in clean
            )
            assert not same, "the fault changes nothing"
        state = {name: tensor.contiguous() for name, tensor in state.items()}
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        content = artefact_config(checkpoint.spec, dtype)
        assert config.keys() <= content.keys()
        (folder / "config.json").write_text(json.dumps(content | config))
        return folder

    return write
