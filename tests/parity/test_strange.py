"""Weights on which nothing can be shown are said to be that; odd ones that are sound pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from slogpt_hf.checkpoints import Checkpoint
from slogpt_hf.errors import CheckpointError
from slogpt_hf.parity.gate import verify_artefact

Content = Callable[..., dict[str, Any]]
Convert = Callable[..., tuple[Checkpoint, Path]]
MODERN = {"use_rope": True, "use_swiglu": True, "use_rmsnorm": True, "bias": False}
KINDS: dict[str, dict[str, bool]] = {
    "classic": {},
    "modern": MODERN,
    "custom": {"use_rmsnorm": True},
}


@pytest.fixture
def scaled(slo_content: Content, convert: Convert, tmp_path: Path) -> Callable[..., Any]:
    """A checkpoint some of whose tensors are multiplied, and its artefact."""

    def make(part: str, factor: float, **arguments: Any) -> tuple[Checkpoint, Path]:
        content = slo_content(**arguments)
        head = content["model"].pop("lm_head.weight")
        for name, tensor in content["model"].items():
            if part in name:
                tensor.mul_(factor)
        tied = arguments.get("tied", True)
        content["model"]["lm_head.weight"] = (
            content["model"]["transformer.wte.weight"] if tied else head
        )
        torch.save(content, tmp_path / "ckpt.pt")
        return convert(tmp_path / "ckpt.pt")

    return make


UNUSABLE = {
    "all zeros": ("", 0.0, "every logit is zero: .* hold only zeros"),
    "all of 1e30": ("", 1e30, r"hold values up to \d\.\de\+30"),
    "all of 1e37": ("", 1e37, r"hold values up to \d\.\de\+37"),
    "all of 1e5": ("", 1e5, r"planted faults do not show .* hold values up to \d\.\de\+05"),
    "hardly any": ("", 1e-5, r"hold no value above \d\.\de-05"),
    "one projection of 1e30": (
        "h.0.attn.c_attn.weight",
        1e30,
        r"its own logits are not finite in float32: transformer\.h\.0\.attn\.c_attn\.weight hold",
    ),
    "a dead first layer": ("h.0.", 0.0, r"transformer\.h\.0\.ln_1\.weight.* hold only zeros"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", UNUSABLE)
def test_weights_on_which_nothing_can_be_shown_are_named(
    case: str, kind: str, scaled: Callable[..., Any]
) -> None:
    part, factor, words = UNUSABLE[case]
    with pytest.raises(CheckpointError, match=rf"nothing can be proven on these weights.*{words}"):
        verify_artefact(*scaled(part, factor, **KINDS[kind]))


SOUND = {
    "first projection of an MLP": "h.0.mlp.c_fc.weight",
    "last projections, as trainers begin": "c_proj.weight",
    "attention": "c_attn",
    "positions": "wpe",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", SOUND)
def test_a_matrix_of_zeros_alone_is_sound(case: str, kind: str, scaled: Callable[..., Any]) -> None:
    report = verify_artefact(*scaled(SOUND[case], 0.0, **KINDS[kind]))
    assert report.passed, (report.failures, report.missed)


def test_a_head_that_begins_with_zeros_is_sound(
    slo_content: Content, convert: Convert, tmp_path: Path
) -> None:
    content = slo_content(tied=False)
    content["model"]["lm_head.weight"].zero_()
    torch.save(content, tmp_path / "ckpt.pt")
    report = verify_artefact(*convert(tmp_path / "ckpt.pt"))
    assert report.passed and report.comparisons[0].max_logit == 0
