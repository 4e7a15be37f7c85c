"""Good Slo checkpoints: every prefix, dtype and field that trainers write."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from slogpt_hf.checkpoints import Checkpoint, read_checkpoint
from slogpt_hf.checkpoints.dialects import slo
from slogpt_hf.checkpoints.parts import parts_for, tensor_shapes
from slogpt_hf.errors import CheckpointError

Write = Callable[..., Path]
Content = Callable[..., dict[str, Any]]


def saved(content: Any, tmp_path: Path) -> Path:
    path = tmp_path / "ckpt.pt"
    torch.save(content, path)
    return path


def test_spec_of_every_architecture(slo_checkpoint: Write, switches: dict[str, bool]) -> None:
    spec = read_checkpoint(slo_checkpoint(**switches)).spec
    rope, rmsnorm = switches["use_rope"], switches["use_rmsnorm"]
    assert spec.positions == ("rotary" if rope else "learned")
    assert spec.norm == ("rmsnorm" if rmsnorm else "layernorm")
    assert spec.mlp == ("gated" if switches["use_swiglu"] else "plain")
    assert spec.activation == ("silu" if switches["use_swiglu"] else "gelu")
    assert spec.linear_bias == switches["bias"]
    assert spec.norm_bias == (switches["bias"] and not rmsnorm)
    assert spec.norm_eps == (1e-6 if rmsnorm else 1e-5)
    assert spec.n_hidden == 128
    assert (spec.rope_theta, spec.rotary_pairs) == (
        (10_000.0, "interleaved") if rope else (None, None)
    )
    assert json.loads(json.dumps(spec.to_dict())) == spec.to_dict()


def test_parts_cover_every_row_once(slo_checkpoint: Write, switches: dict[str, bool]) -> None:
    spec = read_checkpoint(slo_checkpoint(**switches)).spec
    rows: dict[str, list[int]] = {}
    for role, part in parts_for(slo.names(spec), spec).items():
        if not role.rpartition(".")[0].endswith("attn.qkv"):
            first, stop = part.rows or (0, tensor_shapes(slo.names(spec), spec)[part.source][0])
            rows.setdefault(part.source, []).extend(range(first, stop))
    assert {name: sorted(found) for name, found in rows.items()} == {
        name: list(range(shape[0])) for name, shape in tensor_shapes(slo.names(spec), spec).items()
    }


@pytest.mark.parametrize(
    "prefix", ["_orig_mod.", "module.", "_orig_mod.module.", "module._orig_mod.module."]
)
def test_wrapper_prefixes_are_removed(slo_checkpoint: Write, prefix: str) -> None:
    plain, wrapped = (read_checkpoint(slo_checkpoint(prefix=p)) for p in ("", prefix))
    assert plain.spec == wrapped.spec
    assert plain.tensors.keys() == wrapped.tensors.keys()
    assert all(torch.equal(plain.tensors[name], wrapped.tensors[name]) for name in plain.tensors)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_dtype_is_the_weights(slo_checkpoint: Write, dtype: str) -> None:
    checkpoint = read_checkpoint(slo_checkpoint(dtype=dtype))
    assert checkpoint.dtype == dtype
    assert {t.dtype for t in checkpoint.tensors.values()} == {getattr(torch, dtype)}


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (torch.tensor(1.25), 1.25),
        (torch.tensor([1.25]), 1.25),
        (1.25, 1.25),
        (2, 2.0),
        (1e9, None),
        (torch.tensor(1e9), None),
        (float("nan"), None),
        (float("inf"), None),
        (torch.tensor(float("nan")), None),
        (torch.tensor([1.0, 2.0]), None),
        (True, None),
        ("1.25", None),
        (10**400, None),
        (None, None),
    ],
)
def test_validation_loss(slo_content: Content, tmp_path: Path, loss: Any, expected: Any) -> None:
    path = saved(slo_content() | {"best_val_loss": loss}, tmp_path)
    assert read_checkpoint(path).facts.val_loss == expected


def test_training_facts(slo_content: Content, tmp_path: Path) -> None:
    content = slo_content(role="critic")
    content["config"] |= {"device": "cuda", "betas": (0.9, 0.95), "grad_clip": float("inf")}
    facts = read_checkpoint(saved(content, tmp_path)).facts
    assert (facts.step, facts.val_loss, facts.dataset) == (250, 1.25, "characters")
    assert facts.settings["role"] == "critic"
    assert facts.settings["learning_rate"] == 1e-3
    assert facts.settings["device"] == "cuda"
    json.dumps(facts.settings, allow_nan=False)


@pytest.mark.parametrize("field", ["optimizer", "iter_num", "best_val_loss", "config"])
def test_what_the_weights_do_not_need_may_be_missing(
    slo_content: Content, tmp_path: Path, field: str
) -> None:
    content = slo_content()
    del content[field]
    assert read_checkpoint(saved(content, tmp_path)).n_parameters > 0


def test_missing_switches_are_off_and_biases_are_seen(slo_content: Content, tmp_path: Path) -> None:
    content = slo_content(bias=True)
    del content["model_args"]["bias"]
    assert read_checkpoint(saved(content, tmp_path)).spec.linear_bias
    content = slo_content(bias=False)
    del content["model_args"]["bias"]
    assert not read_checkpoint(saved(content, tmp_path)).spec.linear_bias


def test_causal_mask_buffers_are_ignored(slo_content: Content, tmp_path: Path) -> None:
    content = slo_content(bias=False, prefix="_orig_mod.")
    for i in range(2):
        name = f"_orig_mod.transformer.h.{i}.attn"
        content["model"][f"{name}.bias"] = torch.ones(1, 1, 24, 24).tril()
        content["model"][f"{name}.masked_bias"] = torch.tensor(-1e4)
    checkpoint = read_checkpoint(saved(content, tmp_path))
    assert set(checkpoint.tensors) == set(
        tensor_shapes(slo.names(checkpoint.spec), checkpoint.spec)
    )


def test_head_is_tied_by_value_not_by_storage(slo_content: Content, tmp_path: Path) -> None:
    def tied(head: torch.Tensor) -> bool:
        content = slo_content()
        content["model"]["lm_head.weight"] = head
        return read_checkpoint(saved(content, tmp_path)).spec.tied

    embedding = slo_content()["model"]["transformer.wte.weight"]
    assert tied(embedding.clone())
    changed = embedding.clone()
    changed[-1, -1] += 1e-6
    assert not tied(changed)


def test_head_that_is_a_transposed_view_of_the_embedding_is_not_tied(
    slo_content: Content, tmp_path: Path
) -> None:
    content = slo_content(vocab_size=32)
    content["model"]["lm_head.weight"] = content["model"]["transformer.wte.weight"].t()
    assert not read_checkpoint(saved(content, tmp_path)).spec.tied


def test_parameters_and_odd_strides_are_weights_too(slo_content: Content, tmp_path: Path) -> None:
    content = slo_content()
    model = {name: nn.Parameter(tensor) for name, tensor in content["model"].items()}
    name = "transformer.h.0.mlp.c_fc.weight"
    model[name] = nn.Parameter(content["model"][name].t().contiguous().t())
    checkpoint = read_checkpoint(saved(content | {"model": model}, tmp_path))
    assert not any(tensor.requires_grad for tensor in checkpoint.tensors.values())
    assert torch.equal(checkpoint.tensors[name], content["model"][name])


def test_number_of_parameters(slo_checkpoint: Write) -> None:
    def count(checkpoint: Checkpoint) -> int:
        unique = {t.data_ptr(): t.numel() for t in checkpoint.tensors.values()}
        return sum(unique.values())

    tied, untied = (read_checkpoint(slo_checkpoint(tied=tied)) for tied in (True, False))
    assert tied.n_parameters == count(tied)
    assert untied.n_parameters == count(untied) == tied.n_parameters + 37 * 32


def test_what_no_checkpoint_records_is_an_assumption(slo_checkpoint: Write) -> None:
    found = read_checkpoint(slo_checkpoint(use_rope=True, use_rmsnorm=True)).assumptions
    values = {each.name: each.value for each in found}
    assert (values["norm_eps"], values["rope_theta"]) == (1e-6, 10_000.0)


def test_optimizer_state_is_never_read(slo_checkpoint: Write, tmp_path: Path) -> None:
    """Overwritten where it lies in the file, it changes nothing and is not checked."""
    path = slo_checkpoint(optimizer=True)
    before = {name: t.clone() for name, t in read_checkpoint(path).tensors.items()}
    content = bytearray(path.read_bytes())
    # Two of ones for every tensor, and nowhere else in the file.
    ones = torch.ones(32).numpy().tobytes()
    n_spoiled = content.count(ones)
    assert n_spoiled >= 2 * len(before)
    spoiled = tmp_path / "ckpt.pt"
    spoiled.write_bytes(content.replace(ones, b"\xff" * len(ones)))
    with zipfile.ZipFile(spoiled) as archive:
        assert archive.testzip() is not None
    after = read_checkpoint(spoiled).tensors
    assert all(torch.equal(after[name], before[name]) for name in before)


def overwritten(path: Path) -> None:
    stat = path.stat()
    path.write_bytes(path.read_bytes())
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))


def replaced(path: Path) -> None:
    stat, other = path.stat(), path.with_name("new.pt")
    shutil.copyfile(path, other)
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    other.replace(path)


def cut_short(path: Path) -> None:
    stat = path.stat()
    os.truncate(path, stat.st_size // 2)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize("change", [overwritten, replaced, cut_short, Path.unlink])
def test_file_that_changes_after_it_was_opened_is_noticed(
    slo_checkpoint: Write, change: Callable[[Path], None]
) -> None:
    path = slo_checkpoint()
    checkpoint = read_checkpoint(path)
    checkpoint.require_unchanged()
    change(path)
    with pytest.raises(CheckpointError, match="changed while it was being released") as caught:
        checkpoint.require_unchanged()
    assert caught.value.exit_code == 3
    assert str(path) in caught.value.message
    assert "when training has saved it" in caught.value.hint


CHARACTERS = "".join(map(chr, range(48, 48 + 37)))
STOI = {c: i for i, c in enumerate(CHARACTERS)}
TABLES: dict[str, dict[str, Any]] = {
    "both": {"stoi": STOI, "itos": dict(enumerate(CHARACTERS)), "vocab_size": 37},
    "stoi": {"stoi": STOI},
    "itos list": {"itos": list(CHARACTERS)},
    "chars": {"chars": list(CHARACTERS)},
    "chars as text": {"chars": CHARACTERS, "vocab_size": 37},
}


@pytest.mark.parametrize("place", ["", "config", "meta"])
@pytest.mark.parametrize("form", TABLES)
def test_vocabulary_in_the_checkpoint(
    slo_content: Content, tmp_path: Path, form: str, place: str
) -> None:
    content = slo_content()
    content |= {place: content.get(place, {}) | TABLES[form]} if place else TABLES[form]
    path = saved(content, tmp_path)
    checkpoint = read_checkpoint(path)
    assert checkpoint.vocabulary is not None
    assert "".join(checkpoint.vocabulary.characters) == CHARACTERS
    assert checkpoint.vocabulary.source == str(path)


def test_padded_vocab_size_of_the_settings_is_the_models(
    slo_content: Content, tmp_path: Path
) -> None:
    content = slo_content()
    content["config"] |= {"chars": "abc", "vocab_size": 37}
    vocabulary = read_checkpoint(saved(content, tmp_path)).vocabulary
    assert vocabulary is not None and vocabulary.size == 3


def test_checkpoint_without_a_vocabulary(slo_checkpoint: Write) -> None:
    checkpoint = read_checkpoint(slo_checkpoint())
    assert checkpoint.vocabulary is None
    assert "vocabulary" not in " ".join(checkpoint.notes)


@pytest.mark.parametrize(
    "tables",
    [
        {"stoi": {"a": 0, "b": 0}},
        {"itos": ["a"], "stoi": {"b": 0}},
        {"chars": torch.arange(5)},
        {"chars": True},
        {"itos": [["a"]]},
        {"chars": "ab", "vocab_size": torch.arange(2)},
        {"stoi": {}},
    ],
)
def test_vocabulary_that_is_none_is_said_and_not_used(
    slo_content: Content, tmp_path: Path, tables: dict[str, Any]
) -> None:
    checkpoint = read_checkpoint(saved(slo_content() | tables, tmp_path))
    assert checkpoint.vocabulary is None
    (note,) = (note for note in checkpoint.notes if "vocabulary in the checkpoint" in note)
    assert str(tmp_path) not in note  # notes are published


def test_weights_stay_on_the_disk(slo_checkpoint: Write) -> None:
    """A read maps the file: what is written to the file afterwards shows in the tensor."""
    path = slo_checkpoint()
    tensor = read_checkpoint(path).tensors["transformer.ln_f.weight"]
    raw = tensor.clone().numpy().tobytes()
    content = path.read_bytes()
    assert content.count(raw) == 1
    with path.open("r+b") as file:
        file.seek(content.index(raw))
        file.write(torch.full((32,), 7.0).numpy().tobytes())
    assert torch.equal(tensor, torch.full((32,), 7.0))
