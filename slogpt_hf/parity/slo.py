"""The Slo family in plain torch: what the original model computes, from its own tensor names.

Written from the trainer's ``model.py`` and proved against logits that it recorded. It shares
nothing with the conversion, so that a mistake there cannot hide here.

Shapes: B batch, T tokens, n width, H heads, d = n / H, V vocabulary.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from slogpt_hf.checkpoints.spec import Spec

PREFIX = "transformer."
EMBEDDING, HEAD = f"{PREFIX}wte.weight", "lm_head.weight"


def hidden_states(
    spec: Spec,
    tensors: Mapping[str, Tensor],
    ids: Tensor,
    dtype: torch.dtype,
    table_dtype: torch.dtype | None = None,
) -> Iterator[Tensor]:
    """The residual stream after the embedding, after each block, and after the final norm.

    Args:
        spec: the architecture.
        tensors: the checkpoint's tensors; each is cast to ``dtype`` only while it is used.
        ids: (B, T) int64 token ids, T at most ``spec.block_size``.
        dtype: float32 or float64; in float64 every step is computed in float64.
        table_dtype: dtype of the rotary tables; None is ``dtype``. The trainer's model keeps
            float32 tables in float64 too, and so do the logits that it recorded.

    Yields:
        ``n_layer + 2`` tensors (B, T, n) of ``dtype``.
    """
    x = F.embedding(ids, tensors[EMBEDDING]).to(dtype)  # (B, T, n)
    if spec.positions == "learned":
        x = x + tensors[f"{PREFIX}wpe.weight"][: ids.shape[1]].to(dtype)  # (T, n)
    yield x
    table = rotary_table(spec, ids.shape[1], table_dtype or dtype).to(dtype)
    stored = by_block(tensors)
    for i in range(spec.n_layer):
        block = {name: tensor.to(dtype) for name, tensor in stored[str(i)].items()}
        x = x + attention(spec, block, norm(spec, block, "ln_1", x), table)
        x = x + mlp(spec, block, norm(spec, block, "ln_2", x))
        yield x
    final = {
        name.removeprefix(PREFIX): tensor.to(dtype)
        for name, tensor in tensors.items()
        if name.startswith(f"{PREFIX}ln_f.")
    }
    yield norm(spec, final, "ln_f", x)


def logits(
    spec: Spec,
    tensors: Mapping[str, Tensor],
    ids: Tensor,
    dtype: torch.dtype,
    table_dtype: torch.dtype | None = None,
) -> Tensor:
    """Logits (B, T, V) of every position, in ``dtype``; arguments as in ``hidden_states``."""
    return head(tensors, final_state(spec, tensors, ids, dtype, table_dtype))


def final_state(
    spec: Spec,
    tensors: Mapping[str, Tensor],
    ids: Tensor,
    dtype: torch.dtype,
    table_dtype: torch.dtype | None = None,
) -> Tensor:
    """The last of ``hidden_states`` (B, T, n), which enters the head; the others are let go."""
    return deque(hidden_states(spec, tensors, ids, dtype, table_dtype), maxlen=1).pop()


def head(tensors: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Logits (..., V) from the last hidden state (..., n)."""
    return F.linear(x, tensors[HEAD].to(x.dtype))


def by_block(tensors: Mapping[str, Tensor]) -> Mapping[str, Mapping[str, Tensor]]:
    """The tensors inside the blocks: number of the block, name inside it."""
    blocks: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in tensors.items():
        if name.startswith(f"{PREFIX}h."):
            number, _, inner = name.removeprefix(f"{PREFIX}h.").partition(".")
            blocks[number][inner] = tensor
    return blocks


def norm(spec: Spec, w: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    """LayerNorm, or RMSNorm: x / sqrt(mean(x^2) + eps) * weight."""
    if spec.norm == "layernorm":
        return F.layer_norm(
            x, x.shape[-1:], w[f"{name}.weight"], w.get(f"{name}.bias"), spec.norm_eps
        )
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + spec.norm_eps) * w[f"{name}.weight"]


def attention(spec: Spec, w: Mapping[str, Tensor], x: Tensor, table: Tensor) -> Tensor:
    """Causal multi-head self-attention, scores scaled by 1/sqrt(d)."""
    batch, length, width = x.shape
    stacked = linear(w, "attn.c_attn", x).view(batch, length, 3, spec.n_head, spec.head_dim)
    q, k, v = stacked.permute(2, 0, 3, 1, 4)  # each (B, H, T, d)
    if spec.positions == "rotary":
        q, k = rotate(q, table), rotate(k, table)
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # (B, H, T, d)
    return linear(w, "attn.c_proj", mixed.transpose(1, 2).reshape(batch, length, width))


def rotary_table(spec: Spec, length: int, dtype: torch.dtype) -> Tensor:
    """Cosines and sines (2, T, d/2) of position times 1 / theta^(2j/d); empty if not rotary."""
    if spec.rope_theta is None:
        return torch.empty(0)
    exponents = torch.arange(0, spec.head_dim, 2).to(dtype) / spec.head_dim
    angles = torch.outer(torch.arange(length).to(dtype), 1.0 / spec.rope_theta**exponents)
    return torch.stack((angles.cos(), angles.sin()))


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate the neighbouring pairs (x0, x1), (x2, x3)... of (B, H, T, d)."""
    cos, sin = table  # each (T, d/2)
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


def mlp(spec: Spec, w: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Exact erf GELU between two matrices, or SwiGLU: w2(silu(w1 x) * w3 x)."""
    project = partial(linear, w)
    if spec.mlp == "gelu":
        return project("mlp.c_proj", F.gelu(project("mlp.c_fc", x)))
    return project("mlp.w2", F.silu(project("mlp.w1", x)) * project("mlp.w3", x))


def linear(w: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    """x W^T + b, with b where the checkpoint has one."""
    return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))
