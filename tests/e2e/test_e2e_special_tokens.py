"""Special tokens that were asked for: appended, never generated, the original's columns proven."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

ROLES = {"pad": 37, "eos": 38, "bos": 39, "unk": 40}
ASKED = ("--special-tokens", "pad,eos,bos,unk")
# GPT-2 with a tied head, Llama with one of its own, and the modeling file that ships.
SWITCHES = {
    "gpt2": {},
    "llama": {"use_rope": True, "use_swiglu": True, "use_rmsnorm": True},
    "own": {"use_swiglu": True, "use_rmsnorm": True},
}


@pytest.fixture(scope="module")
def artefacts(
    slo_content: Callable[..., dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
    cli: Callable[..., Any],
    characters: Path,
) -> dict[str, tuple[Path, Path, Any]]:
    """By architecture: checkpoint, artefact and what converting printed."""
    made = {}
    for name, switches in SWITCHES.items():
        folder = tmp_path_factory.mktemp(name)
        content = slo_content(n_layer=1, **switches)
        if name == "llama":  # untied, and every logit of the original below zero somewhere
            content["model"]["lm_head.weight"] = -content["model"]["lm_head.weight"].clone()
        torch.save(content, folder / "ckpt.pt")
        paths = folder / "ckpt.pt", folder / "out"
        made[name] = (*paths, cli("convert-model", characters, *paths, *ASKED, "--json"))
    return made


def forward(folder: Path, ids: torch.Tensor) -> tuple[Any, torch.Tensor]:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    with torch.no_grad():
        return model, model(ids).logits


@pytest.mark.parametrize("name", SWITCHES)
def test_rows_are_appended_and_the_originals_columns_are_its_own(
    artefacts: Any, name: str, tmp_path: Path, cli: Callable[..., Any], characters: Path
) -> None:
    checkpoint, folder, outcome = artefacts[name]
    assert outcome.code == 0, outcome.err
    plain = tmp_path / "plain"
    assert cli("convert-model", characters, checkpoint, plain).code == 0
    ids = torch.arange(20)[None] % 37
    model, logits = forward(folder, ids)
    _, own = forward(plain, ids)
    assert logits.shape[-1] == 41 == model.config.vocab_size and own.shape[-1] == 37
    assert torch.allclose(logits[..., :37], own, rtol=1e-5, atol=1e-6)
    assert not logits[..., 37:].any()
    config = model.config
    assert (config.pad_token_id, config.eos_token_id, config.bos_token_id) == (37, 38, 39)
    assert model.generation_config.suppress_tokens == [37, 38, 39, 40]
    record = outcome.json
    assert record["tokenizer"]["special_tokens"] == ROLES
    assert record["model"]["spec"]["vocab_size"] == 37
    assert record["model"]["n_parameters"] == model.num_parameters()
    report = json.loads((folder / "parity.json").read_text())
    assert report["appended_rows"] == 4 and report["embedding_rows"] == 37
    acts = {act["name"]: act["passed"] for act in report["behaviours"]}
    assert acts["appended ids are never generated"] is True
    card = (folder / "README.md").read_text()
    assert "`eos` is id 38" in card and "The last 4 ids are new" in card
    assert "No end token was trained" in card  # it is never generated


def test_none_of_them_is_generated_where_it_would_be_the_likeliest(
    artefacts: Any, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    folder = tmp_path / "copy"
    shutil.copytree(artefacts["llama"][1], folder)
    tensors = load_file(folder / "model.safetensors")
    # Every logit of the original is below zero: what was appended has the largest one.
    tensors["model.norm.weight"] = tensors["model.norm.weight"].abs() + 1.0
    tensors["lm_head.weight"][:37] = 0.0
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    model = AutoModelForCausalLM.from_pretrained(folder)
    for options in ({"do_sample": True}, {"do_sample": False}):
        made = model.generate(torch.tensor([[1]]), max_new_tokens=20, **options)
        assert made.shape[1] == 21 and int(made.max()) < 37


def test_the_tokenizer_names_them(artefacts: Any) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(artefacts["gpt2"][1])
    assert {
        role: getattr(tokenizer, f"{role}_token_id") for role in ("pad", "eos", "bos", "unk")
    } == ROLES
    assert tokenizer.encode("a<") == [tokenizer.get_vocab()["a"], 40]
    padded = tokenizer(["ab", "a"], padding=True)
    assert padded["input_ids"][1][1] == 37
    assert tokenizer.decode(padded["input_ids"][1], skip_special_tokens=True) == "a"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("row", "the rows 37 to 40, which the original has not, are not zero"),
        ("unsuppressed", "does not keep id 38 from being generated"),
        ("suppressed", "keeps id 3 from being generated, which the original may"),
        ("column", "first leaves it at embedding"),
    ],
)
def test_the_gate_refuses_other_rows(
    artefacts: Any, tmp_path: Path, cli: Callable[..., Any], change: str, said: str
) -> None:
    checkpoint, folder, _ = artefacts["gpt2"]
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    assert cli("verify", checkpoint, copy).code == 0
    weights, generation = copy / "model.safetensors", copy / "generation_config.json"
    tensors = load_file(weights)
    suppressed = {"unsuppressed": [37, 39, 40], "suppressed": [3, 37, 38, 39, 40]}
    if change in suppressed:
        content = json.loads(generation.read_text())
        generation.write_text(json.dumps(content | {"suppress_tokens": suppressed[change]}))
    else:
        tensors["transformer.wte.weight"][39 if change == "row" else 3, 0] += 1e-3
        save_file(tensors, weights, {"format": "pt"})
    outcome = cli("verify", checkpoint, copy)
    assert outcome.code == 4 and said in outcome.text


def test_entries_that_are_there_and_rows_to_spare_are_named(
    slo_checkpoint: Callable[..., Path],
    tmp_path: Path,
    cli: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    import pickle

    from transformers.utils import logging

    logging.get_logger().addHandler(caplog.handler)
    logging.get_logger().warning_once.cache_clear()

    entries = ["<pad>", *map(chr, range(97, 97 + 26)), "</s>"]  # 28 of the model's 37
    (tmp_path / "data").mkdir()
    meta = {"itos": entries, "stoi": {c: i for i, c in enumerate(entries)}}
    (tmp_path / "data" / "meta.pkl").write_bytes(pickle.dumps(meta))
    out = tmp_path / "out"
    outcome = cli(
        "convert-model", tmp_path / "data", slo_checkpoint(n_layer=1), out,
        "--allow-spare-ids", "--special-tokens", "bos,pad,eos", "--json",
    )  # fmt: skip
    logging.get_logger().removeHandler(caplog.handler)
    assert outcome.code == 0, outcome.err
    # transformers warns of pads without a mask, which the checks pass for good.
    assert not [each for each in caplog.messages if "attention_mask" in each]
    record = outcome.json
    assert record["tokenizer"]["special_tokens"] == {"pad": 0, "eos": 27, "bos": 28}
    assert json.loads((out / "config.json").read_text())["vocab_size"] == 37
    assert "suppress_tokens" not in json.loads((out / "generation_config.json").read_text())
    assert json.loads((out / "parity.json").read_text())["appended_rows"] == 0


def test_a_release_with_them_is_another_interface(
    artefacts: Any, tmp_path: Path, cli: Callable[..., Any], characters: Path
) -> None:
    release = ("release", artefacts["gpt2"][0], "--repo-id", "me/x", "--hub", tmp_path / "hub")
    assert "Released me/x 1.0.0" in cli(*release, "--dataset", characters).out
    assert "Released me/x 2.0.0" in cli(*release, "--dataset", characters, *ASKED).out
    assert "Nothing new" in cli(*release, "--dataset", characters, *ASKED).out
    assert cli("verify-release", "me/x@v2.0.0", "--hub", tmp_path / "hub").code == 0


def test_what_cannot_be_meant_is_refused(
    artefacts: Any, tmp_path: Path, cli: Callable[..., Any], characters: Path
) -> None:
    args = ("convert-model", characters, artefacts["gpt2"][0], tmp_path / "out")
    assert "none of pad, eos, bos, unk" in cli(*args, "--special-tokens", "pad,mask").err
    both = cli(*args, "--special-tokens", "unk", "--unknown", "a")
    assert both.code == 2 and "special token 'unk'" in both.err
    none = cli(*args, "--tokenizer", "none", *ASKED)
    assert none.code == 2 and "a model without a vocabulary takes none" in none.err
    assert not (tmp_path / "out").exists()
