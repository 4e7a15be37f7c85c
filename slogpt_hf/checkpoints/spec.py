"""The architecture of a model as facts, independent of any dialect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, Literal

Positions = Literal["learned", "rotary"]
Norm = Literal["layernorm", "rmsnorm"]
MLP = Literal["plain", "gated"]
Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "relu2", "silu"]
# What records written before an activation was a fact of its own called the two kinds of MLP.
EARLIER_MLPS: dict[str, dict[str, Any]] = {
    "gelu": {"mlp": "plain", "activation": "gelu"},
    "swiglu": {"mlp": "gated", "activation": "silu"},
}


@dataclass(frozen=True)
class Spec:
    """A pre-norm, causal, decoder-only transformer.

    ``x += attn(norm1(x)); x += mlp(norm2(x)); logits = head(norm(x))``, where the embedding (with
    learned positions added), what is added to ``x``, and the logits each have a multiplier.

    Attributes:
        positions: learned table added to the token embedding, or rotary on q and k.
        norm: LayerNorm or RMSNorm.
        mlp: two matrices, ``down(act(up(x)))``, or three, ``down(act(gate(x)) * up(x))``.
        activation: of the MLP: exact (erf) GELU, its tanh approximation, x * sigmoid(1.702 x),
            ReLU, its square, or SiLU.
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
        attention_multiplier: of the attention scores; None for 1 / sqrt(head_dim).
        embedding_multiplier: of the embedding, after learned positions were added.
        residual_multiplier: of what attention and MLP add to the residual stream.
        logit_multiplier: of the logits.
    """

    positions: Positions
    norm: Norm
    mlp: MLP
    activation: Activation
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
    attention_multiplier: float | None = None
    embedding_multiplier: float = 1.0
    residual_multiplier: float = 1.0
    logit_multiplier: float = 1.0

    @property
    def head_dim(self) -> int:
        """Features of one attention head."""
        return self.n_embd // self.n_head

    def to_dict(self) -> dict[str, Any]:
        """The facts as JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> Spec:
        """The spec that ``to_dict`` of this or an earlier version wrote.

        Raises:
            TypeError: it is none.
        """
        return cls(**todays_facts(facts))


def todays_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What ``to_dict`` of an earlier version wrote, under the names and values of today."""
    earlier = EARLIER_MLPS.get(str(facts.get("mlp")), {}) if "activation" not in facts else {}
    defaults = {f.name: f.default for f in fields(Spec) if f.default is not MISSING}
    return {**defaults, **facts, **earlier}
