"""Prepare, prove, publish, report: what each CI learns of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from stage_lab import CIS, TOKEN, Jobs, checkpoint, outputs, plant_fault, published, tags

from slogpt_hf import smoke
from slogpt_hf.hub.embedded import RunningHub
from slogpt_hf.verification import ReleaseError
from slogpt_hf.verification.results import OK, Check

GOOD = "slo-rope-rmsnorm-gelu"


def test_a_whole_run_in_processes_of_its_own(
    jobs: Jobs,
    hub: RunningHub,
    golden: Callable[[str], Path],
    new_repository: Callable[..., Path],
) -> None:
    jobs.repository = new_repository(**checkpoint(golden(GOOD), "out"))
    jobs.on("github")
    mask = f"::add-mask::{TOKEN}"
    titles = {"prepare": "Find and fetch what is new", "publish": "Publish"}
    for stage in ("prepare", "prove", "publish", "report"):
        given = {"HF_TOKEN": ""} if stage in ("prove", "report") else {}
        ran = jobs.process("ci", stage, str(jobs.work), **given)
        assert ran.code == 0, ran.err
        lines = ran.out.splitlines()
        if stage in titles:
            assert lines == [mask, f"::group::{titles[stage]}", "::endgroup::"]
        assert TOKEN not in ran.out.replace(mask, "") + ran.err
    told = outputs(jobs.folder / "github_output")
    assert (told["new"], told["publish"], told["released"]) == ("1", "true", "true")
    assert (told["version"], told["tag"], told["parity"]) == ("1.0.0", "v1.0.0", "passed")
    assert json.loads(Path(told["report"]).read_text())["passed"] is True
    assert (Path(told["artefact-path"]) / "config.json").is_file()
    assert told["url"] == f"{hub.endpoint}/me/model/tree/v1.0.0"
    assert "1 released" in (jobs.folder / "github_step_summary").read_text()
    assert tags(hub) == ["v1.0.0"]
    source = json.loads(published(hub, "v1.0.0", "release.json"))["source"]
    assert source["branch"] == "main"


@pytest.mark.parametrize("ci", CIS)
def test_what_every_ci_learns(job: Jobs, hub: RunningHub, ci: str) -> None:
    job.on(ci)
    file = job.work / "outputs.env"
    file.unlink()  # of the stage prepare
    done = job.ci("publish")
    assert (done.code, tags(hub)) == (0, ["v1.0.0", "v2.0.0"]), done.err
    reported = job.ci("report")
    assert reported.code == 0, reported.err
    url = f"{hub.endpoint}/me/model/tree/v2.0.0"
    if ci == "github":
        told = outputs(job.folder / "github_output")
        assert (told["released"], told["tag"], told["url"]) == ("true", "v2.0.0", url)
    elif ci == "azure":
        (line,) = [each for each in reported.out.splitlines() if "variable=tag;" in each]
        assert line == "##vso[task.setvariable variable=tag;isOutput=true]v2.0.0"
        assert "variable=artefact_path;isOutput=true" in reported.out
        assert not file.exists()
    else:
        told = dict(line.split("=", 1) for line in file.read_text().splitlines())
        assert (told["RELEASE_RELEASED"], told["RELEASE_TAG"]) == ("true", "v2.0.0")
        assert (told["RELEASE_URL"], told["RELEASE_PARITY"]) == (url, "passed")
    summary = job.folder / "github_step_summary" if ci == "github" else job.work / "summary.md"
    text = summary.read_text()
    assert "2 released" in text and "1 refused" in text and "`out/half/ckpt.pt`" in text


@pytest.mark.parametrize(
    ("ci", "start"),
    [
        ("github", "::error file=out/half/ckpt.pt,title=Checkpoint not released::out/half/ckpt.pt"),
        ("azure", "##vso[task.logissue type=error;sourcepath=out/half/ckpt.pt]Checkpoint not"),
        ("gitlab", "error: out/half/ckpt.pt: Checkpoint not released: out/half/ckpt.pt"),
    ],
)
def test_a_refused_checkpoint_is_annotated_with_its_file(job: Jobs, ci: str, start: str) -> None:
    job.on(ci)
    lines = job.ci("report").out.splitlines()
    assert sum(line.startswith(start) for line in lines) == 1, lines
    later = job.ci("report", "--job", "publish").out.splitlines()
    assert not any(line.startswith(start) for line in later)


def test_a_failed_proof_names_file_and_tensor_and_is_not_published(
    jobs: Jobs,
    hub: RunningHub,
    golden: Callable[[str], Path],
    new_repository: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    jobs.repository = new_repository(**checkpoint(golden(GOOD), "out"))
    jobs.on("github")
    assert jobs.ci("prepare").code == 0
    plant_fault(monkeypatch, "model.layers.1.mlp.down_proj.weight")
    proven = jobs.ci("prove")
    assert proven.code == 4
    assert "refused (exit code 4)" in proven.err
    assert jobs.ci("publish").code == 0
    (line,) = [each for each in jobs.ci("report").out.splitlines() if each.startswith("::error ")]
    assert line.startswith("::error file=out/ckpt.pt,")
    (key,) = jobs.wanted()
    tensor = jobs.read(f"proof/reports/{key}.json")["first_divergence"]
    assert tensor and tensor in line
    told = outputs(jobs.folder / "github_output")
    assert (told["released"], told["parity"]) == ("false", "failed")
    assert Path(told["report"]).is_file() and told["artefact-path"] == ""
    assert tags(hub) == []


def test_a_checkpoint_that_the_proof_did_not_get_to_is_told(job: Jobs) -> None:
    (key, *_) = job.wanted()
    (job.work / "proof" / "outcomes" / f"{key}.json").unlink()
    job.on("github")
    errors = [each for each in job.ci("report").out.splitlines() if each.startswith("::error ")]
    assert any("out/a/ckpt.pt" in each and "ended before" in each for each in errors), errors


def test_what_an_earlier_run_proved_is_not_published(job: Jobs, hub: RunningHub) -> None:
    assert job.ci("prepare", SLOGPT_DTYPE="float16").code == 0
    assert job.ci("publish").code == 0  # as if the stage prove had been killed
    assert tags(hub) == []
    job.on("github")
    assert job.ci("report").out.count("ended before this checkpoint was proven") == 3


def test_what_is_not_wanted_any_more_is_not_published(job: Jobs, hub: RunningHub) -> None:
    (first, *_) = job.wanted()
    outcome = job.work / "proof" / "outcomes" / f"{first}.json"
    kept = outcome.read_bytes()
    assert job.ci("prepare", SLOGPT_WHICH="latest").code == 0
    assert first not in job.wanted()
    outcome.write_bytes(kept)
    assert job.ci("publish").code == 0
    assert tags(hub) == []


def test_what_the_hub_refuses_stops_what_depends_on_it(job: Jobs, hub: RunningHub) -> None:
    done = job.ci("publish", HF_TOKEN="hf_anotherTokenThanTheHubs")
    assert (done.code, tags(hub)) == (6, [])
    kept = [job.read(f"releases/{key}.json") for key in job.wanted()[:2]]
    assert [each["status"] for each in kept] == ["unpublished", "unpublished"]
    assert kept[1]["message"].startswith("Not tried, since out/a/ckpt.pt")
    job.on("github")
    errors = job.ci("report", "--job", "publish").out
    assert errors.count("::error ") == 2 and "proven%2C but not published" in errors
    assert job.ci("publish").code == 0  # the same with the right one
    assert len(tags(hub)) == 2


def test_a_tag_that_is_taken_stops_no_other_release(job: Jobs, hub: RunningHub) -> None:
    job.rewrite("settings.json", tag="step-{step}")  # of both the same
    done = job.ci("publish")
    assert (done.code, tags(hub)) == (7, ["step-300"]), done.err
    kept = [job.read(f"releases/{key}.json")["status"] for key in job.wanted()[:2]]
    assert kept == ["released", "unpublished"]


def test_a_release_that_does_not_load_is_told_and_stops_no_other(
    job: Jobs, hub: RunningHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(hub: object, repo_id: str, tag: str, *rest: object) -> Check:
        if tag == "v1.0.0":
            raise ReleaseError("it does not load")
        return Check("load", OK, "C: 'a' goes on '::error::'")

    monkeypatch.setattr(smoke, "load_release", load)
    job.rewrite("settings.json", smoke=True)
    done = job.ci("publish")
    assert (done.code, tags(hub)) == (4, ["v1.0.0", "v2.0.0"]), done.err
    assert "exit code 4: me/model@v1.0.0 IS PUBLISHED, BUT DOES NOT LOAD" in done.err
    broken, good = (job.read(f"releases/{key}.json") for key in job.wanted()[:2])
    assert (broken["status"], broken["exit_code"], broken["tag"]) == ("released", 4, "v1.0.0")
    assert (good["status"], good["exit_code"]) == ("released", 0)
    job.on("github")
    reported = job.ci("report", "--job", "publish")
    assert reported.code == 0, reported.err
    errors = [line for line in reported.out.splitlines() if line.startswith("::error ")]
    assert len(errors) == 1 and "released%2C but does not load::out/a/ckpt.pt" in errors[0]
    told = outputs(job.folder / "github_output")
    assert (told["released"], told["tag"], told["parity"]) == ("true", "v2.0.0", "passed")
    text = (job.folder / "github_step_summary").read_text()
    assert "v1.0.0" in text and "**does not load**" in text and "IS PUBLISHED" in text
    assert "Loaded by its tag in a clean process: `C: 'a' goes on '::error::'`" in text
