"""Jobs plan, prove and publish: what the proving jobs left becomes one publication."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from stage_lab import TOKEN, Jobs, Ran, keys_of, outputs, published, tags

from slogpt_hf.hub.embedded import RunningHub

GOOD, BETTER, HALF = "out/a/ckpt.pt", "out/b/ckpt.pt", "out/half/ckpt.pt"


def gather(jobs: Jobs, folder: Path, *options: str, **given: str) -> Ran:
    return jobs.ci("prepare", "--job", "publish", "--artefacts", str(folder), *options, **given)


def has(artifacts: Path, name: str) -> Path:
    return artifacts / f"slogpt-hf-{keys_of(artifacts)[name]}"


def test_what_is_proven_is_published_beside_what_is_refused(
    jobs: Jobs, gathered: Path, hub: RunningHub
) -> None:
    jobs.on("github")
    assert not list(gathered.glob("*/checkpoints")) and len(list(gathered.glob("*"))) == 3
    ran = gather(jobs, gathered)
    assert ran.code == 0, ran.err
    assert outputs(jobs.folder / "github_output")["new"] == "3"
    assert jobs.ci("publish").code == 0
    assert jobs.ci("report", "--job", "publish").out == f"::add-mask::{TOKEN}\n"
    assert tags(hub) == ["v1.0.0", "v2.0.0"]  # in the order of the commits
    files = [json.loads(published(hub, tag, "release.json")) for tag in tags(hub)]
    assert [each["checkpoint"]["val_loss"] for each in files] == pytest.approx([2.437, 2.101], 1e-3)
    summary = (jobs.folder / "github_step_summary").read_text()
    assert "2 released" in summary and "1 refused" in summary


def test_the_folder_of_the_artifacts_may_be_the_jobs_own(
    jobs: Jobs, gathered: Path, hub: RunningHub
) -> None:
    gathered.rename(jobs.work)
    for _ in range(2):
        ran = gather(jobs, jobs.work)
        assert ran.code == 0, ran.err
    assert jobs.ci("publish").code == 0
    assert len(tags(hub)) == 2
    again = gather(jobs, jobs.work)
    assert again.code == 0 and jobs.ci("publish").code == 0
    assert len(tags(hub)) == 2


@pytest.mark.parametrize("times", [1, 2])
def test_artifacts_that_cannot_be_moved_are_copied(
    jobs: Jobs, gathered: Path, hub: RunningHub, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    replace = Path.replace

    def refuse(self: Path, target: Path) -> Path:
        if self.is_relative_to(gathered):
            raise PermissionError(13, "Permission denied")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    before = sorted(path.relative_to(gathered) for path in gathered.rglob("*"))
    for n in range(times):
        ran = gather(jobs, gathered)
        assert ran.code == 0, ran.err
        if n < times - 1:  # what only the first left must go
            for each in (jobs.work / "proof" / "artefacts").iterdir():
                (each / "stale.bin").touch()
    assert sorted(path.relative_to(gathered) for path in gathered.rglob("*")) == before
    assert jobs.ci("publish").code == 0
    assert len(tags(hub)) == 2


def test_a_disk_that_cannot_be_written_is_one_message(
    jobs: Jobs, gathered: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", refuse)
    monkeypatch.setattr(shutil, "copyfile", refuse)
    ran = gather(jobs, gathered)
    assert ran.code == 2 and "No space left on device" in ran.error


def test_of_several_jobs_the_best_alone_is_published(
    jobs: Jobs, gathered: Path, hub: RunningHub
) -> None:
    for path in gathered.glob("*/settings.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"which": "best"}))
    for _ in range(2):
        assert gather(jobs, gathered).code == 0
    assert jobs.ci("publish").code == 0
    (tag,) = tags(hub)
    assert json.loads(published(hub, tag, "release.json"))["checkpoint"]["step"] == 300
    assert json.loads(published(hub, tag, "release.json"))["checkpoint"]["val_loss"] < 2.2
    assert jobs.ci("report").code == 0
    text = (jobs.work / "summary.md").read_text()
    assert "1 released" in text and "1 refused" in text and GOOD not in text


def test_nothing_proven_at_all(jobs: Jobs, gathered: Path, hub: RunningHub) -> None:
    jobs.on("github")
    for name in (GOOD, BETTER):
        shutil.rmtree(has(gathered, name))
    assert gather(jobs, gathered).code == 0
    assert outputs(jobs.folder / "github_output")["new"] == "1"
    assert jobs.ci("publish").code == 0
    assert jobs.ci("report", "--job", "publish").code == 0
    assert outputs(jobs.folder / "github_output")["released"] == "false"
    assert tags(hub) == []


@pytest.mark.parametrize("is_there", [True, False])
def test_without_artifacts_nothing_is_said_to_be_released(jobs: Jobs, is_there: bool) -> None:
    folder = jobs.folder / "elsewhere"
    if is_there:
        folder.mkdir()
    ran = gather(jobs, folder)
    assert ran.code == 2 and "no work folder of a proving job" in ran.error


@pytest.mark.parametrize("file", ["plan.json", "settings.json"])
def test_a_folder_of_another_repository_is_refused(jobs: Jobs, gathered: Path, file: str) -> None:
    *_, path = sorted(gathered.glob(f"*/{file}"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"repo_id": "someone/else"}))
    ran = gather(jobs, gathered)
    assert ran.code == 2 and "someone/else" in ran.error and "me/model" in ran.error


def test_a_job_for_another_repository_takes_nothing(jobs: Jobs, gathered: Path) -> None:
    ran = gather(jobs, gathered, SLOGPT_REPO_ID="me/another")
    assert ran.code == 2 and "me/another" in ran.error
    assert gather(jobs, gathered, SLOGPT_REPO_ID="").code == 0  # a job that was told of none


@pytest.mark.parametrize("refuses", ["this job", "a proving job"])
def test_nothing_is_published_that_any_job_may_not_publish(
    jobs: Jobs, gathered: Path, hub: RunningHub, refuses: str
) -> None:
    if refuses == "a proving job":
        path = has(gathered, GOOD) / "plan.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"publish": False}))
    options = ["--no-publish"] if refuses == "this job" else []
    jobs.on("github")
    assert gather(jobs, gathered, *options).code == 0
    assert outputs(jobs.folder / "github_output")["publish"] == "false"
    ran = jobs.ci("publish")
    assert ran.code == 2 and "proves and does not publish" in ran.error
    assert tags(hub) == []


def test_a_proving_job_speaks_of_its_own_checkpoint_alone(
    jobs: Jobs, gathered: Path, hub: RunningHub
) -> None:
    keys = keys_of(gathered)
    mine, theirs = has(gathered, HALF), has(gathered, BETTER)
    outcome = json.loads((theirs / f"proof/outcomes/{keys[BETTER]}.json").read_text())
    refusal = outcome | {"status": "refused", "exit_code": 4, "message": "not theirs"}
    (mine / f"proof/outcomes/{keys[BETTER]}.json").write_text(json.dumps(refusal))
    shutil.rmtree(theirs)
    assert gather(jobs, gathered).code == 0
    assert jobs.ci("publish").code == 0
    assert tags(hub) == ["v1.0.0"]
    assert jobs.ci("report").code == 0
    assert "not theirs" not in (jobs.work / "summary.md").read_text()


def test_the_job_prove_takes_one_candidate_and_needs_it(jobs: Jobs) -> None:
    assert "needs a candidate" in jobs.ci("prepare", "--job", "prove").error
    ran = jobs.ci("prepare", "--job", "prove", "--candidate", "../../etc")
    assert ran.code == 2 and "is not the key of a checkpoint" in ran.error
    assert "needs the folder" in jobs.ci("prepare", "--job", "publish").error
