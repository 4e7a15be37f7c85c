"""The faults that a gate must catch: what is planted, one at a time, in the converted model.

Each is a way in which conversions were seen to go wrong. A fault is planted on shaken weights, in
the first place where it shows; a row says in which models it can occur at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from slogpt_hf.checkpoints.spec import Spec
from slogpt_hf.conversion.operations import PairsToHalves
from slogpt_hf.parity import miscomputing as other
from slogpt_hf.parity.shaken import Route
from slogpt_hf.parity.streamed import Fetch, Streamed

TOKENS = 24  # of a row of a control; a fault shows at once or never
BLOCK = 0  # that faults of a block are planted in
FLIPPED_BITS = {torch.float32: 12, torch.float64: 41, torch.float16: 0, torch.bfloat16: 0}
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
SHUTTING = ("relu", "relu2")
Stage = Literal["entry", "block", "exit", "head"]
Subject = Literal["scores", "hidden"]


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
        changes: what alone it changes, where a model may have nothing of it: the scores of
            attention, of which one token has one, or what is done with the hidden layer of an MLP,
            which a ReLU may shut.
        spec: of the model that it makes, where it makes one of another spec; None for the same.
            Where the original of that spec computes the same, it cannot occur.
    """

    name: str
    stage: Stage
    plant: Plant
    enters_anew: bool = False
    changes: Subject | None = None
    spec: Callable[[Spec], Spec | None] | None = None


def computing(
    name: str,
    spec: Callable[[Spec], Spec | None],
    plant: Callable[[Patient, Spec], AbstractContextManager[None]],
    **more: Any,
) -> Fault:
    """A fault of a block that makes a model of another spec."""

    def planted(patient: Patient) -> AbstractContextManager[None] | None:
        made = spec(patient.spec)
        return None if made in (None, patient.spec) else plant(patient, made)

    return Fault(name, "block", planted, spec=spec, **more)


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

    Of a block whose ReLU may shut the feature that the weight belongs to, of attention's last.
    Zeros have none that would show: a projection that starts with them is passed over.
    """
    prefix = patient.route.target.blocks.format(i=BLOCK)
    names = [name for name in patient.stored if name.startswith(prefix)]
    names.sort(key=lambda each: -patient.stored[each].numel())
    if patient.spec.activation in SHUTTING and (out := patient.name("attn.out")):
        names.insert(0, out)
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
    if patient.spec.tied:  # whether its head is stored a second time or not
        head = _drawn_anew(patient, "head", patient.fetch(model.head_name))
    else:
        head = patient.fetch(model.embedding_name)
    return _planted(patient, {model.head_name: head})


QK = ("attn.q", "attn.k")
FAULTS = (
    Fault("embedding rows off by one", "entry", _rows_of("embed", lambda rows: rows.roll(1, 0))),
    Fault("positions off by one", "entry", _rows_of("positions", lambda rows: rows.roll(1, 0))),
    Fault(
        "q and k not permuted",
        "block",
        _changed(QK, _unpermuted, "weight", "bias"),
        changes="scores",
    ),
    Fault(
        "k permuted by the query head count",
        "block",
        _changed(("attn.k",), _by_query_heads),
        changes="scores",
    ),
    Fault(
        "biases of q and k not permuted",
        "block",
        _changed(QK, _unpermuted_bias, "bias"),
        changes="scores",
    ),
    Fault(
        "key and value heads of other queries",
        "block",
        _changed(("attn.k", "attn.v"), _other_kv_heads),
    ),
    Fault("q and k swapped", "block", _swapped("attn.q", "attn.k"), changes="scores"),
    Fault("norms of a block swapped", "block", _swapped("norm1", "norm2")),
    Fault("a norm's weight dropped", "block", _changed(("norm2",), _ones)),
    computing("epsilon off by a factor of ten", other.other_epsilon, other.other_epsilons),
    Fault("another activation", "block", other.other_activation, changes="hidden"),
    Fault("gate and up swapped", "block", _swapped("mlp.gate", "mlp.up"), changes="hidden"),
    computing(
        "theta off by one",
        other.other_theta,
        other.theta_changed,
        enters_anew=True,
        changes="scores",
    ),
    Fault("attention looks ahead", "block", other.looks_ahead, changes="scores"),
    computing(
        "attention scaled by the width", other.scaled_by_width, other.other_scale, changes="scores"
    ),
    computing(
        "attention multiplier dropped", other.scaled_as_usual, other.other_scale, changes="scores"
    ),
    computing(
        "residual multiplier dropped",
        other.without_residual,
        lambda patient, spec: other.all_one(patient, "residual_multiplier"),
    ),
    Fault("a transposed matrix", "block", _changed(("attn.out",), _transposed)),
    Fault("a stale row", "block", _changed(("mlp.down",), _stale_row), changes="hidden"),
    Fault("a dropped tensor", "block", _changed(("mlp.up",), _drawn_anew), changes="hidden"),
    Fault("a dropped bias", "block", _changed(("attn.out",), _no_bias, "bias")),
    Fault("one flipped bit", "block", _flipped_bit),
    Fault(
        "embedding multiplier dropped",
        "entry",
        other.without("embedding_multiplier", "embedding_multiplier"),
        enters_anew=True,
    ),
    Fault(
        "logit multiplier dropped",
        "exit",
        other.without("logit_multiplier", "logit_multiplier", "logits_scaling"),
    ),
    Fault("final norm's weight dropped", "exit", _rows_of("norm", torch.ones_like)),
    Fault("head tied wrongly", "head", _wrong_head),
)
