"""The oracle itself: what it fetches, and where the families' tables lead it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from slogpt_hf.checkpoints import Checkpoint
from slogpt_hf.parity.decoder import Decoder, final_state, head, hidden_states, logits
from slogpt_hf.parity.families import FAMILIES
from slogpt_hf.parity.rounding import rounded

Make = Callable[..., Checkpoint]
IDS = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]])
DIALECTS = ("llama2c", "sloughgpt", "nanogpt")


class Counted(Mapping[str, Tensor]):
    """Tensors that count how often each is fetched."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors
        self.fetched: Counter[str] = Counter()

    def __getitem__(self, name: str) -> Tensor:
        self.fetched[name] += 1
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def model_of(checkpoint: Checkpoint) -> Decoder:
    return Decoder(FAMILIES[checkpoint.dialect], checkpoint.spec, checkpoint.tensors)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("n_layer", [1, 5])
def test_a_pass_fetches_every_tensor_once(
    dialect: str, n_layer: int, family_checkpoint: Make
) -> None:
    model = model_of(family_checkpoint(dialect, n_layer=n_layer))
    counted = Counted(model.tensors)
    logits(replace(model, tensors=counted), IDS, torch.float32)
    assert counted.fetched == dict.fromkeys(model.tensors, 1)


def test_the_gate_takes_a_tensor_when_it_is_asked_for_and_copies_none_of_its_dtype(
    family_checkpoint: Make,
) -> None:
    checkpoint = family_checkpoint("sloughgpt")
    counted = Counted(checkpoint.tensors)
    original = rounded(replace(checkpoint, tensors=counted), torch.float32)
    assert not counted.fetched
    assert all(original.tensors[name] is checkpoint.tensors[name] for name in checkpoint.tensors)
    assert counted.fetched == dict.fromkeys(checkpoint.tensors, 1)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_body_and_head_are_the_whole(dialect: str, family_checkpoint: Make) -> None:
    model = model_of(family_checkpoint(dialect))
    states = list(hidden_states(model, IDS, torch.float64))
    assert len(states) == model.spec.n_layer + 2
    assert torch.equal(states[-1], final_state(model, IDS, torch.float64))
    assert torch.equal(head(model, states[-1]), logits(model, IDS, torch.float64))
    assert {state.dtype for state in states} == {torch.float64}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_embedding_stands_for_a_head_that_is_not_there(
    dialect: str, family_checkpoint: Make
) -> None:
    model = model_of(family_checkpoint(dialect, tied=True))
    assert model.head_name == model.embedding_name
    named = {**model.tensors, f"{model.family.head}.weight": model.tensors[model.embedding_name]}
    untied = replace(model, tensors=named)
    assert untied.head_name != untied.embedding_name
    ours, theirs = (logits(m, IDS, torch.float32) for m in (model, untied))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_later_tokens_change_nothing_before_them(dialect: str, family_checkpoint: Make) -> None:
    model = model_of(family_checkpoint(dialect, n_kv_head=4 if dialect == "nanogpt" else 2))
    other = IDS.clone()
    other[:, 3:] = 20
    ours, theirs = (logits(model, ids, torch.float64) for ids in (IDS, other))
    assert torch.allclose(ours[:, :3], theirs[:, :3], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(ours[:, 3], theirs[:, 3])


@pytest.mark.parametrize("dialect", ["llama2c", "sloughgpt"])
def test_grouped_heads_are_heads_that_repeat(dialect: str, family_checkpoint: Make) -> None:
    checkpoint = family_checkpoint(dialect, n_kv_head=2)
    model, tensors = model_of(checkpoint), dict(checkpoint.tensors)
    for i in range(checkpoint.spec.n_layer):
        for module in model.family.qkv[1:]:
            name = f"{model.family.blocks.format(i=i)}{module}.weight"
            heads = tensors[name].view(2, checkpoint.spec.head_dim, -1)
            tensors[name] = heads[[0, 0, 1, 1]].flatten(0, 1)
    whole = Decoder(model.family, replace(checkpoint.spec, n_kv_head=4), tensors)
    ours, theirs = (logits(m, IDS, torch.float64) for m in (model, whole))
    assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-12)
