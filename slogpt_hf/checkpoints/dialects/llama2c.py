"""The llama2.c dialect: its trainer's ``ckpt.pt``, and the names that its ``.bin`` is read under.

Layout: https://github.com/karpathy/llama2.c, ``model.py`` and ``train.py``.
"""

from __future__ import annotations

from collections.abc import Mapping

from slogpt_hf.checkpoints.dialect import Architecture, Dialect
from slogpt_hf.checkpoints.fields import Fields
from slogpt_hf.checkpoints.parts import Names


def architecture(fields: Fields) -> Architecture:
    """RMSNorm, SwiGLU, no biases, rotary on neighbouring features."""
    return Architecture(rotary_pairs="interleaved")


def names(architecture: Architecture, fields: Fields) -> Names:
    """The modules of a llama2.c model; a ``.bin`` with a shared classifier holds no head."""
    form = fields.value.get("format")
    shared = isinstance(form, Mapping) and form.get("shared_classifier") is True
    return Names(
        outer={
            "embed": "tok_embeddings",
            "norm": "norm",
            "head": "tok_embeddings" if shared else "output",
        },
        blocks="layers.{i}.",
        block={
            "norm1": "attention_norm",
            "attn.q": "attention.wq",
            "attn.k": "attention.wk",
            "attn.v": "attention.wv",
            "attn.out": "attention.wo",
            "norm2": "ffn_norm",
            "mlp.gate": "feed_forward.w1",
            "mlp.up": "feed_forward.w3",
            "mlp.down": "feed_forward.w2",
        },
    )


DIALECT = Dialect(
    name="llama2c",
    title="llama2.c",
    mark="tok_embeddings.weight",
    architecture=architecture,
    names=names,
    # Rotary tables, and the causal mask of PyTorch before 2.0.
    doubts={
        "rope_theta": "it is what llama2.c fixes; files of Llama vary it",
        "norm_eps": "it is llama2.c's default; files of Llama also have 1e-06",
        "softmax": "llama2.c has it; a fork adds one to its denominator (softmax1)",
        "rotary_pairs": "llama2.c and Meta's files rotate neighbours; files that went through "
        "transformers have halves",
        "activation": "llama2.c has it",
    },
    constants=r"freqs_cos|freqs_sin|rope\.freqs|layers\.\d+\.attention\.mask",
)
