"""Slo: nanoGPT's names with four switches, and what a fork of it may change."""

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F


@dataclass
class SloConfig:
    block_size: int = 1024
    vocab_size: int = 50304
    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    dropout: float = 0.0
    bias: bool = True
    use_rope: bool = False
    use_swiglu: bool = False
    use_rmsnorm: bool = False
    layernorm_eps: float = 1e-5
    rmsnorm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rotary_halves: bool = False
    gate: str = "silu"
    gelu: str = "none"


def make_norm(config):
    if config.use_rmsnorm:
        return nn.RMSNorm(config.n_embd, eps=config.rmsnorm_eps)
    return nn.LayerNorm(config.n_embd, eps=config.layernorm_eps, bias=config.bias)


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)

    def forward(self, x):
        B, T, C = x.shape
        n = self.config.n_head
        q, k, v = (
            each.view(B, T, n, C // n).transpose(1, 2) for each in self.c_attn(x).chunk(3, -1)
        )
        if self.config.use_rope:
            q, k = self.turned(q), self.turned(k)
        scores = q @ k.transpose(-2, -1) / math.sqrt(C // n)
        scores = scores.masked_fill(torch.ones(T, T).triu(1).bool(), float("-inf"))
        y = F.softmax(scores, dim=-1) @ v
        return self.c_proj(y.transpose(1, 2).reshape(B, T, C))

    def turned(self, x):
        T, d = x.shape[-2:]
        frequencies = self.config.rope_theta ** (-torch.arange(0, d, 2, dtype=x.dtype) / d)
        angles = torch.outer(torch.arange(T, dtype=x.dtype), frequencies)
        pairs = torch.polar(torch.ones_like(angles), angles)
        if self.config.rotary_halves:
            x = torch.stack(x.chunk(2, dim=-1), dim=-1).flatten(-2)
        turned = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2)) * pairs
        turned = torch.view_as_real(turned)
        if self.config.rotary_halves:
            return torch.cat(turned.unbind(-1), dim=-1)
        return turned.flatten(-2)


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        n = config.n_embd
        self.approximate = config.gelu
        self.c_fc = nn.Linear(n, 4 * n, bias=config.bias)
        self.c_proj = nn.Linear(4 * n, n, bias=config.bias)

    def forward(self, x):
        return self.c_proj(F.gelu(self.c_fc(x), approximate=self.approximate))


class GatedMLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        n = config.n_embd
        self.act = {"silu": F.silu, "gelu": F.gelu, "relu": F.relu}[config.gate]
        self.w1 = nn.Linear(n, 4 * n, bias=config.bias)
        self.w2 = nn.Linear(4 * n, n, bias=config.bias)
        self.w3 = nn.Linear(n, 4 * n, bias=config.bias)

    def forward(self, x):
        return self.w2(self.act(self.w1(x)) * self.w3(x))


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.ln_1 = make_norm(config)
        self.attn = Attention(config)
        self.ln_2 = make_norm(config)
        self.mlp = (GatedMLP if config.use_swiglu else MLP)(config)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class SloGPT(nn.Module):
    def __init__(self, config: SloConfig):
        super().__init__()
        self.config = config
        modules = {"wte": nn.Embedding(config.vocab_size, config.n_embd)}
        if not config.use_rope:
            modules["wpe"] = nn.Embedding(config.block_size, config.n_embd)
        modules["h"] = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        modules["ln_f"] = make_norm(config)
        self.transformer = nn.ModuleDict(modules)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.transformer.wte.weight = self.lm_head.weight

    def forward(self, idx, targets=None):
        t = self.transformer
        x = t.wte(idx)
        if not self.config.use_rope:
            x = x + t.wpe(torch.arange(idx.shape[1]))
        for block in t.h:
            x = block(x)
        x = t.ln_f(x)
        if targets is None:
            return self.lm_head(x[:, [-1], :]), None
        logits = self.lm_head(x)
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten())
