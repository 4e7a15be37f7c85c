"""nanoGPT's names and what its relatives and forks compute under them.

Definitions: https://github.com/karpathy/nanoGPT, ``model.py``, before and after commit 594068e
(tanh and exact GELU) and before 27 January 2023 (masks in the file, always biases); minGPT,
``mingpt/model.py``; build-nanogpt, ``train_gpt2.py``; EleutherAI/nanoGPT-mup, ``model.py``.
"""

import math
from dataclasses import dataclass
from typing import Optional

import torch
from torch import nn
from torch.nn import functional as F


@dataclass
class GPTConfig:
    block_size: int = 1024
    vocab_size: int = 50304
    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    dropout: float = 0.0
    bias: bool = True
    n_kv_head: Optional[int] = None  # noqa: UP045  as many as heads
    activation: str = "gelu"
    norm_eps: float = 1e-5
    use_rmsnorm: bool = False
    tie_weights: bool = True
    causal_mask: bool = False  # saved with the weights
    positions: str = "learned"  # sinusoidal, alibi, rotary, none
    rotary_halves: bool = False
    rope_theta: float = 10000.0
    attn_scale: str = "head"  # 1/sqrt(head_dim); width: 1/sqrt(n_embd); dim: 1/head_dim; one; 0.x
    scale_attn_by_inverse_layer_idx: bool = False
    scale_embeddings: bool = False  # by sqrt(n_embd)
    embedding_scale: float = 1.0
    embedding_norm: bool = False
    residual_scale: float = 1.0
    logit_scale: float = 1.0
    logit_softcap: float = 0.0
    attn_softcap: float = 0.0
    qk_norm: bool = False
    sliding_window: int = 0
    parallel_residual: bool = False
    post_norm: bool = False
    sandwich_norm: bool = False
    softmax1: bool = False
    qkv_order: str = "qkv"
    qkv_by_head: bool = False
    mup_enabled: bool = False
    mup_width_multiplier: float = 1.0
    mup_input_alpha: float = 1.0
    mup_output_alpha: float = 1.0


ACTIVATIONS = {
    "gelu": F.gelu,
    "new_gelu": lambda x: (
        0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))))
    ),
    "gelu_approximate": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
    "squared_relu": lambda x: F.relu(x).square(),
    "silu": F.silu,
    "elu": F.elu,
    "mish": F.mish,
}


def make_norm(config):
    if config.use_rmsnorm:
        return nn.RMSNorm(config.n_embd, eps=config.norm_eps)
    return nn.LayerNorm(config.n_embd, eps=config.norm_eps, bias=config.bias)


def rotated(x, theta, halves):
    """Rotary positions on (B, H, T, D)."""
    length, dim = x.shape[-2:]
    frequencies = theta ** (-torch.arange(0, dim, 2, dtype=x.dtype) / dim)
    angles = torch.outer(torch.arange(length, dtype=x.dtype), frequencies)
    cos, sin = angles.cos(), angles.sin()
    if halves:
        a, b = x.chunk(2, dim=-1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)


