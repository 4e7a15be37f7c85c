"""The content of a small ``release.json`` and ``parity.json``, and cards made from them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from slogpt_hf.card import CardFacts, facts_from_record

SHA256 = "0123456789abcdef" * 4
COMMIT = "89abcdef01" * 4

RECORD: dict[str, Any] = {
    "schema": 1,
    "tool": "slogpt-hf 0.1.0",
    "date": "2026-01-31",
    "identity": SHA256,
    "repo_id": "me/tiny",
    "version": "1.4.0",
    "tag": "v1.4.0",
    "checkpoint": {
        "file": "ckpt.pt",
        "sha256": SHA256,
        "dialect": "slo",
        "dtype": "float32",
        "step": 2500,
        "val_loss": 1.4697,
        "dataset": "shakespeare_char",
        "settings": {"learning_rate": 0.001, "compile": False},
        "notes": ["The eps of the norms is the family's default."],
    },
    "source": {
        "commit": COMMIT,
        "branch": "train/small",
        "remote": "https://example.org/me/gpt.git",
    },
    "model": {
        "target_class": "LlamaForCausalLM",
        "remote_code": False,
        "dtype": "float32",
        "n_parameters": 118224,
        "spec": {
            "positions": "rotary",
            "norm": "rmsnorm",
            "mlp": "swiglu",
            "linear_bias": False,
            "norm_bias": False,
            "n_layer": 3,
            "n_head": 4,
            "n_kv_head": 4,
            "n_embd": 48,
            "n_hidden": 192,
            "vocab_size": 65,
            "block_size": 256,
            "norm_eps": 1e-6,
            "tied": True,
            "rope_theta": 10000.0,
            "rotary_pairs": "interleaved",
        },
        "tokenizer_sha256": SHA256,
    },
    "tokenizer": {"kind": "characters", "entries": 65, "unknown": "error", "sha256": SHA256},
    "parity": {"passed": True},
    "license": "mit",
    "languages": ["en", "no"],
    "sample": "\nROMEO:\nSpeak",
    "files": {},
    "previous": [],
}


def _comparison(name: str, length: int) -> dict[str, Any]:
    return {
        "name": name,
        "batch": 2,
        "length": length,
        "max_logit": 9.5,
        "fp64_error": 1.6e-14,
        "fp32_error": 2.5e-6,
        "fp32_noise": 1.5e-6,
        "top1": 1.0,
    }


REPORT: dict[str, Any] = {
    "schema": 1,
    "fp64_error": 1.6e-14,
    "fp32_error": 2.5e-6,
    "fp32_noise": 1.5e-6,
    "passed": True,
    "oracle": "built-in plain-torch Slo model",
    "dtype": "float32",
    "comparisons": [_comparison("full block", 256), _comparison("odd length", 127)],
    "fp64_bound": 1e-10,
    "fp32_bound": 6e-6,
    "embedding_rows": 65,
    "embedding_equal": True,
    "covered_ids": 65,
    "first_divergence": None,
    "failures": [],
    "seconds": 1.0,
    "forward_seconds": 0.9,
}


@pytest.fixture
def record() -> dict[str, Any]:
    """The content of ``release.json``."""
    return copy.deepcopy(RECORD)


@pytest.fixture
def report() -> dict[str, Any]:
    """The content of ``parity.json``."""
    return copy.deepcopy(REPORT)


@pytest.fixture(scope="session")
def card_facts() -> Callable[..., CardFacts]:
    """Makes facts; arguments replace fields."""

    def make(**changes: Any) -> CardFacts:
        return replace(facts_from_record(RECORD, REPORT), **changes)

    return make
