"""Every bound at its edge; what is not a number never passes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from slogpt_hf.checkpoints import Checkpoint
from slogpt_hf.parity.controls import Shaking
from slogpt_hf.parity.gate import verify_artefact
from slogpt_hf.parity.judging import (
    fp32_bound,
    judge,
    judge_behaviours,
    judge_merging,
    judge_published,
    judge_shaking,
    judge_witnesses,
    merges,
    noise_bound,
)
from slogpt_hf.parity.report import Behaviour, Comparison, Control, Published, Witness

Write = Callable[..., Path]
Convert = Callable[..., tuple[Checkpoint, Path]]

CLEAN = Comparison("a batch", 1, 8, 10.0, 1e-10, 4e-5, 1e-5, 1.0)
EPS = torch.finfo(torch.float32).eps
SPOILT = (math.nan, math.inf)


def above(value: float) -> float:
    return math.nextafter(value, math.inf)


def judged(comparison: Comparison = CLEAN, bound: float = 4e-5, **facts: Any) -> tuple[str, ...]:
    return judge(
        [CLEAN, comparison], bound, **{"embedding_equal": True, "head_equal": True} | facts
    )


def test_what_is_at_every_bound_passes() -> None:
    assert judged() == judge_merging(1e-10) == judge_shaking(Shaking(1e-10, None, ())) == ()


@pytest.mark.parametrize("value", [above(1e-10), *SPOILT])
def test_float64_above_its_bound_fails(value: float) -> None:
    (failure,) = judged(replace(CLEAN, fp64_error=value))
    assert failure.startswith("a batch: float64 relative error")
    (failure,) = judge_merging(value)
    assert "merged adapters" in failure and not merges(value)
    (failure,) = judge_shaking(Shaking(value, "layer 0", ()))
    assert failure.startswith("On shaken weights")


@pytest.mark.parametrize("value", [above(4e-5), *SPOILT])
def test_float32_above_its_bound_fails(value: float) -> None:
    (failure,) = judged(replace(CLEAN, fp32_error=value))
    assert failure.startswith("a batch: float32 error")


def test_a_bound_that_is_not_a_number_lets_nothing_pass() -> None:
    assert len(judged(bound=math.nan)) == 2


def test_rows_that_differ_fail() -> None:
    assert judged(embedding_equal=False) == ("The embedding's rows differ from the original's.",)
    assert judged(head_equal=False) == ("The head's rows differ from the original's.",)


def test_the_bound_is_four_times_the_noise_with_a_floor() -> None:
    assert noise_bound(1e-3, 10.0, torch.float32) == 4e-3
    assert noise_bound(0.0, 10.0, torch.float32) == pytest.approx(8 * EPS * 10)
    assert noise_bound(0.0, 10.0, torch.bfloat16) == pytest.approx(8 * 2**-7 * 10)
    loud = replace(CLEAN, fp32_noise=1e-2)
    assert fp32_bound([CLEAN, loud]) == fp32_bound([loud, CLEAN]) == 4e-2


PUBLISHED = Published("bfloat16", 0.4, 0.1, 0.4)
ACT = Behaviour("decoding", True, 0.0, 1e-10)
WITNESS = Witness("recorded logits", True, 0.1, 0.1, 0.1, None, 1, 8)


def test_further_checks_that_pass_say_nothing() -> None:
    assert judge_behaviours([ACT]) == judge_behaviours([]) == ()
    assert judge_published(PUBLISHED) == judge_witnesses([WITNESS]) == judge_witnesses([]) == ()


@pytest.mark.parametrize("value", [above(0.4), *SPOILT])
def test_the_published_dtype_above_its_bound_fails(value: float) -> None:
    (failure,) = judge_published(replace(PUBLISHED, error=value))
    assert failure.startswith("bfloat16: error")


def test_a_behaviour_that_fails_is_named() -> None:
    failed = replace(ACT, passed=False, error=math.nan)
    assert judge_behaviours([ACT, failed]) == ("decoding: nan > 1e-10.",)


@pytest.mark.parametrize(
    ("errors", "words"),
    [((0.2, 0.1), "the artefact differs"), ((0.2, 0.2), "another model or another recording")],
)
def test_a_witness_says_who_differs(errors: tuple[float, float], words: str) -> None:
    witness = replace(WITNESS, agrees=False, error=errors[0], built_in_error=errors[1])
    (failure,) = judge_witnesses([witness])
    assert words in failure and "2.00e-01 (allowed 1.00e-01)" in failure


KINDS: dict[str, dict[str, Any]] = {
    "classic": {},
    "modern": {"use_rope": True, "use_swiglu": True, "use_rmsnorm": True, "bias": False},
    "custom": {"use_rmsnorm": True},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_published_dtype_passes_and_a_fault_in_it_fails(
    kind: str, dtype: str, slo_checkpoint: Write, convert: Convert
) -> None:
    checkpoint, folder = convert(slo_checkpoint(**KINDS[kind]), dtype)
    report = verify_artefact(checkpoint, folder)
    assert report.passed, report.failures
    assert report.published is not None and report.published.dtype == dtype
    assert report.published.error <= report.published.bound
    assert report.published.bound >= 4 * report.published.noise > 0
    path = folder / "model.safetensors"
    tensors = dict(load_file(path))
    name = next(n for n in tensors if n.endswith(("h.1.ln_2.weight", "1.input_layernorm.weight")))
    tensors[name] = tensors[name] * 4
    save_file(tensors, path, metadata={"format": "pt"})
    report = verify_artefact(checkpoint, folder)
    assert report.verdict == "failed" and report.published is not None
    assert any(failure.startswith(f"{dtype}: error") for failure in report.failures)


def test_a_float32_artefact_is_published_as_it_is(slo_checkpoint: Write, convert: Convert) -> None:
    report = verify_artefact(*convert(slo_checkpoint()))
    assert report.published is None
    invalid = replace(report, controls=(Control("x", "missed", 0.0),))
    assert (report.verdict, invalid.verdict) == ("passed", "invalid")
    assert replace(invalid, failures=("y",)).verdict == "failed"
