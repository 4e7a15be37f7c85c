"""Logits in chunks: the same figures, little memory, and still the model that users call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from slogpt_hf.checkpoints import Checkpoint
from slogpt_hf.parity import comparing, gate
from slogpt_hf.parity.comparing import Run, compare, distance, equal_rows, relative_error
from slogpt_hf.parity.gate import splits, verify_artefact
from slogpt_hf.parity.inputs import Inputs
from slogpt_hf.parity.streamed import StoredTensors, Streamed, stream_artefact

Convert = Callable[..., tuple[Checkpoint, Path]]
Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def _any_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of as few rows as a test likes."""
    monkeypatch.setattr(comparing, "ROWS_STEP", 1)
    monkeypatch.setattr(comparing, "FEWEST_ROWS", 1)


BATCH = Inputs("a batch", torch.zeros(3, 5, dtype=torch.int64))
VOCAB = 11


class LargestTensor(TorchDispatchMode):
    """Remembers the elements of the largest floating-point result of any operation."""

    elements = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, Tensor) and value.is_floating_point():
                self.elements = max(self.elements, value.numel())
        return result


def four_logits() -> tuple[Tensor, ...]:
    """Float64, float32, float64, float32: (15, 11), alike but for noise that differs by row."""
    generator = torch.Generator().manual_seed(0)
    exact = torch.randn(15, VOCAB, generator=generator, dtype=torch.float64)
    noise = torch.randn(3, 15, VOCAB, generator=generator, dtype=torch.float64)
    return exact, (exact + noise[0]).float(), exact + noise[1], (exact + noise[2]).float()


def runs_of(logits: Iterable[Tensor]) -> list[Run]:
    return [Run(tensor.clone(), None) for tensor in logits]


@pytest.mark.parametrize("rows", [1, 2, 4, 7, 15, 1000])
def test_chunks_give_the_figures_of_the_whole(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "CHUNK_LOGITS", rows * VOCAB)
    source_64, source_32, ours_64, ours_32 = four_logits()
    result = compare(BATCH, VOCAB, *runs_of(four_logits())).comparison
    largest = source_64.abs().max().item()
    figures = {k: v for k, v in asdict(result).items() if k not in ("cosine", "kl")}
    assert figures == {
        "name": "a batch",
        "batch": 3,
        "length": 5,
        "max_logit": largest,
        "fp64_error": (ours_64 - source_64).abs().max().item() / largest,
        "fp32_error": (ours_32 - source_32).abs().max().item(),
        "fp32_noise": (source_32 - source_64).abs().max().item(),
        "top1": (ours_32.argmax(-1) == source_32.argmax(-1)).double().mean().item(),
    }
    assert 0 < result.top1 < 1


@pytest.mark.parametrize("rows", [1, 4, 15, 1000])
def test_relative_error_is_that_of_the_whole(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "CHUNK_LOGITS", rows * VOCAB)
    theirs, _, ours, _ = four_logits()
    runs = runs_of((ours, theirs))
    assert relative_error(VOCAB, *runs) == ((ours - theirs).abs().max() / theirs.abs().max()).item()
    for spoilt in (ours, theirs):
        spoilt[7, 3] = float("nan")
        assert relative_error(VOCAB, *runs_of((ours, theirs))) == float("inf")
        spoilt[7, 3] = 0.0


@pytest.mark.parametrize("row", [0, 7, 14])
def test_nan_in_any_chunk_is_infinite(row: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "CHUNK_LOGITS", 4 * VOCAB)
    logits = four_logits()
    logits[2][row, 3] = logits[3][row, 3] = float("nan")
    result = compare(BATCH, VOCAB, *runs_of(logits)).comparison
    assert result.fp64_error == result.fp32_error == float("inf")
    assert result.fp32_noise < float("inf")


def test_logits_of_another_shape_are_infinitely_far() -> None:
    source_64, source_32, ours_64, ours_32 = four_logits()
    runs = runs_of((source_64, source_32, ours_64[:, 1:], ours_32[:, 1:]))
    result = compare(BATCH, VOCAB, *runs).comparison
    assert result.fp64_error == result.fp32_error == float("inf")
    assert result.top1 == 0
    assert distance(source_64, source_64[1:]) == float("inf")


