"""The whole action and the whole workflow: real events, real checkpoints, an embedded hub.

The stages run in the interpreter of the tests, or in the image that TESTS_IMAGE names.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from actions_runner import Event, Expressions, Job, Machine, run_workflow
from actions_runner.events import Origin, git

import slogpt_hf
from slogpt_hf.hub.embedded import RunningHub, serve

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
IMAGE = os.environ.get("TESTS_IMAGE")
WHERE = {"image": IMAGE, "runtime": "docker"} if IMAGE else {"python": sys.executable}
Release = Callable[..., Job]


def golden(name: str, folder: str) -> dict[str, bytes]:
    """A checkpoint with its vocabulary, as files to commit."""
    files = (GOLDEN / name / "ckpt.pt", GOLDEN / name / "meta.pkl")
    return {f"{folder}/{path.name}".replace("/", "__"): path.read_bytes() for path in files}


@pytest.fixture
def release(machine: Callable[..., Machine], expressions: Expressions, tmp_path: Path) -> Release:
    """Runs the action for an event: `(event, **inputs)`, with a hub in a folder."""
    count = iter(range(100))

    def run(event: Event, **inputs: str) -> Job:
        given = {"repo-id": "me/model", "hub": str(tmp_path / "hub"), "smoke": "false"}
        given |= {**WHERE, **inputs}
        given["checkpoints"] = "out/**/ckpt.pt"
        steps = [
            {"uses": "actions/checkout@v7"},
            {"id": "release", "uses": "slogpt/slogpt-hf@main", "with": given},
        ]
        job = {"runs-on": "ubuntu-latest", "permissions": {"contents": "read"}, "steps": steps}
        text = yaml.safe_dump({"on": {event.name: None}, "jobs": {"release": job}})
        on = machine(event, next(count))
        return run_workflow(on, expressions, text).jobs["release"]

    return run


def outputs(job: Job) -> dict[str, str]:
    found: dict[str, str] = job.steps["release"]["outputs"]
    return found


def stages(job: Job) -> list[str]:
    """Stages of the action that ran."""
    ran = job.steps["release"]["steps"]
    return [name for name, each in ran.items() if each["outcome"] != "skipped"]


def tags(folder: Path) -> set[str]:
    """Tags of the released repository, as the real client sees them."""
    from huggingface_hub import HfApi

    with serve(folder) as running:
        api = HfApi(endpoint=running.endpoint, token="embedded")
        return {tag.name for tag in api.list_repo_refs("me/model").tags}


def test_a_push_releases_what_is_new_and_a_rerun_nothing(
    release: Release, origin: Origin, tmp_path: Path
) -> None:
    origin.commit(**golden("slo-modern", "out"))
    push = origin.push()
    first = release(push, smoke="")  # as where nothing is said
    assert first.status == "success", first.log.text
    assert stages(first) == ["prepare", "prove", "publish", "report"]
    told = outputs(first)
    assert (told["released"], told["version"], told["tag"]) == ("true", "1.0.0", "v1.0.0")
    assert told["parity"] == "passed"
    assert json.loads(Path(told["report"]).read_text())["passed"] is True
    assert (Path(told["artefact-path"]) / "config.json").is_file()
    assert "v1.0.0" in first.summary
    assert "Loaded by its tag in a clean process: `LlamaForCausalLM" in first.summary
    assert tags(tmp_path / "hub") == {"v1.0.0"}

    again = release(replace(push, attempt=2))
    assert again.status == "success", again.log.text
    assert (stages(again), outputs(again)["released"]) == (["prepare"], "false")

    origin.commit(**golden("slo-classic", "out/second"))
    second = release(origin.push())
    assert outputs(second)["released"] == "true", second.log.text
    assert len(tags(tmp_path / "hub")) == 2


def test_every_kind_of_event_ends_in_the_same_question(
    release: Release, origin: Origin, tmp_path: Path
) -> None:
    origin.commit(**golden("slo-modern", "out"))
    git(origin.clone, "push", "--quiet", "origin", "HEAD:refs/heads/main")  # unnoticed
    assert outputs(release(origin.schedule()))["released"] == "true"

    def new_branch() -> Event:
        git(origin.clone, "checkout", "--quiet", "-b", "train/same")
        return origin.push("train/same")

    def force_push() -> Event:
        git(origin.clone, "commit", "--quiet", "--amend", "--message", "again")
        return origin.push("train/same", force=True)

    def merge() -> Event:
        git(origin.clone, "checkout", "--quiet", "main")
        git(origin.clone, "merge", "--quiet", "--no-ff", "--message", "merge", "train/same")
        return origin.push()

    for make in (new_branch, force_push, merge, origin.dispatch, lambda: origin.push_tag("t")):
        job = release(make())
        assert job.status == "success", job.log.text
        assert outputs(job)["released"] == "false", make
    assert tags(tmp_path / "hub") == {"v1.0.0"}


def test_a_pull_request_of_a_fork_is_proven_only(
    release: Release, origin: Origin, tmp_path: Path
) -> None:
    fork = Origin.make(tmp_path / "fork", "someone-else/train")
    git(fork.clone, "pull", "--quiet", str(origin.server), "main")
    fork.commit(**golden("slo-modern", "out"))
    fork.push("theirs")
    job = release(origin.pull_request(fork, "theirs"))
    assert job.status == "success", job.log.text
    assert stages(job) == ["prepare", "prove", "report"]
    assert outputs(job)["parity"] == "passed"
    assert outputs(job)["released"] == "false"
    assert not list((tmp_path / "hub").rglob("v1.0.0"))


def test_a_refused_checkpoint_is_annotated_and_the_other_one_released(
    release: Release, origin: Origin, tmp_path: Path
) -> None:
    broken = {name: content[:1000] for name, content in golden("slo-classic", "out/bad").items()}
    origin.commit(**golden("slo-modern", "out/good"), **broken)
    job = release(origin.push())
    assert job.status == "failure"
    assert stages(job) == ["prepare", "prove", "publish", "report"]
    errors = [each for each in job.log.annotations if each.level == "error"]
    assert any("out/bad/ckpt.pt" in str(each) for each in errors), job.log.text
    assert outputs(job)["released"] == "true"
    assert tags(tmp_path / "hub") == {"v1.0.0"}


def test_hostile_names_are_text(release: Release, origin: Origin, tmp_path: Path) -> None:
    branch = "train/$(touch${IFS}pwned)`id`"
    git(origin.clone, "checkout", "--quiet", "-b", branch)
    name = "out/;echo ::error::obeyed;/<img src=x onerror=alert(1)>"
    origin.commit("::error::obeyed\n::set-output name=x::y", **golden("slo-modern", name))
    job = release(origin.push(branch))
    assert outputs(job)["released"] == "true", job.log.text
    assert not any(each.message == "obeyed" for each in job.log.annotations)
    assert "<img" not in job.summary.replace("\\<img", "").replace("`", "")
    assert not list(tmp_path.rglob("pwned"))


def become_real(stub: Any, folder: Path) -> None:
    """Have the stand-in for docker run the real command line, as no engine may be here."""
    lines = [
        f"#!{sys.executable}",
        "import os, runpy, sys",
        f"os.environ['HF_HOME'] = {str(folder / 'hf')!r}",
        f"sys.path.insert(0, {str(Path(slogpt_hf.__file__).parents[1])!r})",
        "runpy.run_module('slogpt_hf', run_name='__main__')",
    ]
    (stub.folder / "stub.py").write_text("\n".join(lines))


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[RunningHub]:
    with serve(tmp_path / "served") as running:
        yield running


def test_the_reusable_workflow_releases_every_new_checkpoint(
    machine: Callable[..., Machine],
    expressions: Expressions,
    origin: Origin,
    stub: Any,
    hub: RunningHub,
    tmp_path: Path,
) -> None:
    become_real(stub, tmp_path)
    origin.commit(**golden("slo-modern", "out/a"), **golden("slo-classic", "out/b"))
    call = {
        "uses": "slogpt/slogpt-hf/.github/workflows/release.yml@main",
        "permissions": {"contents": "read", "id-token": "write", "pull-requests": "write"},
        "with": {
            "repo-id": "me/model",
            "checkpoints": "out/**/ckpt.pt",
            "hub-endpoint": hub.endpoint,
            "image": "present",
            "smoke": "false",
        },
        "secrets": {"hf-token": "${{ secrets.HF_TOKEN }}"},
    }
    text = yaml.safe_dump({"on": {"push": None}, "jobs": {"release": call}})
    on = machine(
        origin.push(),
        secrets={"HF_TOKEN": "hf_theTokenOfTheseTests"},
        PATH=f"{stub.folder}:{os.environ['PATH']}",
        HF_HUB_DISABLE_XET="1",
    )
    result = run_workflow(on, expressions, text)
    assert result.results["release"] == "success", result.log
    assert len(json.loads(result.outputs["matrix"])["include"]) == 2
    assert result.outputs["released"] == "true"
    assert len(tags(tmp_path / "served")) == 2
    assert "hf_theTokenOfTheseTests" not in result.log


def test_our_own_self_test_passes(
    machine: Callable[..., Machine],
    expressions: Expressions,
    stub: Any,
    action_repository: Path,
    tmp_path: Path,
) -> None:
    become_real(stub, tmp_path)
    repository = tmp_path / "slogpt-hf"
    shutil.copytree(action_repository, repository)
    folder = "tests/data/golden/slo-modern"
    shutil.copytree(GOLDEN / "slo-modern", repository / folder)
    (repository / ".ci" / "venv").write_text(f"echo {sys.executable}\n")
    git(repository, "add", "--all", "--force")
    git(repository, "commit", "--quiet", "--message", "demo")
    sha = git(repository, "rev-parse", "HEAD")
    event = Event("push", sha, "refs/heads/main", {"ref": "refs/heads/main", "after": sha})
    path = f"{stub.folder}:{os.environ['PATH']}"
    on = replace(machine(event, PATH=path), repository="slogpt/slogpt-hf")
    on = replace(on, repositories={"slogpt/slogpt-hf": repository})
    text = (repository / ".github" / "workflows" / "self-test.yml").read_text()
    run = run_workflow(on, expressions, text)
    assert run.results == {"action": "success"}, run.log
    assert len(run.jobs) == 2
