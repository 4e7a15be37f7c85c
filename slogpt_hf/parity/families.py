"""Where each family of models keeps what the oracle computes with. A table.

Written from the trainers' ``model.py`` and apart from the readers' tables on purpose: a reader
that takes a gate for an up projection, or a query for a key, must not find the same mistake here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from slogpt_hf.checkpoints import Checkpoint
from slogpt_hf.checkpoints.spec import MLP


@dataclass(frozen=True)
class Family:
    """Module names; a module's tensors end in ``.weight`` and ``.bias``.

    Attributes:
        title: as the report calls the family.
        embedding: token embedding.
        positions: position embedding; None if the family has none.
        blocks: prefix of block i, with ``{i}``.
        norm1: norm before attention, inside a block like the next four.
        norm2: norm before the MLP.
        qkv: the projections to q, k and v; a single one holds all three, stacked.
        out: projection after attention.
        mlp: plain to (up, down), gated to (gate, up, down).
        norm: norm before the head.
        head: projection to logits; the embedding stands for it in a checkpoint that has none.
    """

    title: str
    embedding: str
    positions: str | None
    blocks: str
    norm1: str
    norm2: str
    qkv: tuple[str, ...]
    out: str
    mlp: Mapping[MLP, tuple[str, ...]]
    norm: str
    head: str


SLO = Family(
    title="Slo",
    embedding="transformer.wte",
    positions="transformer.wpe",
    blocks="transformer.h.{i}.",
    norm1="ln_1",
    norm2="ln_2",
    qkv=("attn.c_attn",),
    out="attn.c_proj",
    mlp={"plain": ("mlp.c_fc", "mlp.c_proj"), "gated": ("mlp.w1", "mlp.w3", "mlp.w2")},
    norm="transformer.ln_f",
    head="lm_head",
)
LLAMA2C = Family(
    title="llama2.c",
    embedding="tok_embeddings",
    positions=None,
    blocks="layers.{i}.",
    norm1="attention_norm",
    norm2="ffn_norm",
    qkv=("attention.wq", "attention.wk", "attention.wv"),
    out="attention.wo",
    mlp={"gated": ("feed_forward.w1", "feed_forward.w3", "feed_forward.w2")},
    norm="norm",
    head="output",
)
SLOUGHGPT = Family(
    title="SloughGPT",
    embedding="tok_emb",
    positions=None,
    blocks="blocks.{i}.",
    norm1="norm1",
    norm2="norm2",
    qkv=("attn.q_proj", "attn.k_proj", "attn.v_proj"),
    out="attn.o_proj",
    mlp={"gated": ("mlp.w1", "mlp.w3", "mlp.w2")},
    norm="norm",
    head="lm_head",
)
NANOGPT = Family(
    title="NanoGPT variant",
    embedding="token_embedding_table",
    positions="position_embedding_table",
    blocks="blocks.{i}.",
    norm1="ln_1",
    norm2="ln_2",
    qkv=("attn.c_attn",),
    out="attn.c_proj",
    mlp={"plain": ("mlp.c_fc", "mlp.c_proj")},
    norm="ln_f",
    head="lm_head",
)
FAMILIES: Mapping[str, Family] = {  # by the checkpoint's dialect
    "slo": SLO,
    "llama2c": LLAMA2C,
    "sloughgpt": SLOUGHGPT,
    "nanogpt": NANOGPT,
}


def family_title(checkpoint: Checkpoint) -> str:
    """What the models are called that a checkpoint is taken for.

    Slo's names are nanoGPT's, and its architecture without any switch is nanoGPT's too.
    """
    spec = checkpoint.spec
    switches = (spec.positions, spec.norm, spec.mlp)
    if checkpoint.dialect == "slo" and switches == ("learned", "layernorm", "plain"):
        return "nanoGPT"
    return FAMILIES[checkpoint.dialect].title
