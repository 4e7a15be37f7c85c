"""One model in every layout that trainers leave it in, and one of any size that holds only zeros.

The names are those of the dialects' tables, the files those of the trainers' own libraries:
``torch.save``, ``safetensors``, ``torch.distributed.checkpoint``; a ``.bin`` is laid out as
``export.py`` of llama2.c does it.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slogpt_hf.checkpoints.containers import llama2c_layout
from slogpt_hf.checkpoints.dialect import Dialect
from slogpt_hf.checkpoints.dialects import llama2c, nanogpt, slo, sloughgpt
from slogpt_hf.checkpoints.fields import Fields
from slogpt_hf.checkpoints.parts import tensor_shapes
from slogpt_hf.checkpoints.spec import Spec
from slogpt_hf.checkpoints.tensors import Shape
from slogpt_hf.conversion.safetensors_layout import WEIGHTS_FILE, Shard, header

GROUP_SIZE = 64  # of Q8_0, the default of llama2.c's export.py
RANK, ALPHA = 8, 16
SOU_PROFILE = {"name": "bench"}
SIZES: dict[str, dict[str, int]] = {
    "125M": {
        "n_layer": 12,
        "n_head": 12,
        "n_kv_head": 4,
        "n_embd": 768,
        "n_hidden": 2048,
        "vocab_size": 32000,
        "block_size": 1024,
    },
    "10M": {
        "n_layer": 6,
        "n_head": 6,
        "n_kv_head": 2,
        "n_embd": 384,
        "n_hidden": 1024,
        "vocab_size": 1024,
        "block_size": 256,
    },
}
# Embedding and head of 66 MB each, 44 MB a block: the size grows, the largest tensor does not.
DEEP = {
    "n_head": 16,
    "n_kv_head": 4,
    "n_embd": 1024,
    "n_hidden": 2752,
    "vocab_size": 16000,
    "block_size": 1024,
}


@dataclass(frozen=True)
class Model:
    """What is written.

    Attributes:
        sizes: as in SIZES.
        hollow: every value is zero, and takes no disk where the layout allows it.
    """

    sizes: Mapping[str, int]
    hollow: bool = False

    def spec(self, dialect: Dialect) -> Spec:
        """The architecture that the dialect makes of these sizes."""
        fields = Fields(Path(dialect.name), {"model_args": {}}, {})
        found = dialect.architecture(fields)
        sizes = dict(self.sizes)
        if found.mlp != "gated":
            sizes |= {"n_hidden": 4 * sizes["n_embd"], "n_kv_head": sizes["n_head"]}
        return found.spec(tied=dialect is slo.DIALECT, **sizes)

    def shapes(self, dialect: Dialect) -> dict[str, Shape]:
        """Every tensor of the state dict, linear weights (out, in)."""
        fields = Fields(Path(dialect.name), {"model_args": {}}, {})
        return tensor_shapes(
            dialect.names(dialect.architecture(fields), fields), self.spec(dialect)
        )

    def weights(self, dialect: Dialect) -> dict[str, Tensor]:
        """The state dict, fp32: seeded random weights, norms near one."""
        shapes = self.shapes(dialect)
        if self.hollow:
            zeros = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
            return {name: torch.from_numpy(array) for name, array in zeros.items()}
        generator = torch.Generator().manual_seed(1337)
        made = {
            name: torch.randn(shape, generator=generator) * 0.02 + (len(shape) == 1)
            for name, shape in shapes.items()
        }
        if self.spec(dialect).tied:
            made["lm_head.weight"] = made["transformer.wte.weight"]
        return made

    def saving(self) -> AbstractContextManager[object]:
        """What ``torch.save`` runs in."""
        return torch.serialization.skip_data() if self.hollow else nullcontext()


@dataclass(frozen=True)
class Layout:
    """How a trainer leaves a model.

    Attributes:
        write: writes it below an empty folder and returns the checkpoint's path.
        given: the fields that no file of the layout records.
        bound: seconds of a conversion over those of ``cp`` of its output, at most: about twice what
            was measured, to notice a change for the worse. ``cp`` syncs nothing to the disk.
        transposed: the target lays its matrices out the other way.
    """

    write: Callable[[Model, Path], Path]
    given: Callable[[Model], dict[str, int]] = lambda model: {}
    bound: float = 5.0
    transposed: bool = False


def _slo(model: Model, folder: Path) -> Path:
    args = asdict(model.spec(slo.DIALECT))
    names = ("n_layer", "n_head", "n_embd", "block_size", "vocab_size")
    content = {
        "model": model.weights(slo.DIALECT),
        "model_args": {name: args[name] for name in names} | {"bias": False, "dropout": 0.0},
        "iter_num": 1,
        "best_val_loss": torch.tensor(3.0),
        "config": {},
    }
    return _saved(model, content, folder / "ckpt.pt")


def _llama2c(model: Model, folder: Path) -> Path:
    sizes = model.sizes
    args = {
        "dim": sizes["n_embd"],
        "n_layers": sizes["n_layer"],
        "n_heads": sizes["n_head"],
        "n_kv_heads": sizes["n_kv_head"],
        "vocab_size": sizes["vocab_size"],
        "hidden_dim": sizes["n_hidden"],
        "multiple_of": 32,
        "max_seq_len": sizes["block_size"],
    }
    content = {"model": model.weights(llama2c.DIALECT), "model_args": args, "iter_num": 1}
    return _saved(model, content, folder / "ckpt.pt")


def _bin(version: int, model: Model, folder: Path) -> Path:
    spec, group = model.spec(llama2c.DIALECT), GROUP_SIZE if version == 2 else None
    sizes = llama2c_layout.Sizes(
        spec.n_embd,
        spec.n_hidden,
        spec.n_layer,
        spec.n_head,
        spec.n_kv_head,
        spec.vocab_size,
        spec.block_size,
    )
    head = llama2c_layout.Header(version, sizes, False, group)
    path = folder / f"model_v{version}.bin"
    with path.open("wb") as file:
        numbers = [getattr(sizes, name) for name in llama2c_layout.LARGEST]
        if version == 0:
            numbers[5] *= -1  # the head is apart
            file.write(struct.pack("<7i", *numbers))
        else:
            flags = (0,) if group is None else (0, group)
            file.write(llama2c_layout.MAGIC + struct.pack("<i7i", version, *numbers))
            file.write(struct.pack(llama2c_layout.FLAGS[version], *flags))
        file.truncate(llama2c_layout.expected_bytes(head))
        if model.hollow:
            return path
        weights = model.weights(llama2c.DIALECT)
        for place in llama2c_layout.places(head):
            values = weights[place.name]
            if group is not None and place.scales_start is not None:
                rows = values.view(-1, group)
                scales = rows.abs().amax(dim=1) / 127
                file.seek(place.scales_start)
                file.write(scales.numpy().data)
                values = (rows / scales[:, None]).round().to(torch.int8)
            file.seek(place.start)
            file.write(values.numpy().data)
    return path


def _config(model: Model) -> dict[str, int]:
    names = ("vocab_size", "n_layer", "n_head", "block_size")
    return {name: model.sizes[name] for name in names} | {"n_embed": model.sizes["n_embd"]}


def _step(model: Model, folder: Path) -> Path:
    weights = model.weights(sloughgpt.DIALECT)
    content = {"model_state_dict": weights, "step": 1, "config": _config(model)}
    return _saved(model, content, folder / "step_1.pt")


def _lora(model: Model, folder: Path) -> Path:
    weights = model.weights(sloughgpt.DIALECT)
    for name, weight in list(weights.items()):
        module = name.removesuffix(".weight")
        if ".attn." in name:
            rows, columns = weight.shape
            weights[f"{module}.lora_A"] = torch.full((RANK, columns), 0.01)
            weights[f"{module}.lora_B"] = torch.full((rows, RANK), 0.01)
    content = {"model_state_dict": weights, "step": 1, "config": _config(model)}
    return _saved(model, content, folder / "step_1.pt")


def _safetensors(model: Model, folder: Path) -> Path:
    from safetensors.torch import save_file

    path = folder / WEIGHTS_FILE
    if not model.hollow:
        save_file(model.weights(sloughgpt.DIALECT), path, metadata={"step": "1"})
        return path
    shapes = model.shapes(sloughgpt.DIALECT)
    shard = Shard(WEIGHTS_FILE, {n: 4 * torch.Size(s).numel() for n, s in shapes.items()})
    with path.open("wb") as file:
        n_header = file.write(header(shard, shapes, "float32"))
        file.truncate(n_header + sum(shard.n_bytes.values()))
    return path


def _sou(model: Model, folder: Path) -> Path:
    profile = json.dumps(SOU_PROFILE)
    profile += " " * (len(profile) % 2 == 0)  # so that the archive begins at an odd byte
    path = folder / "model.sou"
    with path.open("wb") as file:
        file.write(struct.pack("<4sII", b"SOUL", 2, len(profile)) + profile.encode())
        _saved(model, model.weights(sloughgpt.DIALECT), archive := folder / "archive")
        file.write(archive.read_bytes())
    archive.unlink()
    return path


def _run_folder(model: Model, folder: Path) -> Path:
    (folder / "metadata.json").write_text(json.dumps({"config": _config(model), "step": 1}))
    _saved(model, model.weights(sloughgpt.DIALECT), folder / "model.pt")
    return folder


def _nanogpt(model: Model, folder: Path) -> Path:
    content = {"model": model.weights(nanogpt.DIALECT), "config": _config(model)}
    return _saved(model, content, folder / "model.pt")


def _distributed(model: Model, folder: Path) -> Path:
    _save_distributed(model.weights(sloughgpt.DIALECT), model, folder, alone=True)
    return folder


def _sharded(model: Model, folder: Path) -> Path:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    from torch.multiprocessing.spawn import spawn

    spawn(_save_shards, (port, model, folder), nprocs=2)  # type: ignore[no-untyped-call]
    return folder


def _save_shards(rank: int, port: int, model: Model, folder: Path) -> None:
    """One of two processes, each with half of every tensor's rows."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Shard

    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    halves = {
        name: DTensor.from_local(tensor.chunk(2)[rank], mesh, [Shard(0)])
        for name, tensor in model.weights(sloughgpt.DIALECT).items()
    }
    _save_distributed(halves, model, folder, alone=False)
    torch.distributed.destroy_process_group()


