"""What a dialect is: whose tensor names a state dict uses, as data. docs/adding-a-dialect.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from slogpt_hf.checkpoints.fields import Fields
from slogpt_hf.checkpoints.parts import Names
from slogpt_hf.checkpoints.spec import MLP, Activation, Norm, Positions, Spec

Switches = tuple[str, ...]


@dataclass(frozen=True)
class Architecture:
    """What of a spec is not a size. The defaults are those of most dialects.

    Attributes:
        positions: learned table or rotary.
        norm: LayerNorm or RMSNorm.
        mlp: two matrices or, gated, three.
        activation: of the MLP.
        linear_bias: biases in attention and MLP.
        norm_bias: biases in the norms.
        rotary_pairs: which features rotate together; None with learned positions.
        norm_eps: what the family fixes where no file records it.
        rope_theta: likewise; only used with rotary positions.
        why: fact to what speaks for the value that is taken, where more than the family does.
    """

    positions: Positions = "rotary"
    norm: Norm = "rmsnorm"
    mlp: MLP = "gated"
    activation: Activation = "silu"
    linear_bias: bool = False
    norm_bias: bool = False
    rotary_pairs: Literal["interleaved", "halves"] | None = None
    norm_eps: float = 1e-5
    rope_theta: float = 10_000.0
    why: Mapping[str, str] = field(default_factory=dict)

    def spec(
        self,
        *,
        tied: bool,
        norm_eps: float | None = None,
        rope_theta: float | None = None,
        **sizes: int,
    ) -> Spec:
        """The architecture with its sizes; eps and theta are the family's unless given."""
        rotary = self.positions == "rotary"
        return Spec(
            positions=self.positions,
            norm=self.norm,
            mlp=self.mlp,
            activation=self.activation,
            linear_bias=self.linear_bias,
            norm_bias=self.norm_bias,
            norm_eps=norm_eps or self.norm_eps,
            tied=tied,
            rope_theta=(rope_theta or self.rope_theta) if rotary else None,
            rotary_pairs=self.rotary_pairs if rotary else None,
            **sizes,
        )


@dataclass(frozen=True)
class Dialect:
    """A way of naming a model's tensors.

    Attributes:
        name: in ``release.json`` and for the oracle, e.g. ``llama2c``.
        title: for people, e.g. ``llama2.c``.
        mark: a tensor that every checkpoint of the dialect has and no other dialect's.
        architecture: what the recorded fields and the names of the tensors say of it.
        names: the tensors' names for that architecture.
        switches: recorded fields, true or false, that ``architecture`` asks for.
        constants: pattern of saved tensors that are no weights, such as causal masks.
        doubts: facts that the family's trainers vary without recording it and what speaks for
            each, the most doubtful first.
    """

    name: str
    title: str
    mark: str
    architecture: Callable[[Fields], Architecture]
    names: Callable[[Architecture, Fields], Names]
    switches: Switches = ()
    constants: str = r"(?!)"
    doubts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Unsupported:
    """A dialect that is recognised and refused, with the reason.

    Attributes:
        name: as in ``Dialect``.
        title: for people.
        mark: as in ``Dialect``.
        reason: from the names and shapes of its tensors: what is missing to make a model.
        hint: what to do.
    """

    name: str
    title: str
    mark: str
    reason: Callable[[Mapping[str, tuple[int, ...]]], str]
    hint: str
