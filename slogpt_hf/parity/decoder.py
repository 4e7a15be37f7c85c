"""What the original models compute, in plain torch, from their own tensor names.

The families differ in the names of their tensors (``families.py``) and in the few choices that a
spec lists; the mathematics is here once. Written from the trainers' ``model.py`` and proved
against logits that they recorded. It shares nothing with the conversion, so that a mistake there
cannot hide here.

Shapes: B batch, T tokens, n width, H query heads, K key and value heads, d = n / H, V vocabulary.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from slogpt_hf.checkpoints.adapters import Adapter, LowRank
from slogpt_hf.checkpoints.spec import Activation, Spec
from slogpt_hf.parity.families import Family


def gelu_tanh(x: Tensor) -> Tensor:
    """x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), as GPT-2 had it."""
    return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x.pow(3))))


ACTIVATIONS: Mapping[Activation, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": gelu_tanh,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
    "silu": F.silu,
}


@dataclass(frozen=True)
class Decoder:
    """A checkpoint as a model that can run.

    Attributes:
        family: where its tensors are.
        spec: the architecture.
        tensors: the checkpoint's tensors; each is fetched once in a pass, where it is used, and
            cast to the dtype of the pass only there.
        adapters: weight to what fine-tuning put beside it, applied at run time.
    """

    family: Family
    spec: Spec
    tensors: Mapping[str, Tensor]
    adapters: Mapping[str, Adapter] = field(default_factory=dict)

    @cached_property
    def names(self) -> frozenset[str]:
        """Names of the tensors; asking the mapping for one may read it."""
        return frozenset(self.tensors)

    @property
    def embedding_name(self) -> str:
        """Name of the embedding's weight (V, n)."""
        return f"{self.family.embedding}.weight"

    @property
    def head_module(self) -> str:
        """The head or, in a checkpoint without one, the embedding that stands for it."""
        own = f"{self.family.head}.weight" in self.names
        return self.family.head if own else self.family.embedding

    @property
    def head_name(self) -> str:
        """Name of the head's weight (V, n)."""
        return f"{self.head_module}.weight"

    def bias(self, module: str, dtype: torch.dtype) -> Tensor | None:
        """The bias of a module, where the checkpoint has one."""
        name = f"{module}.bias"
        return self.tensors[name].to(dtype) if name in self.names else None


def hidden_states(
    model: Decoder,
    ids: Tensor,
    dtype: torch.dtype,
    behind: Callable[[Tensor], Tensor] = lambda x: x,
) -> Iterator[Tensor]:
    """The residual stream after the embedding, after each block, and what enters the head.

    That is the stream after the final norm, with the multiplier of the logits.

    Args:
        model: what to run.
        ids: (B, T) int64 token ids, T at most ``spec.block_size``.
        dtype: float32 or float64; in float64 every step is computed in float64, also where the
            trainers' models would cast to float32.
        behind: what becomes of the stream behind the embedding and each block.

    Yields:
        ``n_layer + 2`` tensors (B, T, n) of ``dtype``.
    """
    family, spec = model.family, model.spec
    x = F.embedding(ids, model.tensors[model.embedding_name]).to(dtype)  # (B, T, n)
    if spec.positions == "learned":
        x = x + model.tensors[f"{family.positions}.weight"][: ids.shape[1]].to(dtype)  # (T, n)
    x = times(spec.embedding_multiplier, x)
    yield (x := behind(x))
    table = rotary_table(spec, ids.shape[1], dtype)
    for i in range(spec.n_layer):
        yield (x := behind(block(model, i, x, table)))
    yield times(spec.logit_multiplier, norm(model, family.norm, x))


def block(model: Decoder, i: int, x: Tensor, table: Tensor | None = None) -> Tensor:
    """What block i makes of the stream (B, T, n); ``table`` is the rotary one, if at hand."""
    spec, family = model.spec, model.family
    prefix = family.blocks.format(i=i)
    table = rotary_table(spec, x.shape[1], x.dtype) if table is None else table
    attended = attention(model, prefix, norm(model, prefix + family.norm1, x), table)
    x = x + times(spec.residual_multiplier, attended)
    added = mlp(model, prefix, norm(model, prefix + family.norm2, x))
    return x + times(spec.residual_multiplier, added)


def block_parts(model: Decoder, i: int, x: Tensor) -> dict[str, Tensor]:
    """What the parts of block i give for the stream (B, T, n) that enters it, in its dtype.

    Before the multiplier of the residual.
    """
    table = rotary_table(model.spec, x.shape[1], x.dtype)
    block = model.family.blocks.format(i=i)
    norm1 = norm(model, block + model.family.norm1, x)
    attended = attention(model, block, norm1, table)
    added = times(model.spec.residual_multiplier, attended)
    norm2 = norm(model, block + model.family.norm2, x + added)
    return {
        "norm 1": norm1,
        "attention": attended,
        "norm 2": norm2,
        "MLP": mlp(model, block, norm2),
    }


