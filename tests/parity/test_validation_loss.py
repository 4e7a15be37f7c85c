"""The recorded validation loss: what is computed, what its errors allow, and what is no alarm."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from slogpt_hf.checkpoints import Checkpoint, TrainingFacts, read_checkpoint
from slogpt_hf.checkpoints.checkpoint import Quantisation
from slogpt_hf.datasets.vocabulary import Vocabulary
from slogpt_hf.parity import comparing
from slogpt_hf.parity.comparing import Run, run_of
from slogpt_hf.parity.gate import verify_artefact
from slogpt_hf.parity.rounding import rounded
from slogpt_hf.parity.validation_data import ValidationData, validation_data
from slogpt_hf.parity.validation_loss import (
    CONVICTING,
    Reproduced,
    block_length,
    block_starts,
    estimate,
    estimated_blocks,
    judged_loss,
    largest_difference,
    loss_of,
    token_losses,
    unigram_entropy,
)
from slogpt_hf.tokenizers import TokenizerChoice

Write = Callable[..., Path]
Convert = Callable[..., tuple[Checkpoint, Path]]
NANOGPT = {"eval_iters": 200, "batch_size": 12, "dtype": "float32", "eval_interval": 250}


@pytest.fixture(scope="module")
def checkpoint(slo_checkpoint: Write) -> Checkpoint:
    return read_checkpoint(slo_checkpoint())


def recording(checkpoint: Checkpoint, loss: float | None, **facts: Any) -> Checkpoint:
    """The checkpoint with another recorded loss."""
    own = {"val_loss": loss, "val_loss_name": "best_val_loss", "step": 1000, "settings": NANOGPT}
    return replace(checkpoint, facts=replace(TrainingFacts(), **own | facts))


def judged(checkpoint: Checkpoint, recorded: float, computed: float, **facts: Any) -> Reproduced:
    found = estimate([computed + (-1) ** i * 0.2 for i in range(256)])
    assert found.mean == pytest.approx(computed)
    return judged_loss(recording(checkpoint, recorded, **facts), "val.bin", found, 64, 3.3)


def test_a_loss_that_is_reproduced_corroborates(checkpoint: Checkpoint) -> None:
    found = judged(checkpoint, 1.5, 1.51)
    assert found.loss is not None and found.loss.agrees and not found.failures
    assert found.note == "" and 0.03 < found.loss.bound < 0.1


@pytest.mark.parametrize("computed", [3.91, 0.2])
def test_a_loss_that_is_far_off_is_another_function(
    computed: float, checkpoint: Checkpoint
) -> None:
    found = judged(checkpoint, 1.47, computed)
    assert found.loss is not None and not found.loss.agrees
    assert found.failures[0].startswith(
        f"records 1.470, computes {computed:.3f} on val.bin: this is not the function that was "
        "trained, or not its data (they may differ by "
    )


def test_between_the_two_nothing_is_said(checkpoint: Checkpoint) -> None:
    loss = judged(checkpoint, 1.5, 1.5).loss
    assert loss is not None
    found = judged(checkpoint, 1.5, 1.5 + 0.98 * loss.bound)
    assert found.loss is None and not found.failures and "corroborates nothing" in found.note


def test_a_model_that_learned_nothing_is_not_corroborated(checkpoint: Checkpoint) -> None:
    found = judged(checkpoint, 3.3, 3.3)
    assert found.loss is None and not found.failures
    assert "the frequencies of the ids alone give 3.300" in found.note


DOUBTS: dict[str, tuple[float, float, dict[str, Any], str]] = {
    "bits": (1.5 / math.log(2), 1.5, {}, "in bits"),
    "labels": (1.9, 1.5, {"settings": NANOGPT | {"label_smoothing": 0.1}}, "smooths"),
    "dropout": (1.9, 1.5, {"settings": NANOGPT | {"dropout": 0.2}}, "with dropout"),
    "a best one of somebody": (1.5, 1.9, {"val_loss_name": "best_eval_loss"}, "earlier weights"),
}


@pytest.mark.parametrize("doubt", DOUBTS)
def test_a_loss_that_may_be_another_one_is_no_alarm(doubt: str, checkpoint: Checkpoint) -> None:
    recorded, computed, facts, words = DOUBTS[doubt]
    found = judged(checkpoint, recorded, computed, **facts)
    assert found.loss is None and not found.failures and words in found.note
    assert judged(checkpoint, recorded + 2, computed).failures  # and not for any reason


def test_quantised_weights_are_no_alarm(checkpoint: Checkpoint) -> None:
    quantised = replace(checkpoint, quantisation=Quantisation("Q8_0", 64, 0.01))
    assert "quantised" in judged(quantised, 1.5, 1.9).note


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"val_loss_step": 750}, "it is of step 750, the weights are of step 1000"),
        ({"loss": -1.0}, "it is no loss"),
    ],
)
def test_a_loss_that_is_not_that_of_the_weights_is_not_compared(
    facts: dict[str, Any], words: str, checkpoint: Checkpoint
) -> None:
    recorded = recording(checkpoint, facts.pop("loss", 1.5), **facts)
    data = ValidationData(np.zeros(1000, dtype=np.uint16), "val.bin")
    found = loss_of(recorded, data, SimpleNamespace(), "float32")  # type: ignore[arg-type]
    assert found.loss is None and not found.failures and words in found.note


def test_an_entry_that_is_to_be_ignored_is(checkpoint: Checkpoint) -> None:
    data = ValidationData(np.zeros(1000, dtype=np.uint16), "val.bin")
    for name in ("best_val_loss", ("x", "val_loss")):
        ignoring = replace(recording(checkpoint, 1.5), given={"ignore": name})
        found = loss_of(ignoring, data, SimpleNamespace(), "float32")  # type: ignore[arg-type]
        assert "--set ignore says so" in found.note and not found.failures


def test_the_bound_knows_how_the_trainer_estimated_it() -> None:
    found = estimate([1.5 + (-1) ** i * 0.2 for i in range(256)])

    def bound(**facts: Any) -> float:
        own = {"val_loss": 1.5, "val_loss_name": "val_loss", "settings": NANOGPT}
        every = replace(TrainingFacts(), **own | facts)
        error = found.of_one / math.sqrt(estimated_blocks(every.settings, 64))
        return largest_difference(every, found, error, "float32", CONVICTING)

    coarse = bound(settings=NANOGPT | {"eval_iters": 1})
    best = bound(val_loss_name="best_val_loss", step=10_000)
    kept = {"always_save_checkpoint": True}
    assert coarse > best > bound() == bound(val_loss_name="best_val_loss", settings=NANOGPT | kept)
    assert bound(settings=NANOGPT | {"dtype": "bfloat16"}) == pytest.approx(bound() + 0.008)
    assert bound(settings={}) > bound()
    few = estimate([1.5 + (-1) ** i * 0.2 for i in range(8)])
    assert few.error == pytest.approx(found.error * math.sqrt(32), rel=0.1)


def test_neighbours_that_are_alike_say_less() -> None:
    draw = np.random.default_rng(0)
    apart = draw.normal(2.0, 0.2, 256)
    alike = np.repeat(draw.normal(2.0, 0.2, 32), 8) + draw.normal(0.0, 0.02, 256)
    assert estimate(list(apart)).error == pytest.approx(0.2 / 16, rel=0.6)
    assert estimate(list(alike)).error > 1.5 * alike.std() / 16
    assert estimate([2.0] * 16).error == 0.0


def test_no_honest_estimate_is_an_alarm(checkpoint: Checkpoint) -> None:
    """400 runs: text whose difficulty drifts, the best of 20 estimates of 20 x 12 blocks."""
    draw = np.random.default_rng(1)
    corroborated = 0
    for _ in range(400):
        drift = np.cumsum(draw.normal(0.0, 0.02, 400))
        blocks = 1.5 + drift - drift.mean() + draw.normal(0.0, 0.25, 400)
        estimates = draw.choice(blocks, (20, 20 * 12)).mean(-1)
        settings = NANOGPT | {"eval_iters": 20, "eval_interval": 50}
        made = recording(checkpoint, float(estimates.min()), settings=settings)
        some = list(blocks[:: int(draw.integers(1, 12))])
        found = judged_loss(made, "val.bin", estimate(some), 64, 3.3)
        assert not found.failures, found
        corroborated += found.loss is not None
    assert corroborated > 380


def test_blocks_are_all_of_the_data_or_spread_over_it() -> None:
    assert block_starts(641, 64, 1000) == [64 * i for i in range(10)]
    assert block_starts(64 * 8, 64, 1000) == []  # the last block has no token to predict
    many = block_starts(10**7, 64, 1000)
    assert len(many) == 1024 and many[0] == 0 and many[-1] == 10**7 - 65
    large = block_starts(10**7, 1024, 124_000_000)
    assert len(large) == 15 and large[-1] + 1024 + 1 == 10**7
    assert len(block_starts(10**7, 1024, 10**9)) == 8
    assert block_starts(10**7, 1024, 10**11) == []


def test_a_block_is_as_long_as_the_trainers() -> None:
    assert block_length({"block_size": 16}, 24) == 16
    assert [block_length({"block_size": n}, 24) for n in (0, 48, "x", None)] == [24] * 4
    assert estimated_blocks({"eval_iters": 3, "batch_size": 5}, 64) == 15
    assert math.isfinite(math.sqrt(estimated_blocks({"eval_iters": 10**400, "batch_size": 1}, 64)))
    assert estimated_blocks({"eval_iters": 3}, 64) == 256
    assert estimated_blocks({}, 2048) == 16


@pytest.mark.parametrize("chunk", [1 << 19, 40])
def test_the_loss_of_pieces_is_that_of_the_whole(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparing, "CHUNK_LOGITS", chunk)
    monkeypatch.setattr(comparing, "HEAD_VALUES", chunk)
    monkeypatch.setattr(comparing, "COLUMNS_STEP", 24)
    monkeypatch.setattr(comparing, "ROWS_STEP", 8)
    draw = torch.Generator().manual_seed(0)
    states, head = (torch.randn(n, 4, generator=draw) for n in (40, 100))
    targets = torch.randint(0, 100, (40,), generator=draw)
    losses = token_losses(Run(states, head), targets, 100)
    whole = functional.cross_entropy((states @ head.T).double(), targets, reduction="none")
    assert torch.allclose(losses, whole, rtol=0, atol=1e-6)


def test_the_frequencies_of_ids_are_a_loss() -> None:
    data = ValidationData(np.array([0, 0, 1, 1, 5, 5, 7, 7]), "x")
    assert unigram_entropy(data, 8) == pytest.approx(math.log(4))


@pytest.fixture(scope="module")
def learned(
    slo_content: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with a model, what it itself says for a val.bin, and the loss it records."""
    folder = tmp_path_factory.mktemp("learned")
    content = slo_content(n_layer=1)
    content["config"] |= {"dtype": "float32", "eval_iters": 50, "batch_size": 4}
    torch.save(content, folder / "ckpt.pt")
    model = rounded(read_checkpoint(folder / "ckpt.pt"), torch.float32)
    draw, block = torch.Generator().manual_seed(0), 24
    ids = torch.randint(0, 37, (64, 1), generator=draw)
    with torch.no_grad():
        for _ in range(block):  # what it samples, it predicts well
            run = run_of(model, ids[:, -block:], torch.float32)
            logits = run.columns(slice(0, 37))(slice(None)).view(64, -1, 37)[:, -1]
            chosen = torch.multinomial(logits.softmax(-1), 1, generator=draw)
            ids = torch.cat((ids, chosen), 1)
        blocks = ids[:, :block].reshape(-1)
        loss = token_losses(
            run_of(model, blocks.view(64, block), torch.float32), blocks.roll(-1), 37
        )
    (folder / "val.bin").write_bytes(blocks.numpy().astype("<u2").tobytes())
    content["best_val_loss"] = loss[:-1].mean()
    torch.save(content, folder / "ckpt.pt")
    return folder


