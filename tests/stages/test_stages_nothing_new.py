"""A run that finds nothing new: it tells what is known, and is quick."""

from __future__ import annotations

from pathlib import Path

import pytest
from stage_lab import CIS, Jobs, git, outputs, tags

from slogpt_hf.hub.embedded import RunningHub


@pytest.fixture
def released(job: Jobs, hub: RunningHub) -> Jobs:
    """A job for what is released already, but for the half of a checkpoint."""
    assert job.ci("publish").code == 0
    job.environment |= {"SLOGPT_CHECKPOINTS": "out/[ab]/ckpt.pt"}
    return job


@pytest.mark.parametrize("ci", CIS)
def test_outputs_and_summary_tell_what_is_known(released: Jobs, hub: RunningHub, ci: str) -> None:
    last = git(hub.folder / "me" / "model.git", "rev-parse", "v2.0.0^{commit}")
    expected = {"released": "false", "version": "2.0.0", "tag": "v2.0.0", "commit": last}
    released.on(ci)
    prepared = released.ci("prepare")
    assert prepared.code == 0, prepared.err
    file = released.work / "outputs.env"
    if ci == "github":
        told = outputs(released.folder / "github_output")
        assert told | expected | {"new": "0", "matrix": '{"include":[]}'} == told
    elif ci == "azure":
        for name, value in (expected | {"new": "0"}).items():
            line = f"##vso[task.setvariable variable={name};isOutput=true]{value}"
            assert line in prepared.out.splitlines()
    else:
        told = dict(line.split("=", 1) for line in file.read_text().splitlines())
        named = {f"RELEASE_{name.upper()}": value for name, value in expected.items()}
        assert told | named | {"RELEASE_NEW": "0"} == told
    # Where no condition keeps the other stages from running, they say the same.
    assert [released.ci(stage).code for stage in ("prove", "publish", "report")] == [0, 0, 0]
    summary = "github_step_summary" if ci == "github" else "work/summary.md"
    text = (released.folder / summary).read_text()
    assert "2 released before" in text and "me/model v2.0.0" in text
    if ci in ("gitlab", "jenkins", "none"):
        again = dict(line.split("=", 1) for line in file.read_text().splitlines())
        assert again | named == again
    assert len(tags(hub)) == 2


def test_no_checkpoint_at_all(jobs: Jobs) -> None:
    jobs.on("github")
    ran = jobs.ci("prepare", SLOGPT_CHECKPOINTS="nowhere/*.pt")
    assert ran.code == 0 and "no checkpoints were found" in ran.err
    told = outputs(jobs.folder / "github_output")
    assert (told["released"], told["new"], told["tag"]) == ("false", "0", "")


@pytest.mark.parametrize("name", ["all", "plan"])
def test_neither_torch_nor_transformers_is_imported(
    released: Jobs, name: str, tmp_path: Path
) -> None:
    released.on("github")
    arguments = ("ci", "prepare", str(tmp_path / "quick"), "--job", name)
    ran = released.process(*arguments, options=("-X", "importtime"))
    assert ran.code == 0, ran.err
    names = {line.rpartition("|")[2].strip() for line in ran.err.splitlines() if "|" in line}
    assert "slogpt_hf.stages.preparing" in names
    assert names.isdisjoint({"torch", "transformers", "numpy", "safetensors.torch"})


def test_the_job_prove_of_what_was_released_meanwhile(released: Jobs) -> None:
    released.on("github")
    key = next(each["key"] for each in released.read("plan.json")["decisions"])
    ran = released.ci("prepare", "--job", "prove", "--candidate", key)
    assert ran.code == 0, ran.err
    assert outputs(released.folder / "github_output")["new"] == "0"
