"""Small models of all sixteen architectures, and fp64 without fp32 inside."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from slogpt_hf.conversion.modeling_slogpt import SloGPTConfig, SloGPTForCausalLM

ARCHITECTURES = [
    {"positions": positions, "norm": norm, "mlp": mlp, "bias": bias}
    for positions, norm, mlp, bias in itertools.product(
        ("learned", "rotary"), ("layernorm", "rmsnorm"), ("plain", "gated"), (True, False)
    )
]
SIZES = {
    "vocab_size": 37,
    "max_position_embeddings": 16,
    "hidden_size": 32,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "norm_eps": 1e-3,
    "rope_theta": 100.0,
}


def architecture_id(architecture: dict[str, Any]) -> str:
    bias = "bias" if architecture["bias"] else "nobias"
    return "-".join((architecture["positions"], architecture["norm"], architecture["mlp"], bias))


@pytest.fixture(params=ARCHITECTURES, ids=architecture_id)
def architecture(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Each of the sixteen."""
    return dict(request.param)


@pytest.fixture(params=[ARCHITECTURES[0], ARCHITECTURES[-1]], ids=["classic", "modern"])
def extreme(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The two that share no switch."""
    return dict(request.param)


@pytest.fixture
def shaken() -> Callable[..., SloGPTForCausalLM]:
    """Makes small models whose every parameter is random, norms and biases included."""

    def make(architecture: dict[str, Any], **fields: Any) -> SloGPTForCausalLM:
        torch.manual_seed(1)
        model = SloGPTForCausalLM(SloGPTConfig(**{**SIZES, **architecture, **fields})).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
        return model

    return make


@pytest.fixture
def tokens() -> Callable[..., Tensor]:
    """Makes the same ids of a given shape every time."""

    def make(*shape: int) -> Tensor:
        generator = torch.Generator().manual_seed(2)
        return torch.randint(SIZES["vocab_size"], shape, generator=generator)

    return make


@pytest.fixture
def relative_error() -> Callable[[Tensor, Tensor], float]:
    def measure(got: Tensor, expected: Tensor) -> float:
        return float(((got - expected).abs().max() / expected.abs().max()).detach())

    return measure


class Lifted(TorchFunctionMode):
    """Lifts `.float()` to fp64 and, with `dtypes`, every other mention of torch.float32 too."""

    def __init__(self, *, dtypes: bool = True) -> None:
        super().__init__()
        self.dtypes = dtypes

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        def lift(value: Any) -> Any:
            return torch.float64 if self.dtypes and value is torch.float32 else value

        if func is Tensor.float:
            return args[0].double()
        lifted = {name: lift(value) for name, value in (kwargs or {}).items()}
        return func(*(lift(value) for value in args), **lifted)


@pytest.fixture
def lifted() -> type[Lifted]:
    return Lifted
