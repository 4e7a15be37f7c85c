"""The training repository's own class as a witness, in a process that can do no harm."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from slogpt_hf.checkpoints import Checkpoint, read_checkpoint
from slogpt_hf.conversion import plan_conversion, write_model
from slogpt_hf.errors import CheckpointError, UsageError
from slogpt_hf.parity import decoder, reference
from slogpt_hf.parity.decoder import Decoder
from slogpt_hf.parity.families import SLO
from slogpt_hf.parity.gate import verify_artefact
from slogpt_hf.parity.reference import ask_reference, split_reference

Write = Callable[..., Path]
Convert = Callable[..., tuple[Checkpoint, Path]]
IDS = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, 9, 36]])

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
    dropout: float = 0.5
    bias: bool = True
{more}

class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        n, self.heads = c.n_embd, c.n_head
        self.ln_1, self.ln_2 = nn.LayerNorm(n, bias=c.bias), nn.LayerNorm(n, bias=c.bias)
        self.attn = nn.ModuleDict(dict(
            c_attn=nn.Linear(n, 3 * n, bias=c.bias), c_proj=nn.Linear(n, n, bias=c.bias)))
        self.mlp = nn.ModuleDict(dict(
            c_fc=nn.Linear(n, 4 * n, bias=c.bias), c_proj=nn.Linear(4 * n, n, bias=c.bias)))

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = (t.view(B, T, self.heads, -1).transpose(1, 2)
                   for t in self.attn.c_attn(self.ln_1(x)).split(C, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attn.c_proj(y.transpose(1, 2).reshape(B, T, C))
        return x + self.mlp.c_proj(F.gelu(self.mlp.c_fc(self.ln_2(x))))

class GPT(nn.Module):
    def __init__(self, {parameters}):
        super().__init__()
        {made}
        self.transformer = nn.ModuleDict(dict(
            wte=nn.Embedding(c.vocab_size, c.n_embd), wpe=nn.Embedding(c.block_size, c.n_embd),
            drop=nn.Dropout(c.dropout), h=nn.ModuleList([Block(c) for _ in range(c.n_layer)]),
            ln_f=nn.LayerNorm(c.n_embd, bias=c.bias)))
        self.lm_head = nn.Linear(c.n_embd, c.vocab_size, bias=False)
        self.transformer.wte.weight = self.lm_head.weight

    def forward(self, ids, targets=None):
        {inside}
        x = self.transformer.wte(ids) + self.transformer.wpe(torch.arange(ids.shape[1]))
        x = self.transformer.drop(x)
        for block in self.transformer.h:
            x = block(x)
        x = self.transformer.ln_f(x)
        if targets is None:
            return self.lm_head(x[:, [-1]]), None
        return self.lm_head(x), None
"""
PLAIN = {"top": "", "more": "", "parameters": "config: GPTConfig", "made": "c = config"}
KEYWORDS = {
    "parameters": "n_layer, n_head, n_embd, vocab_size, block_size, bias, dropout=0.0",
    "made": "c = GPTConfig(block_size, vocab_size, n_layer, n_head, n_embd, dropout, bias)",
}
OTHER = "@dataclass\nclass Other:\n    x: int = 0\n"


@pytest.fixture(scope="module")
def pair(slo_checkpoint: Write, convert: Convert) -> tuple[Checkpoint, Path]:
    return convert(slo_checkpoint(n_layer=1))


@pytest.fixture
def model(tmp_path: Path) -> Callable[..., Path]:
    """Writes the training repository's file with other pieces of code."""

    def write(**pieces: str) -> Path:
        path = tmp_path / "model.py"
        path.write_text(MODEL.format(**PLAIN | {"inside": "pass"} | pieces))
        return path

    return write


