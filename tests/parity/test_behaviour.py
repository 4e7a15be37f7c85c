"""What people do with a model: each check fails when its own thing is broken, and only then."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from slogpt_hf.checkpoints import Checkpoint
from slogpt_hf.errors import UsageError
from slogpt_hf.parity import behaviour
from slogpt_hf.parity.behaviour import long_sequence, sequence_for
from slogpt_hf.parity.gate import verify_artefact
from slogpt_hf.parity.report import ParityReport

Make = Callable[..., Checkpoint]
Write = Callable[..., Path]
Convert = Callable[..., tuple[Checkpoint, Path]]
Pair = tuple[Checkpoint, Path]

TEXT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8]
CHECKS = [*behaviour.CHECKS, "greedy continuation", "loss on real text", "saved and loaded again"]
ROTARY = {"use_rope": True, "bias": False}
CLASSES: dict[str, dict[str, bool]] = {
    "GPT2": {},
    "Llama": {"use_rope": True, "use_swiglu": True, "use_rmsnorm": True},
    "Starcoder2": {"use_rope": True},
    "StableLM": {**ROTARY, "use_swiglu": True},
    "Arcee": {**ROTARY, "use_rmsnorm": True},
    "SloGPT": {"use_rope": True, "use_swiglu": True},
    "SloGPT, learned": {"use_rmsnorm": True},
}


def failed(report: ParityReport) -> list[str]:
    return [act.name for act in report.behaviours if not act.passed]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("kind", CLASSES)
def test_every_class_behaves(
    kind: str, dtype: str, slo_checkpoint: Write, convert: Convert
) -> None:
    checkpoint, folder = convert(slo_checkpoint(dtype=dtype, **CLASSES[kind]))
    report = verify_artefact(checkpoint, folder, text_ids=TEXT)
    assert report.passed, report.failures
    names = [act.name for act in report.behaviours]
    assert names == CHECKS + (["loaded whole"] if dtype != "float64" else [])
    assert all(act.error <= act.bound for act in report.behaviours)
    loss = next(act for act in report.behaviours if act.name == "loss on real text")
    assert loss.note.startswith("loss ") and "perplexity" in loss.note


@pytest.mark.parametrize("sizes", [{"block_size": 1}, {"block_size": 2}, {"vocab_size": 1}])
def test_the_smallest_models_behave(
    sizes: dict[str, int], slo_checkpoint: Write, convert: Convert
) -> None:
    checkpoint, folder = convert(slo_checkpoint(n_layer=1, **sizes))
    report = verify_artefact(checkpoint, folder, text_ids=[0])
    assert report.passed, report.failures


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device"),
    ],
)
def test_a_full_disk_is_no_bug_and_no_finding(
    error: Exception, slo_checkpoint: Write, convert: Convert, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise error

    checkpoint, folder = convert(slo_checkpoint(n_layer=1))
    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", full)
    with pytest.raises(UsageError, match=r"cannot be written: .*No space left .* TMPDIR"):
        verify_artefact(checkpoint, folder)


@pytest.fixture
def custom(tmp_path: Path, slo_checkpoint: Write, convert: Convert) -> Pair:
    """An artefact that brings its code: learned positions, which padding moves."""
    checkpoint, folder = convert(slo_checkpoint(use_rmsnorm=True))
    return checkpoint, Path(shutil.copytree(folder, tmp_path / "artefact"))


def edit(folder: Path, *changes: tuple[str, str]) -> None:
    path = folder / "modeling_slogpt.py"
    source = path.read_text()
    for before, after in changes:
        assert source.count(before) == 1, before
        source = source.replace(before, after)
    path.write_text(source)


HEAD = "logits = self.lm_head(outputs.last_hidden_state[:, kept])  # (B, T or fewer, V)\n"
FORWARD = "    @can_return_tuple\n    def forward("
FROM_PRETRAINED = """
    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        found = super().from_pretrained(*args, **kwargs)
        (found[0] if isinstance(found, tuple) else found).factor = 1.001
        return found