def test_rows_are_compared_to_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "CHUNK_LOGITS", 4 * VOCAB)
    stored = torch.randn(15, VOCAB).bfloat16()
    rows = stored.double()
    assert equal_rows(rows, stored)
    assert not equal_rows(rows[:-1], stored)
    rows[-1, -1] += 1e-9
    assert not equal_rows(rows, stored)


@pytest.mark.parametrize("use_rope", [False, True])
def test_no_tensor_holds_the_logits_of_a_whole_batch(
    use_rope: bool, slo_checkpoint: Write, convert: Convert, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"n_layer": 1, "n_head": 2, "n_embd": 8, "block_size": 256, "vocab_size": 2000}
    checkpoint, folder = convert(slo_checkpoint(use_rope=use_rope, **sizes))
    bound = 1 << 17
    monkeypatch.setattr(comparing, "CHUNK_LOGITS", bound)
    with LargestTensor() as watch:
        report = verify_artefact(checkpoint, folder)
    assert report.passed, report.failures
    first = report.comparisons[0]
    assert first.batch * first.length * 2000 > 30 * bound
    assert bound // 2 < watch.elements <= bound


@pytest.mark.parametrize("use_rope", [False, True])
def test_chunked_report_is_that_of_the_whole(
    use_rope: bool, slo_checkpoint: Write, convert: Convert, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, folder = convert(slo_checkpoint(use_rope=use_rope))
    whole = verify_artefact(checkpoint, folder)
    monkeypatch.setattr(comparing, "CHUNK_LOGITS", 3 * checkpoint.spec.vocab_size)
    chunked = verify_artefact(checkpoint, folder)
    assert chunked.passed and whole.passed
    for ours, theirs in zip(chunked.comparisons, whole.comparisons, strict=True):
        assert ours.max_logit == pytest.approx(theirs.max_logit, rel=1e-12)
        assert ours.fp32_noise == pytest.approx(theirs.fp32_noise, rel=1)
        assert ours.top1 == theirs.top1


def scaled_logits(self: nn.Module, arguments: Any, output: Any) -> Any:
    output.logits = output.logits * 1.001
    return output


def test_model_that_is_more_than_its_head_is_judged_whole(
    slo_checkpoint: Write, convert: Convert, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Base and head are right here; what users call is not."""
    checkpoint, folder = convert(slo_checkpoint())
    genuine = gate.stream_artefact

    def scaling(*arguments: Any, **options: Any) -> Streamed:
        streamed = genuine(*arguments, **options)
        streamed.model.register_forward_hook(scaled_logits)
        return streamed

    monkeypatch.setattr(gate, "stream_artefact", scaling)
    report = verify_artefact(checkpoint, folder)
    assert not report.passed
    assert report.embedding_equal and report.head_equal
    assert report.fp64_error == pytest.approx(1e-3, rel=1e-6)
    assert report.first_divergence == "final norm or head"


def test_every_class_splits(
    switches: dict[str, bool], slo_checkpoint: Write, convert: Convert
) -> None:
    _, folder = convert(slo_checkpoint(**switches))
    model = stream_artefact(folder, torch.float32, StoredTensors(folder))
    with torch.no_grad():
        assert splits(model, torch.tensor([[1, 2, 3], [4, 5, 6]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(820, 768, 3000), (1025, 256, 5000), (2, 64, 9000), (7, 48, 65)])
def test_pieces_round_no_worse_than_the_whole(
    dtype: torch.dtype, shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether they give the same bits depends on the library and the processor."""
    monkeypatch.undo()
    positions, width, vocabulary = shape
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(positions, width, generator=generator, dtype=dtype)
    head = torch.randn(vocabulary, width, generator=generator, dtype=dtype)
    run, whole = Run(states, head), nn.functional.linear(states, head)
    exact = nn.functional.linear(states.double(), head.double())
    # Of a dot product of that many terms; in float64 the whole is no better than its pieces.
    rounding = 4 * torch.finfo(dtype).eps * width**0.5 * exact.abs().max().item()
    seen = 0
    for ids in comparing.pieces(vocabulary, run):
        columns = run.columns(ids)
        for rows in comparing.row_pieces(positions, ids.stop - ids.start):
            assert distance(columns(rows).double(), exact[rows, ids]) <= rounding
            assert distance(columns(rows), whole[rows, ids]) <= rounding
            seen += (rows.stop - rows.start) * (ids.stop - ids.start)
    assert seen == positions * vocabulary
