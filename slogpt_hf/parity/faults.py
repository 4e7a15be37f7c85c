"""The faults that a gate must catch: what is planted, one at a time, in the converted model.

Each is a way in which conversions were seen to go wrong. A fault is planted on shaken weights, in
the first place where it shows; a row says in which models it can occur at all.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from slogpt_hf.checkpoints.spec import Spec
from slogpt_hf.conversion.operations import PairsToHalves
from slogpt_hf.parity.shaken import Route
from slogpt_hf.parity.streamed import Fetch, Streamed, substituted

TOKENS = 24  # of a row of a control; a fault shows at once or never
LEAST_ANGLE = 1e-5  # radians; twice as much was seen to show
BLOCK = 0  # that faults of a block are planted in
FLIPPED_BITS = {torch.float32: 12, torch.float64: 41, torch.float16: 0, torch.bfloat16: 0}
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
EPSILONS = ("eps", "variance_epsilon", "norm_eps")
Stage = Literal["entry", "block", "exit", "head"]


@dataclass
class Patient:
    """The converted model that faults are planted in.

    Attributes:
        spec: the architecture.
        route: how the class calls its parts.
        model: runs on shaken weights; looks into ``planted`` first.
        fetch: gives shaken weights without a fault.
        stored: what lies on disk.
        planted: name to what a fault puts in a weight's place.
    """

    spec: Spec
    route: Route
    model: Streamed
    fetch: Fetch
    stored: Mapping[str, Tensor]
    planted: dict[str, Tensor] = field(default_factory=dict)

    def name(self, role: str, kind: str = "weight", block: int = BLOCK) -> str | None:
        """Name of the tensor that holds a role of the block; None if the class has none."""
        target = self.route.target
        held = {r: module for module, r in target.block}
        module = held.get(role) or (
            held.get("attn.qkv") if role in ("attn.q", "attn.k", "attn.v") else None
        )
        if module is None:
            return None
        name = f"{target.blocks.format(i=block)}{module}.{kind}"
        return name if name in self.stored else None

    def outer(self, role: str) -> str | None:
        """Name of a weight outside of the blocks."""
        module = {r: m for m, r in self.route.target.outer}.get(role)
        return f"{module}.weight" if module else None

    def part(self, name: str, role: str, tensor: Tensor) -> Tensor:
        """The rows of a role within the tensor that holds it, (out, in) or (out,), as a view."""
        if self.route.target.transposed and tensor.dim() == 2:
            tensor = tensor.t()
        if (shared := self._shared_rows(name, role)) is not None:
            tensor = tensor[shared]
        return tensor

    def _shared_rows(self, name: str, role: str) -> slice | None:
        held = {r for _, r in self.route.target.block}
        if role in held or role not in ("attn.q", "attn.k", "attn.v"):
            return None
        kv = self.spec.n_kv_head * self.spec.head_dim
        starts = {"attn.q": 0, "attn.k": self.spec.n_embd, "attn.v": self.spec.n_embd + kv}
        start = starts[role]
        return slice(start, start + (self.spec.n_embd if role == "attn.q" else kv))

    @property
    def has_linear_bias(self) -> bool:
        """Whether the original has biases in attention and MLP."""
        return self.spec.linear_bias

    @property
    def permutes(self) -> bool:
        """Whether the plan reorders rows of q and k."""
        # A head of two features has one pair, whose halves are where they were.
        return self.spec.head_dim > 2 and any(
            isinstance(operation, PairsToHalves)
            for move in self.route.plan.moves
            for operation in move.operations
        )


Change = Callable[[Tensor], Tensor]
Plant = Callable[[Patient], AbstractContextManager[None] | None]


@dataclass(frozen=True)
class Fault:
    """A fault.

    Attributes:
        name: as report and documentation call it.
        stage: where it shows first.
        plant: puts it into a patient for the time of a block; None where it cannot occur.
        enters_anew: what blocks are called with changes, too.
        of_scores: changes nothing but the scores of attention, of which one token has one.
    """

    name: str
    stage: Stage
    plant: Plant
    enters_anew: bool = False
    of_scores: bool = False


@contextmanager
def _planted(patient: Patient, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    patient.planted.update(tensors)
    try:
        yield
    finally:
        for name in tensors:
            del patient.planted[name]


def _changed(
    roles: Iterable[str], change: Callable[[Patient, str, Tensor], Tensor | None], *kinds: str
) -> Plant:
    """Changes the parts of roles in their tensors; a change of None says that it cannot occur."""

    def plant(patient: Patient) -> AbstractContextManager[None] | None:
        tensors: dict[str, Tensor] = {}
        for role in roles:
            for kind in kinds or ("weight",):
                if (name := patient.name(role, kind)) is None:
                    continue
                if name not in tensors:
                    tensors[name] = patient.fetch(name).clone()
                view = patient.part(name, role, tensors[name])
                if (value := change(patient, role, view.clone())) is None:
                    return None
                view.copy_(value)
        return _planted(patient, tensors) if tensors else None

    return plant


def _heads(patient: Patient, role: str) -> int:
    return patient.spec.n_head if role == "attn.q" else patient.spec.n_kv_head


def _unpermuted(patient: Patient, role: str, rows: Tensor) -> Tensor | None:
    return PairsToHalves(_heads(patient, role)).inverse(rows) if patient.permutes else None


def _unpermuted_bias(patient: Patient, role: str, rows: Tensor) -> Tensor | None:
    return _unpermuted(patient, role, rows) if patient.has_linear_bias else None


def _by_query_heads(patient: Patient, role: str, rows: Tensor) -> Tensor | None:
    spec = patient.spec
    if not patient.permutes or spec.n_kv_head == spec.n_head or len(rows) % (2 * spec.n_head):
        return None
    plain = PairsToHalves(spec.n_kv_head).inverse(rows)
    return PairsToHalves(spec.n_head).forward(plain)


def _other_kv_heads(patient: Patient, role: str, rows: Tensor) -> Tensor | None:
    if patient.spec.n_kv_head < 2:
        return None
    return torch.unflatten(rows, 0, (patient.spec.n_kv_head, -1)).roll(1, 0).flatten(0, 1)


def _transposed(patient: Patient, role: str, rows: Tensor) -> Tensor | None:
    return rows.t() if rows.shape[0] == rows.shape[1] and rows.shape[0] > 1 else None


def _stale_row(patient: Patient, role: str, rows: Tensor) -> Tensor | None:
    if len(rows) < 2:
        return None
    rows[-1] = rows[0]
    return rows


def _drawn_anew(patient: Patient, role: str, rows: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return 0.02 * torch.randn(rows.shape, generator=generator, dtype=rows.dtype)


def _ones(patient: Patient, role: str, rows: Tensor) -> Tensor:
    return torch.ones_like(rows)


def _no_bias(patient: Patient, role: str, rows: Tensor) -> Tensor | None:
    return torch.zeros_like(rows) if patient.has_linear_bias else None


def _swapped(one: str, other: str) -> Plant:
    """The weights, and where they have them the biases, of two roles in each other's place."""

    def plant(patient: Patient) -> AbstractContextManager[None] | None:
        tensors: dict[str, Tensor] = {}
        for kind in ("weight", "bias"):
            names = [patient.name(role, kind) for role in (one, other)]
            if names[0] is None or names[1] is None:
                continue
            if (
                names[0] == names[1]
                or patient.stored[names[0]].shape != patient.stored[names[1]].shape
            ):
                return None
            tensors |= {names[0]: patient.fetch(names[1]), names[1]: patient.fetch(names[0])}
        return _planted(patient, tensors) if tensors else None

    return plant


