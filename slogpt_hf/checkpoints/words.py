"""Words: what trainers and users call an activation, a norm, pairs... and what is meant. Tables."""

from __future__ import annotations

from typing import Any

from slogpt_hf.errors import UsageError

# What trainers call the activation of the MLP; "gelu" alone does not say which GELU.
ACTIVATION_FIELDS = (
    *("activation", "activation_function", "activation_fn", "activation_type", "activation_name"),
    *("activation_variant", "act", "act_fn", "act_func", "act_type", "actv", "nonlinearity"),
    *("hidden_act", "hidden_activation", "mlp_act", "mlp_activation", "mlp_act_fn"),
    *("mlp_type", "mlp_class_name", "mlp_variant", "ffn_type", "ffn_act", "ffn_act_fn"),
    *("ffn_activation", "feed_forward_type", "feedforward_type", "gelu_type", "gelu_variant"),
)
_SPELLINGS = {
    "gelu": ("gelu_erf", "gelu_exact", "gelu_python", "gelu_none", "exact_gelu", "erf", "exact"),
    "gelu_tanh": (
        *("gelu_new", "gelu_pytorch_tanh", "gelu_approx", "gelu_approximate", "gelu_fast"),
        *("new_gelu", "newgelu", "approx_gelu", "approximate_gelu", "tanh_gelu", "geglu_tanh"),
        *("tanh", "gelu_accurate", "fast_gelu", "gelu_python_tanh"),
    ),
    "quick_gelu": ("quickgelu", "gelu_quick", "gelu_sigmoid", "sigmoid_gelu"),
    "relu": ("reglu",),
    "relu2": (
        *("squared_relu", "relu_squared", "relu_square", "square_relu", "sqrelu", "relusq"),
        *("relu_2", "relu^2", "relu**2", "squaredrelu", "relusquared", "relu_sq", "sq_relu"),
    ),
    "silu": ("swish", "swiglu", "swish_1", "swish1", "llamamlp", "llama_mlp"),
}
ACTIVATIONS = {word: kind for kind, words in _SPELLINGS.items() for word in (kind, *words)}
SPELLINGS = {kind: (kind, *words) for kind, words in _SPELLINGS.items()}
ACTIVATIONS |= {"geglu": "gelu", "geglu_exact": "gelu"}
VAGUE = ("gelu", "geglu")
GATED_WORDS = ("swiglu", "geglu", "reglu", "geglu_tanh", "geglu_exact", "llamamlp", "llama_mlp")
# Words that say no more than that there is an MLP.
MLP_WORDS = {
    "plain": ("mlp", "ffn", "dense", "standard", "default", "vanilla", "gptneoxmlp", "plain"),
    "gated": ("gated", "glu", "gated_mlp", "gatedmlp", "mlp_gated"),
}
# Switches that name an activation when they are on.
ACTIVATION_SWITCHES = {
    **dict.fromkeys(("gelu_tanh", "use_gelu_tanh", "tanh_gelu", "use_tanh_gelu"), "gelu_tanh"),
    **dict.fromkeys(("new_gelu", "use_new_gelu", "gelu_approx"), "gelu_tanh"),
    **dict.fromkeys(("approximate_gelu", "approx_gelu", "use_approx_gelu"), "gelu_tanh"),
    **dict.fromkeys(("use_relu2", "relu2", "squared_relu", "use_squared_relu"), "relu2"),
    **dict.fromkeys(("relu_squared", "use_relu_squared", "use_relu_square"), "relu2"),
    **dict.fromkeys(("relu", "use_relu"), "relu"),
    **dict.fromkeys(("quick_gelu", "use_quick_gelu"), "quick_gelu"),
    **dict.fromkeys(("use_silu", "use_swish"), "silu"),
    **dict.fromkeys(("geglu", "use_geglu"), "gelu"),
    **dict.fromkeys(("reglu", "use_reglu"), "relu"),
}
# torch.nn.GELU's own argument: "none" or "tanh"; or true and false.
APPROXIMATE_FIELDS = ("approximate", "gelu_approximate", "gelu_approximation", "approximation")


