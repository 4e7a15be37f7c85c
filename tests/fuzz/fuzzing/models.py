"""Small checkpoints as values, and archives of ``torch.save`` made from them without a check."""

from __future__ import annotations

import io
import json
import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

ITEM_BYTES = {"FloatStorage": 4, "HalfStorage": 2, "DoubleStorage": 8, "LongStorage": 8}
N, HEADS, VOCAB, BLOCK, HIDDEN = 8, 2, 5, 6, 8
Shapes = dict[str, tuple[int, ...]]


@dataclass(eq=False)
class Storage:
    """What a persistent id names; nothing in it need be true."""

    key: Any
    count: Any
    kind: str = "FloatStorage"
    device: Any = "cpu"


@dataclass(eq=False)
class Block:
    """What a tensor is pickled as; nothing in it need be true."""

    storage: Any
    shape: Any
    stride: Any
    offset: Any = 0


@dataclass(frozen=True)
class Saved:
    """A value and the bytes of its storages by key."""

    value: Any
    storages: Mapping[str, bytes] = field(default_factory=dict)


class _Pickler(pickle.Pickler):
    def persistent_id(self, value: Any) -> Any:
        if not isinstance(value, Storage):
            return None
        return ("storage", getattr(torch, value.kind), value.key, value.device, value.count)

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, Block):
            return NotImplemented
        arguments: tuple[Any, ...] = (
            value.storage,
            value.offset,
            value.shape,
            value.stride,
            False,
            OrderedDict(),
        )
        return torch._utils._rebuild_tensor_v2, arguments


def pickled(value: Any, protocol: int = 2) -> bytes:
    """A pickle as ``torch.save`` makes it, blocks as tensors."""
    buffer = io.BytesIO()
    _Pickler(buffer, protocol).dump(value)
    return buffer.getvalue()


def archive(pickle_bytes: bytes, storages: Mapping[str, bytes]) -> bytes:
    """A zip as ``torch.save`` writes it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("archive/data.pkl", pickle_bytes)
        file.writestr("archive/byteorder", b"little")
        for key, content in storages.items():
            file.writestr(f"archive/data/{key}", content)
        file.writestr("archive/version", b"3\n")
    return buffer.getvalue()


def torch_file(saved: Saved) -> bytes:
    """The archive of a value."""
    return archive(pickled(saved.value), saved.storages)


def strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Those of a contiguous tensor."""
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


def floats(count: int) -> bytes:
    """fp32 values, all different."""
    return struct.pack(f"<{count}f", *(math.sin(i + count) for i in range(count)))


def tensors(shapes: Shapes) -> tuple[dict[str, Block], dict[str, bytes]]:
    """A state dict and the bytes of its storages."""
    blocks, storages = {}, {}
    for key, (name, shape) in enumerate(shapes.items()):
        count = math.prod(shape)
        blocks[name] = Block(Storage(str(key), count), shape, strides(shape))
        storages[str(key)] = floats(count)
    return blocks, storages


