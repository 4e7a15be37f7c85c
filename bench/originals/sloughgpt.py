"""SloughGPT: RMSNorm, SwiGLU, rotary positions on the two halves of a head, head of its own."""

import math
from dataclasses import dataclass
from typing import Optional

import torch
from torch import nn
from torch.nn import functional as F


@dataclass
class SloughConfig:
    vocab_size: int = 256
    n_embed: int = 256
    n_layer: int = 6
    n_head: int = 8
    n_kv_head: Optional[int] = None  # noqa: UP045
    block_size: int = 128
    dropout: float = 0.0
    norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    rotary_interleaved: bool = False
    clockwise: bool = False  # the other direction: (a cos + b sin, b cos - a sin)
    activation: str = "silu"
    qk_norm: bool = False


class RMSNorm(nn.Module):
    def __init__(self, dim, eps):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.n_kv_head = config.n_kv_head or config.n_head
        self.head_dim = config.n_embed // config.n_head
        width = self.n_kv_head * self.head_dim
        self.q_proj = nn.Linear(config.n_embed, config.n_embed, bias=False)
        self.k_proj = nn.Linear(config.n_embed, width, bias=False)
        self.v_proj = nn.Linear(config.n_embed, width, bias=False)
        self.o_proj = nn.Linear(config.n_embed, config.n_embed, bias=False)

    def forward(self, x):
        B, T, C = x.shape
        c, d = self.config, self.head_dim
        q = self.q_proj(x).view(B, T, c.n_head, d).transpose(1, 2)
        k, v = (w(x).view(B, T, -1, d).transpose(1, 2) for w in (self.k_proj, self.v_proj))
        q, k = self.turned(q), self.turned(k)
        if c.qk_norm:
            q, k = (each / each.norm(dim=-1, keepdim=True) for each in (q, k))
        each_kv = c.n_head // self.n_kv_head
        k, v = k.repeat_interleave(each_kv, dim=1), v.repeat_interleave(each_kv, dim=1)
        scores = q @ k.transpose(-2, -1) / math.sqrt(d)
        scores = scores.masked_fill(torch.ones(T, T).triu(1).bool(), float("-inf"))
        return self.o_proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(B, T, C))

    def turned(self, x):
        T, d = x.shape[-2:]
        frequencies = 1.0 / self.config.rope_theta ** (torch.arange(0, d, 2, dtype=x.dtype) / d)
        angles = torch.outer(torch.arange(T, dtype=x.dtype), frequencies)
        angles = -angles if self.config.clockwise else angles
        if self.config.rotary_interleaved:
            twice = angles.repeat_interleave(2, dim=-1)
            other = torch.stack((-x[..., 1::2], x[..., 0::2]), dim=-1).flatten(-2)
        else:
            twice = torch.cat((angles, angles), dim=-1)
            a, b = x.chunk(2, dim=-1)
            other = torch.cat((-b, a), dim=-1)
        return x * twice.cos() + other * twice.sin()


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        hidden = 64 * math.ceil(int(8 * config.n_embed / 3) / 64)
        self.act = {"silu": F.silu, "gelu": F.gelu}[config.activation]
        self.w1 = nn.Linear(config.n_embed, hidden, bias=False)
        self.w2 = nn.Linear(hidden, config.n_embed, bias=False)
        self.w3 = nn.Linear(config.n_embed, hidden, bias=False)

    def forward(self, x):
        return self.w2(self.act(self.w1(x)) * self.w3(x))


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.norm1 = RMSNorm(config.n_embed, config.norm_eps)
        self.attn = Attention(config)
        self.norm2 = RMSNorm(config.n_embed, config.norm_eps)
        self.mlp = MLP(config)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class SloughGPTModel(nn.Module):
    def __init__(self, config: SloughConfig):
        super().__init__()
        self.config = config
        self.tok_emb = nn.Embedding(config.vocab_size, config.n_embed)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = RMSNorm(config.n_embed, config.norm_eps)
        self.lm_head = nn.Linear(config.n_embed, config.vocab_size, bias=False)

    def forward(self, idx, targets=None):
        x = self.tok_emb(idx)
        for block in self.blocks:
            x = block(x)
        logits = self.lm_head(self.norm(x))
        if targets is None:
            return logits, None
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten())