def logits(model: Decoder, ids: Tensor, dtype: torch.dtype) -> Tensor:
    """Logits (B, T, V) of every position, in ``dtype``; arguments as in ``hidden_states``."""
    return head(model, final_state(model, ids, dtype))


def final_state(
    model: Decoder,
    ids: Tensor,
    dtype: torch.dtype,
    behind: Callable[[Tensor], Tensor] = lambda x: x,
) -> Tensor:
    """The last of ``hidden_states`` (B, T, n), which enters the head; the others are let go."""
    return deque(hidden_states(model, ids, dtype, behind), maxlen=1).pop()


def head(model: Decoder, x: Tensor) -> Tensor:
    """Logits (..., V) from what enters the head (..., n)."""
    return linear(model, model.head_module, x)


def times(multiplier: float, x: Tensor) -> Tensor:
    """x with a multiplier, of which most models have none."""
    return x if multiplier == 1.0 else x * multiplier


def norm(model: Decoder, module: str, x: Tensor) -> Tensor:
    """LayerNorm, or RMSNorm: x / sqrt(mean(x^2) + eps) * weight."""
    eps = model.spec.norm_eps
    weight = model.tensors[f"{module}.weight"].to(x.dtype)
    if model.spec.norm == "layernorm":
        return F.layer_norm(x, x.shape[-1:], weight, model.bias(module, x.dtype), eps)
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def attention(model: Decoder, block: str, x: Tensor, table: Tensor) -> Tensor:
    """Causal self-attention; query head h has k/v head h K // H.

    Scores are multiplied by the spec's multiplier or, without one, by 1 / sqrt(d).
    """
    spec, (batch, length, width) = model.spec, x.shape
    heads = (spec.n_head, spec.n_kv_head, spec.n_kv_head)
    projected = [linear(model, block + name, x) for name in model.family.qkv]
    if len(projected) == 1:
        projected = list(torch.split(projected[0], [n * spec.head_dim for n in heads], dim=-1))
    q, k, v = (
        part.view(batch, length, n, spec.head_dim).transpose(1, 2)  # (B, H or K, T, d)
        for part, n in zip(projected, heads, strict=True)
    )
    if spec.positions == "rotary":
        q, k = rotate(spec, q, table), rotate(spec, k, table)
    if spec.n_kv_head != spec.n_head:
        k, v = (part.repeat_interleave(spec.n_head // spec.n_kv_head, dim=1) for part in (k, v))
    scale = spec.attention_multiplier
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)  # (B, H, T, d)
    return linear(
        model, block + model.family.out, mixed.transpose(1, 2).reshape(batch, length, width)
    )


def rotary_table(spec: Spec, length: int, dtype: torch.dtype) -> Tensor:
    """Cosines and sines (2, T, d/2) of position times 1 / theta^(2j/d); empty if not rotary."""
    if spec.rope_theta is None:
        return torch.empty(0)
    if dtype.itemsize < 4:  # the trainers keep their tables in float32
        return rotary_table(spec, length, torch.float32).to(dtype)
    exponents = torch.arange(0, spec.head_dim, 2).to(dtype) / spec.head_dim
    angles = torch.outer(torch.arange(length).to(dtype), 1.0 / spec.rope_theta**exponents)
    return torch.stack((angles.cos(), angles.sin()))


def rotate(spec: Spec, x: Tensor, table: Tensor) -> Tensor:
    """Rotate pairs of the features of (B, H, T, d).

    A pair is (x0, x1), (x2, x3)... where they are interleaved, else (x0, xd/2), (x1, xd/2+1)...
    """
    cos, sin = table  # each (T, d/2)
    if spec.rotary_pairs == "interleaved":
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)


def mlp(model: Decoder, block: str, x: Tensor) -> Tensor:
    """down(act(up x)), or with a gate: down(act(gate x) * up x)."""
    *_, down = model.family.mlp[model.spec.mlp]
    return linear(model, block + down, hidden(model, block, x))


def hidden(model: Decoder, block: str, x: Tensor) -> Tensor:
    """The hidden layer (B, T, hidden size) of an MLP, which its last matrix gets."""
    act = ACTIVATIONS[model.spec.activation]
    first, *others, _ = (block + name for name in model.family.mlp[model.spec.mlp])
    activated = act(linear(model, first, x))
    return activated * linear(model, others[0], x) if others else activated


def linear(model: Decoder, module: str, x: Tensor) -> Tensor:
    """x W^T + b, with b where the checkpoint has one, and with what an adapter adds."""
    name = f"{module}.weight"
    weight, bias = model.tensors[name].to(x.dtype), model.bias(module, x.dtype)
    if (adapter := model.adapters.get(name)) is None:
        return F.linear(x, weight, bias)
    y = F.linear(x, weight)
    if isinstance(adapter, LowRank):
        a, b = (model.tensors[source].to(x.dtype) for source in (adapter.a, adapter.b))
        y = y + adapter.factor * F.linear(F.linear(x, a), b)
    else:
        y = y * model.tensors[adapter.s].to(x.dtype)
    return y if bias is None else y + bias