SLO: Shapes = {
    "transformer.wte.weight": (VOCAB, N),
    "transformer.wpe.weight": (BLOCK, N),
    "transformer.h.0.ln_1.weight": (N,),
    "transformer.h.0.attn.c_attn.weight": (3 * N, N),
    "transformer.h.0.attn.c_proj.weight": (N, N),
    "transformer.h.0.ln_2.weight": (N,),
    "transformer.h.0.mlp.c_fc.weight": (4 * N, N),
    "transformer.h.0.mlp.c_proj.weight": (N, 4 * N),
    "transformer.ln_f.weight": (N,),
    "lm_head.weight": (VOCAB, N),
}
LLAMA: Shapes = {
    "tok_embeddings.weight": (VOCAB, N),
    "layers.0.attention_norm.weight": (N,),
    "layers.0.attention.wq.weight": (N, N),
    "layers.0.attention.wk.weight": (N // 2, N),
    "layers.0.attention.wv.weight": (N // 2, N),
    "layers.0.attention.wo.weight": (N, N),
    "layers.0.ffn_norm.weight": (N,),
    "layers.0.feed_forward.w1.weight": (HIDDEN, N),
    "layers.0.feed_forward.w2.weight": (N, HIDDEN),
    "layers.0.feed_forward.w3.weight": (HIDDEN, N),
    "norm.weight": (N,),
    "output.weight": (VOCAB, N),
}
SLOUGHGPT: Shapes = {
    "tok_emb.weight": (VOCAB, N),
    "blocks.0.norm1.weight": (N,),
    "blocks.0.attn.q_proj.weight": (N, N),
    "blocks.0.attn.k_proj.weight": (N // 2, N),
    "blocks.0.attn.v_proj.weight": (N // 2, N),
    "blocks.0.attn.o_proj.weight": (N, N),
    "blocks.0.norm2.weight": (N,),
    "blocks.0.mlp.w1.weight": (HIDDEN, N),
    "blocks.0.mlp.w2.weight": (N, HIDDEN),
    "blocks.0.mlp.w3.weight": (HIDDEN, N),
    "norm.weight": (N,),
    "lm_head.weight": (VOCAB, N),
}
NANOGPT: Shapes = {
    "token_embedding_table.weight": (VOCAB, N),
    "position_embedding_table.weight": (BLOCK, N),
    "blocks.0.ln_1.weight": (N,),
    "blocks.0.ln_1.bias": (N,),
    "blocks.0.attn.c_attn.weight": (3 * N, N),
    "blocks.0.attn.c_proj.weight": (N, N),
    "blocks.0.ln_2.weight": (N,),
    "blocks.0.ln_2.bias": (N,),
    "blocks.0.mlp.c_fc.weight": (4 * N, N),
    "blocks.0.mlp.c_proj.weight": (N, 4 * N),
    "ln_f.weight": (N,),
    "ln_f.bias": (N,),
    "lm_head.weight": (VOCAB, N),
}
LORA: Shapes = {
    "blocks.0.attn.q_proj.lora_A": (2, N),
    "blocks.0.attn.q_proj.lora_B": (N, 2),
    "blocks.0.mlp.w1.lora_s": (HIDDEN,),
}
ITOS = dict(enumerate("abcd\n"))
STOI = {character: i for i, character in ITOS.items()}
SLO_ARGS = {
    **{"n_layer": 1, "n_head": HEADS, "n_embd": N, "block_size": BLOCK, "vocab_size": VOCAB},
    **{"bias": False, "dropout": 0.0},
    **{"use_rope": False, "use_swiglu": False, "use_rmsnorm": False},
}
SLOUGHGPT_CONFIG = {
    **{"vocab_size": VOCAB, "n_embed": N, "n_layer": 1, "n_head": HEADS, "block_size": BLOCK}
}


def slo() -> Saved:
    """``ckpt.pt`` of Slo."""
    model, storages = tensors(SLO)
    value = {
        "model": model,
        "optimizer": {"state": {0: {"step": 7.0}}, "param_groups": [{"lr": 1e-3}]},
        "model_args": dict(SLO_ARGS),
        "iter_num": 250,
        "best_val_loss": 1.25,
        "config": {"dataset": "characters", "learning_rate": 1e-3},
        "itos": dict(ITOS),
        "stoi": dict(STOI),
    }
    return Saved(value, storages)


def llama() -> Saved:
    """``ckpt.pt`` of llama2.c."""
    model, storages = tensors(LLAMA)
    args: dict[str, Any] = {
        "dim": N,
        "n_layers": 1,
        "n_heads": HEADS,
        "n_kv_heads": 1,
        "vocab_size": VOCAB,
    }
    args |= {"multiple_of": 4, "norm_eps": 1e-5, "max_seq_len": BLOCK}
    value = {"model": model, "model_args": args, "iter_num": 9, "config": {"dataset": "tiny"}}
    return Saved(value, storages)


def sloughgpt(adapters: bool = False) -> Saved:
    """``step_*.pt`` of SloughGPT."""
    model, storages = tensors(SLOUGHGPT | (LORA if adapters else {}))
    value = {
        "model_state_dict": model,
        "step": 9,
        "metrics": {"eval_loss": 2.5, "loss": 2.25},
        "metadata": {"type": "lora", "rank": 2, "alpha": 16},
        "config": dict(SLOUGHGPT_CONFIG),
        "stoi": dict(STOI),
        "itos": dict(ITOS),
        "chars": list(STOI),
    }
    return Saved(value, storages)


def nanogpt() -> Saved:
    """A bundled file of the NanoGPT variant."""
    model, storages = tensors(NANOGPT)
    config = {"n_layer": 1, "n_head": HEADS, "n_embd": N, "block_size": BLOCK}
    return Saved({"model": model, "config": config, "chars": list(STOI)}, storages)


def bare() -> Saved:
    """A state dict alone."""
    model, storages = tensors(NANOGPT)
    return Saved(model, storages)


def sou_file(profile: bytes, saved: Saved) -> bytes:
    """A ``.sou``."""
    return struct.pack("<4sII", b"SOUL", 2, len(profile)) + profile + torch_file(saved)


def safetensors_file(header: bytes, data: bytes) -> bytes:
    """A safetensors file."""
    return struct.pack("<Q", len(header)) + header + data


def safetensors_header(shapes: Shapes, metadata: Mapping[str, str]) -> tuple[bytes, bytes]:
    """Header and data of a safetensors file of fp32 tensors."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    data = b""
    for name, shape in shapes.items():
        content = floats(math.prod(shape))
        offsets = [len(data), len(data) + len(content)]
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": offsets}
        data += content
    return json.dumps(header).encode(), data


def bin_file(version: int) -> bytes:
    """A llama2.c ``.bin``, the head shared."""
    n_hidden, kv, group = HIDDEN, N // 2, 4
    sizes = struct.pack("<7i", N, n_hidden, 1, HEADS, 1, VOCAB, BLOCK)
    matrices = [N * N, kv * N, kv * N, N * N, n_hidden * N, N * n_hidden, n_hidden * N]
    if version == 0:
        rotary = BLOCK * (N // HEADS // 2)
        return sizes + floats(VOCAB * N + 3 * N + sum(matrices) + 2 * rotary)
    head = struct.pack("<Ii", 0x616B3432, version) + sizes + b"\1"
    if version == 1:
        return head.ljust(256, b"\0") + floats(3 * N + VOCAB * N + sum(matrices))
    result = (head + struct.pack("<i", group)).ljust(256, b"\0") + floats(3 * N)
    for count in (VOCAB * N, *matrices):
        result += bytes(i % 256 for i in range(count)) + struct.pack("<f", 0.5) * (count // group)
    return result
