"""The architecture of a model as facts, independent of any dialect."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Positions = Literal["learned", "rotary"]
Norm = Literal["layernorm", "rmsnorm"]
MLP = Literal["gelu", "swiglu"]


@dataclass(frozen=True)
class Spec:
    """A pre-norm, causal, decoder-only transformer.

    ``x += attn(norm1(x)); x += mlp(norm2(x)); logits = head(norm(x))``

    Attributes:
        positions: learned table added to the token embedding, or rotary on q and k.
        norm: LayerNorm or RMSNorm.
        mlp: exact erf GELU with two matrices, or SwiGLU with three.
        linear_bias: biases in the attention and MLP projections (never in the head).
        norm_bias: bias of the LayerNorms.
        n_layer: number of blocks.
        n_head: number of query heads.
        n_kv_head: number of key and value heads.
        n_embd: width of the residual stream.
        n_hidden: width of the MLP's hidden layer.
        vocab_size: rows of the embedding and of the head.
        block_size: longest sequence, in tokens.
        norm_eps: epsilon of the norms.
        tied: the head's weight equals the embedding, by value.
        rope_theta: base of the rotary frequencies; None with learned positions.
        rotary_pairs: which features rotate together: neighbours or the two halves of a head.
    """

    positions: Positions
    norm: Norm
    mlp: MLP
    linear_bias: bool
    norm_bias: bool
    n_layer: int
    n_head: int
    n_kv_head: int
    n_embd: int
    n_hidden: int
    vocab_size: int
    block_size: int
    norm_eps: float
    tied: bool
    rope_theta: float | None = None
    rotary_pairs: Literal["interleaved", "halves"] | None = None

    @property
    def head_dim(self) -> int:
        """Features of one attention head."""
        return self.n_embd // self.n_head

    def to_dict(self) -> dict[str, Any]:
        """The facts as JSON-ready values."""
        return asdict(self)
