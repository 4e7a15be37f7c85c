"""What a card says of a proof, of this version and of those before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from slogpt_hf.card import CardFacts, facts_from_record, render_facts
from slogpt_hf.errors import GateInvalidError

SCHEMA_2: dict[str, Any] = {
    "schema": 2,
    "verdict": "passed",
    "missed": [],
    "caught": 1,
    "shaken_error": 6.2e-16,
    "layers": [{"name": "layer 0", "fp64_error": 0.0, "fp32_error": 0.0, "fp32_noise": 1e-6}],
    "positions": [{"first": 0, "last": 3, "fp32_error": 0.0, "fp32_noise": 1e-6}],
    "controls": [
        {"name": "a stale row", "outcome": "caught", "error": 1.0},
        {"name": "theta", "outcome": "cannot occur", "error": None},
    ],
    "behaviours": [
        {"name": "left padding", "passed": True, "error": 0.0, "bound": 1e-10, "note": ""},
        {"name": "loss", "passed": True, "error": 0.0, "bound": 1e-10, "note": "2.5 nats"},
    ],
    "witnesses": [
        {
            "name": "recorded logits",
            "agrees": True,
            "error": 1e-6,
            "built_in_error": 0.0,
            "bound": 4e-6,
            "fp64_error": None,
            "batch": 3,
            "length": 8,
        }
    ],
    "published": {"dtype": "bfloat16", "error": 0.01, "noise": 0.02, "bound": 0.08},
}


def proof_of(facts: CardFacts) -> str:
    """The section on the proof."""
    return render_facts(facts).split("\n## Proof\n")[1].split("\n## ")[0]


def test_a_report_of_schema_2(record: dict[str, Any], report: dict[str, Any]) -> None:
    for batch in report["comparisons"]:
        batch |= {"cosine": 1 - 2e-12, "kl": 3e-11}
    record["files"] = {"parity.png": "0" * 64, "parity-dark.png": "1" * 64}
    proof = proof_of(facts_from_record(record, report | SCHEMA_2))
    for words in (
        "agree up to 6.2e-16 in float64",
        "1 of 1 were caught; 1 more cannot occur",
        "<details>\n<summary>The planted faults</summary>\n\n- a stale row\n\n</details>",
        "left padding, loss (2.5 nats).",
        "- `recorded logits`, which training left beside the checkpoint: 3 × 8 tokens",
        "- **bfloat16**, as published: both models computing in it differ by at most 1.0e-02",
        "no part of the verdict",
        "1 − cosine 2.0e-12, mean KL divergence 3.0e-11 nats",
        'srcset="parity-dark.png"',
    ):
        assert words in proof, words


def test_a_report_of_schema_1_promises_nothing_more(card_facts: Callable[..., CardFacts]) -> None:
    proof = proof_of(card_facts())
    for words in ("picture", "planted", "haken", "verdict", "Behaviour", "nan"):
        assert words not in proof, words


def test_what_was_not_run_is_said(record: dict[str, Any], report: dict[str, Any]) -> None:
    found = report | SCHEMA_2 | {"shaken_error": None, "controls": [], "caught": 0}
    proof = proof_of(facts_from_record(record, found))
    assert "Shaken weights and planted faults were not run" in proof


def test_an_invalid_gate_gives_no_card(record: dict[str, Any], report: dict[str, Any]) -> None:
    missed = [{"name": "a stale row", "outcome": "missed", "error": 0.0}]
    facts = facts_from_record(record, report | SCHEMA_2 | {"controls": missed})
    with pytest.raises(GateInvalidError, match="a stale row"):
        render_facts(facts)
