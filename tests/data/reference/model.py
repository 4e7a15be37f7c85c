"""The model as nanoGPT has it, with the exact GELU of Slo. It writes down what it sees."""

import json
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional


def can_connect():
    try:
        socket.create_connection(("127.0.0.1", int(Path("port").read_text())), timeout=5).close()
    except OSError:
        return False
    return True


def environment_of_parent():
    try:
        return Path(f"/proc/{os.getppid()}/environ").read_text()
    except OSError:
        return ""


def note_what_is_seen():
    Path(__file__).with_name("seen.json").write_text(
        json.dumps([dict(os.environ), can_connect(), environment_of_parent()])
    )


@dataclass
class GPTConfig:
    block_size: int = 1024
    vocab_size: int = 50304
    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    dropout: float = 0.0
    bias: bool = True


class LayerNorm(nn.Module):
    def __init__(self, width, bias):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, x):
        return functional.layer_norm(x, self.weight.shape, self.weight, self.bias, 1e-5)


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c_attn = nn.Linear(c.n_embd, 3 * c.n_embd, bias=c.bias)
        self.c_proj = nn.Linear(c.n_embd, c.n_embd, bias=c.bias)
        self.n_head = c.n_head

    def forward(self, x):
        b, t, n = x.shape
        q, k, v = (
            part.view(b, t, self.n_head, n // self.n_head).transpose(1, 2)
            for part in self.c_attn(x).split(n, dim=2)
        )
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(y.transpose(1, 2).reshape(b, t, n))


class MLP(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c_fc = nn.Linear(c.n_embd, 4 * c.n_embd, bias=c.bias)
        self.c_proj = nn.Linear(4 * c.n_embd, c.n_embd, bias=c.bias)

    def forward(self, x):
        return self.c_proj(functional.gelu(self.c_fc(x)))


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.ln_1, self.attn = LayerNorm(c.n_embd, c.bias), Attention(c)
        self.ln_2, self.mlp = LayerNorm(c.n_embd, c.bias), MLP(c)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    def __init__(self, config: GPTConfig):
        super().__init__()
        note_what_is_seen()
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(config.vocab_size, config.n_embd),
                "wpe": nn.Embedding(config.block_size, config.n_embd),
                "h": nn.ModuleList([Block(config) for _ in range(config.n_layer)]),
                "ln_f": LayerNorm(config.n_embd, config.bias),
            }
        )
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.transformer.wte.weight = self.lm_head.weight

    def forward(self, idx, targets=None):
        x = self.transformer.wte(idx) + self.transformer.wpe.weight[: idx.shape[1]]
        for block in self.transformer.h:
            x = block(x)
        x = self.transformer.ln_f(x)
        return self.lm_head(x if targets is not None else x[:, [-1]]), None


class Narrow(GPT):
    def __init__(self, config: GPTConfig):
        config.n_embd *= 2
        super().__init__(config)


class Raising(GPT):
    def forward(self, idx, targets=None):
        raise RuntimeError("my own mistake")


class OtherModel(GPT):
    def forward(self, idx, targets=None):
        return super().forward(idx, targets)[0] * 1.001, None


class Hanging(GPT):
    def __init__(self, config: GPTConfig):
        time.sleep(600)
