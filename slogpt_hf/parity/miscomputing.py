"""Faults of what a class computes, beside those of its weights: planted while a part runs.

Where a fault makes the model that of another spec, the original is asked with that spec whether
the fault would show at all.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from slogpt_hf.checkpoints.spec import Activation, Spec
from slogpt_hf.conversion.configs import attention_multiplier
from slogpt_hf.parity.streamed import substituted

if TYPE_CHECKING:
    from slogpt_hf.parity.faults import Patient

EPSILONS = ("eps", "variance_epsilon", "norm_eps")
LEAST_CHANGE = 1e-9  # of a multiplier, as a share of it: ten times the bound


class _Calls(TorchFunctionMode):
    """Calls another function for a function of torch."""

    def __init__(self, function: Callable[..., Any], instead: Callable[..., Any]) -> None:
        super().__init__()
        self.function, self.instead = function, instead

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return (self.instead if func is self.function else func)(*args, **(kwargs or {}))


def _gelu(approximate: str) -> Callable[..., Tensor]:
    return lambda x, **kwargs: functional.gelu(x, approximate=approximate)


# What an activation calls, and what is called for it: a function that is like it.
OTHER_ACTIVATIONS: Mapping[Activation, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "gelu": (functional.gelu, _gelu("tanh")),
    "gelu_tanh": (functional.gelu, _gelu("none")),
    "quick_gelu": (torch.sigmoid, lambda x: torch.sigmoid(x / 1.702)),
    "relu": (functional.relu, _gelu("none")),
    "relu2": (functional.relu, _gelu("none")),
    "silu": (functional.silu, lambda x, **kwargs: x * torch.sigmoid(1.702 * x)),
}


def other_activation(patient: Patient) -> AbstractContextManager[Any]:
    """One that is like the model's."""
    return _Calls(*OTHER_ACTIVATIONS[patient.spec.activation])


def _attention(**changes: Any) -> AbstractContextManager[Any]:
    attention = functional.scaled_dot_product_attention
    return _Calls(attention, lambda *args, **kwargs: attention(*args, **kwargs | changes))


def looks_ahead(patient: Patient) -> AbstractContextManager[Any]:
    """No causal mask."""
    return _attention(attn_mask=None, is_causal=False)


def scaled_by_width(spec: Spec) -> Spec:
    """1 / sqrt(n) for the scale of attention; twice that where it is the model's own."""
    scale = float(spec.n_embd) ** -0.5
    differs = _differ(scale, attention_multiplier(spec))
    return replace(spec, attention_multiplier=scale if differs else 2.0 * scale)


def scaled_as_usual(spec: Spec) -> Spec:
    """1 / sqrt(d) for the scale of attention."""
    return replace(spec, attention_multiplier=None)


def other_scale(patient: Patient, spec: Spec) -> AbstractContextManager[Any]:
    """That of another spec for the scale of attention."""
    return _attention(scale=attention_multiplier(spec))


def without_residual(spec: Spec) -> Spec:
    """No multiplier of what attention and MLP add."""
    return replace(spec, residual_multiplier=1.0)


def without(multiplier: str, *fields: str) -> Callable[[Patient], Any]:
    """Plants: a multiplier of the spec dropped, whatever of ``fields`` a class has for it."""

    def plant(patient: Patient) -> AbstractContextManager[None] | None:
        if not _differ(getattr(patient.spec, multiplier), 1.0):
            return None
        return all_one(patient, *fields)

    return plant


def _differ(a: float, b: float) -> bool:
    return abs(a - b) > LEAST_CHANGE * abs(b)


@contextmanager
def all_one(patient: Patient, *fields: str) -> Iterator[None]:
    """1 in every field of these names that the configuration or a module has."""
    model: Any = patient.model.model
    with ExitStack() as stack:
        for thing in (model.config, *model.modules()):
            for name in fields:
                if hasattr(thing, name):
                    stack.enter_context(substituted(thing, name, 1.0))
        yield


def other_epsilon(spec: Spec) -> Spec:
    """Epsilon off by a factor of ten; 1e-5 for none."""
    return replace(spec, norm_eps=_off_by_ten(spec.norm_eps))


def _off_by_ten(epsilon: float) -> float:
    return epsilon * (10 if epsilon < 1e-5 else 0.1) if epsilon else 1e-5


@contextmanager
def other_epsilons(patient: Patient, spec: Spec) -> Iterator[None]:
    """That of another spec in every norm."""
    with ExitStack() as stack:
        for module in patient.model.model.modules():
            for name in EPSILONS:
                if isinstance(getattr(module, name, None), float):
                    stack.enter_context(substituted(module, name, spec.norm_eps))
        yield


def other_theta(spec: Spec) -> Spec | None:
    """Theta off by one."""
    return None if spec.rope_theta is None else replace(spec, rope_theta=spec.rope_theta + 1)


@contextmanager
def theta_changed(patient: Patient, spec: Spec) -> Iterator[None]:
    """That of another spec, in the rotary tables."""
    model: Any = patient.model.model
    if not isinstance(getattr(model.config, "rope_parameters", None), dict):
        with substituted(model.config, "rope_theta", spec.rope_theta):
            yield
        return
    config = copy.deepcopy(model.config)
    config.rope_parameters["rope_theta"] = spec.rope_theta
    tables = [m for m in model.modules() if any(True for _ in m.buffers(recurse=False))]
    before = [dict(module._buffers) for module in tables]
    with patient.model.computing():
        for module in tables:
            module._buffers.update(dict(type(module)(config).named_buffers(recurse=False)))
    try:
        yield
    finally:
        for module, buffers in zip(tables, before, strict=True):
            module._buffers.update(buffers)
