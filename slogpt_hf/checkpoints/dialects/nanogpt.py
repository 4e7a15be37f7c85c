"""The NanoGPT variant: LayerNorm with bias, linear layers without, head of its own."""

from __future__ import annotations

from slogpt_hf.checkpoints.dialect import Architecture, Dialect
from slogpt_hf.checkpoints.fields import Fields
from slogpt_hf.checkpoints.parts import Names


def architecture(fields: Fields) -> Architecture:
    """Learned positions, LayerNorm with bias, exact GELU."""
    return Architecture(
        positions="learned", norm="layernorm", mlp="plain", activation="gelu", norm_bias=True
    )


def names(architecture: Architecture, fields: Fields) -> Names:
    """The modules of the variant."""
    return Names(
        outer={
            "embed": "token_embedding_table",
            "positions": "position_embedding_table",
            "norm": "ln_f",
            "head": "lm_head",
        },
        blocks="blocks.{i}.",
        block={
            "norm1": "ln_1",
            "norm2": "ln_2",
            "attn.qkv": "attn.c_attn",
            "attn.out": "attn.c_proj",
            "mlp.up": "mlp.c_fc",
            "mlp.down": "mlp.c_proj",
        },
    )


DIALECT = Dialect(
    name="nanogpt",
    title="NanoGPT variant",
    mark="token_embedding_table.weight",
    architecture=architecture,
    names=names,
    doubts={
        "activation": "the family's model.py has it; others have the tanh approximation or ReLU",
        "norm_eps": "it is what the family's model.py fixes",
    },
    constants=r"blocks\.\d+\.attn\.(?:bias|masked_bias|mask|tril)",
)