def approximation(value: Any) -> str | None:
    """The activation that ``approximate`` of ``torch.nn.GELU``, or a switch of that name, says."""
    if isinstance(value, bool) or value in (0, 1):
        return "gelu_tanh" if value else "gelu"
    word = plain_word(value) or ""
    known = ACTIVATIONS.get(word, "gelu" if word in ("none", "no", "off") else None)
    return known if known in ("gelu", "gelu_tanh") else None


NORM_FIELDS = (
    *("norm", "norm_type", "norm_layer", "norm_class", "norm_class_name", "norm_cls"),
    *("norm_variant", "norm_variant_attn", "norm_variant_mlp", "norm_variant_output"),
    *("normalization", "normalization_type", "normalisation", "layernorm_type", "layer_norm_type"),
)
NORMS = {
    **dict.fromkeys(("layernorm", "layer_norm", "ln", "layer", "lnorm"), "layernorm"),
    **dict.fromkeys(("rmsnorm", "rms_norm", "rms", "llamarmsnorm", "t5layernorm"), "rmsnorm"),
}
POSITION_FIELDS = (
    *("position_embedding", "position_embedding_type", "position_encoding", "positions"),
    *("pos_emb", "pos_emb_type", "pos_embd", "pos_embed", "pos_embed_type", "pos_encoding"),
    *("pos_enc", "pos_type", "position_type", "positional_encoding", "positional_embedding"),
    *("positional_embedding_type", "positional_encoding_type", "absolute_pos_embedding_variant"),
    *("pos_embedding", "pos_embedding_type", "position_embeddings"),
)
POSITIONS = {
    **dict.fromkeys(("learned", "absolute", "learnable", "learned_absolute", "wpe"), "learned"),
    **dict.fromkeys(("rope", "rotary", "rotary_embedding", "rotary_embeddings"), "rotary"),
}
PAIR_FIELDS = ("rotary_pairs", "rope_pairs", "rope_style", "rotary_style", "rope_layout")
PAIRS = {
    **dict.fromkeys(("interleaved", "interleave", "adjacent", "neighbours", "gptj"), "interleaved"),
    **dict.fromkeys(("neighbors", "gpt_j", "gpt-j", "meta", "complex", "pairs"), "interleaved"),
    **dict.fromkeys(("halves", "half", "rotate_half", "neox", "gpt_neox", "gpt-neox"), "halves"),
    **dict.fromkeys(("split", "hf", "half_split", "split_half"), "halves"),
}
PAIR_SWITCHES = (
    *("rope_interleave", "rope_interleaved", "rotary_interleaved", "interleaved_rope"),
    *("rotary_emb_interleaved", "rotary_interleave", "interleaved_rotary"),
)

# Of ``--set``: what may be said for the value of a field, and what each says.
SETTABLE_WORDS: dict[str, dict[str, str]] = {
    "activation": ACTIVATIONS,
    "rotary_pairs": PAIRS,
    "norm": NORMS,
}
# Short names of fields for ``--set``.
SHORT_NAMES = {
    "act": "activation",
    "gelu": "activation",
    "eps": "norm_eps",
    "theta": "rope_theta",
    "pairs": "rotary_pairs",
    "scale": "attention_multiplier",
    "logits_multiplier": "logit_multiplier",
}


def plain_word(value: Any) -> str | None:
    """A word as the tables have it: small letters, without ``torch.nn.`` and the like."""
    if not isinstance(value, str):
        return None
    word = value.strip().lower().replace("-", "_").replace(" ", "_").rstrip("()")
    return word.rpartition(".")[2]


def field_named(name: str, value: Any) -> tuple[str, Any]:
    """A given field under its full name, its value under the name that is used for it."""
    full = SHORT_NAMES.get(name, name)
    if name == "gelu" and value in ("tanh", "exact", "erf"):
        return full, {"tanh": "gelu_tanh"}.get(value, "gelu")
    words = SETTABLE_WORDS.get(full)
    return full, words.get(plain_word(value) or "", value) if words else value


def require_word(name: str, value: Any) -> bool:
    """Whether a field takes words, and takes this one.

    Raises:
        UsageError: it takes words, and this is none of them.
    """
    known = SETTABLE_WORDS.get(name)
    if known is None or value in known.values():
        return known is not None
    choices = ", ".join(dict.fromkeys(known.values()))
    raise UsageError(
        f"--set {name}={str(value)[:80]}: is none of {choices}.",
        hint=f"Write e.g. --set {name}={next(iter(known.values()))}.",
    )
