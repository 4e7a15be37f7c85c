"""The settings under which the built-in model computes what a witness says: a bounded search.

Settings are facts of a spec that no file records. Those of few values are tried from a table,
the smallest change first; numbers that no table has are solved for (Gauss-Newton on their
logarithms), since logits depend on them smoothly.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from slogpt_hf.checkpoints.spec import Spec
from slogpt_hf.parity import decoder
from slogpt_hf.parity.comparing import deviation
from slogpt_hf.parity.decoder import Decoder
from slogpt_hf.parity.judging import FP64_BOUND, noise_bound
from slogpt_hf.parity.oracles import Testimony

Changes = dict[str, Any]  # name of a setting to its value, none that the spec has already
TOKENS, ROWS = 64, 2  # of the witness, for each try
SECONDS, PASSES = 120.0, 20_000
# Combinations of two and of more that are extended, and those that numbers are solved for.
MOST_PAIRS, BEAM, SOLVED = 40, 12, 4
STEPS, STEP = 20, 1e-4  # of Gauss-Newton; of the logarithm, for its derivative
DIGITS = (1, 2, 3, 4, 6, 8, 10, 12)
RIVALS = ("residual_multiplier", "embedding_multiplier")
# Numbers that logits depend on smoothly: they can be solved for.
NUMBERS = (
    *("norm_eps", "rope_theta", "attention_multiplier", "embedding_multiplier"),
    *("residual_multiplier", "logit_multiplier"),
)


def values_for(spec: Spec) -> dict[str, tuple[Any, ...]]:
    """Setting to the values that trainers are known to use, its own first left out."""
    width, depth, dim = spec.n_embd, spec.n_layer, spec.head_dim
    plain = ("gelu", "gelu_tanh", "relu", "relu2", "silu", "quick_gelu")
    gated = ("silu", "gelu", "gelu_tanh", "relu", "quick_gelu", "relu2")
    rotary = spec.positions == "rotary"
    table: dict[str, tuple[Any, ...]] = {
        "activation": plain if spec.mlp == "plain" else gated,
        "norm_eps": (1e-5, 1e-6, 1e-8, 1e-12, 1e-3, 2**-23),
        "rope_theta": (1e4, 5e5, 1e6, 1e5, 1e3, 5e4) if rotary else (),
        "rotary_pairs": ("interleaved", "halves") if rotary else (),
        "norm": () if spec.norm_bias else ("layernorm", "rmsnorm"),
        "attention_multiplier": (dim**-0.5, 1 / dim, width**-0.5, 1.0),
        "embedding_multiplier": (1.0, math.sqrt(width)),
        "residual_multiplier": (1.0, (2 * depth) ** -0.5, depth**-0.5),
        "logit_multiplier": (1.0, width**-0.5),
    }
    return {
        name: tuple(v for v in values if v != value_in(spec, name))
        for name, values in table.items()
        if values
    }


def value_in(spec: Spec, name: str) -> Any:
    """The value of a setting in a spec."""
    value = getattr(spec, name)
    return spec.head_dim**-0.5 if name == "attention_multiplier" and value is None else value


def changed(spec: Spec, changes: Mapping[str, Any]) -> Spec:
    """A spec with other settings."""
    more: Changes = dict(changes)
    if heads := more.get("n_head"):  # as many rows of k as there are
        more["n_kv_head"] = max(1, spec.n_kv_head * spec.head_dim * heads // spec.n_embd)
    return replace(spec, **more)


@dataclass
class Evidence:
    """A witness to be agreed with, and how much has been tried.

    Attributes:
        said: what the witness says.
        model: the built-in model, with the spec as it was read.
        seconds: that trying may take.
        passes: forward passes that it may take.
        tried: those that it has taken.
    """

    said: Testimony
    model: Decoder
    seconds: float = SECONDS
    passes: int = PASSES
    tried: int = 0
    _started: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        # Logits of the first positions depend on no later ones.
        self.ids = self.said.ids[:ROWS, :TOKENS]
        exact = self.said.exact
        logits = self.said.logits if exact is None else exact
        self.logits = logits[:ROWS, :TOKENS].double()
        self.largest = self.logits.abs().max().item()
        self._bound: float | None = FP64_BOUND if exact is not None else None

    @property
    def over(self) -> bool:
        """No more may be tried."""
        used = time.perf_counter() - self._started
        return self.tried >= self.passes or used >= self.seconds

    @property
    def is_exact(self) -> bool:
        """The witness speaks in float64."""
        return self.said.exact is not None

    def logits_of(self, spec: Spec) -> Tensor:
        """What the built-in model computes with these settings, in float64."""
        self.tried += 1
        return decoder.logits(replace(self.model, spec=spec), self.ids, torch.float64)

    def error(self, spec: Spec) -> float:
        """max |built-in model - witness|, relative to the largest logit; infinite if not finite."""
        found = deviation(self.logits_of(spec), self.logits)
        return found if math.isfinite(found) else math.inf

    @property
    def bound(self) -> float:
        """Largest relative error of a model that agrees; of float32 logits, by their noise."""
        if self._bound is None:
            single, exact = (
                decoder.logits(self.model, self.ids, kind)
                for kind in (torch.float32, torch.float64)
            )
            noise = (single.double() - exact).abs().max().item()
            largest = exact.abs().max().item()
            # Relative, so that it holds for models whose logits are of another size.
            self._bound = noise_bound(noise, largest, torch.float32) / max(largest, 1e-300)
        return self._bound

    def agrees_whole(self, spec: Spec) -> bool:
        """Whether the model agrees on everything that the witness says."""
        exact = self.said.exact
        theirs = self.said.logits if exact is None else exact
        ours = decoder.logits(replace(self.model, spec=spec), self.said.ids, torch.float64)
        self.tried += 1
        return deviation(ours, theirs.double()) <= self.bound


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        changes: of the settings, the fewest that agree; else those of the smallest error.
        error: relative, of the model with them.
        bound: up to which a model agrees.
        agrees: it does, on everything that the witness says.
        alike: settings that the witness does not tell apart from those.
        passes: forward passes that were tried.
        stopped: the search ended at its limit.
    """

    changes: Changes
    error: float
    bound: float
    agrees: bool
    alike: tuple[str, ...] = ()
    passes: int = 0
    stopped: bool = False


