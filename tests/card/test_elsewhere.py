"""What the card says of programs other than transformers."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import kinds
import pytest

from slogpt_hf.card import CardFacts, render_facts
from slogpt_hf.card.elsewhere import LARGEST_ROUNDING, UNTRIED, WORDS, places, table
from slogpt_hf.checkpoints import Spec
from slogpt_hf.conversion.configs import ACTIVATIONS
from slogpt_hf.conversion.targets import target_for
from slogpt_hf.libraries import loads

PLAIN = Spec(
    positions="rotary",
    norm="rmsnorm",
    mlp="plain",
    activation="gelu",
    linear_bias=False,
    norm_bias=False,
    n_layer=2,
    n_head=4,
    n_kv_head=4,
    n_embd=32,
    n_hidden=128,
    vocab_size=65,
    block_size=64,
    norm_eps=1e-5,
    tied=False,
    rope_theta=10_000.0,
    rotary_pairs="interleaved",
)
LLAMA = replace(PLAIN, mlp="gated", activation="silu")
STABLELM = replace(LLAMA, norm="layernorm")
STARCODER2 = replace(PLAIN, norm="layernorm")
GPT2 = replace(STARCODER2, positions="learned", rope_theta=None, rotary_pairs=None)


def told(spec: Spec, program: str = "llama.cpp", tokenizer: str | None = None) -> tuple[bool, str]:
    found = places(spec, target_for(spec).class_name, tokenizer)
    (place,) = [each for each in found if each.program == program]
    assert place.wrong == (place.difference is not None and place.difference > LARGEST_ROUNDING)
    return place.wrong, place.result


@pytest.mark.parametrize(
    ("spec", "program", "wrong", "words"),
    [
        (PLAIN, "llama.cpp", True, "computes with another activation"),
        (replace(PLAIN, tied=True), "llama.cpp", True, "computes with another activation"),
        (replace(PLAIN, activation="relu2"), "llama.cpp", False, "no more than rounding differs"),
        (replace(PLAIN, linear_bias=True), "llama.cpp", False, "does not run: wrong number of"),
        (replace(STABLELM, tied=True), "llama.cpp", False, "no more than rounding differs"),
        (
            replace(STABLELM, rope_theta=5e5),
            "llama.cpp",
            True,
            "computes with another rope_theta (500000 was tried)",
        ),
        (STARCODER2, "llama.cpp", False, "does not run: missing tensor"),
        (replace(STARCODER2, linear_bias=True), "llama.cpp", False, "no more than rounding"),
        (GPT2, "llama.cpp", False, "no more than rounding differs"),
        (replace(GPT2, activation="relu"), "llama.cpp", True, "computes with another activation"),
        (GPT2, "ctranslate2", False, "no more than rounding differs"),
        (replace(GPT2, norm_eps=1e-3), "ctranslate2", True, "another epsilon of the norms"),
        (replace(LLAMA, activation="gelu"), "ctranslate2", True, "another activation"),
        (replace(LLAMA, activation="gelu"), "onnxruntime", False, "no more than rounding differs"),
        (replace(LLAMA, norm_eps=1e-6, n_kv_head=2), "transformers.js", False, "no more than"),
    ],
)
def test_what_a_program_does_with_an_architecture(
    spec: Spec, program: str, wrong: bool, words: str
) -> None:
    is_wrong, result = told(spec, program)
    assert is_wrong == wrong and words in result


def test_a_tokenizer_that_is_not_taken_is_told() -> None:
    assert "does not take the tokenizer" in told(LLAMA, tokenizer="characters")[1]
    assert "tokenizer" not in told(LLAMA, tokenizer="sentencepiece")[1]
    assert "does not take the tokenizer" in told(STABLELM, tokenizer="sentencepiece")[1]
    assert "tokenizer" not in told(LLAMA, "onnxruntime", tokenizer="characters")[1]
    assert told(LLAMA)[1].endswith("; with a made-up tokenizer, this release has none")
    assert told(LLAMA, "ctranslate2")[1].endswith("this release has none")
    assert told(LLAMA, tokenizer="existing")[1].endswith("this one was not tried")
    assert "tokenizer" not in told(LLAMA, "transformers.js")[1]


def test_every_class_was_run_with_every_activation() -> None:
    run = {(case["class"], case["activation"]) for case in table()["cases"]}
    assert run == set(itertools.product(kinds.CLASSES, ACTIVATIONS))
    assert {case["differs"] for case in table()["cases"]} == {None, *WORDS}
    for case in table()["cases"]:
        assert case["found"].keys() == table()["versions"].keys()
        assert all(isinstance(value, str | float) for value in case["found"].values())
    assert places(PLAIN, "FalconForCausalLM", None) == []


def test_the_card_has_a_row_a_program(card_facts: Callable[..., CardFacts]) -> None:
    made = card_facts()
    arcee: dict[str, Any] = {"spec": PLAIN, "target_class": "ArceeForCausalLM"}
    card = render_facts(replace(made, **arcee, loads=loads(False)))
    section = card.split("## Where else it runs")[1].split("\n## ")[0]
    assert table()["date"] in section
    (row,) = [line for line in section.splitlines() if line.startswith("| llama.cpp ")]
    assert "**wrong, and says nothing**: computes with another activation" in row
    assert row.endswith("| 6.3e-01 |")
    assert section.count("\n| ") == 2 + len(table()["versions"])
    # Of what earlier versions wrote it is not known.
    assert "Where else it runs" not in render_facts(replace(made, **arcee, loads={}))


def test_what_no_model_varied_is_no_claim() -> None:
    """The models that were run have a residual multiplier alone."""
    tried = replace(LLAMA, residual_multiplier=0.5)
    assert told(tried, tokenizer="sentencepiece") == (False, "no more than rounding differs")
    other = replace(tried, logit_multiplier=0.5, attention_multiplier=0.1)
    words = "; another attention multiplier or logit multiplier was not tried"
    told_of = told(other, tokenizer="sentencepiece")
    assert told_of == (False, f"no more than rounding differs{words}")
    assert words not in told(other, "ctranslate2")[1]  # which runs none of them
    assert {case["differs"] for case in table()["cases"]}.isdisjoint(UNTRIED)
