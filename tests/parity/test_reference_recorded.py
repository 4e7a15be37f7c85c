"""The trainer's class is made from what the file recorded, and cannot change what it judges."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from slogpt_hf.checkpoints import read_checkpoint
from slogpt_hf.conversion import plan_conversion, write_model
from slogpt_hf.parity.gate import verify_artefact
from slogpt_hf.parity.reference import MOST_CLASSES, Hearing, hear_reference
from slogpt_hf.parity.report import ParityReport

IDS = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]])
MODEL = """
from dataclasses import dataclass
import torch, torch.nn as nn, torch.nn.functional as F
{top}

@dataclass
class GPTConfig:
    block_size: int = 1024
    vocab_size: int = 50304
    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    dropout: float = 0.0
    bias: bool = True
    {field}

class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        n, self.heads = c.n_embd, c.n_head
        self.ln_1, self.ln_2 = nn.LayerNorm(n, bias=c.bias), nn.LayerNorm(n, bias=c.bias)
        self.attn = nn.Module()
        self.attn.c_attn = nn.Linear(n, 3 * n, bias=c.bias)
        self.attn.c_proj = nn.Linear(n, n, bias=c.bias)
        self.mlp = nn.Module()
        self.mlp.c_fc = nn.Linear(n, 4 * n, bias=c.bias)
        self.mlp.c_proj = nn.Linear(4 * n, n, bias=c.bias)
        T = c.block_size
        {mask}

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = (t.view(B, T, self.heads, -1).transpose(1, 2)
                   for t in self.attn.c_attn(self.ln_1(x)).split(C, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attn.c_proj(y.transpose(1, 2).reshape(B, T, C))
        return x + self.mlp.c_proj({act}(self.mlp.c_fc(self.ln_2(x))))

class {name}(nn.Module):
    def __init__(self, config{hint}):
        super().__init__()
        c = config
        {first}
        self.scale = {scale}
        self.transformer = nn.ModuleDict(dict(
            wte=nn.Embedding(c.vocab_size, c.n_embd), wpe=nn.Embedding(c.block_size, c.n_embd),
            h=nn.ModuleList([Block(c) for _ in range(c.n_layer)]),
            ln_f=nn.LayerNorm(c.n_embd, bias=c.bias)))
        self.lm_head = nn.Linear(c.n_embd, c.vocab_size, bias=False)
        self.transformer.wte.weight = self.lm_head.weight

    def forward(self, idx, targets=None):
        x = self.transformer.wte(idx) + self.transformer.wpe(torch.arange(idx.shape[1]))
        x = x * self.scale
        for block in self.transformer.h:
            x = block(x)
        x = self.transformer.ln_f(x)
        return self.lm_head(x if targets is not None else x[:, [-1]]), None
{bottom}
"""
PLAIN = dict.fromkeys(("top", "field", "mask", "bottom"), "")
PLAIN |= {"act": "F.gelu", "hint": ": GPTConfig", "first": "pass", "scale": "1.0", "name": "GPT"}
MASK = 'self.attn.register_buffer("bias", torch.ones(T, T).tril().view(1, 1, T, T))'
MUP = {"field": "mup_enabled: bool = False\n    mup_input_alpha: float = 1.0"}
MUP |= {"scale": "c.mup_input_alpha if c.mup_enabled else 1.0"}
TRAINS = """
import wandb_that_is_not_installed
from tiktoken_that_is_not_installed import get_encoding
enc = get_encoding("gpt2")
model = GPT(GPTConfig())
raise RuntimeError("it trains")
"""
Content = Callable[..., dict[str, Any]]


def source(**pieces: str) -> str:
    return MODEL.format(**PLAIN | pieces)


@pytest.fixture
def saved(tmp_path: Path, slo_content: Content) -> Callable[..., Path]:
    """Writes a nanoGPT ``ckpt.pt`` beside a ``model.py``."""

    def write(text: str, *, masks: bool = False, **recorded: Any) -> Path:
        content = slo_content(n_layer=1, bias=True)
        args = content["model_args"]
        args |= recorded
        if masks:
            size = args["block_size"]
            mask = torch.ones(size, size).tril().view(1, 1, size, size)
            content["model"]["transformer.h.0.attn.bias"] = mask
        (tmp_path / "model.py").write_text(text)
        torch.save(content, tmp_path / "ckpt.pt")
        return tmp_path / "ckpt.pt"

    return write


def heard(path: Path, reference: str | None = None) -> Hearing:
    named = reference or f"{path.with_name('model.py')}:GPT"
    return hear_reference(read_checkpoint(path), named, IDS)


def proven(path: Path, reference: str | None = None) -> ParityReport:
    checkpoint, folder = read_checkpoint(path), path.parent / "artefact"
    folder.mkdir()
    write_model(checkpoint, plan_conversion(checkpoint), folder)
    return verify_artefact(
        checkpoint, folder, reference=reference or f"{path.with_name('model.py')}:GPT"
    )


def test_recorded_entries_reach_the_class(saved: Callable[..., Path]) -> None:
    """Else a class of another function, by the defaults of its configuration, would agree."""
    path = saved(source(**MUP), mup_enabled=True, mup_input_alpha=3.0, mup_width_multiplier=1.0)
    scaled = heard(path).testimony
    plain = heard(saved(source())).testimony
    assert scaled is not None and plain is not None
    assert (scaled.logits - plain.logits).abs().max() > 1e-3


WAYS = {
    "masks that it saved": (source(mask=MASK), {"masks": True}),
    "a file that trains": (source(bottom=TRAINS), {}),
    "a table that calls what it holds": (
        source(act='ACTIVATIONS["gelu"]', top='ACTIVATIONS = {"gelu": nn.GELU()}'),
        {},
    ),
    "a class under two names": (source(bottom="Config = GPTConfig\n", hint=""), {}),
    "a namespace": (source(hint="").replace("@dataclass", "class Unused: pass\n"), {}),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_class_is_asked(way: str, saved: Callable[..., Path]) -> None:
    text, arguments = WAYS[way]
    report = proven(saved(text, **arguments))
    assert report.passed, report.failures
    assert report.level == "witnessed"


WORDS = {"field": 'activation: str = "gelu"', "act": "self.act"}
WORDS |= {"mask": "self.act = ACTIVATIONS[c.activation]"}
WORDS |= {"top": 'ACTIVATIONS = {"gelu": F.gelu, "squared_relu": lambda x: F.relu(x).square()}'}


def test_a_class_is_told_in_its_own_words(saved: Callable[..., Path]) -> None:
    path = saved(source(**WORDS))
    ours = read_checkpoint(path, {"activation": "relu2"})
    said = hear_reference(ours, f"{path.with_name('model.py')}:GPT", IDS).testimony
    default = heard(path).testimony
    assert said is not None and default is not None
    assert (said.logits - default.logits).abs().max() > 1e-3


def test_a_class_that_knows_no_word_for_it_keeps_its_own(saved: Callable[..., Path]) -> None:
    """The comparison then tells whether that is what was given."""
    path = saved(source(**WORDS))
    ours = read_checkpoint(path, {"activation": "silu"})
    said = hear_reference(ours, f"{path.with_name('model.py')}:GPT", IDS).testimony
    default = heard(path).testimony
    assert said is not None and default is not None
    assert torch.equal(said.logits, default.logits)


def test_a_disagreement_names_the_assumption_that_removes_it(saved: Callable[..., Path]) -> None:
    tanh = "(lambda x: F.gelu(x, approximate='tanh'))"
    report = proven(saved(source(act=tanh)))
    assert report.verdict == "failed"
    (witness,) = report.witnesses
    assert witness.place.startswith("layer 0")
    assert witness.remedy == "activation=gelu_tanh"


def test_it_cannot_change_what_it_judges(saved: Callable[..., Path]) -> None:
    """It runs as the same user, and rewrites the artefact to what it says itself."""
    rewrite = (
        "import pathlib; [p.write_bytes(p.read_bytes()[:-1] + b'x') for p in "
        "pathlib.Path(__file__).parent.glob('artefact/*.safetensors')]"
    )
    report = proven(saved(source(first=rewrite)))
    assert report.verdict == "failed" and report.level != "witnessed"
    assert "changed" in " ".join(report.failures)


def git(folder: Path, *arguments: str) -> None:
    names = ("-c", "user.name=me", "-c", "user.email=me@localhost")
    subprocess.run(["git", "-C", folder, *names, *arguments], check=True, capture_output=True)


def test_auto_takes_the_class_of_the_checkpoints_commit(saved: Callable[..., Path]) -> None:
    path = saved(source())
    git(path.parent, "init", "--quiet")
    git(path.parent, "add", ".")
    git(path.parent, "commit", "--quiet", "-m", "Train")
    path.with_name("model.py").write_text("raise RuntimeError('of another commit')")
    found = heard(path, "auto")
    assert found.testimony is not None and "model.py:GPT" in found.note


def test_auto_takes_none_of_two_that_differ(saved: Callable[..., Path]) -> None:
    path = saved(source())
    path.with_name("other.py").write_text(source(act="F.relu"))
    found = heard(path, "auto")
    assert found.testimony is None and "several classes" in found.note
    report = proven(path, "auto")
    assert report.passed and report.level == "assumed" and "several" in report.witness_note


def test_auto_takes_none_where_it_cannot_try_all(saved: Callable[..., Path]) -> None:
    path = saved(source())
    for n in range(MOST_CLASSES):
        (path.parent / f"other{n}.py").write_text(source())
    found = heard(path, "auto")
    assert found.testimony is None
    assert f"{MOST_CLASSES + 1} classes" in found.note and "name one" in found.note


def test_auto_says_that_there_is_none(saved: Callable[..., Path]) -> None:
    path = saved("import torch\n")
    found = heard(path, "auto")
    assert found.testimony is None and "no class" in found.note