class CausalSelfAttention(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        self.config, self.layer = config, layer
        self.n_kv_head = config.n_kv_head or config.n_head
        self.head_dim = config.n_embd // config.n_head
        rows = (config.n_head + 2 * self.n_kv_head) * self.head_dim
        self.c_attn = nn.Linear(config.n_embd, rows, bias=config.bias)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)
        if config.causal_mask:
            ones = torch.ones(config.block_size, config.block_size)
            self.register_buffer("bias", torch.tril(ones)[None, None])

    def forward(self, x):
        c = self.config
        B, T, C = x.shape
        q, k, v = self.split(self.c_attn(x), B, T)
        if c.qk_norm:
            q, k = (F.rms_norm(each, (self.head_dim,), eps=1e-6) for each in (q, k))
        if c.positions == "rotary":
            q, k = (rotated(each, c.rope_theta, c.rotary_halves) for each in (q, k))
        k, v = (each.repeat_interleave(c.n_head // self.n_kv_head, dim=1) for each in (k, v))
        scores = (q @ k.transpose(-2, -1)) * self.scale()
        at = torch.arange(T)
        back = at[:, None] - at[None, :]
        if c.positions == "alibi":
            slopes = 2.0 ** (-8.0 * torch.arange(1, c.n_head + 1, dtype=x.dtype) / c.n_head)
            scores = scores - slopes[None, :, None, None] * back.clamp(min=0)
        if c.attn_softcap:
            scores = c.attn_softcap * torch.tanh(scores / c.attn_softcap)
        hidden = back < 0
        if c.sliding_window:
            hidden = hidden | (back >= c.sliding_window)
        scores = scores.masked_fill(hidden, float("-inf"))
        if c.softmax1:
            scores = F.pad(scores, (1, 0))  # exp(s) / (1 + sum exp(s))
        weights = F.softmax(scores, dim=-1)[..., int(c.softmax1) :]
        y = (weights @ v).transpose(1, 2).reshape(B, T, C)
        return self.c_proj(y)

    def split(self, rows, B, T):
        c, d = self.config, self.head_dim
        if c.qkv_by_head:
            return rows.view(B, T, c.n_head, 3, d).permute(3, 0, 2, 1, 4).unbind(0)
        heads = {"q": c.n_head, "k": self.n_kv_head, "v": self.n_kv_head}
        parts = rows.split([heads[each] * d for each in c.qkv_order], dim=-1)
        named = dict(zip(c.qkv_order, parts, strict=True))
        return (named[n].view(B, T, heads[n], d).transpose(1, 2) for n in "qkv")

    def scale(self):
        c = self.config
        named = {
            "head": self.head_dim**-0.5,
            "width": c.n_embd**-0.5,
            "dim": 1.0 / self.head_dim,
            "one": 1.0,
        }
        scale = named["dim"] if c.mup_enabled else named.get(c.attn_scale)
        scale = float(c.attn_scale) if scale is None else scale
        return scale / (self.layer + 1) if c.scale_attn_by_inverse_layer_idx else scale


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=config.bias)
        self.act = ACTIVATIONS[config.activation]

    def forward(self, x):
        return self.c_proj(self.act(self.c_fc(x)))


class Block(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        self.config = config
        self.ln_1 = make_norm(config)
        self.attn = CausalSelfAttention(config, layer)
        self.ln_2 = make_norm(config)
        self.mlp = MLP(config)

    def forward(self, x):
        c = self.config

        def added(y):
            y = F.layer_norm(y, (c.n_embd,), eps=c.norm_eps) if c.sandwich_norm else y
            return c.residual_scale * y

        if c.post_norm:
            x = self.ln_1(x + added(self.attn(x)))
            return self.ln_2(x + added(self.mlp(x)))
        if c.parallel_residual:
            return x + added(self.attn(self.ln_1(x))) + added(self.mlp(self.ln_2(x)))
        x = x + added(self.attn(self.ln_1(x)))
        return x + added(self.mlp(self.ln_2(x)))


def sinusoids(length, width, dtype):
    at = torch.arange(length, dtype=dtype)[:, None]
    angles = at * 10000.0 ** (-torch.arange(0, width, 2, dtype=dtype) / width)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)


class GPT(nn.Module):
    def __init__(self, config: GPTConfig):
        super().__init__()
        self.config = config
        modules = {"wte": nn.Embedding(config.vocab_size, config.n_embd)}
        if config.positions == "learned":
            modules["wpe"] = nn.Embedding(config.block_size, config.n_embd)
        modules["h"] = nn.ModuleList(Block(config, i) for i in range(config.n_layer))
        modules["ln_f"] = make_norm(config)
        self.transformer = nn.ModuleDict(modules)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        if config.tie_weights:
            self.transformer.wte.weight = self.lm_head.weight

    def forward(self, idx, targets=None):
        c, t = self.config, self.transformer
        x = t.wte(idx)
        if c.positions == "learned":
            x = x + t.wpe(torch.arange(idx.shape[1]))
        if c.positions == "sinusoidal":
            x = x + sinusoids(idx.shape[1], c.n_embd, x.dtype)
        x = x * (math.sqrt(c.n_embd) if c.scale_embeddings else c.embedding_scale)
        if c.mup_enabled:
            x = x * c.mup_input_alpha
        if c.embedding_norm:
            x = F.layer_norm(x, (c.n_embd,), eps=c.norm_eps)
        for block in t.h:
            x = block(x)
        x = t.ln_f(x)
        if c.mup_enabled:
            x = x * c.mup_output_alpha / c.mup_width_multiplier
        if targets is None:
            return self.scores(x[:, [-1], :]), None
        logits = self.scores(x)
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def scores(self, x):
        c = self.config
        logits = self.lm_head(x) * c.logit_scale
        return c.logit_softcap * torch.tanh(logits / c.logit_softcap) if c.logit_softcap else logits
