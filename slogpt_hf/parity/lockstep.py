"""Both models layer by layer, in two precisions, one matrix of each in memory at a time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from slogpt_hf.errors import CheckpointError
from slogpt_hf.parity import decoder
from slogpt_hf.parity.comparing import Compared, Run, compare, deviation, distance
from slogpt_hf.parity.decoder import Decoder
from slogpt_hf.parity.inputs import Inputs
from slogpt_hf.parity.memory import give_back
from slogpt_hf.parity.report import Layer
from slogpt_hf.parity.streamed import Streamed

ENTRY = "embedding and positions"
EXIT = "final norm"


@dataclass
class Clock:
    """Seconds inside forward passes, which a gate cannot avoid."""

    seconds: float = 0.0

    def timed(self, states: Iterator[Tensor]) -> Iterator[Tensor]:
        """The same states, each one's time added; what was freed meanwhile is given back."""
        while True:
            start = time.perf_counter()
            state = next(states, None)
            self.seconds += time.perf_counter() - start
            if state is None:
                return
            give_back()
            yield state


@dataclass(frozen=True)
class Models:
    """What is compared: the original once, the artefact in two precisions.

    Attributes:
        original: with its weights rounded to the artefact's dtype.
        exact: the artefact in float64.
        single: the artefact in float32.
        whole: its logits are those of the head alone, as ``splits`` found.
        advance: told each pass.
        clock: of the forward passes.
    """

    original: Decoder
    exact: Streamed
    single: Streamed
    whole: bool
    advance: Callable[[int], None]
    clock: Clock = field(default_factory=Clock)

    def artefact(self, model: Streamed, ids: Tensor) -> Run:
        """What the artefact, as one of its two models, makes of ids (B, T)."""
        if self.whole:
            return Run(model.final_state(ids).flatten(0, 1), model.raw(model.head_name))
        return Run(model.logits(ids).flatten(0, 1), None)


def states_of(model: Streamed, ids: Tensor) -> Iterator[Tensor]:
    """What enters the first block, what each block gives, and what enters the head."""
    if not model.blocks:
        yield model.final_state(ids)
        return
    x, calls = model.enter(ids)
    yield x
    for index, call in enumerate(calls):
        x = model.block(index, x, call)
        yield x
    yield model.leave(ids, x)


def in_lockstep(models: Models, batch: Inputs) -> tuple[Compared, list[Layer]]:
    """Run one batch through all four, layer by layer.

    Returns:
        The comparison of the logits, and of every layer; no layers where the artefact's class
        shows none.
    """
    clock, ids = models.clock, batch.ids
    sources = [
        clock.timed(decoder.hidden_states(models.original, ids, dtype))
        for dtype in (torch.float64, torch.float32)
    ]
    artefacts = [clock.timed(states_of(model, ids)) for model in (models.exact, models.single)]
    layers: list[Layer] = []
    if models.exact.blocks:
        names = layer_names(models.original.spec.n_layer)
        for name, *states in zip(names, *sources, *artefacts, strict=True):
            exact, single, own_64, own_32 = states
            layers.append(
                Layer(
                    name,
                    deviation(own_64, exact),
                    distance(own_32, single),
                    distance(single, exact),
                )
            )
    else:
        states = [_last(each) for each in (*sources, *artefacts)]
    models.advance(len(states))
    exact, single, own_64, own_32 = (state.flatten(0, 1) for state in states)
    original = models.original.tensors[models.original.head_name]
    start = time.perf_counter()
    own = ((models.exact, own_64), (models.single, own_32))
    runs = [
        Run(state, model.raw(model.head_name))
        if models.whole
        else Run(model.logits(ids).flatten(0, 1), None)
        for model, state in own
    ]
    compared = compare(
        batch, models.original.spec.vocab_size, Run(exact, original), Run(single, original), *runs
    )
    clock.seconds += time.perf_counter() - start
    return compared, layers


def layer_names(n_layer: int) -> tuple[str, ...]:
    """What the places are called at which the models are compared."""
    return (ENTRY, *(f"layer {i}" for i in range(n_layer)), EXIT)


def worst_layers(runs: list[list[Layer]]) -> tuple[Layer, ...]:
    """Of several batches the worst at each layer."""

    def worst(values: Iterator[float]) -> float:
        found = list(values)
        return math.inf if any(map(math.isnan, found)) else max(found)

    return tuple(
        Layer(
            same[0].name,
            worst(each.fp64_error for each in same),
            worst(each.fp32_error for each in same),
            worst(each.fp32_noise for each in same),
        )
        for same in zip(*runs, strict=True)
    )


def splits(model: Streamed, probe: Tensor) -> bool:
    """Whether the head, applied to what is before it, gives the whole model's logits bit for bit.

    Users call the whole model, and one may do more than that, such as scaling its logits.

    Args:
        model: the artefact.
        probe: ids (B, T) to run both ways.
    """
    states = model.undivided(probe)
    head = model.raw(model.head_name).to(model.dtype)
    logits = functional.linear(states, head)
    if model.divisor != 1.0:
        logits = logits / model.divisor
    return torch.equal(logits, model.logits(probe))


def steps(model: Streamed, probe: Tensor) -> bool:
    """Whether block after block computes, bit for bit, what the class computes by itself.

    A class may skip blocks, or run them in another order than its list has them.

    Args:
        model: the artefact.
        probe: ids (B, T) to run both ways.
    """
    if not model.blocks:
        return False
    with suppress(CheckpointError):
        pair = _last(states_of(model, probe)), model.final_state(probe)
        return torch.allclose(*pair, rtol=0.0, atol=0.0, equal_nan=True)
    return False


def first_part(
    original: Decoder, exact: Streamed, ids: Tensor, layer: int, bound: float
) -> str | None:
    """Which part of a layer leaves the original first: norm, attention, norm or MLP.

    Both get the original's stream, so that nothing before the layer counts.
    """
    sources = decoder.hidden_states(original, ids, torch.float64)
    x = next(stream for i, stream in enumerate(sources) if i == layer)
    theirs = decoder.block_parts(original, layer, x)
    kinds = dict(_kinds(exact.blocks[layer]))
    seen: dict[str, Tensor] = {}

    def note(kind: str) -> Callable[..., None]:
        def hook(module: torch.nn.Module, args: object, output: object) -> None:
            state = output[0] if isinstance(output, tuple) else output
            assert isinstance(state, Tensor)
            seen[kind] = state

        return hook

    handles = [m.register_forward_hook(note(kind)) for kind, m in kinds.items()]
    try:
        _, calls = exact.enter(ids)
        exact.block(layer, x, calls[layer])
    finally:
        for handle in handles:
            handle.remove()
    for name, state in theirs.items():
        if name in seen and not deviation(seen[name], state) <= bound:
            return name
    return None


def _kinds(block: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    """Norms, attention and MLP of a block, told by the names of their classes."""
    norms = 0
    for child in block.children():
        kind = type(child).__name__.lower()
        if "norm" in kind:
            norms += 1
            yield f"norm {norms}", child
        elif "attention" in kind:
            yield "attention", child
        elif "mlp" in kind:
            yield "MLP", child


def _last(states: Iterator[Tensor]) -> Tensor:
    *_, last = states
    return last
