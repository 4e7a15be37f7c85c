"""A training run as a repository of the Slo trainer would hold it, in seconds on a CPU."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from slogpt_hf.errors import UsageError

SIZES = {"n_layer": 2, "n_head": 2, "n_embd": 64, "block_size": 64, "dropout": 0.0}
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "classic": SIZES | {"bias": True, "use_rope": False, "use_swiglu": False, "use_rmsnorm": False},
    "modern": SIZES | {"bias": False, "use_rope": True, "use_swiglu": True, "use_rmsnorm": True},
}
"""Name to ``model_args`` without the vocabulary."""
DEFAULT_STEPS = 1000


@dataclass(frozen=True)
class DemoRun:
    """What a training run left.

    Attributes:
        checkpoint: ``out-<variant>/ckpt.pt``.
        dataset: the folder with input.txt, meta.pkl, train.bin and val.bin.
        val_loss: loss over all of val.bin after the last step, nats per token.
        seconds: wall-clock time of the training.
    """

    checkpoint: Path
    dataset: Path
    val_loss: float
    seconds: float


def checkpoint_path(folder: Path, variant: str) -> Path:
    """Where the training of ``variant`` in ``folder`` leaves its checkpoint."""
    return folder / f"out-{variant}" / "ckpt.pt"


def dataset_path(folder: Path) -> Path:
    """Where the dataset of a demo in ``folder`` lies."""
    from slogpt_hf.demo.corpus import DATASET

    return folder / "datasets" / DATASET


def train_demo(
    folder: Path,
    variant: str,
    *,
    steps: int = DEFAULT_STEPS,
    seed: int = 1337,
    advance: Callable[[int, float], None] = lambda steps, loss: None,
) -> DemoRun:
    """Train a small Slo and lay it out as a training repository does.

    Writes ``datasets/shakespeare/`` (shared by the variants) and ``out-<variant>/ckpt.pt`` of
    nanoGPT's format, each only when whole. The same seed gives the same weights on one machine.

    Args:
        folder: the repository; made if it does not exist.
        variant: one of ``VARIANTS``.
        steps: optimizer steps.
        seed: of the initial weights and of the batches.
        advance: called after each step with the steps done since its last call (1) and the
            step's loss, nats per token.

    Raises:
        UsageError: there is no such variant, ``steps`` is not positive, ``out-<variant>`` exists,
            another dataset stands in the way, or the folder cannot be written.
    """
    if variant not in VARIANTS:
        raise UsageError(
            f"variant {variant!r}: no such variant of the demo model.",
            hint=f"Give one of {', '.join(VARIANTS)}.",
        )
    if steps < 1:
        raise UsageError(f"steps {steps}: is not positive.", hint="Train for at least one step.")

    import torch

    from slogpt_hf.checkpoints.dialects.slo import spec_from_model_args
    from slogpt_hf.datasets import read_ids, read_meta
    from slogpt_hf.demo.corpus import DATASET, corpus_text, write_dataset
    from slogpt_hf.demo.fitting import Recipe, fit, validation_loss
    from slogpt_hf.files import staged_folder

    out, dataset = checkpoint_path(folder, variant).parent, dataset_path(folder)
    with staged_folder(out) as work:
        write_dataset(dataset, corpus_text())
        train_ids, val_ids = (
            torch.from_numpy(read_ids(dataset / name).astype("int64"))
            for name in ("train.bin", "val.bin")
        )
        model_args = {**VARIANTS[variant], "vocab_size": read_meta(dataset / "meta.pkl").size}
        spec = spec_from_model_args(model_args)
        recipe, started = Recipe(), time.perf_counter()
        trained = fit(spec, train_ids, recipe, steps, seed, advance)
        seconds = time.perf_counter() - started
        val_loss = validation_loss(spec, trained.tensors, val_ids)
        config = {
            **VARIANTS[variant],
            **asdict(recipe),
            "dataset": DATASET,
            "out_dir": out.name,
            "init_from": "scratch",
            "max_iters": steps,
            "lr_decay_iters": steps,
            "decay_lr": True,
            "seed": seed,
            "device": "cpu",
            "dtype": "float32",
            "compile": False,
        }
        content = io.BytesIO()  # torch.save to a path hides why a write failed
        torch.save(
            {
                "model": trained.tensors,
                "optimizer": trained.optimizer,
                "model_args": model_args,
                "iter_num": steps,
                "best_val_loss": val_loss,
                "config": config,
            },
            content,
        )
        (work / "ckpt.pt").write_bytes(content.getvalue())
    return DemoRun(out / "ckpt.pt", dataset, val_loss.item(), seconds)
