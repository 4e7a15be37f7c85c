"""GitLab's example, executed by gitlab-ci-local with jobs as processes."""

from __future__ import annotations

import subprocess

import pytest
import yaml
from ci_lab import BRANCH, HERE, ROOT, TOKEN, Lab, git, holders, stages_of
from needs import node_for, program

RUNNER = HERE / "node_modules/gitlab-ci-local/dist/index.js"
NODE = HERE / "node_modules/node/bin/node"  # newer than the tests' own


@pytest.fixture(scope="session")
def _runner() -> None:
    node_for(HERE, "gitlab-ci-local")
    node_for(HERE, "node")
    program("rsync")


def pipeline(lab: Lab, name: str, source: str) -> tuple[int, str]:
    """Run the pipeline of the training branch in a new checkout; exit code and log."""
    folder = lab.folder / name
    git(lab.folder, "clone", "--quiet", "--branch", BRANCH, str(lab.origin), str(folder))
    git(folder, "remote", "set-url", "origin", "git@gitlab.example.com:me/training.git")
    text = (folder / ".gitlab-ci.yml").read_text()
    (folder / ".gitlab-ci.yml").write_text(f"{text}      oidc: false\n")
    secret = {"HF_TOKEN": {"values": {"huggingface": TOKEN}}}
    (folder / ".gitlab-ci-local-variables.yml").write_text(yaml.safe_dump(secret))
    options = ["--force-shell-executor", "--shell-isolation", "--no-color"]
    result = subprocess.run(
        [NODE, RUNNER, *options, "--variable", f"CI_PIPELINE_SOURCE={source}"],
        cwd=folder,
        env=lab.environment(),
        capture_output=True,
        text=True,
        timeout=180,
    )
    return result.returncode, result.stdout + result.stderr


@pytest.mark.usefixtures("_runner")
def test_a_push_releases_once_and_a_merge_request_never(lab: Lab) -> None:
    lab.skip_proofs()
    code, log = pipeline(lab, "merge-request", "merge_request_event")
    assert code == 0, log
    seen = lab.seen()
    assert stages_of(seen) == ["prepare", "prove", "report"]
    assert TOKEN not in str(seen)
    assert lab.tags() == []

    lab.skip_proofs(False)
    code, log = pipeline(lab, "push", "push")
    assert code == 0, log
    seen = lab.seen()
    assert stages_of(seen) == ["prepare", "prove", "report", "publish", "report"]
    assert holders(seen) == {"publish", "report"}  # one job, whose environment has the token
    assert lab.tags() == ["v1.0.0"]

    code, log = pipeline(lab, "again", "push")
    assert code == 0, log
    assert lab.tags() == ["v1.0.0"]
    assert TOKEN not in log


@pytest.mark.usefixtures("_runner")
def test_other_branches_run_nothing(lab: Lab) -> None:
    git(lab.origin, "branch", "feature", BRANCH)
    git(lab.origin, "branch", "--force", "main", BRANCH)
    listed = lab.checkout("other", "feature")
    git(listed, "checkout", "--quiet", "-b", "feature")
    git(listed, "remote", "set-url", "origin", "git@gitlab.example.com:me/training.git")
    command = [str(NODE), str(RUNNER), "--list-csv", "--no-color"]
    found = subprocess.run(
        command, cwd=listed, env=lab.environment(), capture_output=True, text=True, timeout=60
    )
    assert "slogpt-hf" not in found.stdout


def test_only_the_job_that_publishes_has_an_identity() -> None:
    path = ROOT / "examples/gitlab/templates/release.yml"
    _, jobs = yaml.safe_load_all(path.read_text())
    with_identity = [name for name, job in jobs.items() if job.get("id_tokens")]
    assert with_identity == ["slogpt-hf publish"]
    token = jobs["slogpt-hf publish"]["id_tokens"]["HF_OIDC_ID_TOKEN"]
    assert token == {"aud": "https://huggingface.co"}
    assert jobs["slogpt-hf publish"]["environment"]["name"] == "huggingface"
    assert "environment" not in jobs["slogpt-hf prove"]
