"""Every class of the table under the installed versions; `.ci/versions.py` runs this with others.

What a user does with an artefact has to come out alike from the lowest admitted version to the
newest: load it, generate with and without the cache, stop where it should, release it.
"""

from __future__ import annotations

import html
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kinds
import pytest
import torch
from torch import Tensor

from slogpt_hf.checkpoints import read_checkpoint
from slogpt_hf.libraries import installed
from slogpt_hf.parity.gate import verify_artefact

Write = Callable[..., Path]
NEW = 12


@dataclass(frozen=True)
class Converted:
    """A class of the table with the checkpoint that it came from."""

    checkpoint: Path
    folder: Path
    model: Any


@pytest.fixture(scope="module")
def arguments_of(slo_checkpoint: Write) -> dict[str, dict[str, Any]]:
    return kinds.arguments_of(slo_checkpoint)


@pytest.fixture(scope="module", params=kinds.CLASSES)
def converted(
    request: pytest.FixtureRequest,
    arguments_of: dict[str, dict[str, Any]],
    slo_checkpoint: Write,
    convert: Callable[..., Any],
) -> Converted:
    from transformers import AutoModelForCausalLM

    assert request.param in arguments_of, f"nothing in MORE leads to {request.param}"
    path = slo_checkpoint(**arguments_of[request.param])
    _, folder = convert(path)
    trust = (folder / "modeling_slogpt.py").exists()
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=trust)
    assert type(model).__name__ == request.param
    return Converted(path, folder, model)


def generated(model: Any, **options: Any) -> Tensor:
    prompt = torch.tensor([[1, 5, 9, 20], [2, 3, 5, 7]])
    options = {"max_new_tokens": NEW, "do_sample": False, "pad_token_id": 0, **options}
    ids: Tensor = model.generate(prompt, attention_mask=torch.ones_like(prompt), **options)
    return ids[:, prompt.shape[1] :]


@pytest.mark.filterwarnings("error::FutureWarning", "error::DeprecationWarning:transformers")
def test_it_is_proven(converted: Converted) -> None:
    report = verify_artefact(read_checkpoint(converted.checkpoint), converted.folder)
    assert report.verdict == "passed", report.failures
    assert report.caught


def test_the_cache_changes_no_token(converted: Converted) -> None:
    model = converted.model
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        with_cache = generated(model, use_cache=True)
    assert with_cache.shape == (2, NEW)
    assert torch.equal(with_cache, generated(model, use_cache=False))
    assert torch.equal(with_cache, generated(model, use_cache=True, cache_implementation="dynamic"))


def test_a_stop_token_stops(converted: Converted) -> None:
    full = generated(converted.model)[0].tolist()
    stop = full[NEW // 3]
    expected = full[: full.index(stop) + 1]
    for use_cache in (True, False):
        ids = generated(converted.model, eos_token_id=stop, use_cache=use_cache)[0].tolist()
        assert ids[: len(expected)] == expected
        assert set(ids[len(expected) :]) <= {0}


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., str]:
    """Runs the command line in a process of its own, without settings of the user's."""
    import slogpt_hf

    kept = {name: value for name, value in os.environ.items() if not name.startswith("SLOGPT_")}
    kept |= {"PYTHONPATH": str(Path(slogpt_hf.__file__).parents[1]), "HF_HUB_DISABLE_XET": "1"}

    def call(*arguments: Any) -> str:
        command = [sys.executable, "-m", "slogpt_hf", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=kept)
        assert done.returncode == 0, done.stderr
        assert "Warning" not in done.stderr and "deprecated" not in done.stderr, done.stderr
        return done.stdout + done.stderr

    return call


@pytest.mark.parametrize("name", ["slo-learned-rmsnorm-swiglu", "slo-classic"])
def test_a_release_end_to_end(
    name: str, golden: Callable[[str], Path], run: Callable[..., str], tmp_path: Path
) -> None:
    checkpoint, hub, repo = golden(name) / "ckpt.pt", tmp_path / "hub", "me/model"
    run("release", checkpoint, "--repo-id", repo, "--hub", hub)
    assert "proven equal to " in run("verify", checkpoint, f"{repo}@v1.0.0", "--hub", hub)
    checked = json.loads(run("verify-release", f"{repo}@v1.0.0", "--hub", hub, "--json"))
    assert {check["name"]: check["status"] for check in checked["checks"]}["code"] == "ok"
    assert "Nothing new" in run("release", checkpoint, "--repo-id", repo, "--hub", hub)


def test_an_artefact_says_which_versions_it_was_proven_with(
    golden: Callable[[str], Path], run: Callable[..., str], tmp_path: Path
) -> None:
    checkpoint = golden("slo-classic") / "ckpt.pt"
    folder = tmp_path / "artefact"
    run("convert-model", checkpoint.parent, checkpoint, folder)
    config, report, record = (
        json.loads((folder / file).read_text())
        for file in ("config.json", "parity.json", "release.json")
    )
    assert config["transformers_version"] == installed()["transformers"]
    assert report["versions"] == record["versions"]["proven"] == installed()
    assert set(installed()) == {"transformers", "torch", "huggingface_hub", "tokenizers"}
    card = html.unescape((folder / "README.md").read_text())
    assert f"transformers {installed()['transformers']}" in card
    assert record["versions"]["loads"] == {"transformers": ">=4.57,<6"}
    assert "transformers>=4.57,<6; the tests of slogpt-hf load such artefacts in 4.57, " in card
