"""Checkpoints of any size for the measurements, written as the trainer writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from slogpt_hf.checkpoints.dialects import slo
from slogpt_hf.checkpoints.parts import tensor_shapes

SIZES: dict[str, dict[str, int]] = {
    "355M": {"n_layer": 24, "n_head": 16, "n_embd": 1024, "block_size": 1024, "vocab_size": 50304},
    "124M": {"n_layer": 12, "n_head": 12, "n_embd": 768, "block_size": 1024, "vocab_size": 50304},
    "10M": {"n_layer": 6, "n_head": 6, "n_embd": 384, "block_size": 256, "vocab_size": 65},
}


def write_checkpoint(path: Path, size: str, *, optimizer: bool, **switches: bool) -> None:
    """Write a Slo checkpoint with seeded random weights.

    Args:
        path: file to write.
        size: key of SIZES.
        optimizer: add AdamW's state: two tensors of the weights' size.
        switches: ``bias``, ``use_rope``, ``use_swiglu``, ``use_rmsnorm``.
    """
    args: dict[str, Any] = SIZES[size] | {"bias": False, "dropout": 0.0} | switches
    generator = torch.Generator().manual_seed(1337)
    weights: dict[str, torch.Tensor] = {}
    spec = slo.spec_from_model_args(args)
    for name, shape in tensor_shapes(slo.names(spec), spec).items():
        weights[name] = torch.randn(shape, generator=generator) * 0.02 + ("ln_" in name)
    weights["lm_head.weight"] = weights["transformer.wte.weight"]
    moments = {
        i: {"step": torch.tensor(1.0), "exp_avg": t * 0.1, "exp_avg_sq": t * t}
        for i, (name, t) in enumerate(weights.items())
        if optimizer and name != "lm_head.weight"
    }
    torch.save(
        {
            "model": weights,
            "optimizer": {"state": moments, "param_groups": [{"params": list(moments)}]},
            "model_args": args,
            "iter_num": 1,
            "best_val_loss": torch.tensor(3.0),
            "config": {},
        },
        path,
    )
