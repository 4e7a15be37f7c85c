"""How `.ci/action` calls docker, which is a stand-in that notes it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SECRETS = {
    "HF_TOKEN": "hf_secretOfTheHub",
    "GITHUB_TOKEN": "ghs_theTokenOfTheJob",
    "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "identitySecret",
}
HARDENED = ["--rm", "--read-only", "--pull never", "--cap-drop ALL", "--tmpfs /tmp"]
HARDENED += ["--security-opt no-new-privileges", f"--user {os.getuid()}:{os.getgid()}"]
Stage = Callable[..., tuple[int, dict[str, str]]]


@pytest.fixture
def stage(tmp_path: Path, stub: Any, action_copy: Path) -> Stage:
    """Runs a stage: `(name, **environment)` to exit code and the outputs of the step."""
    workspace = tmp_path / "workspace"
    (workspace / ".git").mkdir(parents=True)
    (tmp_path / "temp").mkdir()
    (tmp_path / "event.json").write_text("{}")

    def run(name: str, **environment: str) -> tuple[int, dict[str, str]]:
        outputs = tmp_path / "outputs"
        outputs.write_text("")
        files = {"GITHUB_OUTPUT": outputs, "GITHUB_EVENT_PATH": tmp_path / "event.json"}
        surroundings = {
            **{key: str(value) for key, value in files.items()},
            **SECRETS,
            "PATH": f"{stub.folder}:{os.environ['PATH']}",
            "GITHUB_WORKSPACE": str(workspace),
            "GITHUB_SHA": "0" * 40,
            "RUNNER_TEMP": str(tmp_path / "temp"),
            "ACTION_IMAGE": "present",
            "ACTION_RUNTIME": "docker",
            "SLOGPT_REPO_ID": "me/model",
            **environment,
        }
        script = action_copy / ".ci" / "action"
        done = subprocess.run(["bash", script, name], cwd=workspace, env=surroundings)
        lines = outputs.read_text().splitlines()
        return done.returncode, dict(line.split("=", 1) for line in lines)

    return run


def last_run(stub: Any) -> str:
    return " ".join(next(call for call in reversed(stub.docker) if call[0] == "run"))


def mounts(command: str) -> dict[str, str]:
    """Source of every mount to `rw` or `ro`."""
    found = {}
    for each in command.split("--mount ")[1:]:
        kind, source, target, *rest = each.split()[0].split(",")
        assert kind == "type=bind"
        assert source.removeprefix("source=") == target.removeprefix("target=")
        found[source.removeprefix("source=")] = "ro" if rest == ["readonly"] else "rw"
    return found


def test_each_stage_is_shielded_as_the_table_says(stage: Stage, stub: Any, tmp_path: Path) -> None:
    hub = str(tmp_path / "workspace" / "hub")
    code, outputs = stage("prepare", SLOGPT_HUB="hub")
    assert code == 0
    work, workspace = outputs["work"], str(tmp_path / "workspace")
    assert (outputs["runtime"], outputs["image"]) == ("docker", "present")
    command = last_run(stub)
    files = {str(tmp_path / "outputs"): "rw", str(tmp_path / "event.json"): "ro"}
    assert mounts(command) == {workspace: "ro", work: "rw", hub: "rw", **files}
    assert "--network" not in command
    assert command.endswith(f"present ci prepare {work}")

    handed = {"ACTION_WORK": work, "SLOGPT_HUB": "hub"}
    stage("prove", **handed)
    command = last_run(stub)
    assert mounts(command) == {workspace: "ro", work: "ro", f"{work}/proof": "rw"}
    assert "--network none" in command
    assert f"--tmpfs {workspace}/.git" in command

    stage("publish", **handed)
    assert mounts(last_run(stub)) == {work: "rw", f"{work}/proof": "ro", hub: "rw"}
    stage("report", **handed)
    assert mounts(last_run(stub)) == {work: "ro", **files}
    for call in (" ".join(call) for call in stub.docker if call[0] == "run"):
        assert all(flag in call for flag in HARDENED), call


def test_no_secret_is_in_an_argument_and_each_is_where_it_is_needed(
    stage: Stage, stub: Any
) -> None:
    _, outputs = stage("prepare")
    for name in ("prove", "publish", "report"):
        stage(name, ACTION_WORK=outputs["work"])
    assert not any(secret in str(stub.docker) for secret in SECRETS.values())
    reached = {each["stage"]: SECRETS.keys() & each["environment"].keys() for each in stub.seen}
    assert reached["prepare"] == set(SECRETS)
    assert reached["prove"] == set()
    assert reached["publish"] == {"HF_TOKEN", "ACTIONS_ID_TOKEN_REQUEST_TOKEN"}
    assert reached["report"] == {"GITHUB_TOKEN"}
    assert {each["environment"]["HOME"] for each in stub.seen} == {"/tmp"}


def test_an_image_that_is_not_here_is_pulled(stage: Stage, stub: Any) -> None:
    code, outputs = stage("prepare", ACTION_IMAGE="ghcr.io/me/image@sha256:0")
    assert (code, outputs["image"]) == (0, "ghcr.io/me/image@sha256:0")
    assert ["pull", "--quiet", "ghcr.io/me/image@sha256:0"] in stub.docker


def test_the_image_is_that_of_the_file_or_built_until_one_is_published(
    stage: Stage, stub: Any, action_copy: Path
) -> None:
    file = action_copy / ".ci" / "image"
    file.write_text("ghcr.io/slogpt/slogpt-hf 0 unpublished\n")
    assert stage("prepare", ACTION_IMAGE="")[1]["image"] == "sha256:built"
    assert any(call[0] == "build" and call[-1] == str(action_copy) for call in stub.docker)
    file.write_text("ghcr.io/slogpt/slogpt-hf 1.2.0 sha256:abc\n")
    assert stage("prepare", ACTION_IMAGE="")[1]["image"] == "ghcr.io/slogpt/slogpt-hf@sha256:abc"


def test_without_an_engine_auto_takes_python_and_docker_is_refused(
    stage: Stage, stub: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (stub.folder / "docker").write_text("#!/bin/sh\nexit 1\n")
    assert stage("prepare")[0] == 2
    assert "::error title=slogpt-hf::runtime is docker" in capfd.readouterr().err
    code, outputs = stage("prepare", ACTION_RUNTIME="auto", ACTION_PYTHON=stub.interpreter)
    assert (code, outputs["runtime"]) == (0, "python")


def test_a_job_in_a_container_takes_no_engine(stage: Stage, stub: Any, action_copy: Path) -> None:
    (action_copy / ".dockerenv").touch()
    assert stage("prepare")[0] == 2
    _, outputs = stage("prepare", ACTION_RUNTIME="auto", ACTION_PYTHON=stub.interpreter)
    assert outputs["runtime"] == "python"


def test_what_is_no_runtime_is_refused(stage: Stage) -> None:
    assert stage("prepare", ACTION_RUNTIME="podman")[0] == 2


def test_an_input_cannot_write_other_outputs(stage: Stage) -> None:
    python = f"{sys.executable}\nruntime=docker"
    assert stage("prepare", ACTION_RUNTIME="python", ACTION_PYTHON=python) == (2, {})


def test_what_is_no_stage_is_refused(stage: Stage, capfd: pytest.CaptureFixture[str]) -> None:
    assert stage("deploy")[0] == 2
    assert "usage:" in capfd.readouterr().err
