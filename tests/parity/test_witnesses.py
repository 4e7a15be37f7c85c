"""Other witnesses: how they are judged, and how much they have to see before they confirm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from slogpt_hf.checkpoints import Checkpoint, read_checkpoint
from slogpt_hf.checkpoints.assumptions import Assumption
from slogpt_hf.errors import CheckpointError
from slogpt_hf.parity import decoder
from slogpt_hf.parity.comparing import absolute_error, run_of
from slogpt_hf.parity.decoder import Decoder
from slogpt_hf.parity.families import SLO
from slogpt_hf.parity.gate import Examination, verify_artefact
from slogpt_hf.parity.judging import noise_bound
from slogpt_hf.parity.merging import Merged
from slogpt_hf.parity.oracles import Testimony as Said
from slogpt_hf.parity.oracles import witnesses
from slogpt_hf.parity.rounding import Rounded, rounded
from slogpt_hf.recorded import record_parity

Write = Callable[..., Path]
Convert = Callable[..., tuple[Checkpoint, Path]]
ADAPTED = "transformer.h.0.attn.c_attn"
EPS = Assumption("norm_eps", 1e-5, "no file records it", "an epsilon of 1e-05")
HEADS = Assumption("n_head", 4, "given by hand", "4 heads")


def adapted(content: dict[str, Any], seed: int, path: Path) -> Checkpoint:
    """A checkpoint with a LoRA beside a weight, whose scores nearly cancel now and then."""
    draw = torch.Generator().manual_seed(seed)
    rows, columns = content["model"][f"{ADAPTED}.weight"].shape
    content["model"] |= {
        f"{ADAPTED}.lora_A": torch.randn(4, columns, generator=draw),
        f"{ADAPTED}.lora_B": torch.randn(rows, 4, generator=draw),
    }
    torch.save(content, path)
    return read_checkpoint(path, {"lora_alpha": 16}, None)


def merged_class(checkpoint: Checkpoint, ids: Tensor, *, exact: bool = True) -> Said:
    """What a class without a place for adapters says: the same function, rounded otherwise."""
    merged = Merged(checkpoint.tensors, checkpoint.adapters)
    single, double = (
        decoder.logits(Decoder(SLO, checkpoint.spec, tensors), ids, dtype)
        for tensors, dtype in (
            (Rounded(merged, torch.float32), torch.float32),
            (merged, torch.float64),
        )
    )
    return Said("the class", ids, single, double if exact else None)


def models_of(checkpoint: Checkpoint) -> Any:
    """An artefact that is the built-in model with merged weights, without a folder."""
    original = rounded(checkpoint, torch.float32)
    return SimpleNamespace(
        original=original,
        single=torch.float32,
        exact=torch.float64,
        artefact=lambda dtype, ids: run_of(original, ids, dtype),
    )


@torch.no_grad()
def test_one_draw_of_the_noise_refuses_and_more_do_not(
    slo_content: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    refused = false_alarms = 0
    for seed in range(20, 80):
        content = slo_content(n_layer=1, n_embd=16, n_head=2, seed=seed)
        checkpoint = adapted(content, seed, tmp_path / "ckpt.pt")
        ids = torch.randint(0, 37, (2, 5), generator=torch.Generator().manual_seed(seed))
        source = Decoder(SLO, checkpoint.spec, checkpoint.tensors, checkpoint.adapters)
        said = merged_class(checkpoint, ids)
        (heard,) = witnesses([said], source, models_of(checkpoint))
        false_alarms += not heard.agrees
        runs = [run_of(source, ids, dtype) for dtype in (torch.float32, torch.float64)]
        refused += heard.built_in_error > noise_bound(*absolute_error(37, *runs), torch.float32)
    assert false_alarms == 0
    assert refused > 0  # by the rule of one draw


@torch.no_grad()
@pytest.mark.parametrize("exact", [True, False])
def test_a_small_difference_is_no_rounding_however_often_it_is_drawn(
    exact: bool, slo_content: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """Epsilon off by a factor of ten, which logits in float32 may just show."""
    torch.save(slo_content(n_layer=1), tmp_path / "ckpt.pt")
    checkpoint = read_checkpoint(tmp_path / "ckpt.pt")
    ids = torch.arange(24)[None]
    other = replace(checkpoint, spec=replace(checkpoint.spec, norm_eps=1e-4))
    source = Decoder(SLO, checkpoint.spec, checkpoint.tensors)
    said = merged_class(other, ids, exact=exact)
    (heard,) = witnesses([said], source, models_of(checkpoint))
    assert not heard.agrees


class Original(nn.Module):
    """The model of a checkpoint, as the trainer would call it."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.inner = Decoder(SLO, checkpoint.spec, checkpoint.tensors)

    def forward(self, ids: Tensor, targets: Tensor | None = None) -> Any:
        return decoder.logits(self.inner, ids, torch.float32), None


@pytest.fixture
def pair(slo_checkpoint: Write, convert: Convert, tmp_path: Path) -> tuple[Checkpoint, Path]:
    """A checkpoint of a folder of its own, with two assumptions, and its artefact."""
    path = tmp_path / "ckpt.pt"
    path.write_bytes(slo_checkpoint(n_layer=1).read_bytes())
    checkpoint, folder = convert(path)
    return replace(checkpoint, assumptions=(EPS, HEADS)), folder


