"""Small Slo checkpoints as the trainer writes them, the golden ones, and their artefacts."""

from __future__ import annotations

import atexit
import itertools
import math
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

# A busy machine is no failure; whatever else the profile of the place says stays.
settings.register_profile("untimed", settings(), deadline=None)
settings.load_profile("untimed")

# Before huggingface_hub or transformers are imported: no test reads or writes the user's cache.
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="slogpt-hf-tests-")
atexit.register(shutil.rmtree, os.environ["HF_HOME"], ignore_errors=True)

# It takes seconds a release, and there are hundreds; tests/e2e/test_e2e_smoke.py has its own say.
os.environ["SLOGPT_SMOKE"] = "false"

# Started in the background of a shell, these processes would ignore it for good.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

sys.path.append(str(Path(__file__).parent))  # for needs.py

if TYPE_CHECKING:
    from torch import Tensor

    from slogpt_hf.checkpoints import Checkpoint

DATA = Path(__file__).parent / "data"
SIZES = {"n_layer": 2, "n_head": 4, "n_embd": 32, "block_size": 24, "vocab_size": 37}
SWITCHES = ("use_rope", "use_swiglu", "use_rmsnorm", "bias")
SIXTEEN = [
    dict(zip(SWITCHES, values, strict=True))
    for values in itertools.product((False, True), repeat=4)
]


def _slo_weights(
    model_args: dict[str, Any], dtype: str, seed: int, tied: bool
) -> dict[str, Tensor]:
    """A Slo state dict whose every value is random: norms are not ones, biases not zeros."""
    import torch

    from slogpt_hf.checkpoints.dialects import slo
    from slogpt_hf.checkpoints.parts import tensor_shapes

    generator = torch.Generator().manual_seed(seed)

    def drawn(name: str, shape: tuple[int, ...]) -> Tensor:
        values = torch.randn(shape, generator=generator, dtype=torch.float64)
        if len(shape) == 2:
            values *= 0.5 if "transformer.w" in name else 1.5 / math.sqrt(shape[1])
        else:
            values = 0.3 * values + (1 if name.endswith("weight") else 0)
        return values.to(getattr(torch, dtype))

    spec = slo.spec_from_model_args(model_args)
    spec = replace(spec, n_kv_head=model_args.get("n_kv_head", spec.n_head))
    shapes = tensor_shapes(slo.names(spec), spec)
    tensors = {name: drawn(name, shape) for name, shape in shapes.items()}
    if tied:
        tensors["lm_head.weight"] = tensors["transformer.wte.weight"]
    return tensors


@pytest.fixture(scope="session")
def slo_content() -> Callable[..., dict[str, Any]]:
    """Makes what the trainer saves: ``(dtype, prefix, seed, tied, optimizer, **model_args)``.

    ``model_args`` that are not given are SIZES with every switch off and biases on.
    """

    def make(
        *,
        dtype: str = "float32",
        prefix: str = "",
        seed: int = 0,
        tied: bool = True,
        optimizer: bool = False,
        **model_args: Any,
    ) -> dict[str, Any]:
        import torch

        args = {**SIZES, "bias": True, "dropout": 0.0, **model_args}
        model = _slo_weights(args, dtype, seed, tied)
        state = {
            i: {
                "step": torch.tensor(7.0),
                "exp_avg": torch.ones_like(tensor),
                "exp_avg_sq": torch.ones_like(tensor),
            }
            for i, tensor in enumerate(model.values())
            if optimizer
        }
        return {
            "model": {prefix + name: tensor for name, tensor in model.items()},
            "optimizer": {"state": state, "param_groups": [{"lr": 1e-3, "params": list(state)}]},
            "model_args": args,
            "iter_num": 250,
            "best_val_loss": torch.tensor(1.25),
            "config": {"dataset": "characters", "learning_rate": 1e-3, "compile": False},
        }

    return make


@pytest.fixture(scope="session")
def slo_checkpoint(
    tmp_path_factory: pytest.TempPathFactory, slo_content: Callable[..., dict[str, Any]]
) -> Callable[..., Path]:
    """Writes a small Slo ``ckpt.pt``; arguments as for ``slo_content``."""

    def write(**arguments: Any) -> Path:
        import torch

        path = tmp_path_factory.mktemp("slo") / "ckpt.pt"
        torch.save(slo_content(**arguments), path)
        return path

    return write


@pytest.fixture(scope="session")
def convert(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Checkpoint, Path]]:
    """Converts a checkpoint file: ``(path, dtype, max_shard_bytes)`` to checkpoint and artefact."""

    def run(
        path: Path, dtype: str | None = None, max_shard_bytes: int = 10**9
    ) -> tuple[Checkpoint, Path]:
        from slogpt_hf.checkpoints import read_checkpoint
        from slogpt_hf.conversion import plan_conversion, write_model

        checkpoint = read_checkpoint(path)
        folder = tmp_path_factory.mktemp("artefact")
        conversion = plan_conversion(checkpoint, dtype)
        write_model(checkpoint, conversion, folder, max_shard_bytes=max_shard_bytes)
        return checkpoint, folder

    return run


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Path]:
    """The folder of a checkpoint that the original trainer wrote, with its logits."""

    def folder(name: str) -> Path:
        return DATA / "golden" / name

    return folder


def _switches_id(switches: dict[str, bool]) -> str:
    names = ("rope", "swiglu", "rmsnorm", "bias")
    return "-".join(name for name, on in zip(names, switches.values(), strict=True) if on) or "none"


@pytest.fixture(params=SIXTEEN, ids=_switches_id)
def switches(request: pytest.FixtureRequest) -> dict[str, bool]:
    """Each of the sixteen architectures, as switches of ``model_args``."""
    return dict(request.param)
