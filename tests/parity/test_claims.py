"""The words for what a proof shows: none says more than its level."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from slogpt_hf.checkpoints.assumptions import Assumption
from slogpt_hf.parity import ParityReport, claim, meets, short_claim
from slogpt_hf.parity.report import Control, Witness

EPS = Assumption("norm_eps", 1e-5, "no file records it", "an epsilon of 1e-05")
GELU = Assumption("activation", "gelu", "no file records it", "exact (erf) GELU")
REPORT = ParityReport(
    oracle="built-in",
    dtype="float32",
    comparisons=(),
    fp64_bound=1e-10,
    fp32_bound=1e-5,
    embedding_rows=65,
    embedding_equal=True,
    covered_ids=65,
    first_divergence=None,
    failures=(),
    seconds=1.0,
    forward_seconds=0.5,
    family="nanoGPT",
    assumptions=(GELU, EPS),
)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"level": "witnessed", "assumptions": ()}, "proven equal to the trainer's own model"),
        (
            {"level": "assumed"},
            "proven equal to nanoGPT as slogpt-hf knows it; assumed: exact (erf) GELU, "
            "an epsilon of 1e-05",
        ),
        (
            {"level": "corroborated", "assumptions": (GELU,)},
            "proven equal to nanoGPT as slogpt-hf knows it, which reproduces the recorded "
            "validation loss; assumed: exact (erf) GELU",
        ),
        (
            {"level": "assumed", "assumptions": ()},
            "proven equal to nanoGPT as slogpt-hf knows it",
        ),
        (
            {"level": None, "family": "", "assumptions": ()},
            "proven equal to the original as slogpt-hf knows it (of a version that did not say "
            "what its proof rests on)",
        ),
        ({"level": "witnessed", "failures": ("Off.",)}, "NOT equal to the original"),
        (
            {"level": "witnessed", "controls": (Control("tanh GELU", "missed", 0.0),)},
            "NOT PROVEN, a planted fault was not caught",
        ),
    ],
)
def test_the_claim_says_what_the_report_shows(changes: dict[str, Any], words: str) -> None:
    report = replace(REPORT, **changes)
    assert claim(report) == words
    assert report.summary().startswith(words)
    assert claim(report).startswith(short_claim(report))


@pytest.mark.parametrize("level", ["witnessed", "corroborated", "assumed", None])
def test_only_a_witness_makes_it_the_trainers_own_model(level: Any) -> None:
    said = claim(replace(REPORT, level=level))
    assert ("the trainer's own model" in said) is (level == "witnessed")
    assert ("as slogpt-hf knows it" in said) is (level != "witnessed")


def test_the_log_names_who_witnessed() -> None:
    agreeing = Witness("model.py:GPT", True, 0.0, 0.0, 1e-5, 0.0, 2, 8)
    other = replace(agreeing, name="parity.safetensors", agrees=False)
    report = replace(REPORT, witnesses=(agreeing, other))
    said = replace(report, level="witnessed").summary()
    assert "; witnessed by model.py:GPT: " in said and "parity.safetensors" not in said
    assert "model.py:GPT" not in replace(report, level="assumed").summary()


def test_a_level_meets_what_is_required_from_there_down() -> None:
    order = [None, "assumed", "corroborated", "witnessed"]
    for i, level in enumerate(order):
        assert [meets(level, required) for required in order] == [j <= i for j in range(4)]  # type: ignore[arg-type]