SHAPES: dict[str, tuple[dict[str, str], str]] = {
    "annotated": ({"more": OTHER}, "GPT"),
    "annotated in words": ({"more": OTHER, "parameters": "config: 'GPTConfig'"}, "GPT"),
    "the only dataclass": ({"parameters": "config"}, "GPT"),
    "named": ({"more": OTHER, "parameters": "args", "made": "c = args"}, "GPT:GPTConfig"),
    "keywords": (KEYWORDS, "GPT"),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_class_is_made_and_computes_what_the_built_in_model_computes(
    shape: str, pair: tuple[Checkpoint, Path], model: Callable[..., Path]
) -> None:
    pieces, names = SHAPES[shape]
    checkpoint, _ = pair
    said = ask_reference(checkpoint, f"{model(**pieces)}:{names}", IDS)
    assert said.name == "model.py:GPT" and said.exact is not None
    built_in = Decoder(SLO, checkpoint.spec, checkpoint.tensors)
    exact = decoder.logits(built_in, IDS, torch.float64)
    assert (said.exact - exact).abs().max() <= 1e-12 * exact.abs().max()
    assert (said.logits - exact).abs().max() <= 1e-4


IMPORTS = {
    "beside it": ("from layers import WIDTH", "layers.py", ()),
    "from above": ("from src.layers import WIDTH", "layers.py", ()),
    "in its package": ("from .layers import WIDTH", "layers.py", ("__init__.py",)),
    "in a package around it": (
        "from ..common.layers import WIDTH",
        "../common/layers.py",
        ("__init__.py", "../__init__.py", "../common/__init__.py"),
    ),
    "of its whole package": ("from top.src.layers import WIDTH", "layers.py", ("__init__.py",)),
}


@pytest.mark.parametrize("imports", IMPORTS)
def test_the_class_finds_the_modules_of_its_repository(
    imports: str, pair: tuple[Checkpoint, Path], model: Callable[..., Path], tmp_path: Path
) -> None:
    line, layers, packages = IMPORTS[imports]
    folder = tmp_path / "top" / "src"
    folder.mkdir(parents=True)
    (folder.parent / "common").mkdir()
    (folder / layers).write_text("WIDTH = 16\n")
    for name in packages:
        (folder / name).touch()
    if line.startswith("from top"):
        (folder.parent / "__init__.py").touch()
    moved = model(top=line, inside="assert WIDTH == 16").rename(folder / "model.py")
    assert ask_reference(pair[0], f"{moved}:GPT", IDS).exact is not None


@pytest.mark.parametrize("dtypes", ["float64 float64", "float32 bfloat16", "float64 float32"])
def test_the_class_speaks_for_the_checkpoint_as_it_is(
    dtypes: str, slo_checkpoint: Write, convert: Convert, model: Callable[..., Path]
) -> None:
    stored, published = dtypes.split()
    pair = convert(slo_checkpoint(n_layer=1, dtype=stored), dtype=published)
    report = verify_artefact(*pair, reference=f"{model()}:GPT")
    assert report.passed, report.failures
    (witness,) = report.witnesses
    assert (witness.rounding > 1e-9) == (stored != published)


@pytest.mark.parametrize("place", ["beside the weights", "alone"])
def test_adapters_are_merged_for_a_class_without_them(
    place: str, slo_content: Callable[..., Any], model: Callable[..., Path], tmp_path: Path
) -> None:
    content = slo_content(n_layer=1)
    name = "transformer.h.0.attn.c_attn"
    rows, columns = content["model"][f"{name}.weight"].shape
    draw = torch.Generator().manual_seed(0)
    low_rank = {
        f"{name}.lora_A": torch.randn(4, columns, generator=draw),
        f"{name}.lora_B": torch.randn(rows, 4, generator=draw),
    }
    base = None
    if place == "alone":
        base = tmp_path / "base.pt"
        torch.save(content, base)
        torch.save(low_rank | {"metadata": {"rank": 4, "alpha": 16}}, tmp_path / "ckpt.pt")
    else:
        content["model"] |= low_rank
        torch.save(content, tmp_path / "ckpt.pt")
    given = {} if base else {"lora_alpha": 16}
    checkpoint = read_checkpoint(tmp_path / "ckpt.pt", given, base)
    folder = tmp_path / "artefact"
    folder.mkdir()
    write_model(checkpoint, plan_conversion(checkpoint), folder)
    report = verify_artefact(checkpoint, folder, reference=f"{model()}:GPT")
    assert report.passed, report.failures
    (witness,) = report.witnesses
    assert witness.fp64_error is not None and witness.fp64_error < 1e-12


def test_the_gate_hears_it(pair: tuple[Checkpoint, Path], model: Callable[..., Path]) -> None:
    report = verify_artefact(*pair, reference=f"{model()}:GPT")
    assert report.passed, report.failures
    (witness,) = report.witnesses
    assert witness.name == "model.py:GPT" and witness.agrees
    assert witness.fp64_error is not None and witness.fp64_error < 1e-13


def test_a_class_that_computes_something_else_fails(
    pair: tuple[Checkpoint, Path], model: Callable[..., Path]
) -> None:
    path = model(inside="self.transformer.ln_f.eps = 1.01e-5")
    report = verify_artefact(*pair, reference=f"{path}:GPT")
    assert report.verdict == "failed" and not report.witnesses[0].agrees
    assert report.failures[0].startswith("model.py:GPT: ")


REFUSED: dict[str, tuple[dict[str, str], str, str]] = {
    "which configuration": ({"more": OTHER, "parameters": "config"}, "GPT", "name the configur"),
    "no such class": ({}, "Missing", "Missing"),
    "no such configuration": ({}, "GPT:Missing", "Missing"),
    "weights are left over": ({"made": "c = config; c.n_layer = 0"}, "GPT", "Unexpected key"),
    "weights are missing": ({"made": "c = config; c.n_layer += 1"}, "GPT", "Missing key"),
    "of another size": ({"made": "c = config; c.n_embd *= 2"}, "GPT", "size mismatch"),
    "raises": ({"inside": "raise ValueError('not today')"}, "GPT", "not today"),
    "does not import": (
        {"top": "import module_that_is_not_there", "inside": "module_that_is_not_there.f(ids)"},
        "GPT",
        "module_that_is_not",
    ),
    "ends the process": ({"inside": "raise SystemExit(0)"}, "GPT", "gave no answer"),
    "the last position only": ({"inside": "targets = None"}, "GPT", "no logits of every pos"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_asked_is_an_error_that_says_why(
    case: str, pair: tuple[Checkpoint, Path], model: Callable[..., Path]
) -> None:
    pieces, names, words = REFUSED[case]
    with pytest.raises(CheckpointError, match=words) as raised:
        ask_reference(pair[0], f"{model(**pieces)}:{names}", IDS)
    assert len(str(raised.value)) < 800


@pytest.mark.parametrize("text", ["model.py", "model.py:", "m.py:a b", "m.py:A:B:C", ":GPT", ""])
def test_what_is_no_reference_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match=r"--reference"):
        split_reference(text)


def test_a_file_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        split_reference(f"{tmp_path}/model.py:GPT")


def test_no_credential_reaches_the_class(
    pair: tuple[Checkpoint, Path],
    model: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("HF_TOKEN", "GITHUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "SLOGPT_HF_X", "PYTHONPATH"):
        monkeypatch.setenv(name, "s3cret")
    seen = tmp_path / "seen"
    spy = f"import os, sys; open({str(seen)!r}, 'w').write(repr((dict(os.environ), sys.argv)))"
    ask_reference(pair[0], f"{model(inside=spy)}:GPT", IDS)
    content = seen.read_text()
    assert "s3cret" not in content and os.environ["HF_HOME"] not in content
    assert "'HF_HUB_OFFLINE': '1'" in content


CAN_UNSHARE = """
import ctypes, sys
libc = ctypes.CDLL(None)
sys.exit(0 if libc.unshare(0x40000000) == 0 or libc.unshare(0x50000000) == 0 else 1)
"""


def test_no_network_reaches_the_class_where_the_system_allows_that(
    pair: tuple[Checkpoint, Path], model: Callable[..., Path], tmp_path: Path
) -> None:
    if subprocess.run([sys.executable, "-c", CAN_UNSHARE], check=False).returncode:
        pytest.skip("this system lets no one leave the network")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        top = (
            "import socket\n"
            "class Top:\n"
            "    try:\n"
            f"        socket.create_connection(('127.0.0.1', {port}), 5)\n"
            f"        open({str(tmp_path / 'reached')!r}, 'w')\n"
            "    except OSError: pass\n"
        )
        ask_reference(pair[0], f"{model(top=top)}:GPT", IDS)
    assert not (tmp_path / "reached").exists()


def test_a_class_that_does_not_end_is_ended(
    pair: tuple[Checkpoint, Path], model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "SECONDS", 0.2)
    path = model(inside="import threading; threading.Event().wait()")
    with pytest.raises(CheckpointError, match="did not end within"):
        ask_reference(pair[0], f"{path}:GPT", IDS)


def test_what_the_class_prints_does_not_reach_our_output(
    pair: tuple[Checkpoint, Path], model: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    shout = "print('::error::shout'); import sys; print('::error::shout', file=sys.stderr)"
    ask_reference(pair[0], f"{model(top=shout, inside=shout)}:GPT", IDS)
    out, err = capfd.readouterr()
    assert "shout" not in out + err


def test_nothing_is_written_beside_the_class(
    slo_checkpoint: Write, model: Callable[..., Path], tmp_path: Path
) -> None:
    shutil.copy(slo_checkpoint(n_layer=1), tmp_path / "ckpt.pt")
    checkpoint: Any = read_checkpoint(tmp_path / "ckpt.pt")
    path = model()
    ask_reference(checkpoint, f"{path}:GPT", IDS)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ckpt.pt", "model.py"]