def data_of(folder: Path) -> ValidationData:
    found = validation_data(read_checkpoint(folder / "ckpt.pt"), TokenizerChoice(dataset=folder))
    assert isinstance(found, ValidationData)
    return found


def test_the_gate_computes_it_with_the_artefact(learned: Path, convert: Convert) -> None:
    checkpoint, folder = convert(learned / "ckpt.pt")
    report = verify_artefact(checkpoint, folder, validation=data_of(learned))
    assert report.passed and report.level == "corroborated", (report.notes, report.failures)
    assert report.loss is not None and report.loss.n_tokens == 63 * 24
    assert report.loss.computed == pytest.approx(report.loss.recorded, abs=0.02)
    assert "which reproduces the recorded validation loss" in report.summary()


def test_another_function_and_other_data_are_exit_4(
    learned: Path, convert: Convert, tmp_path: Path
) -> None:
    content = torch.load(learned / "ckpt.pt", weights_only=False)
    content["model_args"]["n_head"] = 2  # converted faithfully, and not what was trained
    torch.save(content, tmp_path / "ckpt.pt")
    pair = convert(tmp_path / "ckpt.pt")
    report = verify_artefact(*pair, validation=data_of(learned))
    assert report.verdict == "failed" and report.fp64_error < 1e-13
    assert "this is not the function that was trained, or not its data" in report.reason
    pair = convert(learned / "ckpt.pt")
    shuffled = np.random.default_rng(0).permutation(data_of(learned).ids)
    report = verify_artefact(*pair, validation=ValidationData(shuffled, "val.bin"))
    assert report.verdict == "failed" and report.level == "assumed"


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        (np.zeros(100, dtype=np.uint16), "too few for 8 blocks of 24"),
        (np.full(1000, 37, dtype=np.uint16), "holds the id 37, the model has 37 ids"),
    ],
)
def test_data_that_cannot_be_its_own_is_no_alarm(
    ids: Any, words: str, learned: Path, convert: Convert
) -> None:
    report = verify_artefact(
        *convert(learned / "ckpt.pt"), validation=ValidationData(ids, "val.bin")
    )
    assert report.passed and report.level == "assumed" and report.loss is None
    assert any(words in note for note in report.notes)


