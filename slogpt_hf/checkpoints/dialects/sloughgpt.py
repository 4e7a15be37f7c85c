"""The SloughGPT dialect: the later trainer's ``step_*.pt``, ``model.pt``, folders and ``.sou``."""

from __future__ import annotations

from slogpt_hf.checkpoints.dialect import Architecture, Dialect
from slogpt_hf.checkpoints.fields import Fields
from slogpt_hf.checkpoints.parts import Names


def architecture(fields: Fields) -> Architecture:
    """RMSNorm, SwiGLU, no biases, rotary on the two halves of a head."""
    return Architecture(rotary_pairs="halves")


def names(architecture: Architecture, fields: Fields) -> Names:
    """The modules of a SloughGPT model."""
    return Names(
        outer={"embed": "tok_emb", "norm": "norm", "head": "lm_head"},
        blocks="blocks.{i}.",
        block={
            "norm1": "norm1",
            "attn.q": "attn.q_proj",
            "attn.k": "attn.k_proj",
            "attn.v": "attn.v_proj",
            "attn.out": "attn.o_proj",
            "norm2": "norm2",
            "mlp.gate": "mlp.w1",
            "mlp.up": "mlp.w3",
            "mlp.down": "mlp.w2",
        },
    )


DIALECT = Dialect(
    name="sloughgpt",
    title="SloughGPT",
    mark="tok_emb.weight",
    architecture=architecture,
    names=names,
    doubts={
        "rope_theta": "it is SloughGPT's default, which its configuration can change",
        "norm_eps": "it is SloughGPT's default",
        "rotary_pairs": "SloughGPT's model rotates halves",
        "activation": "SloughGPT's model has it",
    },
    constants=r"(?:.*\.)?(?:inv_freq|cos_cached|sin_cached)",
)
