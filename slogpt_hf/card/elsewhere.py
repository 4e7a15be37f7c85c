"""Where an artefact runs beside transformers: what was tried with small models of its kind.

``elsewhere.json`` is what ``bench/elsewhere/run.py --write`` measured: it runs the programs on
random models of each class and condition. What was not run is not here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from slogpt_hf.checkpoints.spec import Spec

Found = Mapping[str, float | str]  # program to the difference, or to why there is none
Case = Mapping[str, Any]
FILE = Path(__file__).with_name("elsewhere.json")
# The largest difference of a logit from transformers', relative to the largest logit: what a
# program rounds, a cache and a GELU in float16 included, is below, another function above.
LARGEST_ROUNDING = 3e-3
# What the models that were run have, unless the case says otherwise.
USUAL_EPS, USUAL_THETA = 1e-5, 10_000.0
# Fields of a spec that no case varies, with the value that all of them have.
UNTRIED = {"attention_multiplier": None, "embedding_multiplier": 1.0, "logit_multiplier": 1.0}
# Kinds of tokenizers that were tried, and the programs that convert none without: for the weights
# they were given a made-up one.
TRIED = ("characters", "sentencepiece")
NEED_A_TOKENIZER = ("llama.cpp", "ctranslate2")
# Field of a case to what config.json has of it, in words.
WORDS = {
    "activation": "activation",
    "bias": "biases",
    "tied": "tied head",
    "norm_eps": "epsilon of the norms (0.01 was tried)",
    "rope_theta": "rope_theta (500000 was tried)",
    "n_kv_head": "number of key and value heads",
}


@dataclass(frozen=True)
class Place:
    """A program, and what it does with an artefact.

    Attributes:
        program: its name.
        versions: of what was run.
        wrong: it computes another function, and says nothing.
        result: in words.
        difference: the largest of a logit, relative to the largest logit; None where it computes
            nothing.
    """

    program: str
    versions: str
    wrong: bool
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
    own = [case for case in table()["cases"] if case["class"] == target_class]
    about = list(_about(spec, own))
    if not any(field == "activation" for field, _ in about):
        return []
    untried = [name for name, usual in UNTRIED.items() if getattr(spec, name) != usual]
    more = f"; another {' or '.join(untried).replace('_', ' ')} was not tried" if untried else ""
    found = (_place(p, about, own[0]["found"], tokenizer) for p in table()["versions"])
    return [
        each if each.difference is None else replace(each, result=each.result + more)
        for each in found
    ]


def _about(spec: Spec, cases: list[Case]) -> Iterator[tuple[str, Case]]:
    """Of a class's cases, the plainest first, those that tell of an architecture.

    Each with the field that it is about. Every case but those of the activation has the usual one.
    """
    asked = {
        "tied": spec.tied,
        "bias": spec.linear_bias,
        "norm_eps": spec.norm_eps != USUAL_EPS,
        "rope_theta": spec.rope_theta not in (None, USUAL_THETA),
        "n_kv_head": spec.n_kv_head != spec.n_head,
    }
    for case in cases:
        field = case["differs"] or "activation"
        if field == "activation":
            fits = case["activation"] == spec.activation
        else:
            fits = asked[field] == case.get(field, True)
        if fits:
            yield field, case


def _place(
    program: str, about: list[tuple[str, Case]], plainest: Found, tokenizer: str | None
) -> Place:
    versions = table()["versions"][program]
    found = [(field, case["found"][program]) for field, case in about]
    for _, value in found:
        if isinstance(value, str):
            return Place(program, versions, False, f"does not run: {value}", None)
    worst = max(value for _, value in found)
    # Where the plainest case is wrong, so are those that differ from it in another field.
    also_others = _right(plainest[program])
    fields = [f for f, v in found if not _right(v) and (also_others or f == "activation")]
    result = f"computes with another {' and another '.join(WORDS[field] for field in fields)}"
    if not fields:
        result = "no more than rounding differs" if _right(worst) else "computes something else"
    stops = table()["tokenizers"].get(tokenizer, {}).get(about[0][1]["class"])
    if stops and program == "llama.cpp":  # the others were given a tokenizer or need none
        result += f"; its converter does not take the tokenizer ({stops}), this is of the weights"
    elif tokenizer not in TRIED and program in NEED_A_TOKENIZER:
        here = "this one was not tried" if tokenizer else "this release has none"
        result += f"; with a made-up tokenizer, {here}"
    return Place(program, versions, not _right(worst), result, worst)


def _right(value: float | str) -> bool:
    return isinstance(value, float) and value <= LARGEST_ROUNDING
