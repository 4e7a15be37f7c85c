"""``config.json`` of each class that a checkpoint can become, from the spec.

Every field that the class reads and that the spec tells; dropout is nought.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from slogpt_hf.checkpoints.spec import Activation, Spec

Config = dict[str, Any]
# As transformers calls the activations, each the same function (tests compare them in float64).
ACTIVATIONS: Mapping[Activation, str] = {
    "gelu": "gelu",
    "gelu_tanh": "gelu_pytorch_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "relu2": "relu2",
    "silu": "silu",
}


def gpt2_config(spec: Spec) -> Config:
    """GPT-2."""
    return {
        "n_positions": spec.block_size,
        "n_ctx": spec.block_size,  # its name before transformers 4, which converters still read
        "n_embd": spec.n_embd,
        "n_layer": spec.n_layer,
        "n_head": spec.n_head,
        "n_inner": spec.n_hidden,
        "activation_function": ACTIVATIONS[spec.activation],
        "layer_norm_epsilon": spec.norm_eps,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
    }


def bigcode_config(spec: Spec) -> Config:
    """GPT-2 with one key and value head."""
    return gpt2_config(spec) | {"multi_query": True}


def _sizes(spec: Spec) -> Config:
    return {
        "max_position_embeddings": spec.block_size,
        "hidden_size": spec.n_embd,
        "intermediate_size": spec.n_hidden,
        "num_hidden_layers": spec.n_layer,
        "num_attention_heads": spec.n_head,
    }


def _rotary_config(spec: Spec) -> Config:
    return _sizes(spec) | {
        "num_key_value_heads": spec.n_kv_head,
        "hidden_act": ACTIVATIONS[spec.activation],
        "rope_parameters": {"rope_type": "default", "rope_theta": spec.rope_theta},
    }


def _rmsnorm_config(spec: Spec) -> Config:
    return _rotary_config(spec) | {
        "rms_norm_eps": spec.norm_eps,
        "attention_bias": spec.linear_bias,
        "mlp_bias": spec.linear_bias,
    }


def llama_config(spec: Spec) -> Config:
    """Llama and Arcee."""
    return _rmsnorm_config(spec) | {"head_dim": spec.head_dim}


def granite_config(spec: Spec) -> Config:
    """Llama with multipliers."""
    return _rmsnorm_config(spec) | {
        "attention_multiplier": attention_multiplier(spec),
        "embedding_multiplier": spec.embedding_multiplier,
        "residual_multiplier": spec.residual_multiplier,
        "logits_scaling": 1.0 / spec.logit_multiplier,  # that it divides by
    }


def attention_multiplier(spec: Spec) -> float:
    """What scores are multiplied by."""
    if spec.attention_multiplier is not None:
        return spec.attention_multiplier
    return 1.0 / math.sqrt(spec.head_dim)


def starcoder2_config(spec: Spec) -> Config:
    """Starcoder2."""
    return _rotary_config(spec) | {
        "norm_epsilon": spec.norm_eps,
        "use_bias": spec.linear_bias,
        "sliding_window": None,
    }


def stablelm_config(spec: Spec) -> Config:
    """StableLM."""
    config = _rotary_config(spec)
    config["rope_parameters"]["partial_rotary_factor"] = 1.0
    return config | {
        "layer_norm_eps": spec.norm_eps,
        "use_qkv_bias": False,
    }


def slogpt_config(spec: Spec) -> Config:
    """The modeling file that ships with the artefact."""
    module = "modeling_slogpt"
    return _sizes(spec) | {
        "positions": spec.positions,
        "norm": spec.norm,
        "norm_eps": spec.norm_eps,
        "mlp": spec.mlp,
        "activation": spec.activation,
        "bias": spec.linear_bias,
        "norm_bias": spec.norm_bias,
        "num_key_value_heads": spec.n_kv_head,
        "rope_theta": spec.rope_theta or 10_000.0,
        "rotary_pairs": spec.rotary_pairs or "interleaved",
        "attention_multiplier": spec.attention_multiplier,
        "embedding_multiplier": spec.embedding_multiplier,
        "residual_multiplier": spec.residual_multiplier,
        "logit_multiplier": spec.logit_multiplier,
        "auto_map": {
            "AutoConfig": f"{module}.SloGPTConfig",
            "AutoModel": f"{module}.SloGPTModel",
            "AutoModelForCausalLM": f"{module}.SloGPTForCausalLM",
        },
    }


def earlier_words(config: Config) -> Config:
    """What transformers 4 reads in place of fields of a ``config.json``: name to value.

    Newer versions prefer the fields. Both are written, and the gate compares them.
    """
    found: Config = {"torch_dtype": config["dtype"]} if "dtype" in config else {}
    rotary = config.get("rope_parameters")
    if isinstance(rotary, dict):
        names = ("rope_theta", "partial_rotary_factor")
        found |= {name: rotary[name] for name in names if name in rotary}
    return found


def impossible(spec: Spec) -> str | None:
    """Why no model computes a spec, as a sentence goes on; None if one does."""
    rotary = spec.positions == "rotary"
    multipliers = {
        "attention_multiplier": attention_multiplier(spec),
        "embedding_multiplier": spec.embedding_multiplier,
        "residual_multiplier": spec.residual_multiplier,
        "logit_multiplier": spec.logit_multiplier,
    }
    reasons = {
        f"{spec.n_embd} features make no {spec.n_head} equal heads": spec.n_embd % spec.n_head,
        f"{spec.n_head} heads make no {spec.n_kv_head} equal groups": spec.n_head % spec.n_kv_head,
        f"rotary positions turn pairs, and a head has {spec.head_dim} features": rotary
        and spec.head_dim % 2,
        "rotary positions need rope_theta above 0 and rotary_pairs": rotary
        and not ((spec.rope_theta or 0.0) > 0 and spec.rotary_pairs),
        "learned positions have neither rope_theta nor rotary_pairs": not rotary
        and (spec.rope_theta is not None or spec.rotary_pairs is not None),
        "an RMSNorm has no bias": spec.norm == "rmsnorm" and spec.norm_bias,
        f"norm_eps is {spec.norm_eps:g}": not 0 <= spec.norm_eps < math.inf,
    }
    for name, value in multipliers.items():
        reasons[f"{name} is {value:g}"] = value == 0 or not math.isfinite(value)
    return next((reason for reason, found in reasons.items() if found), None)
