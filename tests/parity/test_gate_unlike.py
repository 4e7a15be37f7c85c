"""A checkpoint and an artefact that were never a pair: a verdict, not a traceback."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from slogpt_hf.checkpoints import Checkpoint, read_checkpoint
from slogpt_hf.parity.gate import verify_artefact

Convert = Callable[..., tuple[Checkpoint, Path]]
Write = Callable[..., Path]

FAMILIES: dict[str, dict[str, bool]] = {
    "classic": {},
    "modern": {"use_rope": True, "use_swiglu": True, "use_rmsnorm": True, "bias": False},
    "custom": {"use_rope": True, "use_swiglu": True, "bias": True},
}
UNLIKE: dict[str, tuple[dict[str, int], str]] = {
    "smaller vocabulary": ({"vocab_size": 30}, "vocabulary size is 30, the original's is 37"),
    "larger vocabulary": (
        {"vocab_size": 40},
        "vocabulary size is 40, the original's is 37, and generation_config.json does not keep "
        "id 37 from being generated",
    ),
    "shorter context": ({"block_size": 16}, "context length is 16, the original's is 24"),
    "longer context": ({"block_size": 32}, "context length is 32, the original's is 24"),
    "fewer layers": ({"n_layer": 1}, "number of layers is 1, the original's is 2"),
    "more layers": ({"n_layer": 3}, "number of layers is 3, the original's is 2"),
    "narrower": ({"n_embd": 16}, "width is 16, the original's is 32"),
    "wider": ({"n_embd": 64}, "width is 64, the original's is 32"),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("difference", UNLIKE)
def test_artefact_of_other_sizes_fails_with_a_report(
    family: str, difference: str, slo_checkpoint: Write, convert: Convert
) -> None:
    args, sentence = UNLIKE[difference]
    checkpoint = read_checkpoint(slo_checkpoint(**FAMILIES[family]))
    _, folder = convert(slo_checkpoint(**FAMILIES[family], **args))
    report = verify_artefact(checkpoint, folder)
    assert not report.passed
    assert report.failures == (f"The artefact's {sentence}.",)
    assert report.first_divergence == "its sizes"
    assert not report.comparisons and not report.embedding_equal and not report.head_equal
    assert report.fp64_error == report.fp32_error == report.fp32_noise == math.inf
    assert sentence in report.summary() and "NOT equal" in report.summary()
    assert report.table() == "No batch was run."
    kept = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert kept["comparisons"] == [] and kept["fp32_bound"] is None


def test_every_difference_is_named(slo_checkpoint: Write, convert: Convert) -> None:
    checkpoint = read_checkpoint(slo_checkpoint())
    _, folder = convert(slo_checkpoint(n_layer=1, vocab_size=5, block_size=3, n_embd=8))
    assert len(verify_artefact(checkpoint, folder).failures) == 4


@pytest.mark.parametrize("family", ["modern", "custom"])
def test_wrong_context_that_no_logit_shows_is_caught(
    family: str, slo_checkpoint: Write, convert: Convert
) -> None:
    checkpoint, folder = convert(slo_checkpoint(**FAMILIES[family]))
    path = folder / "config.json"
    config = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps(config | {"max_position_embeddings": 2048}), "utf-8")
    report = verify_artefact(checkpoint, folder)
    assert report.failures == ("The artefact's context length is 2048, the original's is 24.",)
