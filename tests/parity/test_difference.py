"""A quantised checkpoint against its original, and against what cannot be it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from slogpt_hf.checkpoints import Checkpoint, read_checkpoint
from slogpt_hf.checkpoints.tensors import Stored, Tensors
from slogpt_hf.errors import UsageError
from slogpt_hf.parity.decoder import Decoder, logits
from slogpt_hf.parity.difference import difference
from slogpt_hf.parity.families import LLAMA2C
from slogpt_hf.parity.inputs import inputs_for

GOLDEN = Path(__file__).parents[1] / "data" / "golden"


@pytest.fixture(params=["llama2c-tied", "llama2c-gqa-untied"])
def folder(request: pytest.FixtureRequest) -> Path:
    return GOLDEN / str(request.param)


@pytest.fixture
def quantised(folder: Path) -> Checkpoint:
    return read_checkpoint(folder / "model_v2_q80.bin")


@pytest.fixture
def original(folder: Path) -> Checkpoint:
    return read_checkpoint(folder / "ckpt.pt")


def bound(checkpoint: Checkpoint) -> float:
    assert checkpoint.quantisation is not None
    return checkpoint.quantisation.max_error


def everything(checkpoint: Checkpoint, ids: Tensor) -> Tensor:
    tensors = {name: tensor.double() for name, tensor in checkpoint.tensors.items()}
    return logits(Decoder(LLAMA2C, checkpoint.spec, tensors), ids, torch.float64)


def moved(checkpoint: Checkpoint, by: float) -> Checkpoint:
    """With one weight of the last matrix moved."""
    name = "layers.0.feed_forward.w2.weight"
    tensor = checkpoint.tensors[name].clone()
    tensor[0, 0] += by
    stored = Stored(tuple(tensor.shape), "float32", lambda: tensor)
    return replace(checkpoint, tensors=Tensors({**checkpoint.tensors.stored, name: stored}))


def test_the_original_is_measured(quantised: Checkpoint, original: Checkpoint) -> None:
    found = difference(quantised, original)
    pairs = [
        (everything(quantised, batch.ids), everything(original, batch.ids))
        for batch in inputs_for(quantised.spec)
    ]
    assert 0 < found.weight <= bound(quantised) * 1.0001
    assert found.logit == pytest.approx(max((a - b).abs().max().item() for a, b in pairs))
    assert found.max_logit == pytest.approx(max(b.abs().max().item() for _, b in pairs))


@pytest.mark.parametrize("by", [3.0, float("nan")])
def test_what_rounding_cannot_have_made_is_refused(
    quantised: Checkpoint, original: Checkpoint, by: float
) -> None:
    with pytest.raises(UsageError) as raised:
        difference(quantised, moved(original, by * bound(quantised)))
    assert "in a weight, more than rounding can (" in str(raised.value)
    assert f"it is not the original of {quantised.path}." in str(raised.value)


def test_the_bound_is_that_of_rounding(quantised: Checkpoint) -> None:
    difference(quantised, moved(quantised, 0.999 * bound(quantised)))
    with pytest.raises(UsageError, match="more than rounding can"):
        difference(quantised, moved(quantised, 1.001 * bound(quantised)))


def test_no_tensor_outlives_its_use(quantised: Checkpoint, original: Checkpoint) -> None:
    alive: list[int] = []
    counts: list[int] = []

    def watched(stored: Stored) -> Stored:
        def values() -> Any:
            import weakref

            found = stored.values().copy()
            alive.append(1)
            weakref.finalize(found, alive.pop)
            counts.append(len(alive))
            return found

        return replace(stored, values=values)

    both = [
        replace(each, tensors=Tensors({n: watched(s) for n, s in each.tensors.stored.items()}))
        for each in (quantised, original)
    ]
    difference(*both)
    assert max(counts) <= 4 < len(quantised.tensors)
