"""Where an artefact runs beside transformers: what was tried with small models of its kind.

``elsewhere.json`` is what ``bench/elsewhere/run.py --write`` measured: it runs the programs on
random models of each class and condition. What was not run is not here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from slogpt_hf.checkpoints.spec import Spec

FILE = Path(__file__).with_name("elsewhere.json")
# The largest difference of a logit from transformers', relative to the largest logit: what a
# program rounds, a cache and a GELU in float16 included, is below, another function above.
LARGEST_ROUNDING = 3e-3
# What the models that were run have, unless the case says otherwise.
USUAL_EPS, USUAL_THETA = 1e-5, 10_000.0
# Field of a case to what config.json has of it, in words.
WORDS = {
    "activation": "activation",
    "bias": "biases",
    "tied": "tied head",
    "norm_eps": "epsilon of the norms",
    "rope_theta": "rope_theta",
    "n_kv_head": "number of key and value heads",
}


@dataclass(frozen=True)
class Place:
    """A program, and what it does with an artefact.

    Attributes:
        program: its name.
        versions: of what was run.
        result: in words.
        difference: the largest of a logit, relative to the largest logit; None where it computes
            nothing.
    """

    program: str
    versions: str
    result: str
    difference: float | None


@lru_cache
def table() -> Mapping[str, Any]:
    """What was measured: ``date``, ``versions``, ``cases`` and ``tokenizers``."""
    content: dict[str, Any] = json.loads(FILE.read_text("utf-8"))
    return content


def places(spec: Spec, target_class: str, tokenizer: str | None) -> list[Place]:
    """What each program does with artefacts of a kind; empty where none like it was run.

    Args:
        spec: the architecture.
        target_class: the class in transformers.
        tokenizer: kind of its tokenizer; None without one.
    """
    found = table()
    cases = list(_like(spec, target_class, found["cases"]))
    places = []
    for program, versions in found["versions"].items() if cases else ():
        result, difference = _result({each: case["found"][program] for each, case in cases})
        stops = found["tokenizers"].get(tokenizer, {}).get(program)
        if stops and not result.startswith("does not run"):
            result += f"; with a tokenizer of its own, since for this one: {stops}"
        places.append(Place(program, versions, result, difference))
    return places


def _like(
    spec: Spec, target_class: str, cases: list[dict[str, Any]]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The field that a case is about, and the case, of those that tell of an architecture."""
    own = [case for case in cases if case["class"] == target_class]
    usual = own[0] if own else {}
    asked = {
        "tied": spec.tied,
        "bias": spec.linear_bias,
        "norm_eps": spec.norm_eps != USUAL_EPS,
        "rope_theta": spec.rope_theta not in (None, USUAL_THETA),
        "n_kv_head": 1 < spec.n_kv_head < spec.n_head,
    }
    for case in own:
        (field,) = case["differs"] or ["activation"]
        if field == "activation":
            if case["activation"] == spec.activation:
                yield field, case
        elif field in ("tied", "bias"):
            if case[field] == asked[field] != usual[field]:
                yield field, case
        elif asked[field]:
            yield field, case


def _result(found: Mapping[str, float | str]) -> tuple[str, float | None]:
    """In words, and the largest difference: of cases by the field that they are about."""
    for value in found.values():
        if isinstance(value, str):
            return f"does not run: {value}", None
    differences = {field: value for field, value in found.items() if isinstance(value, float)}
    if not differences:
        return "was not run with this activation", None
    worst = max(differences.values())
    wrong = [WORDS[each] for each, value in differences.items() if value > LARGEST_ROUNDING]
    if wrong:
        return f"**wrong, and silent**: computes with another {' and another '.join(wrong)}", worst
    return "computes the same", worst
