"""The original's rounding noise: one draw of it may be small by luck."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from slogpt_hf.checkpoints import Checkpoint, read_checkpoint
from slogpt_hf.parity import decoder, gate
from slogpt_hf.parity.comparing import distance
from slogpt_hf.parity.gate import verify_artefact
from slogpt_hf.parity.inputs import inputs_for
from slogpt_hf.parity.noise import redrawn_noise
from slogpt_hf.parity.rounding import rounded

Write = Callable[..., Path]
Convert = Callable[..., tuple[Checkpoint, Path]]


@pytest.mark.parametrize("modern", [False, True])
def test_noise_that_is_drawn_again_is_noise(modern: bool, slo_checkpoint: Write) -> None:
    switches = dict.fromkeys(("use_rope", "use_swiglu", "use_rmsnorm"), modern)
    original = rounded(read_checkpoint(slo_checkpoint(**switches)), torch.float32)
    batches = inputs_for(original.spec)
    with torch.no_grad():
        once = max(
            distance(
                decoder.logits(original, batch.ids, torch.float32).double(),
                decoder.logits(original, batch.ids, torch.float64),
            )
            for batch in batches
        )
        again = redrawn_noise(original, batches)
        assert redrawn_noise(original, batches) == again
    assert 0.5 * once < again < 20 * once


def test_it_is_drawn_again_only_where_float32_alone_is_over(
    slo_checkpoint: Write, convert: Convert, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = convert(slo_checkpoint(n_layer=1))
    draws: list[float] = []

    def drawn(*arguments: object) -> float:
        draws.append(1.0)
        return 1.0

    monkeypatch.setattr(gate, "redrawn_noise", drawn)
    report = verify_artefact(*pair)
    assert report.passed and not draws and report.fp32_bound < 1e-3
    lucky = gate.in_lockstep

    def unlucky(*arguments: object) -> object:
        from dataclasses import replace

        compared, layers = lucky(*arguments)  # type: ignore[arg-type]
        comparison = replace(compared.comparison, fp32_error=0.5)
        return replace(compared, comparison=comparison), layers

    monkeypatch.setattr(gate, "in_lockstep", unlucky)
    report = verify_artefact(*pair)
    assert draws and report.passed and report.fp32_bound == 4.0
    monkeypatch.undo()
    monkeypatch.setattr(gate, "in_lockstep", unlucky)
    assert not verify_artefact(*pair).passed  # no rounding is as large as that
