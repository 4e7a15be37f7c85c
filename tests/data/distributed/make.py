"""Writes the folders beside it with torch.distributed.checkpoint: ``python make.py``.

``slo-one`` is saved by one process, ``slo-two`` and ``sloughgpt-two`` by two that share the
tensors: by FSDP2 (rows), and along columns or whole on each for some. The full tensors follow
from ``weights(shapes)``.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn

HERE = Path(__file__).parent
N, LAYERS, VOCAB, BLOCK, HIDDEN = 16, 1, 13, 12, 64
Shapes = dict[str, tuple[int, ...]]

SLO: Shapes = {"transformer.wte.weight": (VOCAB, N), "transformer.wpe.weight": (BLOCK, N)}
SLOUGHGPT: Shapes = {"tok_emb.weight": (VOCAB, N)}
for i in range(LAYERS):
    SLO |= {
        f"transformer.h.{i}.ln_1.weight": (N,),
        f"transformer.h.{i}.attn.c_attn.weight": (3 * N, N),
        f"transformer.h.{i}.attn.c_proj.weight": (N, N),
        f"transformer.h.{i}.ln_2.weight": (N,),
        f"transformer.h.{i}.mlp.c_fc.weight": (4 * N, N),
        f"transformer.h.{i}.mlp.c_proj.weight": (N, 4 * N),
    }
    SLOUGHGPT |= {
        f"blocks.{i}.norm1.weight": (N,),
        f"blocks.{i}.attn.q_proj.weight": (N, N),
        f"blocks.{i}.attn.k_proj.weight": (N // 2, N),
        f"blocks.{i}.attn.v_proj.weight": (N // 2, N),
        f"blocks.{i}.attn.o_proj.weight": (N, N),
        f"blocks.{i}.norm2.weight": (N,),
        f"blocks.{i}.mlp.w1.weight": (HIDDEN, N),
        f"blocks.{i}.mlp.w2.weight": (N, HIDDEN),
        f"blocks.{i}.mlp.w3.weight": (HIDDEN, N),
    }
SLO |= {"transformer.ln_f.weight": (N,), "lm_head.weight": (VOCAB, N)}
SLOUGHGPT |= {"norm.weight": (N,), "lm_head.weight": (VOCAB, N)}

SLO_FIELDS: dict[str, Any] = {
    "model_args": {
        "n_layer": LAYERS,
        "n_head": 4,
        "n_embd": N,
        "block_size": BLOCK,
        "bias": False,
        "vocab_size": VOCAB,
        "dropout": 0.0,
        "use_rope": False,
        "use_swiglu": False,
        "use_rmsnorm": False,
    },
    "iter_num": 300,
    "best_val_loss": 2.5,
    "config": {"dataset": "tiny", "betas": [0.9, 0.95]},
}
SLOUGHGPT_FIELDS: dict[str, Any] = {
    "step": 40,
    "config": {"vocab_size": VOCAB, "n_embed": N, "n_layer": LAYERS, "n_head": 4, "block_size": 12},
    "chars": list("abcdefghijklm"),
}


def weights(shapes: Shapes) -> dict[str, Tensor]:
    """The full tensors: k-th value of the j-th tensor is sin(k + 1000 j), the head as wte."""
    result = {
        name: torch.sin(torch.arange(torch.Size(shape).numel()) + 1000.0 * j).reshape(shape)
        for j, (name, shape) in enumerate(shapes.items())
    }
    if "transformer.wte.weight" in result:
        result["lm_head.weight"] = result["transformer.wte.weight"].clone()
    return result


class Module(nn.Module):
    """Holds parameters under dotted names."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            *outer, last = name.split(".")
            holder: nn.Module = self
            for part in outer:
                if not hasattr(holder, part):
                    holder.add_module(part, nn.Module())
                holder = getattr(holder, part)
            holder.register_parameter(last, nn.Parameter(tensor))


def optimizer_state(parameters: dict[str, Tensor]) -> dict[str, Any]:
    return {
        "state": {name: {"exp_avg": torch.zeros_like(p)} for name, p in parameters.items()},
        "param_groups": [{"lr": 1e-3}],
    }


def save_one() -> None:
    model = weights(SLO)
    few = {"lm_head.weight": model["lm_head.weight"]}
    value = {"model": model, "optimizer": optimizer_state(few), **SLO_FIELDS}
    dcp.save(value, checkpoint_id="slo-one", no_dist=True)


def save_two(rank: int) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (2,))
    module = Module(weights(SLO))
    fully_shard(module, mesh=mesh)
    state = module.state_dict()
    few = {name: state[name] for name in list(state)[:2]}
    dcp.save(
        {"model": state, "optimizer": optimizer_state(few), **SLO_FIELDS},
        checkpoint_id="slo-two",
    )
    # As with tensor parallelism: w2 and o_proj by columns, norms on each process, others by rows.
    placed = {
        name: distribute_tensor(
            tensor,
            mesh,
            [
                Shard(1)
                if name.endswith(("w2.weight", "o_proj.weight"))
                else Shard(0)
                if tensor.ndim == 2
                else Replicate()
            ],
        )
        for name, tensor in weights(SLOUGHGPT).items()
    }
    dcp.save({"model_state_dict": placed, **SLOUGHGPT_FIELDS}, checkpoint_id="sloughgpt-two")


def process(rank: int, port: int) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    save_two(rank)
    torch.distributed.destroy_process_group()


def main() -> None:
    os.chdir(HERE)  # the folder's path stands in .metadata
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    save_one()
    torch.multiprocessing.spawn(process, (port,), nprocs=2)


if __name__ == "__main__":
    main()
