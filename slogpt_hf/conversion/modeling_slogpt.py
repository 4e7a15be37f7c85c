"""SloGPT for transformers: small trainers' architectures that no stock class computes exactly.

A pre-norm decoder with switches, from nanoGPT's GPT-2 to a Llama-like model:

    positions   "learned" (a table added to the token embedding) or "rotary"
    norm        "layernorm" or "rmsnorm"
    mlp         "plain", down(act(up x)), or "gated", down(act(gate x) * up x)
    activation  "gelu" (exact, erf), "gelu_tanh", "quick_gelu", "relu", "relu2" or "silu"
    bias        biases in the linears (norm_bias: in LayerNorm), never in the head

and multipliers: of the embedding, of the attention scores, of what attention and MLP add to the
residual stream, and of the logits.

Parameters have the names and shapes of the training checkpoint. The file is self-contained: it
travels with the weights and is loaded by `from_pretrained(..., trust_remote_code=True)`.

Shapes: B batch, T time, C hidden_size, H heads, D head size (C = H * D), S time with the
cached past, K key and value heads, I intermediate_size, V vocab_size.
"""

# mypy: disable-error-code="untyped-decorator,no-any-return", disallow-subclassing-any=False
# ruff: noqa: E402, E741, N806, N812, RUF012

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import transformers
from packaging.version import Version
from torch import Tensor, nn
from torch.nn import functional as F

NEEDS = "5.4"  # the oldest transformers that has what is imported here, as it is used here
if Version(transformers.__version__) < Version(NEEDS):
    raise RuntimeError(
        f"{__name__.rpartition('.')[-1]}.py needs transformers {NEEDS} or later, installed is "
        f"{transformers.__version__}: pip install --upgrade 'transformers>={NEEDS}'"
    )

from transformers import Cache, DynamicCache, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.import_utils import is_tracing
from transformers.utils.output_capturing import capture_outputs

SWITCHES = {
    "positions": ("learned", "rotary"),
    "norm": ("layernorm", "rmsnorm"),
    "mlp": ("plain", "gated"),
    "activation": ("gelu", "gelu_tanh", "quick_gelu", "relu", "relu2", "silu"),
    "rotary_pairs": ("interleaved", "halves"),
}
# What mlp was before activation was a switch of its own.
EARLIER_MLPS = {"gelu": ("plain", "gelu"), "swiglu": ("gated", "silu")}

# transformers 5.24 renamed past_key_values to cache. Both are taken; what transformers itself is
# given has to have its own name.
RENAMED = "cache" in inspect.signature(create_causal_mask).parameters
CACHE = "cache" if RENAMED else "past_key_values"

# Whatever transformers may hand to a forward pass beside its named arguments, and for what.
# Anything else is refused: swallowed, a renamed argument would change what the model computes.
PASSED_ON = {
    "what to return": ("output_attentions", "output_hidden_states", "return_dict"),
    "debugging": ("debug_io", "debug_io_dir", "prune_layers"),
    "the loss": ("num_items_in_batch", "ignore_index", "shift_labels"),
    "packed sequences": (
        "cu_seq_lens_q",
        "cu_seq_lens_k",
        "max_length_q",
        "max_length_k",
        "seq_idx",
    ),
    "continuous batching": (
        *("read_index", "write_index", "block_table", "max_seqlen_q", "max_seqlen_k", "is_causal"),
        *("logits_indices", "logits_processor_args"),
    ),
}
KNOWN = {name for names in PASSED_ON.values() for name in names}


