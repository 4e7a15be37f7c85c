"""The modeling file's arguments, under whichever names the installed transformers has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import TransformersKwargs

from slogpt_hf.conversion.modeling_slogpt import (
    CACHE,
    KNOWN,
    SloGPTForCausalLM,
    eager_attention,
)

Models = Callable[..., SloGPTForCausalLM]
Ids = Callable[..., Tensor]
NAMES = ("cache", "past_key_values")


@pytest.mark.parametrize("name", NAMES)
def test_a_cache_is_taken_by_either_name(
    name: str, extreme: dict[str, Any], shaken: Models, tokens: Ids
) -> None:
    model, ids = shaken(extreme), tokens(2, 9)
    with torch.no_grad():
        held = model(ids[:, :5], use_cache=True)[CACHE]
        last = model(ids[:, 5:], **{name: held}).logits
        torch.testing.assert_close(last, model(ids, use_cache=False).logits[:, 5:])
        state = model.transformer(ids[:, :5], use_cache=True)
        behind = model.transformer(ids[:, 5:], **{name: state[CACHE]}).last_hidden_state
        expected = model.transformer(ids, use_cache=False).last_hidden_state[:, 5:]
        torch.testing.assert_close(behind, expected)


def test_two_caches_are_refused(extreme: dict[str, Any], shaken: Models, tokens: Ids) -> None:
    model, ids = shaken(extreme), tokens(1, 4)
    held = model(ids, use_cache=True)[CACHE]
    for part in (model, model.transformer):
        with pytest.raises(TypeError, match="either cache or past_key_values"):
            part(ids, cache=held, past_key_values=held)


def test_generation_is_given_its_cache(
    extreme: dict[str, Any], shaken: Models, tokens: Ids, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only the same tokens: each step behind the first sees one token."""
    model, seen = shaken(extreme), []
    forward = model.transformer.forward

    def noted(*args: Any, **kwargs: Any) -> Any:
        seen.append(kwargs["input_ids"].shape[1])
        return forward(*args, **kwargs)

    monkeypatch.setattr(model.transformer, "forward", noted)
    model.generate(tokens(1, 4), max_new_tokens=4, do_sample=False)
    assert seen == [4, 1, 1, 1]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["the_cache", "cache_position", "lables", "token_type_ids"])
def test_an_unknown_argument_is_refused(
    name: str, attention: str, extreme: dict[str, Any], shaken: Models, tokens: Ids
) -> None:
    model, ids = shaken(extreme), tokens(1, 4)
    model.set_attn_implementation(attention)
    for part in (model, model.transformer):
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
            part(ids, **{name: torch.zeros(1)})
        part(ids, **{name: None})  # as good as not given


def test_what_transformers_hands_down_is_known() -> None:
    """Fails where a version of transformers brings an argument that nobody here looked at."""
    named = {"position_ids"}
    no_router = {"output_router_logits"}  # of mixtures of experts
    unknown = TransformersKwargs.__optional_keys__ - KNOWN - named - no_router
    assert not unknown, f"transformers {transformers.__version__} hands down {unknown}"


def test_known_arguments_change_no_logit(
    extreme: dict[str, Any], shaken: Models, tokens: Ids
) -> None:
    model, ids = shaken(extreme), tokens(2, 9)
    labels, expected = ids, model(ids).logits
    items = torch.tensor(16)
    output = model(ids, labels=labels, num_items_in_batch=items, output_hidden_states=True)
    assert torch.equal(output.logits, expected) and len(output.hidden_states) == 3
    torch.testing.assert_close(output.loss, model(ids, labels=labels).loss)
    assert torch.equal(model(ids, return_dict=False)[0], expected)


def test_an_attention_from_outside_has_arguments_of_its_own(
    extreme: dict[str, Any], shaken: Models, tokens: Ids
) -> None:
    seen: list[Any] = []

    def outside(*args: Any, page: str | None = None, **kwargs: Any) -> Any:
        seen.append(page)
        return eager_attention(*args, **kwargs)

    model = shaken(extreme)
    ALL_ATTENTION_FUNCTIONS.register("outside", outside)
    try:
        model.set_attn_implementation("outside")
        model(tokens(1, 4), page="seven")
    finally:
        del ALL_ATTENTION_FUNCTIONS._global_mapping["outside"]
    assert seen == ["seven", "seven"]
