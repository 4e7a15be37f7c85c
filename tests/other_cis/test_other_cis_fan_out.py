"""`plan --matrix`: the child pipeline by gitlab-ci-local, the Indexed Job's pods as processes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ci_lab import BRANCH, HERE, REPO, TOKEN, Lab, git, holders, stages_of
from needs import node_for, program

RUNNER = HERE / "node_modules/gitlab-ci-local/dist/index.js"
NODE = HERE / "node_modules/node/bin/node"  # newer than the tests' own
GLOB = "out/**/ckpt*.pt"


@pytest.fixture
def commit(lab: Lab, golden: Callable[[str], Path]) -> Callable[..., None]:
    """Commits a damaged checkpoint to the branch that is new, and other ones of golden models."""

    def more(*names: str) -> None:
        work = lab.folder / "work"
        git(lab.folder, "clone", "--quiet", "--branch", BRANCH, str(lab.origin), str(work))
        for name in names:
            shutil.copytree(golden(name), work / "out" / name)
        (work / "out/ckpt_bad.pt").write_bytes(b"no checkpoint")
        git(work, "add", "--all")
        git(work, "commit", "--quiet", "--message", "more")
        git(work, "push", "--quiet", "origin", BRANCH)

    return more


def planned(lab: Lab, *arguments: str, **given: str) -> str:
    """What `slogpt-hf plan` prints in a checkout of the training branch."""
    folder = lab.folder / "planning"
    if not folder.exists():
        git(lab.folder, "clone", "--quiet", "--branch", BRANCH, str(lab.origin), str(folder))
    settings = {"SLOGPT_REPO_ID": REPO, "SLOGPT_CHECKPOINTS": GLOB, "HF_TOKEN": TOKEN, **given}
    result = subprocess.run(
        ["slogpt-hf", "plan", *arguments, "--quiet"],
        cwd=folder,
        env=lab.environment(**settings),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    lab.seen()
    return result.stdout


def child(lab: Lab, name: str) -> tuple[int, str]:
    """Plan, and run the child pipeline in a new checkout; exit code and log."""
    text = planned(lab, "--matrix", "gitlab", GITLAB_CI="true", CI_PIPELINE_SOURCE="push")
    folder = lab.folder / name
    git(lab.folder, "clone", "--quiet", "--branch", BRANCH, str(lab.origin), str(folder))
    git(folder, "remote", "set-url", "origin", "git@gitlab.example.com:me/training.git")
    (folder / ".gitlab-ci.yml").write_text(text)
    secret = {"HF_TOKEN": {"values": {"huggingface": TOKEN}}}
    (folder / ".gitlab-ci-local-variables.yml").write_text(yaml.safe_dump(secret))
    options = ["--force-shell-executor", "--shell-isolation", "--no-color", "--concurrency", "1"]
    result = subprocess.run(
        [NODE, RUNNER, *options, "--variable", "CI_PIPELINE_SOURCE=parent_pipeline"],
        cwd=folder,
        env=lab.environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    return result.returncode, result.stdout + result.stderr


def test_a_child_pipeline_releases_each_once_and_one_that_fails_keeps_none(
    lab: Lab, commit: Callable[..., None]
) -> None:
    commit("slo-classic")
    node_for(HERE, "gitlab-ci-local")
    node_for(HERE, "node")
    program("rsync")
    code, log = child(lab, "first")
    assert code != 0, log  # the damaged one
    seen = lab.seen()
    assert sorted(stages_of(seen)) == sorted(["prepare", "prove", "report"] * 3 + PUBLISHING)
    assert holders(seen) == {"prepare", "publish", "report"}
    assert all(each["arguments"][4] == "publish" for each in seen if _has_token(each, "prepare"))
    assert lab.tags() == ["v1.0.0", "v2.0.0"]
    assert TOKEN not in log

    plan = json.loads(planned(lab, "--matrix"))
    assert [each["name"] for each in plan["include"]] == ["out/ckpt_bad.pt"]


PUBLISHING = ["prepare", "publish", "report"]


def _has_token(seen: dict[str, Any], stage: str) -> bool:
    return seen["arguments"][1] == stage and TOKEN in json.dumps(seen["environment"])


def test_a_child_pipeline_without_anything_new_is_one_that_passes(lab: Lab) -> None:
    node_for(HERE, "gitlab-ci-local")
    node_for(HERE, "node")
    program("rsync")
    git(lab.origin, "update-ref", f"refs/heads/{BRANCH}", "main")
    code, log = child(lab, "nothing")
    assert code == 0, log
    assert lab.tags() == []


def run_pod(lab: Lab, config: dict[str, Any], job: dict[str, Any], index: int) -> int:
    """Run the containers of a pod in their order, as processes; the first exit code that is not 0.

    What a pod sees below /tmp and /plan are folders here.
    """
    pod = job["spec"]["template"]["spec"]
    plan, tmp = lab.folder / "plan", lab.folder / f"pod-{index}"
    plan.mkdir(exist_ok=True)
    tmp.mkdir()
    for name, key in config["data"].items():
        (plan / name).write_text(key)

    def here(text: str) -> str:
        text = text.replace("$(JOB_COMPLETION_INDEX)", str(index))
        text = re.sub(r"^/tmp(?=/|$)", str(tmp), text)
        return re.sub(r"^@/plan/", f"@{plan}/", text)

    for container in [*pod["initContainers"], *pod["containers"]]:
        env = {each["name"]: here(each.get("value", TOKEN)) for each in container["env"]}
        arguments = [here(each) for each in container["args"]]
        if code := lab.run(["slogpt-hf", *arguments], tmp, env):
            return code
    return 0


def test_pods_release_each_once_and_one_that_fails_keeps_none(
    lab: Lab, commit: Callable[..., None]
) -> None:
    commit()
    url = f"file://{lab.origin}"
    given = {"SLOGPT_BRANCHES": BRANCH}
    config, job = yaml.safe_load_all(planned(lab, "--matrix", "kubernetes", url, **given))
    assert job["spec"]["completions"] == 2
    codes = [run_pod(lab, config, job, index) for index in range(2)]
    assert sorted(codes) == [0, 3]
    assert holders(lab.seen()) == {"prepare", "publish"}
    assert lab.tags() == ["v1.0.0"]
    index = codes.index(0)
    shutil.rmtree(lab.folder / f"pod-{index}")
    assert run_pod(lab, config, job, index) == 0  # Kubernetes may start a pod twice
    assert lab.tags() == ["v1.0.0"]