def _save_distributed(
    weights: Mapping[str, Tensor], model: Model, folder: Path, *, alone: bool
) -> None:
    from torch.distributed.checkpoint.filesystem import FileSystemWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    writer = FileSystemWriter(folder, sync_files=False)
    content = {"model": weights, "step": 1, "config": _config(model)}
    save(content, storage_writer=writer, no_dist=alone)


def _saved(model: Model, content: Any, path: Path) -> Path:
    with model.saving():
        torch.save(content, path)
    return path


def _unrecorded(model: Model) -> dict[str, int]:
    return {name: model.sizes[name] for name in ("n_head", "block_size")}


LAYOUTS = {
    "Slo .pt": Layout(_slo, transposed=True),
    "llama2.c .pt": Layout(_llama2c),
    "llama2.c .bin v0": Layout(partial(_bin, 0)),
    "llama2.c .bin v1": Layout(partial(_bin, 1)),
    "llama2.c .bin v2 (Q8_0)": Layout(partial(_bin, 2), bound=7.0),
    "SloughGPT step .pt": Layout(_step),
    "SloughGPT .safetensors": Layout(_safetensors, _unrecorded),
    "SloughGPT .sou": Layout(_sou, _unrecorded, bound=6.0),
    "SloughGPT run folder": Layout(_run_folder),
    "SloughGPT, distributed": Layout(_distributed, bound=7.0),
    "SloughGPT, distributed, 2 shards": Layout(_sharded, bound=10.0),
    "SloughGPT, LoRA merged": Layout(_lora, lambda model: {"lora_alpha": ALPHA}, bound=8.0),
    "NanoGPT variant": Layout(_nanogpt, transposed=True),
}
# What memory is measured on: views of the file, copies, tensors in two chunks, values made anew.
BOUNDED = (
    "SloughGPT step .pt",
    "SloughGPT .safetensors",
    "SloughGPT, distributed, 2 shards",
    "llama2.c .bin v1",
    "llama2.c .bin v2 (Q8_0)",
)
