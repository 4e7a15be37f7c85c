"""The names of transformers that changed between versions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import nn

from slogpt_hf.parity.compat import CACHE_NAMES, cache_of, with_cache

IDS = torch.tensor([[1, 2, 3, 4]])


@pytest.mark.filterwarnings("error")
def test_the_cache_has_a_known_name_and_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    sizes = {"vocab_size": 8, "n_embd": 4, "n_layer": 1, "n_head": 1, "n_positions": 8}
    config = transformers.GPT2Config(**sizes, bos_token_id=None, eos_token_id=None)
    model = transformers.GPT2LMHeadModel(config).eval()
    says = f"transformers {transformers.__version__} calls the cache none of {CACHE_NAMES}"
    with torch.no_grad():
        cache = cache_of(model(IDS[:, :3], use_cache=True))
        assert cache is not None, says
        last = model(IDS[:, 3:], **with_cache(model, cache)).logits
        assert torch.allclose(last, model(IDS).logits[:, 3:], atol=1e-6), says
    assert not caplog.records


class Older(nn.Module):
    def forward(self, input_ids: Any, past_key_values: Any = None, **kwargs: Any) -> None: ...


class Newer(nn.Module):
    def forward(self, input_ids: Any, cache: Any = None, past_key_values: Any = None) -> None: ...


class Hidden(nn.Module):
    def forward(self, *args: Any, **kwargs: Any) -> None: ...


@pytest.mark.parametrize(
    ("model", "name"),
    [(Older(), "past_key_values"), (Newer(), "cache"), (Hidden(), "past_key_values")],
)
def test_a_class_is_given_the_name_that_it_knows(model: nn.Module, name: str) -> None:
    assert with_cache(model, 7) == {name: 7, "use_cache": True}


def test_an_output_without_a_cache_has_none() -> None:
    assert cache_of(object()) is None