def test_without_a_witness_everything_is_assumed(pair: tuple[Checkpoint, Path]) -> None:
    report = verify_artefact(*pair)
    assert report.level == "assumed" and report.confirmed == ()
    assert report.assumptions == (EPS, HEADS)
    assert "assumed: an epsilon of 1e-05, 4 heads" in report.summary()


@pytest.mark.parametrize("length", [23, 24])
def test_a_recording_confirms_what_it_has_seen_whole(
    length: int, pair: tuple[Checkpoint, Path]
) -> None:
    checkpoint, folder = pair
    record_parity(Original(checkpoint), checkpoint.path, torch.arange(length)[None])
    report = verify_artefact(checkpoint, folder)
    assert report.passed and report.witnesses[0].agrees
    whole = length == checkpoint.spec.block_size
    assert report.level == ("witnessed" if whole else "assumed")
    assert report.confirmed == ((EPS, HEADS) if whole else ())
    assert report.assumptions == (() if whole else (EPS, HEADS))
    assert [("agrees on 23 positions; it takes 24" in note) for note in report.notes] == (
        [] if whole else [True]
    )


def test_a_witness_confirms_nothing_that_it_was_told(
    pair: tuple[Checkpoint, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, folder = pair

    def told(self: Examination) -> Any:
        said = merged_class(checkpoint, self.witness_ids)
        assert said.ids.shape == (2, 24)  # the whole context
        yield replace(said, told=("n_head",))

    monkeypatch.setattr(Examination, "testimonies", told)
    report = verify_artefact(checkpoint, folder)
    assert report.level == "witnessed"
    assert (report.confirmed, report.assumptions) == ((EPS,), (HEADS,))


def test_a_recording_of_another_save_is_told_from_another_model(
    pair: tuple[Checkpoint, Path], slo_checkpoint: Write
) -> None:
    checkpoint, folder = pair
    ids, now = torch.arange(24)[None], checkpoint.path.read_bytes()
    checkpoint.path.write_bytes(slo_checkpoint(n_layer=1, seed=1).read_bytes())
    record_parity(Original(read_checkpoint(checkpoint.path)), checkpoint.path, ids)
    checkpoint.path.write_bytes(now)
    checkpoint = replace(read_checkpoint(checkpoint.path), assumptions=(EPS,))
    with pytest.raises(CheckpointError, match="was recorded for another save than"):
        verify_artefact(checkpoint, folder)


def test_what_is_saved_again_with_the_same_weights_is_the_same_model(
    pair: tuple[Checkpoint, Path],
) -> None:
    checkpoint, folder = pair
    record_parity(Original(checkpoint), checkpoint.path, torch.arange(24)[None])
    content = torch.load(checkpoint.path, weights_only=False)
    torch.save(content | {"iter_num": 7, "more": "of another size"}, checkpoint.path)
    assert verify_artefact(read_checkpoint(checkpoint.path), folder).level == "witnessed"


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_a_recording_confirms_nothing_that_float32_cannot_tell(
    scale: float, slo_content: Callable[..., dict[str, Any]], convert: Convert, tmp_path: Path
) -> None:
    """An epsilon is nothing to a stream of large values."""
    content = slo_content(n_layer=1)
    for name in ("wte", "wpe"):
        content["model"][f"transformer.{name}.weight"] *= scale
    content["model"]["lm_head.weight"] = content["model"]["transformer.wte.weight"] / scale
    torch.save(content, tmp_path / "ckpt.pt")
    checkpoint, folder = convert(tmp_path / "ckpt.pt")
    eps = replace(EPS, value=checkpoint.spec.norm_eps)
    checkpoint = replace(checkpoint, assumptions=(eps, HEADS))
    record_parity(Original(checkpoint), checkpoint.path, torch.arange(24)[None])
    report = verify_artefact(checkpoint, folder)
    assert report.level == "witnessed", (report.failures, report.witnesses)
    assert report.confirmed == ((eps, HEADS) if scale == 1 else (HEADS,))
    assert report.assumptions == (() if scale == 1 else (eps,))
    assert report.witnesses[0].untold == (() if scale == 1 else ("norm_eps",))


@pytest.mark.parametrize("name", ["attn_softcap", "logit_cap"])
@pytest.mark.parametrize(("scale", "shows"), [(1.0, True), (0.01, False)])
def test_a_recording_settles_no_soft_cap_that_float32_cannot_tell(
    name: str,
    scale: float,
    shows: bool,
    slo_content: Callable[..., dict[str, Any]],
    convert: Convert,
    tmp_path: Path,
) -> None:
    """50 tanh(x / 50) is x where x is small, as it is in a model that has hardly been trained."""
    content = slo_content(n_layer=1)
    for weight in content["model"].values():
        weight *= scale if weight.ndim > 1 else 1
    content["model_args"][name] = 50.0
    torch.save(content, tmp_path / "ckpt.pt")
    checkpoint, folder = convert(tmp_path / "ckpt.pt")
    record_parity(Original(checkpoint), checkpoint.path, torch.arange(24)[None])
    report = verify_artefact(checkpoint, folder)
    (witness,) = report.witnesses
    assert witness.agrees
    assert report.level == ("witnessed" if shows else "assumed")
    assert witness.not_taken == (() if shows else (f"model_args.{name}",))
    if name == "logit_cap":
        assert ("logit_softcap" in witness.untold) == (not shows)
