"""The modeling file in generate, in training and as a transformers model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from slogpt_hf.conversion.modeling_slogpt import SloGPTConfig, SloGPTForCausalLM

Models = Callable[..., SloGPTForCausalLM]
Ids = Callable[..., Tensor]

CLASSIC = {"positions": "learned", "norm": "layernorm", "mlp": "plain", "bias": True}


def test_greedy_generation_is_the_argmax(
    architecture: dict[str, Any], shaken: Models, tokens: Ids
) -> None:
    model, prompt = shaken(architecture), tokens(2, 5)
    expected = prompt
    with torch.no_grad():
        for _ in range(8):
            best = model(expected).logits[:, -1].argmax(-1, keepdim=True)
            expected = torch.cat([expected, best], dim=1)
    assert torch.equal(model.generate(prompt, max_new_tokens=8, do_sample=False), expected)


@pytest.mark.parametrize(
    "options",
    [
        {"do_sample": True, "top_k": 5, "temperature": 0.8},
        {"do_sample": False, "num_beams": 3},
        {"do_sample": True, "num_beams": 2, "num_return_sequences": 2},
    ],
    ids=["sampling", "beam", "beam-sampling"],
)
def test_generation_needs_no_cache(
    extreme: dict[str, Any], options: dict[str, Any], shaken: Models, tokens: Ids
) -> None:
    model, prompt = shaken(extreme), tokens(2, 5)

    def generate(**more: Any) -> Tensor:
        torch.manual_seed(3)
        output = model.generate(prompt, max_new_tokens=8, **options, **more)
        assert isinstance(output, Tensor)
        return output

    assert generate().shape == (2 * options.get("num_return_sequences", 1), 13)
    assert torch.equal(generate(use_cache=True), generate(use_cache=False))


def test_left_padded_generation(extreme: dict[str, Any], shaken: Models, tokens: Ids) -> None:
    model, ids = shaken(extreme), tokens(2, 6)
    mask = torch.tensor([[0, 0, 0, 1, 1, 1], [1] * 6])
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    batch = model.generate(ids, attention_mask=mask, **options)
    alone = model.generate(ids[:1, 3:], **options)
    assert torch.equal(batch[0, 6:], alone[0, 3:])
    assert torch.equal(batch[1], model.generate(ids[1:], **options)[0])


def test_static_cache_generation(extreme: dict[str, Any], shaken: Models, tokens: Ids) -> None:
    model, prompt = shaken(extreme), tokens(2, 5)
    options = {"max_new_tokens": 6, "do_sample": False, "disable_compile": True}
    dynamic = model.generate(prompt, **options)
    assert torch.equal(model.generate(prompt, cache_implementation="static", **options), dynamic)


def test_generation_from_embeddings(extreme: dict[str, Any], shaken: Models, tokens: Ids) -> None:
    model, prompt = shaken(extreme), tokens(1, 5)
    embeddings = model.get_input_embeddings()(prompt)
    new = model.generate(inputs_embeds=embeddings, max_new_tokens=4, do_sample=False)
    assert torch.equal(new, model.generate(prompt, max_new_tokens=4, do_sample=False)[:, 5:])


def test_loss_is_the_shifted_cross_entropy(
    extreme: dict[str, Any], shaken: Models, tokens: Ids
) -> None:
    model, ids = shaken(extreme), tokens(2, 9)
    labels = ids.clone()
    labels[0, :4] = -100
    output = model(ids, labels=labels)
    expected = F.cross_entropy(output.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    torch.testing.assert_close(output.loss, expected)


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated:FutureWarning")
def test_gradient_checkpointing_gives_the_same_gradients(
    architecture: dict[str, Any], shaken: Models, tokens: Ids
) -> None:
    ids = tokens(2, 9)

    def gradients(checkpointing: bool) -> dict[str, Tensor]:
        model = shaken(architecture).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        assert all(block.gradient_checkpointing is checkpointing for block in model.transformer.h)
        model(ids, labels=ids).loss.backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    plain, checkpointed = gradients(False), gradients(True)
    assert set(plain) == {name for name, _ in shaken(architecture).named_parameters()}
    for name, gradient in plain.items():
        assert torch.equal(gradient, checkpointed[name]), name


@pytest.mark.parametrize("mlp", ["plain", "gated"])
def test_fresh_weights_follow_gpt2(mlp: str) -> None:
    torch.manual_seed(0)
    model = SloGPTForCausalLM(
        SloGPTConfig(
            vocab_size=500,
            hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=8,
            num_attention_heads=4,
            mlp=mlp,
        )
    )
    block = model.transformer.h[0]
    down = block.mlp.w2 if mlp == "gated" else block.mlp.c_proj
    assert block.attn.c_attn.weight.std().item() == pytest.approx(0.02, rel=0.03)
    assert block.attn.c_proj.weight.std().item() == pytest.approx(0.02 / 4, rel=0.03)
    assert down.weight.std().item() == pytest.approx(0.02 / 4, rel=0.03)
    assert not block.attn.c_proj.bias.any() and (block.ln_1.weight == 1).all()


def test_hidden_states_and_attentions(extreme: dict[str, Any], shaken: Models, tokens: Ids) -> None:
    model, ids = shaken(extreme, attn_implementation="eager"), tokens(2, 9)
    output = model(ids, output_hidden_states=True, output_attentions=True)
    assert [tuple(h.shape) for h in output.hidden_states] == [(2, 9, 32)] * 3
    assert torch.equal(model.lm_head(output.hidden_states[-1]), output.logits)
    assert [tuple(a.shape) for a in output.attentions] == [(2, 4, 9, 9)] * 2
    for weights in output.attentions:
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 9))
        assert not weights.triu(1).any()
    assert torch.equal(model(ids, return_dict=False)[0], output.logits)


def test_inputs_embeds(extreme: dict[str, Any], shaken: Models, tokens: Ids) -> None:
    model, ids = shaken(extreme), tokens(2, 9)
    embeddings = model.get_input_embeddings()(ids)
    assert torch.equal(model(inputs_embeds=embeddings).logits, model(ids).logits)
    for both in ({}, {"input_ids": ids, "inputs_embeds": embeddings}):
        with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
            model(**both)


def test_logits_to_keep(extreme: dict[str, Any], shaken: Models, tokens: Ids) -> None:
    model, ids = shaken(extreme), tokens(2, 9)
    full = model(ids).logits
    torch.testing.assert_close(model(ids, logits_to_keep=1).logits, full[:, -1:])
    picked = torch.tensor([0, 4])
    torch.testing.assert_close(model(ids, logits_to_keep=picked).logits, full[:, picked])


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_resize_token_embeddings(
    extreme: dict[str, Any], tied: bool, shaken: Models, tokens: Ids
) -> None:
    model, ids = shaken(extreme, tie_word_embeddings=tied), tokens(2, 9)
    before = model(ids).logits
    model.resize_token_embeddings(40)
    after = model(ids).logits
    assert after.shape == (2, 9, 40) and model.config.vocab_size == 40
    torch.testing.assert_close(after[..., :37], before)
    assert (model.lm_head.weight is model.transformer.wte.weight) == tied


def test_no_character_is_a_special_token_by_default(shaken: Models) -> None:
    config = SloGPTConfig()
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (None, None, None)
    generation = shaken(CLASSIC).generation_config
    assert (generation.bos_token_id, generation.eos_token_id) == (None, None)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"norm": "batchnorm"}, "norm='batchnorm'"),
        ({"positions": "rope"}, "positions='rope'"),
        ({"mlp": "relu"}, "mlp='relu'"),
        ({"hidden_size": 32, "num_attention_heads": 5}, "32 into 5 heads"),
        ({"hidden_size": 36, "num_attention_heads": 4, "positions": "rotary"}, "even head size"),
    ],
)
def test_impossible_config(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SloGPTConfig(**fields)
