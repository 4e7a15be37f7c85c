"""Shaken weights: seeded noise on every tensor, so that zero biases and unit norms hide nothing.

The noise is made for the checkpoint's tensors and goes through the conversion's plan to the
artefact's, where it is added to what is stored. So what is compared is the stored weights, the
plan and the class at once, on weights of which none is special.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from slogpt_hf.checkpoints import Checkpoint
from slogpt_hf.conversion.plan import Plan
from slogpt_hf.conversion.targets import Target, holds_stack, plan_for, target_for
from slogpt_hf.parity.streamed import Fetch

SEED = 20260101
SHARE = 0.1  # of a tensor's root mean square
LEAST = 0.01  # for what is all zeros
TABLE_ROWS = 4096  # of a table with a row for each id: the others are compared without running


@dataclass(frozen=True)
class Route:
    """How the checkpoint's tensors become those of an artefact.

    Attributes:
        target: the class, and how it calls its parts.
        plan: without merges: adapters are merged before.
    """

    target: Target
    plan: Plan

    @property
    def same(self) -> dict[str, str]:
        """A source tensor that repeats another one to that one."""
        return {copy.source: copy.of for copy in self.plan.copies}

    def tables(self, names: Collection[str]) -> frozenset[str]:
        """Of source tensors those whose first rows are the first rows of the artefact's."""
        return frozenset(
            move.source
            for move in self.plan.moves
            if move.source in names and move.rows is None and not move.operations
        )


def route_to(checkpoint: Checkpoint, class_name: str, stored: Mapping[str, Tensor]) -> Route | None:
    """The way to an artefact of a class with these tensors; None if it is not known.

    Any artefact of the class and names that this package would make is one, whoever made it.
    """
    target = target_for(checkpoint.spec, holds_stack(checkpoint.parts))
    embedding = next(f"{module}.weight" for module, role in target.outer if role == "embed")
    rows = len(stored[embedding]) if embedding in stored else 0
    appended = max(0, rows - checkpoint.spec.vocab_size)
    plan = plan_for(checkpoint.spec, checkpoint.parts, target, {}, appended)
    # Earlier versions wrote no tensor twice.
    plan = replace(plan, repeats=tuple(r for r in plan.repeats if r.target in stored))
    names = plan.made.keys() | {zeros.target for zeros in plan.zeros}
    return Route(target, plan) if (target.class_name, names) == (class_name, set(stored)) else None


class Noise:
    """Noise for source tensors: the same for the same name, whenever it is asked for.

    Attributes:
        tensors: that it is for.
        same: a tensor that repeats another one to that one.
        tables: names of the tensors of which only TABLE_ROWS rows are looked at.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        same: Mapping[str, str],
        tables: Collection[str] = frozenset(),
    ) -> None:
        self.tensors, self.same, self.tables = tensors, same, tables
        self._last: tuple[str, Tensor] | None = None

    def first_rows(self, name: str, tensor: Tensor) -> Tensor:
        """Of what has the rows of a source tensor those that are looked at."""
        return tensor[:TABLE_ROWS] if self.same.get(name, name) in self.tables else tensor

    def of(self, name: str) -> Tensor:
        """Noise in float64 of the shape of a tensor."""
        name = self.same.get(name, name)
        if self._last is None or self._last[0] != name:
            values = self.first_rows(name, self.tensors[name])
            digest = hashlib.sha256(f"{SEED} {name}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:7]))
            noise = torch.randn(values.shape, generator=generator, dtype=torch.float64)
            norm = torch.linalg.vector_norm(values, dtype=torch.float64).item()
            noise *= SHARE * norm / values.numel() ** 0.5 + LEAST
            self._last = name, noise
        return self._last[1]


class Shaken(Mapping[str, Tensor]):
    """A checkpoint's tensors, shaken, in float64."""

    def __init__(self, noise: Noise) -> None:
        self.noise = noise

    def __getitem__(self, name: str) -> Tensor:
        with torch._C.DisableTorchFunction():
            noise = self.noise
            return noise.first_rows(name, noise.tensors[name]) + noise.of(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.noise.tensors)

    def __len__(self) -> int:
        return len(self.noise.tensors)


def shaken_fetch(stored: Mapping[str, Tensor], route: Route, noise: Noise) -> Fetch:
    """Gives an artefact's tensors, shaken as its source was, in float64."""
    moves = route.plan.made

    def fetch(name: str) -> Tensor:
        with torch._C.DisableTorchFunction():
            if (move := moves.get(name)) is None:
                return stored[name].double()
            value = noise.first_rows(move.source, stored[name])
            return value + move.run(noise.of(move.source))  # in float64, as the noise is

    return fetch


def unequal_tensors(
    stored: Mapping[str, Tensor], route: Route, tensors: Mapping[str, Tensor]
) -> list[str]:
    """Names of the artefact's tensors that are not, bit for bit, what the plan makes.

    Args:
        stored: the artefact's tensors.
        route: to them.
        tensors: the checkpoint's, adapters merged, in the artefact's dtype.
    """
    wrong = [
        move.target
        for move in route.plan.made.values()
        if not torch.equal(stored[move.target], move.run(tensors[move.source]))
    ]
    return wrong + [z.target for z in route.plan.zeros if stored[z.target].any()]
