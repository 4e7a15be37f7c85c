"""A card promises what the proof shows: its level, each assumption, what a witness confirmed."""

from __future__ import annotations

import re
from typing import Any

import pytest

from slogpt_hf.card import facts_from_record, render_facts

GELU = {
    "name": "activation",
    "value": "gelu",
    "why": "No file records it; exact since June 2023.",
    "text": "exact (erf) GELU",
}
SCALE = {
    "name": "attention_multiplier",
    "value": None,
    "why": "No file | records it.",
    "text": "attention scaled by 1/sqrt(head_dim)",
}
LOSS = {
    "recorded": 1.4697,
    "computed": 1.4712,
    "standard_error": 0.002,
    "recorded_error": 0.004,
    "bound": 0.02,
    "n_tokens": 111540,
    "data": "val.bin",
    "agrees": True,
}
KNOWN = "proven equal to nanoGPT as slogpt-hf knows it"


@pytest.fixture
def parts(record: dict[str, Any], report: dict[str, Any]) -> Any:
    """Promise and section on the basis of the card of a report with these fields."""

    def make(**changes: Any) -> tuple[str, str]:
        found = report | {"schema": 3, "family": "nanoGPT"} | changes
        card = render_facts(facts_from_record(record, found))
        promise = card.split("\n# tiny\n")[1].split("\n## ")[0]
        return promise, card.split("\n## What the proof rests on\n")[1].split("\n## ")[0]

    return make


def test_an_assumed_one_names_each_assumption_with_value_and_why(parts: Any) -> None:
    promise, basis = parts(level="assumed", assumptions=[GELU, SCALE], witness_note="None fits.")
    assert f"**{KNOWN}**; assumed, since no file records it: exact (erf) GELU, attention" in promise
    assert "](#what-the-proof-rests-on)" in promise
    assert "Level **assumed**" in basis and "is nanoGPT as slogpt-hf knows it" in basis
    assert "| exact (erf) GELU | `activation=gelu` | No file records it; exact since" in basis
    assert "| `attention_multiplier` | No file &#124; records it. |" in basis
    assert "None fits." in basis


def test_a_witnessed_one_says_so_and_what_was_confirmed(parts: Any) -> None:
    promise, basis = parts(level="witnessed", confirmed=[GELU])
    assert "**proven equal to the trainer's own model**" in promise and "assumed" not in promise
    assert "Level **witnessed**" in basis and "- exact (erf) GELU (`activation=gelu`)" in basis
    assert "| Assumed |" not in basis


def test_a_corroborated_one_has_the_loss_and_the_assumptions(parts: Any) -> None:
    promise, basis = parts(level="corroborated", assumptions=[GELU], loss=LOSS)
    assert f"**{KNOWN}, which reproduces the recorded validation loss**; assumed" in promise
    assert "Level **corroborated**" in basis and "does not show in it" in basis
    assert "1.4697 nats per token; on 111,540 tokens of `val.bin`" in basis and "1.4712" in basis


def test_of_an_earlier_version_the_level_is_not_known(parts: Any) -> None:
    promise, basis = parts(schema=1, family="")
    assert "**proven equal to the original as slogpt-hf knows it (of a version that" in promise
    assert "its level is not known" in basis


@pytest.mark.parametrize("level", [None, "assumed", "corroborated"])
def test_nothing_but_a_witness_makes_it_the_trainers_or_the_original(
    parts: Any, level: str | None
) -> None:
    text = " ".join(parts(level=level, assumptions=[GELU], loss=LOSS))
    assert "the trainer's own model**" not in text
    assert not re.search(r"equal to the original(?! as slogpt-hf knows it)", text)
