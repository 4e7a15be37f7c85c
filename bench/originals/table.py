"""The corpus: which fork of which original, what is true of it, and how to say it to the product.

An entry is a file of this folder with other defaults. ``facts`` are what differs from the model
that the product takes a file of these names for, by the names of its assumptions; where several
names would do, one of them. ``settings`` are the ``--set`` options that are right; None where no
setting makes the product compute this function.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

WIDTH, HEADS, CONTEXT, ROWS = 32, 4, 24, 40
HEAD_DIM = WIDTH // HEADS
SIZES = {
    "n_layer": 2,
    "n_head": HEADS,
    "n_embd": WIDTH,
    "block_size": CONTEXT,
    "vocab_size": ROWS,
}
TANH = "activation=gelu_tanh"


@dataclass(frozen=True)
class Source:
    """A file of this folder.

    Attributes:
        module: its name.
        model: its class.
        config: class of its configuration.
        sizes: our name of a size to the configuration's.
        usual: further fields that its trainer records whatever happens.
    """

    module: str
    model: str
    config: str
    sizes: Mapping[str, str] = field(default_factory=dict)
    usual: tuple[str, ...] = ("dropout",)


SOURCES = {
    "nanogpt": Source("nanogpt", "GPT", "GPTConfig", usual=("dropout", "bias")),
    "slo": Source(
        "slo",
        "SloGPT",
        "SloConfig",
        usual=("dropout", "bias", "use_rope", "use_swiglu", "use_rmsnorm"),
    ),
    "llama2c": Source(
        "llama2c",
        "Transformer",
        "ModelArgs",
        {
            "n_layer": "n_layers",
            "n_head": "n_heads",
            "n_embd": "dim",
            "block_size": "max_seq_len",
        },
        ("dropout", "n_kv_heads", "multiple_of", "norm_eps"),
    ),
    "sloughgpt": Source("sloughgpt", "SloughGPTModel", "SloughConfig", {"n_embd": "n_embed"}, ()),
    "variant": Source("variant", "NanoGPT", "NanoConfig", usual=()),
}


@dataclass(frozen=True)
class Entry:
    """One original.

    Attributes:
        name: of the entry.
        source: key of SOURCES.
        changes: fields of the configuration whose default is another in this fork.
        facts: name of a fact to its true value, where it is not the family's.
        settings: right ``--set`` options; None outside of what the product computes.
        form: of the file: see ``writing.py``.
    """

    name: str
    source: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    settings: tuple[str, ...] | None = ()
    form: str = "dict"


def _slo() -> Iterator[Entry]:
    switches = ("use_rope", "use_swiglu", "use_rmsnorm", "bias")
    for values in itertools.product((False, True), repeat=4):
        changes = dict(zip(switches, values, strict=True))
        on = [name.removeprefix("use_") for name in switches if changes[name]]
        yield Entry(f"slo {'-'.join(on) or 'classic'}", "slo", changes)


def _one(
    name: str, source: str, changes: dict[str, Any], fact: str, value: Any, word: str
) -> Entry:
    """An entry that one setting makes right."""
    return Entry(name, source, changes, {fact: value}, (f"{word}={value}",))


def _outside(name: str, source: str, changes: dict[str, Any], *facts: str, **more: Any) -> Entry:
    """An entry that no setting makes right; ``facts`` are names, any of which tells it."""
    return Entry(name, source, changes, {"|".join(facts): None}, None, **more)


def _multiplier(name: str, source: str, changes: dict[str, Any], fact: str, value: float) -> Entry:
    return _one(name, source, changes, fact, value, fact)


NANOGPT = (
    Entry("nanogpt", "nanogpt"),
    Entry("nanogpt without biases", "nanogpt", {"bias": False}),
    Entry(
        "nanogpt of january 2023",
        "nanogpt",
        {"activation": "new_gelu", "causal_mask": True},
        {"activation": "gelu_tanh"},
        (TANH,),
        "no bias key",
    ),
    Entry(
        "nanogpt of march 2023",
        "nanogpt",
        {"activation": "new_gelu", "bias": False},
        {"activation": "gelu_tanh"},
        (TANH,),
    ),
    Entry(
        "mingpt",
        "nanogpt",
        {"activation": "new_gelu", "causal_mask": True, "tie_weights": False},
        {"activation": "gelu_tanh"},
        (TANH,),
        "config beside",
    ),
    Entry(
        "build-nanogpt",
        "nanogpt",
        {"activation": "gelu_approximate"},
        {"activation": "gelu_tanh"},
        (TANH,),
        "config object",
    ),
    Entry("nanogpt untied", "nanogpt", {"tie_weights": False}),
    *(
        _one(f"nanogpt {word}", "nanogpt", {"activation": ours}, "activation", word, "activation")
        for ours, word in (
            ("relu", "relu"),
            ("squared_relu", "relu2"),
            ("silu", "silu"),
            ("quick_gelu", "quick_gelu"),
        )
    ),
    _outside("nanogpt elu", "nanogpt", {"activation": "elu"}, "activation"),
    _outside("nanogpt mish", "nanogpt", {"activation": "mish"}, "activation"),
    _multiplier("nanogpt eps 1e-6", "nanogpt", {"norm_eps": 1e-6}, "norm_eps", 1e-6),
    _multiplier("nanogpt eps 1e-3", "nanogpt", {"norm_eps": 1e-3}, "norm_eps", 1e-3),
    Entry(
        "nanogpt rmsnorm",
        "nanogpt",
        {"use_rmsnorm": True, "bias": False, "norm_eps": 1e-5},
        {"norm|norm_eps": "rmsnorm"},
        ("use_rmsnorm=true", "norm_eps=1e-5"),
    ),
    Entry("nanogpt one key head", "nanogpt", {"n_kv_head": 1}),
    Entry("nanogpt two key heads", "nanogpt", {"n_kv_head": 2, "bias": False}),
    Entry(
        "nanogpt one key head, relu2",
        "nanogpt",
        {"n_kv_head": 1, "activation": "squared_relu"},
        {"activation": "relu2"},
        ("activation=relu2",),
    ),
    Entry(
        "nanogpt-mup",
        "nanogpt",
        {
            "mup_enabled": True,
            "mup_width_multiplier": 4.0,
            "mup_input_alpha": 2.0,
            "mup_output_alpha": 3.0,
        },
        {
            "attention_multiplier": 1 / HEAD_DIM,
            "embedding_multiplier": 2.0,
            "logit_multiplier": 0.75,
        },
        (
            f"attention_multiplier={1 / HEAD_DIM}",
            "embedding_multiplier=2",
            "logit_multiplier=0.75",
        ),
    ),
    *(
        _multiplier(
            f"nanogpt attention {word}",
            "nanogpt",
            {"attn_scale": word},
            "attention_multiplier",
            value,
        )
        for word, value in (
            ("dim", 1 / HEAD_DIM),
            ("width", WIDTH**-0.5),
            ("one", 1.0),
            ("0.0625", 0.0625),
        )
    ),
    _multiplier(
        "nanogpt embedding sqrt(n)",
        "nanogpt",
        {"scale_embeddings": True},
        "embedding_multiplier",
        math.sqrt(WIDTH),
    ),
    _multiplier("nanogpt logits", "nanogpt", {"logit_scale": 0.5}, "logit_multiplier", 0.5),
    _multiplier(
        "nanogpt residual", "nanogpt", {"residual_scale": 0.25}, "residual_multiplier", 0.25
    ),
    Entry(
        "nanogpt rotary halves",
        "nanogpt",
        {"positions": "rotary", "rotary_halves": True, "bias": False},
        {"rotary_pairs": "halves"},
        ("rotary_pairs=halves", "use_rope=true", "use_rmsnorm=false"),
    ),
    _outside("nanogpt alibi", "nanogpt", {"positions": "alibi"}, "positions"),
    _outside("nanogpt no positions", "nanogpt", {"positions": "none"}, "positions"),
    _outside("nanogpt sinusoidal", "nanogpt", {"positions": "sinusoidal"}, "positions"),
    _outside("nanogpt softcap", "nanogpt", {"logit_softcap": 3.0}, "logit_softcap"),
    _outside(
        "nanogpt attention softcap",
        "nanogpt",
        {"attn_softcap": 2.0},
        "attention_softcap",
        "softmax",
        "logit_softcap",
    ),
    _outside("nanogpt qk-norm", "nanogpt", {"qk_norm": True}, "qk_norm"),
    _outside("nanogpt window", "nanogpt", {"sliding_window": 8}, "attention_window"),
    _outside(
        "nanogpt parallel",
        "nanogpt",
        {"parallel_residual": True},
        "parallel_residual",
        "norm_placement",
        "residual",
    ),
    _outside("nanogpt post-norm", "nanogpt", {"post_norm": True}, "norm_placement"),
    _outside("nanogpt sandwich", "nanogpt", {"sandwich_norm": True}, "norm_placement"),
    _outside(
        "nanogpt embedding norm",
        "nanogpt",
        {"embedding_norm": True},
        "embedding_norm",
        "norm_placement",
        "embedding_multiplier",
    ),
    _outside("nanogpt softmax1", "nanogpt", {"softmax1": True}, "softmax"),
    _outside(
        "nanogpt scores by layer",
        "nanogpt",
        {"scale_attn_by_inverse_layer_idx": True},
        "attention_multiplier",
    ),
    _outside("nanogpt k, q, v", "nanogpt", {"qkv_order": "kqv"}, "qkv_order", "qkv"),
    _outside("nanogpt qkv by head", "nanogpt", {"qkv_by_head": True}, "qkv_order", "qkv"),
)
LLAMA2C = (
    Entry("llama2c", "llama2c"),
    Entry("llama2c grouped", "llama2c", {"n_kv_heads": 2}),
    Entry("llama2c one key head, untied", "llama2c", {"n_kv_heads": 1, "tie_weights": False}),
    Entry("llama2c with masks", "llama2c", {"causal_mask": True}),
    _multiplier("llama2c theta 500000", "llama2c", {"rope_theta": 5e5}, "rope_theta", 5e5),
    _multiplier("llama2c eps 1e-6", "llama2c", {"norm_eps": 1e-6}, "norm_eps", 1e-6),
    _one(
        "llama2c halves",
        "llama2c",
        {"rotary_halves": True},
        "rotary_pairs",
        "halves",
        "rotary_pairs",
    ),
    *(
        _one(f"llama2c {word}", "llama2c", {"activation": word}, "activation", word, "activation")
        for word in ("gelu", "gelu_tanh", "relu")
    ),
    _multiplier(
        "llama2c attention 1/d",
        "llama2c",
        {"attention_multiplier": 1 / HEAD_DIM},
        "attention_multiplier",
        1 / HEAD_DIM,
    ),
    _multiplier(
        "llama2c embedding sqrt(n)",
        "llama2c",
        {"scale_embeddings": True},
        "embedding_multiplier",
        math.sqrt(WIDTH),
    ),
    _multiplier(
        "llama2c residual",
        "llama2c",
        {"residual_multiplier": 0.5},
        "residual_multiplier",
        0.5,
    ),
    Entry(
        "llama2c as granite",
        "llama2c",
        {
            "attention_multiplier": 0.25,
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.5,
            "logit_multiplier": 0.125,
        },
        {
            "attention_multiplier": 0.25,
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.5,
            "logit_multiplier": 0.125,
        },
        (
            "attention_multiplier=0.25",
            "embedding_multiplier=3",
            "residual_multiplier=0.5",
            "logit_multiplier=0.125",
        ),
    ),
    Entry(
        "llama2c layernorm",
        "llama2c",
        {"layernorm": True},
        {"norm": "layernorm"},
        ("norm=layernorm",),
    ),
    _outside("llama2c 1 + w", "llama2c", {"norm_adds_one": True}, "norm_weight", "norm"),
    _outside("llama2c softmax1", "llama2c", {"softmax1": True}, "softmax"),
    _outside("llama2c rope scaling", "llama2c", {"rope_scaling": 4.0}, "rope_scaling"),
    _outside(
        "llama2c half rotary", "llama2c", {"partial_rotary": 0.5}, "rotary_dim", "partial_rotary"
    ),
    _outside("llama2c softcap", "llama2c", {"logit_softcap": 3.0}, "logit_softcap"),
    _outside("llama2c qk-norm", "llama2c", {"qk_norm": True}, "qk_norm"),
    _outside("llama2c window", "llama2c", {"sliding_window": 8}, "attention_window"),
    _outside(
        "llama2c parallel",
        "llama2c",
        {"parallel_residual": True},
        "parallel_residual",
        "norm_placement",
        "residual",
    ),
    _outside("llama2c post-norm", "llama2c", {"post_norm": True}, "norm_placement"),
)
OTHERS = (
    Entry(
        "slo theta 50000",
        "slo",
        {"use_rope": True, "use_rmsnorm": True, "bias": False, "rope_theta": 5e4},
        {"rope_theta": 5e4},
        ("rope_theta=50000",),
    ),
    Entry(
        "slo rmsnorm eps 1e-5",
        "slo",
        {"use_rope": True, "use_swiglu": True, "use_rmsnorm": True, "rmsnorm_eps": 1e-5},
        {"norm_eps": 1e-5},
        ("norm_eps=1e-5",),
    ),
    Entry(
        "slo geglu",
        "slo",
        {"use_rope": True, "use_swiglu": True, "bias": False, "gate": "gelu"},
        {"activation": "gelu"},
        ("activation=gelu",),
    ),
    Entry(
        "slo halves, tanh",
        "slo",
        {"use_rope": True, "rotary_halves": True, "gelu": "tanh"},
        {"activation": "gelu_tanh", "rotary_pairs": "halves"},
        (TANH, "rotary_pairs=halves"),
    ),
    Entry("sloughgpt", "sloughgpt"),
    Entry("sloughgpt grouped", "sloughgpt", {"n_kv_head": 2}),
    _multiplier("sloughgpt theta 1000", "sloughgpt", {"rope_theta": 1e3}, "rope_theta", 1e3),
    _multiplier("sloughgpt eps 1e-6", "sloughgpt", {"norm_eps": 1e-6}, "norm_eps", 1e-6),
    _one(
        "sloughgpt interleaved",
        "sloughgpt",
        {"rotary_interleaved": True},
        "rotary_pairs",
        "interleaved",
        "rotary_pairs",
    ),
    _one(
        "sloughgpt geglu", "sloughgpt", {"activation": "gelu"}, "activation", "gelu", "activation"
    ),
    _outside("sloughgpt qk-norm", "sloughgpt", {"qk_norm": True}, "qk_norm"),
    _outside(
        "sloughgpt clockwise", "sloughgpt", {"clockwise": True}, "rotary_direction", "rotary_pairs"
    ),
    Entry("variant", "variant"),
    _one("variant relu", "variant", {"activation": "relu"}, "activation", "relu", "activation"),
    _one(
        "variant tanh",
        "variant",
        {"activation": "gelu_tanh"},
        "activation",
        "gelu_tanh",
        "activation",
    ),
    _multiplier("variant eps 1e-6", "variant", {"norm_eps": 1e-6}, "norm_eps", 1e-6),
    _multiplier(
        "variant attention by width",
        "variant",
        {"scale_by_width": True},
        "attention_multiplier",
        WIDTH**-0.5,
    ),
)
ENTRIES = (*_slo(), *NANOGPT, *LLAMA2C, *OTHERS)