class SloGPTConfig(PreTrainedConfig):
    """Sizes and switches. No special token has an id by default: every id may be a character.

    Raises:
        ValueError: an unknown switch, or sizes that do not divide.
    """

    model_type = "slogpt"
    keys_to_ignore_at_inference = ["past_key_values", "cache"]

    vocab_size: int = 50304
    max_position_embeddings: int = 1024
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    positions: str = "learned"
    norm: str = "layernorm"
    norm_eps: float = 1e-5
    mlp: str = "plain"
    activation: str | None = None  # "gelu", with a gate "silu"
    bias: bool = True
    norm_bias: bool | None = None  # as bias
    num_key_value_heads: int | None = None  # as many as num_attention_heads
    stacked_qkv: bool = True  # one matrix for q, k and v
    rope_theta: float = 10000.0
    rotary_pairs: str = "interleaved"  # that rotate: (x0, x1), or "halves": (x0, x_{D/2})
    attention_multiplier: float | None = None  # 1 / sqrt(D)
    embedding_multiplier: float = 1.0
    residual_multiplier: float = 1.0
    logit_multiplier: float = 1.0
    dropout: float = 0.0
    tie_word_embeddings: bool = True
    initializer_range: float = 0.02
    use_cache: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.mlp, activation = EARLIER_MLPS.get(self.mlp, (self.mlp, self.activation))
        self.activation = activation or ("silu" if self.mlp == "gated" else "gelu")
        self.norm_bias = self.bias if self.norm_bias is None else self.norm_bias
        groups = self.num_key_value_heads or self.num_attention_heads
        self.num_key_value_heads = groups
        for switch, choices in SWITCHES.items():
            if getattr(self, switch) not in choices:
                raise ValueError(f"{switch}={getattr(self, switch)!r} is none of {choices}")
        head_size, rest = divmod(self.hidden_size, self.num_attention_heads)
        if rest:
            sizes = f"{self.hidden_size} into {self.num_attention_heads} heads"
            raise ValueError(f"hidden_size does not divide evenly: {sizes}")
        if self.num_attention_heads % groups:
            sizes = f"{self.num_attention_heads} heads into {groups} groups"
            raise ValueError(f"num_attention_heads does not divide evenly: {sizes}")
        if self.positions == "rotary" and head_size % 2:
            raise ValueError(f"rotary positions need an even head size, not {head_size}")
        super().__post_init__(**kwargs)


def only_one(cache: Cache | None, past_key_values: Cache | None) -> Cache | None:
    """The cache, whichever of its names it came by."""
    if cache is not None and past_key_values is not None:
        raise TypeError("give either cache or past_key_values: they are two names of one thing")
    return past_key_values if cache is None else cache


def refuse_unknown(config: SloGPTConfig, kwargs: dict[str, Any]) -> None:
    """Raise TypeError for an argument that nobody takes, unless an attention from outside might."""
    attention = ALL_ATTENTION_FUNCTIONS.get_interface(config._attn_implementation, eager_attention)
    if attention is not eager_attention and not attention.__module__.startswith("transformers."):
        return
    for name, value in kwargs.items():
        if value is not None and name not in KNOWN:
            raise TypeError(f"SloGPTModel.forward() got an unexpected keyword argument {name!r}")


class SloGPTRMSNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        h = x.float()
        h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * h.to(x.dtype)


def make_norm(config: SloGPTConfig) -> nn.Module:
    if config.norm == "rmsnorm":
        return SloGPTRMSNorm(config.hidden_size, config.norm_eps)
    return nn.LayerNorm(config.hidden_size, config.norm_eps, bias=bool(config.norm_bias))


def quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def squared_relu(x: Tensor) -> Tensor:
    return F.relu(x).square()


ACTIVATIONS: dict[str | None, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "quick_gelu": quick_gelu,
    "relu": F.relu,
    "relu2": squared_relu,
    "silu": F.silu,
}


def rotary_tables(position_ids: Tensor, head_size: int, theta: float) -> tuple[Tensor, Tensor]:
    """cos and sin of position * theta^(-2i/D), fp32 (B, 1, T, D/2), for position_ids (B, T)."""
    two_i = torch.arange(0, head_size, 2, dtype=torch.float32, device=position_ids.device)
    angles = position_ids[:, None, :, None].to(torch.float32) * (1.0 / theta ** (two_i / head_size))
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor, pairs: str) -> Tensor:
    """Turn pairs of features of x (B, H, T, D) by their angles.

    They are (x0, x1), (x2, x3), ... or, in halves, (x0, x_{D/2}), (x1, x_{D/2+1}), ...
    """
    a, b = (x[..., 0::2], x[..., 1::2]) if pairs == "interleaved" else x.chunk(2, dim=-1)
    turned = (a * cos - b * sin, a * sin + b * cos)  # each (B, H, T, D/2)
    if pairs == "interleaved":
        return torch.stack(turned, dim=-1).flatten(-2).to(x.dtype)
    return torch.cat(turned, dim=-1).to(x.dtype)


