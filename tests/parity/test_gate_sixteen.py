"""Every architecture: read, plan, write, reload, gate."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from slogpt_hf.checkpoints import Checkpoint, read_checkpoint
from slogpt_hf.parity.gate import n_passes, verify_artefact
from slogpt_hf.parity.inputs import inputs_for

Convert = Callable[..., tuple[Checkpoint, Path]]
Write = Callable[..., Path]


def test_every_architecture_passes(
    switches: dict[str, bool], slo_checkpoint: Write, convert: Convert
) -> None:
    checkpoint, folder = convert(slo_checkpoint(**switches))
    report = verify_artefact(checkpoint, folder)
    assert report.passed, report.failures
    assert report.first_divergence is None
    assert report.embedding_equal
    assert report.covered_ids == checkpoint.spec.vocab_size
    assert 0 < report.fp32_noise < report.fp32_bound
    assert report.summary().startswith("proven equal to")
    json.dumps(report.to_dict(), allow_nan=False)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("kind", ["classic", "modern", "custom"])
def test_every_dtype_passes(kind: str, dtype: str, slo_checkpoint: Write, convert: Convert) -> None:
    switches = {
        "classic": {},
        "modern": {"use_rope": True, "use_swiglu": True, "use_rmsnorm": True, "bias": False},
        "custom": {"use_rmsnorm": True},
    }[kind]
    checkpoint, folder = convert(slo_checkpoint(dtype=dtype, **switches))
    assert checkpoint.dtype == dtype
    assert json.loads((folder / "config.json").read_text())["dtype"] == dtype
    report = verify_artefact(checkpoint, folder)
    assert report.passed, report.failures
    assert report.dtype == dtype


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_cast_artefact_is_compared_with_the_equally_rounded_original(
    dtype: str, slo_checkpoint: Write, convert: Convert
) -> None:
    checkpoint, folder = convert(slo_checkpoint(use_rope=True), dtype=dtype)
    report = verify_artefact(checkpoint, folder)
    assert report.passed, report.failures
    assert report.dtype == dtype


@pytest.mark.parametrize("use_rope", [False, True])
@pytest.mark.parametrize("use_rmsnorm", [False, True])
def test_untied_head_passes(
    use_rope: bool, use_rmsnorm: bool, slo_checkpoint: Write, convert: Convert
) -> None:
    switches = {"use_rope": use_rope, "use_rmsnorm": use_rmsnorm}
    checkpoint, folder = convert(slo_checkpoint(tied=False, **switches))
    assert not checkpoint.spec.tied
    assert not json.loads((folder / "config.json").read_text())["tie_word_embeddings"]
    report = verify_artefact(checkpoint, folder)
    assert report.passed, report.failures


@pytest.mark.parametrize(
    ("block_size", "vocab_size"), [(1, 1), (1, 5), (3, 2), (24, 500), (500, 24), (5000, 70)]
)
def test_inputs_fit_the_model(slo_checkpoint: Write, block_size: int, vocab_size: int) -> None:
    path = slo_checkpoint(block_size=block_size, vocab_size=vocab_size, n_layer=1, n_embd=4)
    batches = inputs_for(read_checkpoint(path).spec, list(range(vocab_size)) * 3)
    shapes = [tuple(batch.ids.shape) for batch in batches]
    assert shapes[0][1] == block_size
    assert (4, 1) in shapes
    assert any(batch > 1 and length % 2 for batch, length in shapes[1:2])
    for batch in batches:
        assert batch.ids.shape[1] <= block_size
        assert set(batch.ids.flatten().tolist()) <= set(range(vocab_size))
    covered = {i for batch in batches[:1] for i in batch.ids.flatten().tolist()}
    assert len(covered) == vocab_size


@pytest.mark.parametrize("block_size", [4, 24, 1024, 3000])
def test_large_vocabulary_is_sampled_without_repetition(
    slo_checkpoint: Write, block_size: int
) -> None:
    path = slo_checkpoint(block_size=block_size, vocab_size=50304, n_layer=1, n_embd=4)
    batches = inputs_for(read_checkpoint(path).spec)
    ids = [i for batch in batches for i in batch.ids.flatten().tolist()]
    assert len(set(ids)) == len(ids) >= 1024
    assert batches[0].name == "full block"


def test_block_too_long_is_cut_and_says_so(slo_checkpoint: Write) -> None:
    path = slo_checkpoint(block_size=20_000, vocab_size=5, n_layer=1, n_embd=4)
    first = inputs_for(read_checkpoint(path).spec)[0]
    assert first.ids.shape == (1, 16384)
    assert first.name == "first 16384 of the block"


def test_progress_adds_up(slo_checkpoint: Write, convert: Convert) -> None:
    checkpoint, folder = convert(slo_checkpoint())
    told: list[int] = []
    report = verify_artefact(checkpoint, folder, text_ids=[0, 1, 2], advance=told.append)
    assert sum(told) == n_passes(checkpoint.spec, [0, 1, 2])
    assert 0 < report.forward_seconds <= report.seconds
