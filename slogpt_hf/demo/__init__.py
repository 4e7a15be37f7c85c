"""A small Slo, trained in seconds on a text that ships with the package."""

from __future__ import annotations

from slogpt_hf.demo.train import (
    DEFAULT_STEPS,
    VARIANTS,
    DemoRun,
    checkpoint_path,
    dataset_path,
    train_demo,
)

__all__ = [
    "DEFAULT_STEPS",
    "VARIANTS",
    "DemoRun",
    "checkpoint_path",
    "dataset_path",
    "train_demo",
]