"""
BROKEN: dict[str, tuple[list[tuple[str, str]], list[str]]] = {
    "positions start anew behind a cache": (
        [("(torch.arange(T, device=x.device) + past)[None]", "torch.arange(T)[None]")],
        ["decoding with the cache"],
    ),
    "the cache forgets its first token in long sequences": (
        [
            (
                "            k, v = cache.update(k, v, self.layer_idx, **more)  # (B, K, S, D)\n",
                "            k, v = cache.update(k, v, self.layer_idx, **more)\n"
                "            if T == 1 and k.shape[2] == 24:\n"
                "                v = v.clone()\n"
                "                v[:, :, 0] = 0\n",
            )
        ],
        ["decoding with the cache"],
    ),
    "the mask is not looked at": (
        [
            (
                "            attention_mask=attention_mask,\n"
                "            position_ids=position_ids,\n"
                "            **held,\n        )\n        rotary = None",
                "            attention_mask=None,\n"
                "            position_ids=None,\n"
                "            **held,\n        )\n        rotary = None",
            )
        ],
        ["left padding"],
    ),
    "the given positions are not looked at": (
        [
            ("        T = x.shape[1]\n", "        T, position_ids = x.shape[1], None\n"),
            (
                "            if attention_mask is not None and attention_mask.ndim",
                "            if False and 0",
            ),
        ],
        ["left padding"],
    ),
    "padding changes what is not padded": (
        [
            (
                "        x = self.drop(self.embedding_multiplier * x)\n",
                "        x = self.drop(self.embedding_multiplier * x)\n"
                "        if attention_mask is not None:\n"
                "            x = x * attention_mask.double().mean()\n",
            )
        ],
        ["left padding", "right padding"],
    ),
    "a batch is another model": (
        [
            (
                "        x = self.drop(self.embedding_multiplier * x)\n",
                "        x = x * (1.001 if x.shape[0] == 1 else 1.0)\n",
            )
        ],
        ["batched against single", "left padding", "right padding"],
    ),
    "eager attention has another scale": (
        [("query @ key.transpose(-2, -1) * scaling", "query @ key.transpose(-2, -1) * 0.3")],
        ["eager against fused attention"],
    ),
    "the loss is not shifted": (
        [("self.loss_function(logits, labels,", "self.loss_function(logits, labels.roll(1, 1),")],
        ["loss on real text"],
    ),
    "a tensor is not saved": (
        [
            (
                '    _input_embed_layer = "wte"\n',
                '    _input_embed_layer = "wte"\n'
                '    _keys_to_ignore_on_save = ["transformer.h.0.ln_1.weight"]\n',
            )
        ],
        ["saved and loaded again"],
    ),
    "loading makes another model": (
        [
            (HEAD, HEAD + '        logits = logits * getattr(self, "factor", 1.0)\n'),
            (FORWARD, FROM_PRETRAINED + FORWARD),
        ],
        ["loaded whole"],
    ),
    "generation leaves the last token out": (
        [
            (
                "    @can_return_tuple\n    def forward(",
                "    def prepare_inputs_for_generation(self, input_ids, **kwargs):\n"
                "        return {'input_ids': input_ids[:, :3], 'use_cache': False}\n\n"
                "    @can_return_tuple\n    def forward(",
            )
        ],
        ["greedy continuation"],
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_check_fails_when_its_own_thing_is_broken(fault: str, custom: Pair) -> None:
    checkpoint, folder = custom
    changes, names = BROKEN[fault]
    edit(folder, *changes)
    text = TEXT if "loss" in fault else []
    report = verify_artefact(checkpoint, folder, text_ids=text, trust_remote_code=True)
    assert report.fp64_error < 1e-13
    assert report.verdict == "failed"
    assert set(names) <= set(failed(report))
    # What a cache or a position spoils, a continuation may show too.
    assert set(failed(report)) <= {*names, "greedy continuation"}
    assert report.first_divergence == failed(report)[0]


@pytest.mark.parametrize(
    "settings",
    [
        {"repetition_penalty": 50.0},
        {"suppress_tokens": list(range(36))},
        {"no_repeat_ngram_size": 1},
        {"min_new_tokens": 1, "forced_eos_token_id": 0, "eos_token_id": 0},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_generation_settings_that_change_the_continuation_fail(
    settings: dict[str, Any], custom: Pair
) -> None:
    checkpoint, folder = custom
    (folder / "generation_config.json").write_text(json.dumps(settings))
    report = verify_artefact(checkpoint, folder, text_ids=TEXT)
    assert failed(report) == ["greedy continuation"]


@pytest.mark.parametrize("where", ["config.json", "generation_config.json"])
def test_an_end_of_text_that_the_model_says_is_no_fault(where: str, custom: Pair) -> None:
    """What ends a text is not the model's but the vocabulary's business."""
    checkpoint, folder = custom
    path = folder / where
    content = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(content | {"eos_token_id": list(range(37)), "pad_token_id": 0}))
    report = verify_artefact(checkpoint, folder, text_ids=TEXT)
    assert report.passed, report.failures


def test_nothing_is_tried_with_an_artefact_that_failed(
    slo_checkpoint: Write, convert: Convert
) -> None:
    checkpoint, _ = convert(slo_checkpoint())
    _, folder = convert(slo_checkpoint(seed=1))
    report = verify_artefact(checkpoint, folder)
    assert report.verdict == "failed" and report.behaviours == ()


@pytest.mark.parametrize(("count", "block"), [(1, 1), (2, 9), (3, 9), (100, 9), (100, 99), (7, 1)])
def test_sequences_fit(count: int, block: int) -> None:
    ids = sequence_for(torch.arange(count)[None], block)
    assert ids.shape[0] == 2 and 1 <= ids.shape[1] <= min(16, block, max(1, count // 2))
    long = long_sequence(torch.arange(count)[None], 1 << 20)
    assert (long is None) == (count == 1)
    assert long is None or long.shape == (1, min(count, 8))
