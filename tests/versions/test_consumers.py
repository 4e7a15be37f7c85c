"""Artefacts as released, used by other programs without a line of preparation.

The pipeline of transformers runs here. ``.ci/versions.py consumers`` sets CONSUMERS to a folder of
environments that hold the others; each runs in a process of its own (``tests/consume.py``).
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import consume
import kinds
import pytest

from slogpt_hf.checkpoints import read_checkpoint
from slogpt_hf.conversion import plan_conversion, write_model
from slogpt_hf.tokenizers import choose_tokenizer

Found = Mapping[str, Mapping[str, Any]]
# No symbol: "q" is what stands in for an end and a pad, and no text of consume.py has it.
CHARACTERS = "\n !',.:;?ABCDEabcdefghijklmnopqrstuvw"
LINEAR: dict[str, tuple[str, ...]] = {}  # what the card of each artefact names
PLACES = os.environ.get("CONSUMERS")
# What a program has no code for says so itself.
UNSUPPORTED = {
    "ctranslate2": {
        "ArceeForCausalLM": "No conversion is registered",
        "GraniteForCausalLM": "No conversion is registered",
        "SloGPTForCausalLM": "contains custom code",
        "StableLmForCausalLM": "No conversion is registered",
        "Starcoder2ForCausalLM": "No conversion is registered",
    },
    "optimum": {
        "SloGPTForCausalLM": "modeling_slogpt.py needs transformers 5.4 or later",
        "Starcoder2ForCausalLM": "unsupported architecture",
    },
}
heavy = pytest.mark.skipif(not PLACES, reason=".ci/versions.py consumers installs these programs")


@pytest.fixture(scope="module")
def artefacts(
    slo_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An artefact of each class, without the proof of each."""
    folder, data = (tmp_path_factory.mktemp(name) for name in ("artefacts", "data"))
    ids = {character: i for i, character in enumerate(CHARACTERS)}
    meta = {"stoi": ids, "itos": dict(enumerate(CHARACTERS)), "vocab_size": len(ids)}
    (data / "meta.pkl").write_bytes(pickle.dumps(meta))
    for name, arguments in kinds.arguments_of(slo_checkpoint).items():
        checkpoint = read_checkpoint(slo_checkpoint(**arguments, block_size=96))
        choice = choose_tokenizer(checkpoint, dataset=str(data))
        (folder / name).mkdir()
        conversion = plan_conversion(checkpoint, special=choice.special)
        LINEAR[name] = write_model(checkpoint, conversion, folder / name).linear
        choice.write(folder / name, checkpoint)
    return folder


def consumed(name: str, artefacts: Path, home: Path) -> Found:
    """What a program finds for the artefacts that it supports, by class."""
    place = "optimum" if name == "optimum" else "newest"
    environment = os.environ | {
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "1",
        "LORA_TARGETS": json.dumps(LINEAR),
    }
    python = Path(PLACES, place, "bin", "python") if PLACES else Path(sys.executable)
    command = [str(python), str(Path(consume.__file__)), name, str(artefacts)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    for kind, why in UNSUPPORTED.get(name, {}).items():
        assert why in found.pop(kind)["failed"]
    assert not {kind: each["failed"] for kind, each in found.items() if "failed" in each}
    assert found.keys() == set(kinds.CLASSES) - UNSUPPORTED.get(name, {}).keys()
    return found


def test_a_pipelines_batches_are_its_single_calls(artefacts: Path) -> None:
    for kind in kinds.CLASSES:
        found = consume.of_pipeline(artefacts / kind)
        assert found["batch"] == found["alone"]
        for text, longer in zip(consume.TEXTS, found["alone"], strict=True):
            assert longer.startswith(text) and len(longer) == len(text) + 12


@heavy
def test_a_trainer_takes_steps_and_its_collators_loss_is_that_of_the_mask(
    artefacts: Path, tmp_path: Path
) -> None:
    for each in consumed("trainer", artefacts, tmp_path).values():
        assert each["steps"] == 3 and each["same ids"] and each["loss"] > 0
        assert each["losses"][0] == each["losses"][1]


@heavy
def test_trl_takes_steps(artefacts: Path, tmp_path: Path) -> None:
    for each in consumed("trl", artefacts, tmp_path).values():
        assert each["steps"] == 3 and each["loss"] > 0


@heavy
def test_an_adapter_is_trained_reloaded_and_merged(artefacts: Path, tmp_path: Path) -> None:
    for each in consumed("peft", artefacts, tmp_path).values():
        assert each["losses"][1] < each["losses"][0]
        assert each["reloaded"] == 0.0 and each["merged"] < 1e-5


@heavy
def test_every_kind_of_task_is_measured(artefacts: Path, tmp_path: Path) -> None:
    for each in consumed("lm_eval", artefacts, tmp_path).values():
        assert each.keys() == consume.TASKS.keys() and all(each.values())


@heavy
@pytest.mark.parametrize("name", ["ctranslate2", "optimum"])
def test_other_formats_compute_the_same(name: str, artefacts: Path, tmp_path: Path) -> None:
    for each in consumed(name, artefacts, tmp_path).values():
        assert each["error"] < 1e-5 and each["continued"] == each["own"]
