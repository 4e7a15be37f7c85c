"""A slice of ``bench/proof.py --corpus``: what is said of originals that are known is true."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

BENCH = Path(__file__).parents[2] / "bench"
sys.path.append(str(BENCH))

from corpus import Case, run, token_ids  # noqa: E402
from originals.table import ENTRIES, Entry  # noqa: E402
from originals.writing import Original  # noqa: E402

NAMED = {entry.name: entry for entry in ENTRIES}
# Fields that the product sees in names and shapes: without them the weights would be others.
SEEN = ("bias", "tie_weights", "causal_mask", "n_kv_head", "n_kv_heads")
SEEN += ("use_rope", "use_swiglu", "use_rmsnorm")
POSITIONS = {"alibi": "rotary", "none": "rotary", "rotary": "rotary"}  # without a table


def usual(entry: Entry) -> Entry:
    """What the product takes a bare state dict of an entry's names and shapes for."""
    changes = {name: entry.changes[name] for name in SEEN if name in entry.changes}
    if (positions := entry.changes.get("positions")) in POSITIONS:
        changes["positions"] = POSITIONS[positions]
    return replace(entry, changes=changes)


@pytest.mark.parametrize("name", [e.name for e in ENTRIES if e.facts and "norm|" not in str(e)])
def test_what_an_entry_changes_shows(name: str) -> None:
    """The figures of the corpus mean nothing where a fork computes what its family computes."""
    original, family = Original(NAMED[name]), Original(usual(NAMED[name]))
    family.model.load_state_dict(original.model.state_dict(), strict=False)
    ids = token_ids(0)
    one, other = (each.logits(ids, torch.float64) for each in (original, family))
    noise = (original.logits(ids, torch.float32).double() - one).abs().max()
    assert (one - other).abs().max() > 5 * noise


def test_the_corpus_is_large_and_its_names_are_its_own() -> None:
    assert len(ENTRIES) == len(NAMED) >= 40
    for file in (BENCH / "originals").glob("*.py"):
        assert "slogpt_hf" not in file.read_text("utf-8").replace("``slogpt_hf``", "")


CASES = [
    Case(NAMED["nanogpt"], "little", "none", False),
    Case(NAMED["nanogpt of january 2023"], "nothing", "none", False),
    Case(NAMED["nanogpt of march 2023"], "little", "none", True),
    Case(NAMED["nanogpt of march 2023"], "little", "recorded", False),
    Case(NAMED["nanogpt-mup"], "much", "none", False),
    Case(NAMED["nanogpt relu"], "nothing", "none", True),
    Case(NAMED["nanogpt softcap"], "little", "none", False),
    Case(NAMED["llama2c theta 500000"], "nothing", "none", False),
    Case(NAMED["llama2c theta 500000"], "little", "none", True),
    Case(NAMED["llama2c qk-norm"], "nothing", "recorded", False),
    Case(NAMED["llama2c as granite"], "little", "none", True),
    Case(NAMED["sloughgpt interleaved"], "little", "recorded", True),
    Case(NAMED["slo rope-swiglu"], "much", "recorded", False),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.entry.name}, {c.recording}, {c.way}")
def test_what_is_said_is_what_is_true(case: Case) -> None:
    assert run(case, seed=7).problem == ""
