"""What an entry of a trainer's settings says of the function: nothing, or something not known here.

One table of names whose values can be judged, and lists of words that name what no forward pass
depends on (optimiser, data, logging). Whatever is neither is unknown, and its name is told.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from slogpt_hf.checkpoints import words
from slogpt_hf.checkpoints.fields import ALIASES, scalar
from slogpt_hf.checkpoints.naming import (
    FACTORS,
    INDEXED,
    OF_THE_FUNCTION,
    is_neutral,
    name_words,
)
from slogpt_hf.checkpoints.spec import Spec

Judgement = Literal["fine", "unknown", "changes"]
Rule = Callable[[Any, Spec], bool]
# Of scaled rotary frequencies: what acts where the factor is 1, too.
MORE_THAN_A_FACTOR = {
    *("attention_factor", "attn_factor", "mscale", "mscale_all_dim"),
    *("short_factor", "long_factor", "short_mscale", "long_mscale"),
}
OFF_WORDS = ("", "none", "off", "null", "no", "false", "disabled", "nil", "n/a")


def is_off(value: Any) -> bool:
    """Whether a value switches off whatever it belongs to."""
    if isinstance(value, str):
        return value.strip().lower() in OFF_WORDS
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        inner = value.values() if isinstance(value, Mapping) else value
        return all(is_off(each) for each in inner)
    return value is None or value is False or scalar(value) == 0


def _on(value: Any, spec: Spec) -> bool:
    """For what a model here always has: saying that it is off says that it is another."""
    return value is None or not is_off(value)


def _off(value: Any, spec: Spec) -> bool:
    return is_off(value)


def _off_or_one(value: Any, spec: Spec) -> bool:
    return is_off(value) or scalar(value) == 1


def _multiplier(value: Any, spec: Spec) -> bool:
    """Positive numbers are read into the spec; text, NaN, a list... say something else."""
    return value is None or (scalar(value) or 0) > 0


def _one(value: Any, spec: Spec) -> bool:
    return value is None or value is False or scalar(value) == 1


def _no_window(value: Any, spec: Spec) -> bool:
    if isinstance(value, list | tuple):
        return all(_no_window(each, spec) for each in value)
    if isinstance(value, str):  # nanochat's pattern: L is a layer of full attention
        return is_off(value) or set(value.upper()) <= {"L"} or value.lower() in ("full", "global")
    size = scalar(value)
    return is_off(value) or (size is not None and (size < 0 or size >= spec.block_size))


def _no_scaling(value: Any, spec: Spec) -> bool:
    if isinstance(value, Mapping):
        kinds = [value.get(key) for key in ("rope_type", "type")]
        plain = all(kind is None or str(kind).lower() in ("default", "none") for kind in kinds)
        one = scalar(value.get("factor")) == 1 and not value.keys() & MORE_THAN_A_FACTOR
        return (plain and any(kinds)) or is_off(value) or one
    said = str(value).lower()
    return is_off(value) or scalar(value) == 1 or said in ("default", "rope", "rotary", "standard")


def _head_size(value: Any, spec: Spec) -> bool:
    return is_off(value) or scalar(value) == spec.head_dim


def _score_scale(value: Any, spec: Spec) -> bool:
    """None and true are the usual 1 / sqrt(d); or that number, or what was made of the field."""
    number = scalar(value)
    usual = spec.attention_multiplier or spec.head_dim**-0.5
    return value is None or value is True or (number is not None and math.isclose(number, usual))


def _score_divisor(value: Any, spec: Spec) -> bool:
    """For scores divided by the root of a number."""
    number = scalar(value)
    return value is None or (number is not None and number > 0 and _score_scale(number**-0.5, spec))


def _one_of(*known: str) -> Rule:
    def judge(value: Any, spec: Spec) -> bool:
        if value is True or is_off(value):
            return True
        return words.plain_word(value) in known

    return judge


def _of_the_spec(attribute: str, table: Mapping[str, str]) -> Rule:
    def judge(value: Any, spec: Spec) -> bool:
        return value in (None, True) or table.get(words.plain_word(value) or "") == getattr(
            spec, attribute
        )

    return judge


def _activation(value: Any, spec: Spec) -> bool:
    word = words.plain_word(value) or ""
    is_spec = words.ACTIVATIONS.get(word) == spec.activation or word in words.MLP_WORDS[spec.mlp]
    vague = word in words.VAGUE and spec.activation.startswith("gelu")
    return value is None or is_spec or vague


def _is_activation(kind: str) -> Rule:
    return lambda value, spec: is_off(value) or spec.activation == kind


def _tied(value: Any, spec: Spec) -> bool:
    # A head that equals the embedding computes the same whether it is tied or not.
    return is_off(value) or spec.tied


def _has_bias(value: Any, spec: Spec) -> bool:
    return isinstance(value, bool | int) or value is None  # the tensors show which there are


def _neutral(value: Any, spec: Spec) -> bool:
    return True


def _text(value: Any, spec: Spec) -> bool:
    return value is None or isinstance(value, str)


def _context(value: Any, spec: Spec) -> bool:
    return value is None or scalar(value) == spec.block_size


def _rows(rule: Rule, *names: str) -> dict[str, Rule]:
    return dict.fromkeys(names, rule)


SIZES = tuple(
    name
    for size in ("n_layer", "n_head", "n_kv_head", "n_embd", "n_hidden", "vocab_size", "block_size")
    for name in ALIASES[size]
)
# Of an entry that says which kind the part is that its dict is named after.
KINDS = ("name", "type", "kind", "class", "cls", "fn", "func", "function", "variant", "_target_")
# Name to whether a value under it describes the model of the spec.
TABLE: dict[str, Rule] = {
    # Read as fields: what they say is in the spec, or has been refused.
    **_rows(_neutral, *SIZES, *ALIASES["norm_eps"], *ALIASES["rope_theta"]),
    **_rows(_multiplier, *ALIASES["attention_multiplier"], *ALIASES["embedding_multiplier"]),
    **_rows(_multiplier, *ALIASES["residual_multiplier"], *ALIASES["logit_multiplier"]),
    **_rows(_off, "mup_enabled"),  # where it is on its numbers are read
    **_rows(_neutral, *words.PAIR_SWITCHES),
    **_rows(
        lambda value, spec: (
            is_off(value) or (spec.positions == "rotary" and isinstance(value, bool | int))
        ),
        *ALIASES["use_rope"],
    ),
    **_rows(
        lambda value, spec: (
            is_off(value) or (spec.mlp == "gated" and isinstance(value, bool | int))
        ),
        *ALIASES["use_swiglu"],
    ),
    **_rows(
        lambda value, spec: (
            is_off(value) or (spec.norm == "rmsnorm" and isinstance(value, bool | int))
        ),
        *ALIASES["use_rmsnorm"],
    ),
    **_rows(_activation, *words.ACTIVATION_FIELDS),
    **_rows(_of_the_spec("norm", words.NORMS), *words.NORM_FIELDS),
    **_rows(_of_the_spec("positions", words.POSITIONS), *words.POSITION_FIELDS),
    **_rows(_of_the_spec("rotary_pairs", words.PAIRS), *words.PAIR_FIELDS),
    **{name: _is_activation(kind) for name, kind in words.ACTIVATION_SWITCHES.items()},
    **_rows(
        lambda value, spec: (
            is_off(value)
            or (words.approximation(value) is not None and spec.activation != "gelu")
            or words.approximation(value) == spec.activation
        ),
        *words.APPROXIMATE_FIELDS,
    ),
    **_rows(_tied, *ALIASES["tied"]),
    **_rows(_has_bias, *ALIASES["bias"], "qkv_bias", "attn_bias", "attention_bias", "mlp_bias"),
    **_rows(_has_bias, "ln_bias", "norm_bias", "layer_norm_bias", "layernorm_bias", "lm_head_bias"),
    **_rows(_has_bias, "add_bias_linear", "add_qkv_bias", "use_qkv_bias", "bias_ln", "head_bias"),
    # Where its False says another function.
    **_rows(_on, "causal", "is_causal", "use_causal_mask", "causal_mask", "causal_attention"),
    **_rows(_on, "autoregressive", "pre_norm", "pre_ln", "prenorm", "use_pre_ln", "use_pre_norm"),
    **_rows(_on, "norm_first", "pre_layer_norm", "do_layer_norm_before", "normalize_before"),
    **_rows(_on, "use_residual", "residual", "residuals", "use_residuals", "skip_connections"),
    **_rows(_on, "final_norm", "use_final_norm", "final_ln", "use_final_ln", "ln_f", "use_ln_f"),
    **_rows(_on, "use_attention", "use_attn", "use_mlp", "use_ffn", "use_norm", "use_layernorm"),
    **_rows(_on, "scale_attn_weights", "scale_attn", "scale_attention", "scale_attn_scores"),
    **_rows(_on, "scaled_attention", "use_attention_scaling", "elementwise_affine", "scale_qk"),
    **_rows(_on, "scale_scores", "scale_attention_scores", "scale_by_sqrt_d", "norm_1", "norm_2"),
    **_rows(_on, "mask_future", "use_mask", "use_ln", "use_layer_norm", "is_decoder_only"),
    **_rows(
        lambda value, spec: value is None or is_off(value) == (spec.positions == "rotary"),
        *("use_wpe", "use_abs_pos_embeddings", "use_pos_emb", "use_position_embeddings"),
        *("use_positional_embeddings", "use_learned_pos_emb", "learned_pos_emb", "use_pos_embed"),
        *("use_position_embedding", "learned_positions", "absolute_positions"),
    ),
    # Where another value than off says another function.
    **_rows(_off, "qk_norm", "use_qk_norm", "use_qk_norm_scale", "norm_qk", "qk_layernorm"),
    **_rows(_off, "qk_layer_norm", "use_qk_layernorm", "qknorm", "qk_rmsnorm", "query_key_norm"),
    **_rows(_off, "alibi", "use_alibi", "alibi_bias_max", "nope", "use_nope", "no_pos_emb"),
    **_rows(_off, "use_fire_embeddings", "use_sinusoidal", "sinusoidal", "sinusoidal_pos_emb"),
    **_rows(_off, "parallel_residual", "use_parallel_residual", "use_parallel_mlp"),
    **_rows(_off, "parallel_block", "parallel_blocks", "parallel_attn", "parallel_mlp"),
    **_rows(_off, "post_norm", "use_post_norm", "post_ln", "use_post_ln", "postnorm"),
    **_rows(_off, "sandwich_norm", "use_peri_ln", "peri_ln", "post_attention_norm"),
    **_rows(_off, "post_mlp_norm", "post_block_norm", "use_peri_ln_attn", "use_peri_ln_mlp"),
    **_rows(_off, "embedding_norm", "embed_norm", "norm_embed", "norm_after_wte", "embed_ln"),
    **_rows(_off, "softmax1", "use_softmax1", "softmax_one", "softmax_off_by_one", "softmax_plus1"),
    **_rows(_off, "attention_sink", "attention_sinks", "attn_sink", "attn_sinks", "use_sinks"),
    **_rows(_off, "logit_softcap", "final_logit_softcapping", "attn_logit_softcapping", "softcap"),
    **_rows(_off, "logits_soft_cap", "logits_softcap", "attn_softcap", "attention_softcap"),
    **_rows(_off, "final_logit_softcap", "attn_logit_softcap", "logit_cap", "logit_clip"),
    **_rows(_off, "attention_logit_softcapping", "output_softcap", "lm_head_softcap", "clip_qkv"),
    **_rows(_off, "use_scaled_rope", "use_ntk", "use_yarn", "rope_yarn", "yarn", "use_xpos"),
    **_rows(_off, "normalize_embedding", "scale_attn_by_inverse_layer_idx", "use_mup", "mup"),
    **_rows(_off, "use_differential_attention", "diff_attn", "use_moe", "moe", "value_residual"),
    **_rows(_off, "use_value_residual", "weight_sharing", "share_layers", "shared_layers"),
    **_rows(_off, "residual_in_fp32_scale", "unit_norm", "ngpt", "use_ngpt", "use_ngpt_norm"),
    **_rows(_off_or_one, "n_exp", "n_experts", "n_expert", "num_experts", "num_local_experts"),
    **_rows(_off_or_one, "moe_num_experts", "n_routed_experts", "num_routed_experts"),
    **_rows(_score_divisor, "query_pre_attn_scalar", "attention_scores_scalar"),
    **_rows(
        lambda value, spec: (
            is_off(value) or math.isclose(spec.embedding_multiplier, math.sqrt(spec.n_embd))
        ),
        "scale_embeddings",
    ),
    **_rows(
        lambda value, spec: (
            is_off(value) or math.isclose(spec.logit_multiplier * (scalar(value) or 0), 1)
        ),
        "logits_scaling",
    ),
    **_rows(_one, "logit_scale", "logits_scale", "output_scale", "embed_scale", "emb_scale"),
    **_rows(_one, "embedding_scale", "residual_scale", "resid_scale", "scale_emb", "output_mult"),
    **_rows(_one, "partial_rotary_factor", "rotary_pct", "rotary_percentage", "rotary_fraction"),
    **_rows(_one, "rope_percentage", "rope_fraction", "rope_pct", "rope_condense_ratio"),
    **_rows(_score_scale, "attn_scale", "attention_scale", "softmax_scale", "qk_scale", "sm_scale"),
    **_rows(_score_scale, "attention_softmax_scale", "attn_scaling", "attention_scaling"),
    **_rows(_no_scaling, "rope_scaling", "rope_type", "rope_scaling_type", "rope_variant"),
    **_rows(_no_scaling, "rope_scaling_factor", "rope_factor", "rope_scale", "rotary_scale"),
    **_rows(_no_scaling, "rope_adjustments", "rotary_type"),
    **_rows(_no_window, "sliding_window", "sliding_window_size", "window_size", "window"),
    **_rows(_no_window, "attention_window", "attention_window_size", "attn_window", "local_window"),
    **_rows(_no_window, "local_attention_window", "window_pattern", "attn_window_size"),
    **_rows(_no_window, "sliding_window_pattern", "window_sizes"),
    **_rows(_head_size, "head_dim", "head_size", "d_head", "dim_head", "d_k", "d_v", "d_kv"),
    **_rows(_head_size, "attention_head_dim", "n_qk_head_dim", "n_v_head_dim", "kv_channels"),
    **_rows(_head_size, "rotary_dim", "rotary_ndims", "rope_dim", "rope_length", "n_rot"),
    **_rows(_one_of("pre", "pre_norm", "prenorm", "pre_ln", "before"), "norm_placement"),
    **_rows(
        _one_of("pre", "pre_norm", "prenorm", "pre_ln", "before"), "norm_position", "ln_position"
    ),
    **_rows(
        _one_of("softmax", "standard", "default", "vanilla"), "softmax_type", "softmax_variant"
    ),
    **_rows(_one_of("softmax", "standard", "default"), "softmax_variant_attn", "softmax_impl"),
    **_rows(_one_of("softmax", "standard", "default"), "softmax_variant_output", "attn_softmax"),
    **_rows(
        _one_of(
            *("causal", "full", "full_attention", "mha", "gqa", "mqa", "multi_head", "multihead"),
            *("standard", "default", "vanilla", "softmax", "self", "self_attention", "global"),
            *("causal_self_attention", "causalselfattention", "scaled_dot_product", "sdpa"),
            *("eager", "flash", "flash_attention", "flash_attention_2", "math", "manual", "torch"),
        ),
        *("attention_type", "attn_type", "attention", "attn", "attention_variant", "attn_variant"),
        *("attention_kind", "attention_class", "attn_implementation", "attn_impl"),
        *("_attn_implementation", "attention_implementation", "attention_pattern", "attn_class"),
    ),
    **_rows(
        lambda value, spec: (
            is_off(value)
            or (
                isinstance(value, list | tuple)
                and all(str(each).lower() in ("full_attention", "attention") for each in value)
            )
        ),
        *("layer_types", "layers_block_type"),
    ),
    **_rows(_one_of("add", "standard", "sequential", "plain"), "residual_type", "block_type"),
    **_rows(_one_of("add", "standard"), "attn_residual_combination", "mlp_residual_combination"),
    **_rows(_one_of("linear", "nn.linear"), "linear_variant_attn", "linear_variant_mlp"),
    # Sizes that the tensors show.
    **_rows(
        _neutral,
        "softmaxn_param",
        "multiple_of",
        "ffn_dim_multiplier",
        "mlp_ratio",
        "ffn_mult",
        "mlp_mult",
    ),
    **_rows(_neutral, "expansion_factor", "mlp_expansion_factor", "mlp_multiplier", "ff_mult"),
    **_rows(_neutral, "hidden_mult", "mlp_hidden_mult", "ffn_multiplier", "ffn_ratio"),
    **_rows(_neutral, "padded_vocab_size", "pad_vocab_size_multiple", "padding_multiple"),
    **_rows(_neutral, "n_params", "num_params", "num_parameters", "n_parameters", "total_params"),
    **_rows(
        _neutral, "role", "model_type", "architectures", "auto_map", "use_cache", "torchscript"
    ),
    **_rows(_neutral, "kv_cache", "use_kv_cache", "enable_kv_cache", "pin_memory", "cpu_offload"),
    **_rows(_neutral, "clip_norm", "layerdrop", "layer_drop", "ema", "use_ema", "interactive"),
    **_rows(_neutral, "fused", "use_fused", "fused_rmsnorm", "fused_rms_norm", "fused_layernorm"),
    **_rows(_neutral, "fused_layer_norm", "fused_norm", "use_fused_ln", "use_fused_rmsnorm"),
    **_rows(_neutral, "tensor_parallel", "tensor_parallel_size", "tp_size", "tp", "dp_size", "dp"),
    **_rows(_neutral, "tensor_model_parallel_size", "pipeline_model_parallel_size", "pp_size"),
    **_rows(_neutral, "model_parallel_size", "pipeline_parallel_size", "pipeline_parallel"),
    **_rows(_neutral, "data_parallel", "data_parallel_size", "sequence_parallel", "zero_stage"),
    **_rows(_neutral, "bos_token", "eos_token", "pad_token", "unk_token", "pad_id", "bos_id"),
    **_rows(_neutral, "eos_id", "unk_id", "padding_side", "ignore_index", "repetition_penalty"),
    **_rows(_neutral, "start_time", "end_time", "total_time", "training_time", "time", "text"),
    **_rows(_neutral, "params", "trainable_params", "non_embedding_params", "total_parameters"),
    **_rows(_neutral, "sliding_window_layer_stride", "sliding_window_layer_placing"),
    **_rows(_neutral, "is_decoder", "is_encoder_decoder", "bos_token_id", "eos_token_id"),
    **_rows(_neutral, "pad_token_id", "unk_token_id", "return_dict", "max_batch_size"),
    **_rows(_neutral, "top_p", "top_k", "max_new_tokens", "d_ff", "ffn_dim", "d_inner"),
    **_rows(_neutral, "output_attentions", "output_hidden_states", "reorder_and_upcast_attn"),
    **_rows(_neutral, "max_length", "seq_len", "seq_length", "sequence_length", "max_seq_length"),
    **_rows(
        _neutral,
        "tokens_seen",
        "total_tokens",
        "num_tokens",
        "max_tokens",
        "lineage",
        "base_model",
        "born_at",
        "stage",
        "phase",
    ),
    **_rows(_neutral, "version", "transformers_version", "torch_version", "pytorch_version"),
    **_rows(_neutral, "format_version", "model_version", "code_version", "library_name", "task"),
}
# The same where another value may mean anything: it is not known.
FINE_IF: dict[str, Rule] = {
    **_rows(_text, "model", "arch", "architecture", "model_size", "size"),
    **_rows(_one_of("train", "training", "pretrain", "finetune", "resume", "eval"), "mode"),
    **_rows(_context, "max_len", "context_len", "ctx_len", "context", "seqlen", "ctx"),
}


def judged(name: str, value: Any, spec: Spec) -> Judgement:
    """What an entry of a model's settings says of a function.

    Args:
        name: of the entry.
        value: as it was recorded.
        spec: the model that is taken for it.

    Returns:
        ``fine``: the spec holds it, or the function does not depend on it; ``changes``: it is
        known to say another function; ``unknown``: neither.
    """
    if (rule := TABLE.get(name.lower())) is not None:
        return "fine" if rule(value, spec) else "changes"
    if (rule := FINE_IF.get(name.lower())) is not None and rule(value, spec):
        return "fine"
    if is_neutral(name) or _names_no_layer(name, value):
        return "fine"
    if scalar(value) == 1 and name_words(name) & FACTORS:
        return "fine"
    return "unknown"


def kind_judged(part: str, name: str, value: Any, spec: Spec) -> Judgement:
    """What an entry such as ``name`` in the dict of a part, ``activation`` say, says of it."""
    if part.lower() in TABLE:
        return judged(part, value, spec)
    if name_words(part) & OF_THE_FUNCTION and not is_neutral(part) and not is_off(value):
        return "unknown"
    return judged(name, value, spec)


def _names_no_layer(name: str, value: Any) -> bool:
    """Whether a list is off; layers that it numbers are not, the first is 0."""
    if not isinstance(value, list | tuple) or not name_words(name) & INDEXED:
        return is_off(value)
    return all(each is None or each is False for each in value)


def known_among(names: Iterable[Any]) -> list[str]:
    """Of some names those whose values can be judged."""
    return [name for name in names if isinstance(name, str) and name.lower() in TABLE]
