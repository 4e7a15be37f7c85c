"""The demo's checkpoint: its files, its format and its training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from slogpt_hf.checkpoints import read_checkpoint
from slogpt_hf.checkpoints.dialects.slo import names, spec_from_model_args
from slogpt_hf.checkpoints.parts import tensor_shapes
from slogpt_hf.checkpoints.spec import Spec
from slogpt_hf.datasets import read_ids, read_meta
from slogpt_hf.demo import VARIANTS, DemoRun, train_demo
from slogpt_hf.demo.corpus import corpus_text
from slogpt_hf.demo.fitting import (
    Recipe,
    fit,
    initial_tensors,
    learning_rate,
    validation_loss,
)
from slogpt_hf.errors import UsageError
from slogpt_hf.parity.decoder import Decoder, logits
from slogpt_hf.parity.families import SLO

ARCHITECTURES = {
    "classic": ("learned", "layernorm", "plain", True),
    "modern": ("rotary", "rmsnorm", "gated", False),
}


def tiny_spec(variant: str) -> Spec:
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 12, "vocab_size": 7}
    return spec_from_model_args({**VARIANTS[variant], **sizes})


def tiny_ids(count: int = 500) -> torch.Tensor:
    return torch.arange(count) * 3 % 7


@pytest.fixture(scope="module", params=sorted(VARIANTS))
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return request.param, train_demo(tmp_path_factory.mktemp("demo"), request.param, steps=3)


def test_the_reader_reads_the_checkpoint(run: tuple[str, DemoRun]) -> None:
    variant, demo = run
    checkpoint = read_checkpoint(demo.checkpoint)
    spec = checkpoint.spec
    assert (spec.positions, spec.norm, spec.mlp, spec.linear_bias) == ARCHITECTURES[variant]
    assert spec.tied and spec.vocab_size == 65 and checkpoint.dtype == "float32"
    assert checkpoint.facts.step == 3
    assert checkpoint.facts.dataset == demo.dataset.name
    assert checkpoint.facts.val_loss == demo.val_loss
    assert checkpoint.facts.settings["max_iters"] == 3
    assert demo.seconds > 0


def test_the_file_is_laid_out_as_the_trainer_saves_it(run: tuple[str, DemoRun]) -> None:
    variant, demo = run
    content = torch.load(demo.checkpoint, weights_only=True)
    assert list(content) == [
        "model",
        "optimizer",
        "model_args",
        "iter_num",
        "best_val_loss",
        "config",
    ]
    model = content["model"]
    assert model["lm_head.weight"].data_ptr() == model["transformer.wte.weight"].data_ptr()
    assert not any(tensor.requires_grad for tensor in model.values())
    assert content["model_args"] == {**VARIANTS[variant], "vocab_size": 65}
    assert content["best_val_loss"].shape == ()
    weights = [
        torch.nn.Parameter(tensor) for name, tensor in model.items() if "lm_head" not in name
    ]
    optimizer = torch.optim.AdamW(
        [
            {"params": [w for w in weights if w.dim() > 1]},
            {"params": [w for w in weights if w.dim() < 2]},
        ]
    )
    optimizer.load_state_dict(content["optimizer"])
    for weight in weights:
        assert optimizer.state[weight]["exp_avg"].shape == weight.shape
        assert optimizer.state[weight]["step"] == 3
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]


def test_the_folder_is_a_training_repository(run: tuple[str, DemoRun]) -> None:
    variant, demo = run
    folder = demo.checkpoint.parents[1]
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == {
        f"out-{variant}/ckpt.pt",
        *(
            f"datasets/shakespeare/{name}"
            for name in ("input.txt", "meta.pkl", "train.bin", "val.bin")
        ),
    }
    vocabulary = read_meta(demo.dataset / "meta.pkl")
    text = corpus_text()
    ids = [vocabulary.ids[character] for character in text[:500]]
    assert read_ids(demo.dataset / "train.bin", 500).tolist() == ids
    assert (demo.dataset / "input.txt").read_text(encoding="utf-8") == text


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_loss_falls_and_each_step_is_reported(variant: str) -> None:
    spec, ids, losses = tiny_spec(variant), tiny_ids(), []
    trained = fit(spec, ids, Recipe(), 30, 1, lambda n, loss: losses.append((n, loss)))
    assert [n for n, _ in losses] == [1] * 30
    assert losses[0][1] == pytest.approx(torch.tensor(7.0).log().item(), abs=0.1)
    assert losses[-1][1] < 0.5 * losses[0][1]
    assert validation_loss(spec, trained.tensors, ids).item() < 0.5 * losses[0][1]


def test_every_weight_is_trained() -> None:
    spec = tiny_spec("classic")
    before = initial_tensors(spec, torch.Generator().manual_seed(5))
    after = fit(spec, tiny_ids(), Recipe(), 2, 5, lambda n, loss: None).tensors
    assert list(after) == list(tensor_shapes(names(spec), spec))
    assert [name for name in after if torch.equal(before[name], after[name])] == []


def test_a_seed_decides_the_file_and_leaves_the_process_alone(tmp_path: Path) -> None:
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    first, again, other = (
        train_demo(tmp_path / name, "modern", steps=2, seed=seed).checkpoint
        for name, seed in (("a", 7), ("b", 7), ("c", 8))
    )
    assert first.read_bytes() == again.read_bytes()
    embeddings = [
        read_checkpoint(path).tensors["transformer.wte.weight"] for path in (first, other)
    ]
    assert not torch.equal(*embeddings)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_residual_projections_start_smaller() -> None:
    spec = replace(tiny_spec("modern"), n_embd=128, n_hidden=512, n_layer=8)
    tensors = initial_tensors(spec, torch.Generator().manual_seed(0))
    block = "transformer.h.3"
    for name, std in (
        ("attn.c_attn", 0.02),
        ("attn.c_proj", 0.005),
        ("mlp.w1", 0.02),
        ("mlp.w2", 0.005),
    ):
        assert tensors[f"{block}.{name}.weight"].std().item() == pytest.approx(std, rel=0.05)


def test_the_learning_rate_warms_up_and_ends_at_its_minimum() -> None:
    recipe = Recipe(learning_rate=1.0, min_lr=0.1, warmup_iters=4)
    rates = [learning_rate(recipe, step, 20) for step in range(21)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[12] == pytest.approx(0.55)
    assert rates[20] == pytest.approx(0.1)


def test_the_validation_loss_is_the_mean_over_whole_blocks() -> None:
    spec, ids = tiny_spec("classic"), tiny_ids(30)
    tensors = initial_tensors(spec, torch.Generator().manual_seed(0))
    total = 0.0
    for start in (0, 12):
        predicted = logits(
            Decoder(SLO, spec, tensors), ids[None, start : start + 12], torch.float32
        )[0]
        chosen = predicted.log_softmax(-1)[torch.arange(12), ids[start + 1 : start + 13]]
        total -= chosen.sum().item()
    assert validation_loss(spec, tensors, ids).item() == pytest.approx(total / 24, rel=1e-5)


@pytest.mark.parametrize(
    ("variant", "steps", "message"), [("huge", 1, "classic, modern"), ("modern", 0, "at least one")]
)
def test_what_cannot_be_meant_is_refused(
    tmp_path: Path, variant: str, steps: int, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        train_demo(tmp_path / "demo", variant, steps=steps)
    assert list(tmp_path.iterdir()) == []


def test_a_finished_run_is_not_overwritten_and_a_stopped_one_leaves_nothing(tmp_path: Path) -> None:
    def stop(steps: int, loss: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_demo(tmp_path, "classic", steps=2, advance=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["datasets"]
    checkpoint = train_demo(tmp_path, "classic", steps=1).checkpoint
    before = checkpoint.read_bytes()
    with pytest.raises(UsageError, match="out-classic: exists already"):
        train_demo(tmp_path, "classic", steps=2)
    assert checkpoint.read_bytes() == before


def test_the_loss_of_a_trained_demo_corroborates_its_proof(tmp_path: Path) -> None:
    from slogpt_hf.build import verify
    from slogpt_hf.conversion import plan_conversion, write_model
    from slogpt_hf.settings import Settings

    demo = train_demo(tmp_path, "classic", steps=120)
    checkpoint = read_checkpoint(demo.checkpoint)
    (tmp_path / "artefact").mkdir()
    write_model(checkpoint, plan_conversion(checkpoint), tmp_path / "artefact")
    report = verify(demo.checkpoint, tmp_path / "artefact", Settings(dataset=str(demo.dataset)))
    assert report.passed and report.level == "corroborated", (report.notes, report.failures)
    assert report.loss is not None and report.loss.data == "val.bin"
    assert report.loss.computed == pytest.approx(demo.val_loss, abs=1e-5)