def _flipped_bit(patient: Patient) -> AbstractContextManager[None] | None:
    """One bit of the mantissa of the largest weight of the block's largest tensor.

    Zeros have none that would show: a projection that starts with them is passed over.
    """
    prefix = patient.route.target.blocks.format(i=BLOCK)
    names = [name for name in patient.stored if name.startswith(prefix)]
    names.sort(key=lambda each: -patient.stored[each].numel())
    name = next((each for each in names if patient.stored[each].any()), None)
    if name is None:
        return None
    before = patient.stored[name]
    after = before.clone().flatten()
    index = int(after.abs().argmax())
    bits = after[index : index + 1].view(INTEGERS[after.element_size()])
    bits ^= 1 << FLIPPED_BITS[after.dtype]
    change = after.view(before.shape).double() - before.double()
    return _planted(patient, {name: patient.fetch(name) + change})


@contextmanager
def _other_epsilons(patient: Patient) -> Iterator[None]:
    block = patient.model.blocks[BLOCK]
    found = [
        (m, name)
        for m in block.modules()
        for name in EPSILONS
        if isinstance(getattr(m, name, None), float)
    ]
    before = [getattr(module, name) for module, name in found]
    for (module, name), value in zip(found, before, strict=True):
        setattr(module, name, value * (10 if value < 1e-5 else 0.1))
    try:
        yield
    finally:
        for (module, name), value in zip(found, before, strict=True):
            setattr(module, name, value)


class _Calls(TorchFunctionMode):
    """Calls a function of torch with other arguments."""

    def __init__(self, function: Callable[..., Any], change: Callable[[dict[str, Any]], None]):
        super().__init__()
        self.function, self.change = function, change

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is self.function:
            self.change(kwargs)
        return func(*args, **kwargs)


def _tanh_gelu(patient: Patient) -> AbstractContextManager[Any] | None:
    if patient.spec.activation != "gelu":
        return None
    return _Calls(functional.gelu, lambda kwargs: kwargs.update(approximate="tanh"))