class Search:
    """A search of settings, of which it remembers every try."""

    def __init__(
        self,
        evidence: Evidence,
        names: Collection[str],
        heads: Sequence[int] = (),
        advance: Callable[[int], None] = lambda passes: None,
    ) -> None:
        spec = evidence.model.spec
        self.evidence, self.spec, self.advance = evidence, spec, advance
        self.names, self.heads = frozenset(names), tuple(n for n in heads if n != spec.n_head)
        self.numbers = [name for name in NUMBERS if name in self.values_beside({})]
        multipliers = [name for name in self.numbers if name.endswith("_multiplier")]
        # Nearly the same is done by the scale of what enters the stream and of what is added.
        without = [[n for n in multipliers if n != left] for left in RIVALS]
        self.together = (*without, multipliers, self.numbers)
        self.tried: dict[tuple[tuple[str, Any], ...], float] = {}

    def error(self, changes: Changes) -> float:
        """The error of these changes; infinite beyond the limit."""
        key = tuple(sorted(changes.items()))
        if key not in self.tried:
            if self.evidence.over:
                return math.inf
            try:
                self.tried[key] = self.evidence.error(changed(self.spec, changes))
            except RuntimeError:  # shapes that do not go together
                self.tried[key] = math.inf
            self.advance(1)
        return self.tried[key]

    def agrees(self, changes: Changes) -> bool:
        """Whether these changes make the model agree, as far as was looked."""
        return self.error(changes) <= self.evidence.bound

    def run(self, most_changes: int = 4) -> Found:
        """The fewest changes that agree, at most so many from the table; or the best."""
        for found in self._candidates(most_changes):
            if self.agrees(found):
                fewest = self._without_needless(found)
                if self.evidence.agrees_whole(changed(self.spec, fewest)):
                    return self._found(fewest, True, self._alike(fewest))
            if self.evidence.over:
                break
        best = min(self.tried, key=lambda key: self.tried[key])
        return self._found(dict(best), False, ())

    def _found(self, changes: Changes, agrees: bool, alike: tuple[str, ...]) -> Found:
        evidence, error = self.evidence, self.tried.get(tuple(sorted(changes.items())), math.inf)
        over = evidence.over and not agrees
        return Found(changes, error, evidence.bound, agrees, alike, evidence.tried, over)

    def _candidates(self, most_changes: int) -> Iterator[Changes]:
        """What to try, the smallest change first; a number of heads has to be chosen anyway."""
        bases: list[Changes] = [{}, *({"n_head": n} for n in self.heads)]
        level = bases
        for n_changes in range(most_changes + 1):
            yield from level
            nearest = sorted(level, key=self.error)
            if n_changes + 1 <= most_changes:
                for start in nearest[: MOST_PAIRS if n_changes == 0 else SOLVED]:
                    for name in self.numbers:
                        yield from self._solved(start, [name])
            if n_changes >= 1 and most_changes > 1:
                starts = [*sorted(bases, key=self.error)[:SOLVED], *nearest[:SOLVED]]
                for names in self.together:
                    for start in starts:
                        yield from self._solved(start, names)
            beam = len(nearest) if n_changes == 0 else MOST_PAIRS if n_changes == 1 else BEAM
            level = list(self._extended(nearest[:beam]))

    def _extended(self, level: Iterable[Changes]) -> Iterator[Changes]:
        seen = set()
        for changes in level:
            for name, values in self.values_beside(changes).items():
                for value in values if name not in changes else ():
                    more = changes | {name: value}
                    key = tuple(sorted(more.items()))
                    if key not in seen:
                        seen.add(key)
                        yield more

    def values_beside(self, changes: Changes) -> dict[str, tuple[Any, ...]]:
        """The table for a model with these changes: some values depend on the number of heads."""
        spec = changed(self.spec, {n: v for n, v in changes.items() if n == "n_head"})
        return {name: values for name, values in values_for(spec).items() if name in self.names}

    def _solved(self, start: Changes, names: Sequence[str]) -> Iterator[Changes]:
        """Numbers that fit best beside these changes, as few and as round as they can be."""
        free = [name for name in names if name not in start]
        if not free or self.evidence.over or self.error(start) == math.inf:
            return
        solved = self._gauss_newton(start, free)
        if solved is None:
            return
        if self.agrees(start | solved) and len(free) > 1:
            # Of numbers that do the same together, such as the scales of all that the stream is
            # made of, the fewest.
            for n in range(1, len(free)):
                for some in itertools.combinations(free, n):
                    fewer = self._gauss_newton(start, some)
                    if fewer is not None and self.agrees(start | fewer):
                        yield self._rounded(start | fewer)
                        return
        yield self._rounded(start | solved)

    def _gauss_newton(self, start: Changes, names: Sequence[str]) -> Changes | None:
        """Least squares in the logarithms of some numbers; None where nothing comes nearer."""
        spec = changed(self.spec, start)
        at = torch.tensor([math.log(value_in(spec, name)) for name in names], dtype=torch.float64)

        def residual(point: Tensor) -> Tensor:
            values = {n: math.exp(p) for n, p in zip(names, point.tolist(), strict=True)}
            self.advance(1)
            return (self.evidence.logits_of(changed(spec, values)) - self.evidence.logits).flatten()

        error, damping = residual(at), 1e-3
        for _ in range(STEPS):
            if self.evidence.over:
                return None
            slopes = torch.stack(
                [
                    (residual(at + STEP * unit) - error) / STEP
                    for unit in torch.eye(len(names)).double()
                ],
                dim=1,
            )
            normal, gradient = slopes.T @ slopes, slopes.T @ error
            moved = False
            for _ in range(4):
                scaled = normal + damping * torch.diag(normal.diagonal() + 1e-30)
                step = torch.linalg.lstsq(scaled, -gradient).solution.clamp(-1, 1)
                tried = residual(at + step)
                if torch.isfinite(tried).all() and tried.norm() < error.norm():
                    at, error, damping, moved = at + step, tried, damping / 30, True
                    break
                damping *= 10
            if not moved or error.abs().max() <= 1e-3 * self.evidence.bound * self.evidence.largest:
                break
        return {n: math.exp(p) for n, p in zip(names, at.tolist(), strict=True)}

    def _rounded(self, changes: Changes) -> Changes:
        """The same with the fewest digits that agree; as it is where it does not agree."""
        if not self.agrees(changes):
            return changes
        for name in self.numbers:
            if name not in changes:
                continue
            usual = sorted(
                self.values_beside(changes)[name], key=lambda v: abs(math.log(v / changes[name]))
            )
            round_ones = (float(f"{changes[name]:.{n - 1}e}") for n in DIGITS)
            for value in itertools.chain(usual[:1], round_ones):
                if self.agrees(changes | {name: value}):
                    changes = changes | {name: value}
                    break
        return changes

    def _without_needless(self, changes: Changes) -> Changes:
        for name in [name for name in changes if name != "n_head"]:
            fewer = {n: v for n, v in changes.items() if n != name}
            if self.agrees(fewer):
                changes = fewer
        return changes

    def _alike(self, changes: Changes) -> tuple[str, ...]:
        """Settings under which the model agrees as well: the witness does not tell them apart."""
        alike = []
        for name, values in self.values_beside(changes).items():
            if name in changes:
                for value in values:
                    if value != changes[name] and self.agrees(changes | {name: value}):
                        alike.append(f"{name}={shown_value(value)}")
                continue
            alike += [
                f"{name}={shown_value(value)}"
                for value in values
                if self.agrees(changes | {name: value})
            ]
        return tuple(alike)


def shown_value(value: Any) -> str:
    """A value as ``--set`` takes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        short = f"{value:.12g}"
        return short if float(short) == value else repr(value)
    return str(value)


def as_options(changes: Mapping[str, Any]) -> list[str]:
    """Changes as ``NAME=VALUE``."""
    return [f"{name}={shown_value(value)}" for name, value in changes.items()]


def loaded_once(model: Decoder, most_values: int = 1 << 26) -> Decoder:
    """The model with its tensors in memory, in float64 where they are few: they are used often."""
    total = sum(t.numel() for t in model.tensors.values())
    kind = torch.float64 if total <= most_values else None
    held = {name: t.to(kind) if kind else t for name, t in model.tensors.items()}
    return replace(model, tensors=held)
