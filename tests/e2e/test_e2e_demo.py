"""A user without a checkpoint, and one with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import slogpt_hf

Cli = Callable[..., Any]


def test_demo(
    cli: Cli, hub_view: Callable[[Path], Any], hub_file: Callable[..., bytes], tmp_path: Path
) -> None:
    folder = tmp_path / "demo"
    outcome = cli("demo", "--steps", 3, "--folder", folder)
    assert outcome.code == 0, outcome.err
    before = hub_view(folder / "hub")
    classes = {"classic": "GPT2LMHeadModel", "modern": "LlamaForCausalLM"}
    assert before.keys() == {f"demo/shakespeare-{variant}" for variant in classes}
    for variant, class_name in classes.items():
        repo_id = f"demo/shakespeare-{variant}"
        assert f"Released {repo_id} 1.0.0" in outcome.out
        assert before[repo_id].tags.keys() == {"v1.0.0"}
        record = json.loads(hub_file(folder / "hub", repo_id, "release.json", "v1.0.0"))
        assert record["model"]["target_class"] == class_name
        assert record["checkpoint"]["step"] == 3
        assert record["sample"]
        report = json.loads(hub_file(folder / "hub", repo_id, "parity.json", "v1.0.0"))
        assert "real text" in [batch["name"] for batch in report["comparisons"]]
    assert outcome.err.count("train: 3 steps") == 2
    checkpoints = {p: p.stat().st_mtime_ns for p in folder.glob("out-*/ckpt.pt")}
    again = cli("demo", "--steps", 3, "--folder", folder)
    assert again.code == 0
    assert again.out.count("Nothing new") == 2
    assert "train" not in again.err
    assert {p: p.stat().st_mtime_ns for p in folder.glob("out-*/ckpt.pt")} == checkpoints
    assert hub_view(folder / "hub") == before


def test_demo_of_a_checkpoint(
    cli: Cli, golden: Callable[[str], Path], hub_view: Callable[[Path], Any], tmp_path: Path
) -> None:
    path = golden("slo-classic") / "ckpt.pt"
    outcome = cli("demo", path, "--folder", tmp_path / "demo", "--quiet")
    assert outcome.code == 0, outcome.err
    assert outcome.err == ""
    assert hub_view(tmp_path / "demo" / "hub").keys() == {"demo/checkpoint"}
    assert {p.name for p in (tmp_path / "demo").iterdir()} == {"hub"}  # nothing was trained


def test_demo_that_cannot_be_meant(cli: Cli, tmp_path: Path) -> None:
    assert cli("demo", "--variant", "gothic").code == 2
    assert cli("demo", "--steps", 0).code == 2
    assert cli("demo", tmp_path / "nowhere.pt", "--folder", tmp_path / "demo").code == 2


def test_python_api(
    golden: Callable[[str], Path], hub_view: Callable[[Path], Any], tmp_path: Path
) -> None:
    """The lines of the README: what the command line calls."""
    folder, hub = golden("slo-classic"), tmp_path / "hub"
    settings = slogpt_hf.Settings(repo_id="me/model", dataset=str(folder), hub=str(hub))
    (release,) = slogpt_hf.release_checkpoints([folder / "ckpt.pt"], settings)
    assert (release.released, release.version, release.tag) == (True, "1.0.0", "v1.0.0")
    repo = hub_view(hub)["me/model"]
    assert repo.tags == {"v1.0.0": release.commit}
    artefact = tmp_path / "artefact"
    record = slogpt_hf.convert(folder / "ckpt.pt", artefact, settings)
    assert record["identity"] == release.record["identity"]
    assert slogpt_hf.verify(folder / "ckpt.pt", artefact, settings).passed
    assert slogpt_hf.push(artefact, settings).released is False
    assert slogpt_hf.inspect_checkpoint(folder / "ckpt.pt")["target_class"] == "GPT2LMHeadModel"
    assert hub_view(hub)["me/model"] == repo
