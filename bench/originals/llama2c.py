"""llama2.c's names and what its relatives and forks compute under them.

Definitions: https://github.com/karpathy/llama2.c, ``model.py``; softmax1/llama2.c-tinystories,
``model.py``; the scales of Gemma, MiniCPM and Granite, which forks take over.
"""

import math
from dataclasses import dataclass
from typing import Optional

import torch
from torch import nn
from torch.nn import functional as F


@dataclass
class ModelArgs:
    dim: int = 4096
    n_layers: int = 32
    n_heads: int = 32
    n_kv_heads: Optional[int] = None  # noqa: UP045  as the original has it
    vocab_size: int = 32000
    hidden_dim: Optional[int] = None  # noqa: UP045
    multiple_of: int = 256
    norm_eps: float = 1e-5
    max_seq_len: int = 2048
    dropout: float = 0.0
    tie_weights: bool = True
    causal_mask: bool = False  # saved with the weights
    rope_theta: float = 10000.0
    rotary_halves: bool = False
    rope_scaling: float = 1.0  # positions are divided by it
    partial_rotary: float = 1.0
    activation: str = "silu"
    layernorm: bool = False
    norm_adds_one: bool = False  # x * (1 + w), as Gemma
    attention_multiplier: float = 0.0  # 1/sqrt(head_dim)
    scale_embeddings: bool = False  # by sqrt(dim), as Gemma
    embedding_multiplier: float = 1.0
    residual_multiplier: float = 1.0
    logit_multiplier: float = 1.0
    logit_softcap: float = 0.0
    qk_norm: bool = False
    sliding_window: int = 0
    softmax1: bool = False
    parallel_residual: bool = False
    post_norm: bool = False


ACTIVATIONS = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
}


class RMSNorm(nn.Module):
    def __init__(self, args):
        super().__init__()
        self.args = args
        self.weight = nn.Parameter(torch.ones(args.dim))

    def forward(self, x):
        if self.args.layernorm:
            x = x - x.mean(-1, keepdim=True)
        scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.args.norm_eps)
        weight = 1.0 + self.weight if self.args.norm_adds_one else self.weight
        return x * scale * weight


def rotated(x, args):
    """Rotary positions on (B, T, H, D)."""
    length, whole = x.shape[1], x.shape[3]
    dim = int(args.partial_rotary * whole)
    turned, rest = x[..., :dim], x[..., dim:]
    frequencies = args.rope_theta ** (-torch.arange(0, dim, 2, dtype=x.dtype) / dim)
    at = torch.arange(length, dtype=x.dtype) / args.rope_scaling
    angles = torch.outer(at, frequencies)[None, :, None, :]
    cos, sin = angles.cos(), angles.sin()
    if args.rotary_halves:
        a, b = turned.chunk(2, dim=-1)
        turned = torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)
    else:
        a, b = turned[..., 0::2], turned[..., 1::2]
        turned = torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)
    return torch.cat((turned, rest), dim=-1)


class Attention(nn.Module):
    def __init__(self, args):
        super().__init__()
        self.args = args
        self.n_kv_heads = args.n_kv_heads or args.n_heads
        self.head_dim = args.dim // args.n_heads
        self.wq = nn.Linear(args.dim, args.n_heads * self.head_dim, bias=False)
        self.wk = nn.Linear(args.dim, self.n_kv_heads * self.head_dim, bias=False)
        self.wv = nn.Linear(args.dim, self.n_kv_heads * self.head_dim, bias=False)
        self.wo = nn.Linear(args.n_heads * self.head_dim, args.dim, bias=False)
        if args.causal_mask:
            mask = torch.full((1, 1, args.max_seq_len, args.max_seq_len), float("-inf"))
            self.register_buffer("mask", torch.triu(mask, diagonal=1))

    def forward(self, x):
        a = self.args
        B, T, _ = x.shape
        q = self.wq(x).view(B, T, a.n_heads, self.head_dim)
        k, v = (w(x).view(B, T, self.n_kv_heads, self.head_dim) for w in (self.wk, self.wv))
        q, k = rotated(q, a), rotated(k, a)
        if a.qk_norm:
            q, k = (F.rms_norm(each, (self.head_dim,), eps=a.norm_eps) for each in (q, k))
        k, v = (each.repeat_interleave(a.n_heads // self.n_kv_heads, dim=2) for each in (k, v))
        q, k, v = (each.transpose(1, 2) for each in (q, k, v))
        scores = q @ k.transpose(2, 3) * (a.attention_multiplier or 1 / math.sqrt(self.head_dim))
        at = torch.arange(T)
        back = at[:, None] - at[None, :]
        hidden = (back < 0) | (back >= (a.sliding_window or T))
        scores = scores.masked_fill(hidden, float("-inf"))
        if a.softmax1:
            scores = F.pad(scores, (1, 0))  # exp(s) / (1 + sum exp(s))
        weights = F.softmax(scores, dim=-1)[..., int(a.softmax1) :]
        return self.wo((weights @ v).transpose(1, 2).reshape(B, T, -1))


class FeedForward(nn.Module):
    def __init__(self, args):
        super().__init__()
        hidden = args.hidden_dim
        if hidden is None:
            hidden = int(2 * 4 * args.dim / 3)
            hidden = args.multiple_of * ((hidden + args.multiple_of - 1) // args.multiple_of)
        self.w1 = nn.Linear(args.dim, hidden, bias=False)
        self.w2 = nn.Linear(hidden, args.dim, bias=False)
        self.w3 = nn.Linear(args.dim, hidden, bias=False)
        self.act = ACTIVATIONS[args.activation]

    def forward(self, x):
        return self.w2(self.act(self.w1(x)) * self.w3(x))


class TransformerBlock(nn.Module):
    def __init__(self, args):
        super().__init__()
        self.args = args
        self.attention = Attention(args)
        self.feed_forward = FeedForward(args)
        self.attention_norm = RMSNorm(args)
        self.ffn_norm = RMSNorm(args)

    def forward(self, x):
        r = self.args.residual_multiplier
        if self.args.post_norm:
            x = self.attention_norm(x + r * self.attention(x))
            return self.ffn_norm(x + r * self.feed_forward(x))
        h = x + r * self.attention(self.attention_norm(x))
        return h + r * self.feed_forward(self.ffn_norm(x if self.args.parallel_residual else h))


class Transformer(nn.Module):
    last_loss = None

    def __init__(self, params: ModelArgs):
        super().__init__()
        self.params = params
        self.tok_embeddings = nn.Embedding(params.vocab_size, params.dim)
        self.layers = nn.ModuleList(TransformerBlock(params) for _ in range(params.n_layers))
        self.norm = RMSNorm(params)
        self.output = nn.Linear(params.dim, params.vocab_size, bias=False)
        if params.tie_weights:
            self.tok_embeddings.weight = self.output.weight

    def forward(self, tokens, targets=None):
        p = self.params
        h = self.tok_embeddings(tokens)
        h = h * (math.sqrt(p.dim) if p.scale_embeddings else p.embedding_multiplier)
        for layer in self.layers:
            h = layer(h)
        h = self.norm(h)
        logits = self.output(h if targets is not None else h[:, [-1], :]) * p.logit_multiplier
        if p.logit_softcap:
            logits = p.logit_softcap * torch.tanh(logits / p.logit_softcap)
        if targets is not None:
            self.last_loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        return logits