def eager_attention(
    module: nn.Module,
    query: Tensor,  # (B, H, T, D)
    key: Tensor,  # (B, K, S, D)
    value: Tensor,  # (B, K, S, D)
    attention_mask: Tensor | None,  # added to the scores: (B, 1, T, S), 0 or very negative
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    if (groups := query.shape[1] // key.shape[1]) > 1:
        key, value = (t.repeat_interleave(groups, dim=1) for t in (key, value))
    scores = query @ key.transpose(-2, -1) * scaling  # (B, H, T, S)
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = F.dropout(scores.softmax(dim=-1), dropout, module.training)
    return (weights @ value).transpose(1, 2), weights


class ResidualLinear(nn.Linear):
    """Adds to the residual stream, so its fresh weights shrink with the depth (GPT-2)."""


class SloGPTAttention(nn.Module):
    def __init__(self, config: SloGPTConfig, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = True
        H = config.num_attention_heads
        K = config.num_key_value_heads or H
        self.num_key_value_groups = H // K
        C, D = config.hidden_size, config.hidden_size // H
        self.scaling = config.attention_multiplier
        if self.scaling is None:
            self.scaling = 1.0 / math.sqrt(D)
        self.sizes = (C, K * D, K * D)  # of q, k and v
        if config.stacked_qkv:
            self.c_attn = nn.Linear(C, sum(self.sizes), bias=config.bias)
        else:
            self.q_proj, self.k_proj, self.v_proj = (
                nn.Linear(C, size, bias=config.bias) for size in self.sizes
            )
        self.c_proj = ResidualLinear(C, C, bias=config.bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        attention_mask: Tensor | None,
        rotary: tuple[Tensor, Tensor] | None,
        cache: Cache | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        B, T, C = x.shape
        if self.config.stacked_qkv:
            projected = self.c_attn(x).split(self.sizes, dim=-1)
        else:
            projected = (self.q_proj(x), self.k_proj(x), self.v_proj(x))
        heads = (B, T, -1, C // self.config.num_attention_heads)
        q, k, v = (t.view(heads).transpose(1, 2) for t in projected)  # (B, H or K, T, D)
        if rotary is not None:
            q, k = (rotate(t, *rotary, self.config.rotary_pairs) for t in (q, k))
        cache, paged = only_one(cache, past_key_values), "write_index" in kwargs
        if cache is not None and paged and not RENAMED:
            kwargs["cache"] = cache  # the attention of these versions turns the pages itself
        elif cache is not None:
            more = {"kwargs": kwargs} if paged else {}
            k, v = cache.update(k, v, self.layer_idx, **more)  # (B, K, S, D)
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention
        )
        kwargs["scaling"] = self.scaling
        kwargs["dropout"] = self.config.dropout if self.training else 0.0
        y, weights = attention(self, q, k, v, attention_mask, **kwargs)  # (B, T, H, D)
        return self.dropout(self.c_proj(y.reshape(B, T, C))), weights


class SloGPTPlainMLP(nn.Module):
    def __init__(self, config: SloGPTConfig) -> None:
        super().__init__()
        C, I = config.hidden_size, config.intermediate_size
        self.c_fc = nn.Linear(C, I, bias=config.bias)
        self.c_proj = ResidualLinear(I, C, bias=config.bias)
        self.act = ACTIVATIONS[config.activation]
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.c_proj(self.act(self.c_fc(x))))  # (B, T, C) -> (B, T, I) -> back


class SloGPTGatedMLP(nn.Module):
    def __init__(self, config: SloGPTConfig) -> None:
        super().__init__()
        C, I = config.hidden_size, config.intermediate_size
        self.w1 = nn.Linear(C, I, bias=config.bias)  # gate
        self.w2 = ResidualLinear(I, C, bias=config.bias)  # down
        self.w3 = nn.Linear(C, I, bias=config.bias)  # up
        self.act = ACTIVATIONS[config.activation]
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.w2(self.act(self.w1(x)) * self.w3(x)))


class SloGPTBlock(GradientCheckpointingLayer):
    def __init__(self, config: SloGPTConfig, layer_idx: int) -> None:
        super().__init__()
        self.ln_1 = make_norm(config)
        self.attn = SloGPTAttention(config, layer_idx)
        self.ln_2 = make_norm(config)
        self.mlp = (SloGPTGatedMLP if config.mlp == "gated" else SloGPTPlainMLP)(config)
        self.residual_multiplier = config.residual_multiplier

    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        x = x + self.residual_multiplier * self.attn(self.ln_1(x), **kwargs)[0]
        return x + self.residual_multiplier * self.mlp(self.ln_2(x))


class SloGPTPreTrainedModel(PreTrainedModel):
    config: SloGPTConfig
    config_class = SloGPTConfig
    base_model_prefix = "transformer"
    supports_gradient_checkpointing = True
    _input_embed_layer = "wte"
    _no_split_modules = ["SloGPTBlock"]
    _skip_keys_device_placement = ["past_key_values", "cache"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": SloGPTBlock, "attentions": SloGPTAttention}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, ResidualLinear):
            std = self.config.initializer_range / math.sqrt(2 * self.config.num_hidden_layers)
            init.normal_(module.weight, mean=0.0, std=std)


class SloGPTModel(SloGPTPreTrainedModel):
    def __init__(self, config: SloGPTConfig) -> None:
        super().__init__(config)
        self.wte = nn.Embedding(config.vocab_size, config.hidden_size)
        if config.positions == "learned":
            self.wpe = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.drop = nn.Dropout(config.dropout)
        self.h = nn.ModuleList(SloGPTBlock(config, i) for i in range(config.num_hidden_layers))
        self.ln_f = make_norm(config)
        self.embedding_multiplier = config.embedding_multiplier
        self.logit_multiplier = config.logit_multiplier
        self.gradient_checkpointing = False
        self.post_init()

    def embed_positions(self, position_ids: Tensor) -> Tensor:
        """(B, T) -> (B, T, C). Raises ValueError for a position that was never learned."""
        known = self.config.max_position_embeddings
        if not is_tracing(position_ids) and (last := int(position_ids.max())) >= known:
            raise ValueError(
                f"the sequence reaches position {last}, but this model learned only positions 0 to "
                f"{known - 1} (max_position_embeddings={known}): shorten the input or the output"
            )
        return self.wpe(position_ids)

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,  # (B, T)
        attention_mask: Tensor | None = None,  # (B, past + T), 0 where padded
        position_ids: Tensor | None = None,  # (B, T); counted over attention_mask where not given
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,  # (B, T, C), instead of input_ids
        use_cache: bool | None = None,
        past_key_values: Cache | None = None,  # what cache was called up to transformers 5.23
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        refuse_unknown(self.config, kwargs)
        cache = only_one(cache, past_key_values)
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        x = self.wte(input_ids) if inputs_embeds is None else inputs_embeds
        T = x.shape[1]

        if use_cache and cache is None:
            cache = DynamicCache(config=self.config)
        if position_ids is None:
            past = 0 if cache is None else cache.get_seq_length()
            if attention_mask is not None and attention_mask.ndim == 2:
                counted = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
                position_ids = counted[:, past : past + T]
            else:
                position_ids = (torch.arange(T, device=x.device) + past)[None]

        held = {CACHE: cache}
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=x,
            attention_mask=attention_mask,
            position_ids=position_ids,
            **held,
        )
        rotary = None
        if self.config.positions == "rotary":
            head_size = self.config.hidden_size // self.config.num_attention_heads
            rotary = rotary_tables(position_ids, head_size, self.config.rope_theta)
        else:
            x = x + self.embed_positions(position_ids)

        x = self.drop(self.embedding_multiplier * x)
        for block in self.h:
            x = block(
                x,
                attention_mask=mask,
                rotary=rotary,
                position_ids=position_ids,
                **held,
                **kwargs,
            )
        # The multiplier is here, since what the head gets is this times its weight.
        x = self.logit_multiplier * self.ln_f(x)
        return BaseModelOutputWithPast(last_hidden_state=x, **held)


class SloGPTForCausalLM(SloGPTPreTrainedModel, GenerationMixin):
    _tied_weights_keys = {"lm_head.weight": "transformer.wte.weight"}

    def __init__(self, config: SloGPTConfig) -> None:
        super().__init__(config)
        self.transformer = SloGPTModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,  # (B, T), shifted here; -100 is ignored
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,  # the last so many positions, 0 for all
        past_key_values: Cache | None = None,  # what cache was called up to transformers 5.23
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        outputs = self.transformer(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            past_key_values=past_key_values,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept])  # (B, T or fewer, V)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            **{CACHE: outputs.get(CACHE)},
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


# What save_pretrained needs to put this file and its auto_map beside the weights again.
SloGPTConfig.register_for_auto_class()
SloGPTModel.register_for_auto_class("AutoModel")
SloGPTForCausalLM.register_for_auto_class("AutoModelForCausalLM")
