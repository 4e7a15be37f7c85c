"""What a checkpoint is, said to a person and to a program."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slogpt_hf.cli import run

Write = Callable[..., Path]


@pytest.fixture
def inspected(
    golden: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., str]:
    """Standard output of ``inspect`` for a golden checkpoint."""
    monkeypatch.chdir(tmp_path)

    def call(name: str, *options: str) -> str:
        assert run(["inspect", str(golden(name) / "ckpt.pt"), *options]) == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        return captured.out

    return call


def test_text(inspected: Callable[..., str], golden: Callable[[str], Path]) -> None:
    lines = dict(
        line.split("  ", 1) for line in inspected("slo-modern").splitlines() if "  " in line
    )
    facts = {name.strip(): value.strip() for name, value in lines.items()}
    path = golden("slo-modern") / "ckpt.pt"
    assert facts["file"].startswith(str(path))
    assert facts["dialect"] == "slo"
    assert facts["architecture"] == "rotary positions, rmsnorm, a gated MLP with SiLU"
    assert facts["linear biases"] == "no"
    assert facts["layers x heads x width"] == "3 x 4 x 48"
    assert facts["context"] == "48 tokens"
    meta = path.with_name("meta.pkl")
    assert facts["vocabulary"] == f"65 ids; characters from {meta}"
    assert facts["parameters"] == "114,048"
    assert facts["dtype"] == "float32"
    assert facts["target class"] == "LlamaForCausalLM"
    assert facts["custom code"] == "no"
    assert facts["weights"] == "456.2 kB"


CLASSES = {
    "slo-classic": ("GPT2LMHeadModel", False, 90_336),
    "slo-modern": ("LlamaForCausalLM", False, 114_048),
    "slo-learned-rmsnorm-swiglu": ("SloGPTForCausalLM", True, 118_224),
    "slo-rope-layernorm-gelu": ("Starcoder2ForCausalLM", False, None),
    "slo-rope-rmsnorm-gelu": ("ArceeForCausalLM", False, None),
}


@pytest.mark.parametrize("name", CLASSES)
def test_json(inspected: Callable[..., str], golden: Callable[[str], Path], name: str) -> None:
    class_name, remote_code, n_parameters = CLASSES[name]
    facts = json.loads(inspected(name, "--json"))
    about = json.loads((golden(name) / "about.json").read_text())
    sizes = ("n_layer", "n_head", "n_embd", "block_size", "vocab_size")
    assert {size: facts["spec"][size] for size in sizes} == {
        size: about["model_args"][size] for size in sizes
    }
    assert (facts["target_class"], facts["remote_code"]) == (class_name, remote_code)
    assert facts["dialect"] == about["dialect"] and facts["dtype"] == "float32"
    assert facts["n_parameters"] == n_parameters or n_parameters is None
    # Zero biases that a class asks for, and nothing else, come on top of the parameters.
    assert facts["weights_bytes"] >= 4 * facts["n_parameters"]
    assert facts["file_bytes"] == (golden(name) / "ckpt.pt").stat().st_size
    assert facts["val_loss"] == pytest.approx(about["val_loss"])


def test_dtype_halves_the_weights(inspected: Callable[..., str]) -> None:
    single = json.loads(inspected("slo-classic", "--json"))
    half = json.loads(inspected("slo-classic", "--json", "--dtype", "float16"))
    assert half["weights_bytes"] * 2 == single["weights_bytes"]
    assert (half["dtype"], half["target_dtype"]) == ("float32", "float16")


def test_estimate_is_the_size_of_the_artefact(
    golden: Callable[[str], Path], convert: Callable[..., Any], inspected: Callable[..., str]
) -> None:
    _, folder = convert(golden("slo-classic") / "ckpt.pt")
    written = (folder / "model.safetensors").stat().st_size
    estimated = json.loads(inspected("slo-classic", "--json"))["weights_bytes"]
    assert 0 < written - estimated < 20_000  # the header


def test_without_a_vocabulary_it_says_how_to_give_one(
    slo_checkpoint: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["inspect", str(slo_checkpoint())]) == 0
    text = capsys.readouterr().out
    assert "37 ids; none that fits: The checkpoint has" in text and "--dataset" in text


def test_vocabulary_that_does_not_fit_is_said(
    golden: Callable[[str], Path],
    slo_checkpoint: Write,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copy(golden("slo-classic") / "meta.pkl", tmp_path)
    assert run(["inspect", str(slo_checkpoint()), "--dataset", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "has 65 entries" in text and "37 rows" in text


def test_checkpoint_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "ckpt.pt"
    path.write_bytes(b"nothing")
    assert run(["inspect", str(path), "--json"]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: {path}: is not a checkpoint")
