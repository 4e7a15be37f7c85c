"""What a file leaves open is found with a witness."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from slogpt_hf.checkpoints import read_checkpoint
from slogpt_hf.cli.discover import lines_of
from slogpt_hf.discover import discover
from slogpt_hf.parity import decoder
from slogpt_hf.parity.decoder import Decoder
from slogpt_hf.parity.families import SLO
from slogpt_hf.progress import SILENT
from slogpt_hf.settings import Settings, given_field

TRUTHS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "tanh GELU": {"activation": "gelu_tanh"},
    "ReLU": {"activation": "relu"},
    "an epsilon": {"norm_eps": 1e-3},
    "muP's scale": {"attention_multiplier": 0.125},
}


def recorded(path: Path, content: dict[str, Any], **truth: Any) -> Path:
    """Saves a checkpoint, and beside it the logits of a model of which some facts are others."""
    torch.save(content, path)
    checkpoint = read_checkpoint(path, {"n_head": 4} if "model" not in content else {})
    spec = replace(checkpoint.spec, **truth)
    ids = torch.randint(0, spec.vocab_size, (2, spec.block_size))
    logits = decoder.logits(Decoder(SLO, spec, checkpoint.tensors), ids, torch.float32)
    said = {"input_ids": ids, "logits": logits.contiguous()}
    save_file(said, path.with_name("parity.safetensors"))
    return path


@pytest.fixture
def content(slo_content: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    torch.manual_seed(3)
    found = slo_content(n_layer=2, bias=True)
    for name, tensor in found["model"].items():
        if tensor.dim() == 2 and not name.endswith("wpe.weight"):
            tensor.copy_(0.4 * torch.randn(tensor.shape))
    return found


@pytest.mark.parametrize("name", TRUTHS)
def test_it_is_found(name: str, content: dict[str, Any], tmp_path: Path) -> None:
    truth = TRUTHS[name]
    found = discover(recorded(tmp_path / "ckpt.pt", content, **truth), Settings(), SILENT)
    assert found.found.agrees
    said = dict(option.split("=", 1) for option in found.settings)
    assert said.keys() == truth.keys()
    for key, value in truth.items():
        assert said[key] == value or float(said[key]) == value


def test_that_nothing_is_needed_is_said_of_the_witness(
    content: dict[str, Any], tmp_path: Path
) -> None:
    found = discover(recorded(tmp_path / "ckpt.pt", content), Settings(), SILENT)
    assert found.found.agrees and not found.settings
    assert "No setting is needed: the witness computes what is assumed." in lines_of(found)


def test_heads_of_a_bare_state_dict(content: dict[str, Any], tmp_path: Path) -> None:
    path = recorded(tmp_path / "model.pt", content["model"])
    found = discover(path, Settings(), SILENT)
    assert found.found.agrees and "n_head=4" in found.settings


def test_what_is_printed_makes_what_was_found(
    slo_content: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """``norm=rmsnorm`` alone would bring another epsilon along than the one that agreed."""
    content = slo_content(n_layer=2, bias=False)
    content["model_args"] = {n: v for n, v in content["model_args"].items() if "norm" not in n}
    truth = {"norm": "rmsnorm", "norm_eps": 1e-5}
    path = recorded(tmp_path / "ckpt.pt", content, **truth)
    found = discover(path, Settings(), SILENT)
    spec = read_checkpoint(path, dict(map(given_field, found.settings))).spec
    assert found.found.agrees and {name: getattr(spec, name) for name in truth} == truth


def test_what_is_outside_of_the_space_is_not_found(
    content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(
            decoder,
            "head",
            lambda model, x: (
                30 * torch.tanh(x @ x.new_ones(x.shape[-1], model.spec.vocab_size) / 30)
            ),
        )
        path = recorded(tmp_path / "ckpt.pt", content)
    assert not discover(path, Settings(), SILENT).found.agrees
