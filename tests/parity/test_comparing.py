"""Comparisons in pieces against plain computations on whole logits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from slogpt_hf.parity import comparing
from slogpt_hf.parity.comparing import (
    Compared,
    Run,
    absolute_error,
    compare,
    deviation,
    distance,
    equal_rows,
    pieces,
    relative,
)
from slogpt_hf.parity.inputs import Inputs

SPECIAL = (math.nan, math.inf, -math.inf)


@contextmanager
def small_pieces(values: int, logits: int, step: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparing, "HEAD_VALUES", values)
        patch.setattr(comparing, "CHUNK_LOGITS", logits)
        patch.setattr(comparing, "COLUMNS_STEP", step)
        yield


sizes = st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 40), st.integers(1, 5))
cuts = st.tuples(st.integers(1, 64), st.integers(1, 64), st.integers(1, 9))


def runs_for(
    seed: int, sizes: tuple[int, ...], scale: float, noise: float
) -> tuple[Inputs, list[Run], list[Tensor]]:
    """Four runs in the order of ``compare``, and their logits as float64."""
    rows, length, vocabulary, width = sizes
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    states, head = drawn(rows * length, width), scale * drawn(vocabulary, width)
    other = head + noise * drawn(vocabulary, width)
    runs = [
        Run(states, head),
        Run(states.float(), head),
        Run(states + noise * drawn(rows * length, width), other),
        Run(states.float(), other.float()),
    ]
    logits = [functional.linear(r.states, r.head.to(r.states.dtype)) for r in runs]  # type: ignore[union-attr]
    return Inputs("x", torch.zeros(rows, length, dtype=torch.int64)), runs, logits


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 99), sizes, cuts, st.sampled_from([0.1, 1.0, 30.0]), st.booleans())
def test_pieces_give_the_figures_of_a_plain_computation(
    seed: int, sizes: tuple[int, ...], cuts: tuple[int, int, int], scale: float, headless: bool
) -> None:
    batch, runs, (a, b, c, d) = runs_for(seed, sizes, scale, 0.1)
    if headless:
        runs[2:] = [Run(c, None), Run(d, None)]
    with small_pieces(*cuts):
        found = compare(batch, sizes[2], *runs)
    figures, shape = found.comparison, batch.ids.shape
    largest = a.abs().max().item()
    near: Any = {"rel": 1e-4, "abs": 1e-5 * scale}
    assert figures.max_logit == pytest.approx(largest, rel=1e-12)
    assert figures.fp64_error == pytest.approx((c - a).abs().max().item() / largest, rel=1e-9)
    assert figures.fp32_error == pytest.approx((d - b).abs().max().item(), **near)
    assert figures.fp32_noise == pytest.approx((b - a).abs().max().item(), **near)
    error = (d - b).abs().amax(-1).view(shape).amax(0).double()
    assert torch.allclose(found.fp32_error, error, rtol=1e-4, atol=1e-5 * scale)
    x, y = d.double(), b.double()
    cosine = functional.cosine_similarity(x.flatten(), y.flatten(), dim=0, eps=0).item()
    assert figures.cosine == pytest.approx(cosine, abs=1e-6)
    kl = functional.kl_div(
        x.log_softmax(-1), y.log_softmax(-1), log_target=True, reduction="none"
    ).sum(-1)
    assert figures.kl == pytest.approx(kl.mean().item(), rel=1e-3, abs=1e-5 * scale)
    same = (x.argmax(-1) == y.argmax(-1)).double().mean().item()
    assert figures.top1 == pytest.approx(same)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 99), sizes, cuts, st.sampled_from(SPECIAL), st.integers(0, 3), st.data())
def test_one_value_that_is_not_finite_is_never_overlooked(
    seed: int,
    sizes: tuple[int, ...],
    cuts: tuple[int, int, int],
    special: float,
    which: int,
    data: st.DataObject,
) -> None:
    batch, _, logits = runs_for(seed, sizes, 1.0, 0.0)
    position = data.draw(st.integers(0, len(logits[0]) - 1))
    logits[which][position, data.draw(st.integers(0, sizes[2] - 1))] = special
    with small_pieces(*cuts):
        figures = compare(batch, sizes[2], *(Run(each, None) for each in logits)).comparison
    spoilt = {0: "fp64_error", 1: "fp32_error", 2: "fp64_error", 3: "fp32_error"}
    assert getattr(figures, spoilt[which]) == math.inf
    assert (figures.fp32_noise == math.inf) == (which < 2)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 99), sizes, cuts)
def test_absolute_error_is_that_of_the_whole(
    seed: int, sizes: tuple[int, ...], cuts: tuple[int, int, int]
) -> None:
    _, runs, logits = runs_for(seed, sizes, 1.0, 0.1)
    with small_pieces(*cuts):
        error, largest = absolute_error(sizes[2], runs[2], runs[0])
        covered = [i for piece in pieces(sizes[2], runs[0]) for i in range(sizes[2])[piece]]
    assert error == pytest.approx((logits[2] - logits[0]).abs().max().item(), rel=1e-9)
    assert largest == pytest.approx(logits[0].abs().max().item(), rel=1e-12)
    assert covered == list(range(sizes[2]))


@pytest.mark.parametrize("cut", ["vocabulary", "positions", "both models' vocabulary"])
def test_logits_of_another_shape_are_infinitely_far(cut: str) -> None:
    batch, _, (a, b, c, d) = runs_for(0, (2, 3, 11, 4), 1.0, 0.0)
    c, d = {
        "vocabulary": (c[:, 1:], d),
        "positions": (c[1:], d[1:]),
        "both models' vocabulary": (c[:, 1:], d[:, 1:]),
    }[cut]
    found: Compared = compare(batch, 11, *(Run(each, None) for each in (a, b, c, d)))
    assert found.comparison.fp64_error == found.comparison.fp32_error == math.inf
    assert found.comparison.top1 == 0 and found.fp32_error.tolist() == [math.inf] * 3


def test_nothing_is_as_far_as_what_is_not_a_number() -> None:
    one, nan = torch.ones(3), torch.tensor([1.0, math.nan, 1.0])
    assert distance(one, nan) == distance(nan, one) == distance(nan, nan) == math.inf
    assert deviation(one, nan) == deviation(nan, one) == math.inf
    infinite = torch.tensor([math.inf, 1.0, 1.0])
    assert deviation(infinite, infinite) == math.inf
    assert relative(math.nan, 1.0) == relative(math.inf, math.inf) == math.inf
    assert relative(1.0, 0.0) > 1e30 and relative(0.0, 0.0) == 0.0


def test_rows_are_equal_only_to_the_last_bit() -> None:
    rows = torch.randn(5, 7)
    other = rows.clone()
    assert equal_rows(rows, other) and equal_rows(rows.double(), other)
    assert not equal_rows(rows, other[:, 1:]) and not equal_rows(rows, other[1:])
    other.view(-1).view(torch.int32)[-1] ^= 1
    assert not equal_rows(rows, other)
    assert not equal_rows(torch.full((2, 2), math.nan), torch.full((2, 2), math.nan))