CHARACTERS = Vocabulary.from_tables(dict(enumerate("ab\n")), None, None, "a test")


def choice_in(folder: Path, **files: bytes) -> TokenizerChoice:
    for name, content in files.items():
        (folder / name.replace("_", ".")).write_bytes(content)
    return TokenizerChoice(CHARACTERS, dataset=folder)


def test_ids_are_read_as_wide_as_they_are(checkpoint: Checkpoint, tmp_path: Path) -> None:
    for kind in ("<u2", "<u4"):
        ids = np.arange(1, 37, dtype=kind)
        found = validation_data(checkpoint, choice_in(tmp_path, val_bin=ids.tobytes()))
        assert isinstance(found, ValidationData) and found.name == "val.bin"
        assert list(found.ids) == list(range(1, 37))
    large = replace(checkpoint, spec=replace(checkpoint.spec, vocab_size=100_000))
    ids = np.array([70_000, 99_999], dtype="<u4")
    found = validation_data(large, choice_in(tmp_path, val_bin=ids.tobytes()))
    assert isinstance(found, ValidationData) and list(found.ids) == [70_000, 99_999]


def test_a_text_is_divided_as_its_trainer_divides_it(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    found = validation_data(checkpoint, choice_in(tmp_path, input_txt=b"a" * 17 + b"\r\nb" + b"b"))
    assert isinstance(found, ValidationData) and found.name == "the last tenth of input.txt"
    assert list(found.ids) == [1, 1]  # of 20 characters the last two


NOT_THERE: dict[str, tuple[dict[str, bytes], str]] = {
    "nothing": ({}, "holds neither val.bin nor input.txt"),
    "a pointer": ({"val_bin": b"version https://git-lfs.github.com/spec/v1\n"}, "Git LFS"),
    "half an id": ({"val_bin": b"\1\0\1"}, "is no number of token ids"),
    "no ids": ({"val_bin": b""}, "cannot be read"),
    "another text": ({"input_txt": b"aaaaaaaaaaaaaaaaaaax"}, "which the vocabulary has not"),
}


@pytest.mark.parametrize("case", NOT_THERE)
def test_data_that_is_not_there_is_said(case: str, checkpoint: Checkpoint, tmp_path: Path) -> None:
    files, words = NOT_THERE[case]
    found = validation_data(checkpoint, choice_in(tmp_path, **files))
    assert isinstance(found, str) and words in found


def test_the_dataset_is_the_one_that_the_trainer_recorded(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    own = replace(checkpoint, path=tmp_path / "out" / "ckpt.pt")
    assert validation_data(own, TokenizerChoice()) == "its dataset is not at hand"
    (tmp_path / "data" / "characters").mkdir(parents=True)
    (tmp_path / "data" / "characters" / "val.bin").write_bytes(bytes([1, 0, 2, 0]))
    found = validation_data(own, TokenizerChoice())
    assert isinstance(found, ValidationData) and list(found.ids) == [1, 2]
    outside = replace(own, facts=replace(own.facts, dataset="../data/characters"))
    assert validation_data(outside, TokenizerChoice()) == "its dataset is not at hand"
    assert validation_data(recording(own, None), TokenizerChoice()) is None