def _looks_ahead(patient: Patient) -> AbstractContextManager[Any]:
    def unmask(kwargs: dict[str, Any]) -> None:
        kwargs.update(attn_mask=None, is_causal=False)

    return _Calls(functional.scaled_dot_product_attention, unmask)


def _other_scale(patient: Patient) -> AbstractContextManager[Any]:
    scale = float(patient.spec.n_embd) ** -0.5
    if patient.spec.n_head == 1:
        scale *= 2.0
    return _Calls(
        functional.scaled_dot_product_attention, lambda kwargs: kwargs.update(scale=scale)
    )


def _turned(spec: Spec) -> float:
    """By how much another theta turns a feature at most, in the tokens of a control, in radians."""
    theta, d = spec.rope_theta or 1.0, spec.head_dim
    changes = (theta ** (-j / d) - (theta + 1) ** (-j / d) for j in range(0, d, 2))
    length = min(TOKENS, spec.block_size)
    return (length - 1) * max(changes) if spec.rope_theta is not None else 0.0


def _other_theta(patient: Patient) -> AbstractContextManager[None] | None:
    # In a short context, or heads of few features, such a theta turns nothing by enough to show.
    if _turned(patient.spec) < LEAST_ANGLE:
        return None
    return _theta_changed(patient)


@contextmanager
def _theta_changed(patient: Patient) -> Iterator[None]:
    model: Any = patient.model.model
    theta = (patient.spec.rope_theta or 0.0) + 1
    if not isinstance(getattr(model.config, "rope_parameters", None), dict):
        with substituted(model.config, "rope_theta", theta):
            yield
        return
    config = copy.deepcopy(model.config)
    config.rope_parameters["rope_theta"] = theta
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


def _rows_of(role: str, change: Callable[[Tensor], Tensor]) -> Plant:
    """Changes a table outside of the blocks."""

    def plant(patient: Patient) -> AbstractContextManager[None] | None:
        name = patient.outer(role)
        if name is None or name not in patient.stored or len(patient.stored[name]) < 2:
            return None
        return _planted(patient, {name: change(patient.fetch(name))})

    return plant


def _wrong_head(patient: Patient) -> AbstractContextManager[None]:
    """Not tied where it is, as a head that is missing is drawn; tied where it is not."""
    model = patient.model
    if model.head_name == model.embedding_name:
        head = _drawn_anew(patient, "head", patient.fetch(model.head_name))
    else:
        head = patient.fetch(model.embedding_name)
    return _planted(patient, {model.head_name: head})


QK = ("attn.q", "attn.k")
FAULTS = (
    Fault("embedding rows off by one", "entry", _rows_of("embed", lambda rows: rows.roll(1, 0))),
    Fault("positions off by one", "entry", _rows_of("positions", lambda rows: rows.roll(1, 0))),
    Fault(
        "q and k not permuted", "block", _changed(QK, _unpermuted, "weight", "bias"), of_scores=True
    ),
    Fault(
        "k permuted by the query head count",
        "block",
        _changed(("attn.k",), _by_query_heads),
        of_scores=True,
    ),
    Fault(
        "biases of q and k not permuted",
        "block",
        _changed(QK, _unpermuted_bias, "bias"),
        of_scores=True,
    ),
    Fault(
        "key and value heads of other queries",
        "block",
        _changed(("attn.k", "attn.v"), _other_kv_heads),
    ),
    Fault("q and k swapped", "block", _swapped("attn.q", "attn.k"), of_scores=True),
    Fault("norms of a block swapped", "block", _swapped("norm1", "norm2")),
    Fault("a norm's weight dropped", "block", _changed(("norm2",), _ones)),
    Fault("epsilon off by a factor of ten", "block", _other_epsilons),
    Fault("tanh GELU", "block", _tanh_gelu),
    Fault("gate and up swapped", "block", _swapped("mlp.gate", "mlp.up")),
    Fault("theta off by one", "block", _other_theta, enters_anew=True, of_scores=True),
    Fault("attention looks ahead", "block", _looks_ahead, of_scores=True),
    Fault("attention scaled by the width", "block", _other_scale, of_scores=True),
    Fault("a transposed matrix", "block", _changed(("attn.out",), _transposed)),
    Fault("a stale row", "block", _changed(("mlp.down",), _stale_row)),
    Fault("a dropped tensor", "block", _changed(("mlp.up",), _drawn_anew)),
    Fault("a dropped bias", "block", _changed(("attn.out",), _no_bias, "bias")),
    Fault("one flipped bit", "block", _flipped_bit),
    Fault("final norm's weight dropped", "exit", _rows_of("norm", torch.ones_like)),
    Fault("head tied wrongly", "head", _wrong_head),
)
