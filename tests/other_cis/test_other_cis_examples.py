"""Each example's own commands, with a docker that starts the tool instead of an image."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from ci_examples import (
    EXAMPLES,
    Job,
    azure_jobs,
    azure_runs,
    circleci_jobs,
    container,
    jenkins_jobs,
    jenkins_runs,
    pod,
)
from ci_lab import BRANCH, REPO, TOKEN, Lab, git, holders, stages_of
from needs import program

from slogpt_hf.ci.detect import ROWS
from slogpt_hf.version import __version__

IMAGE = f"ghcr.io/slogpt/slogpt-hf:{__version__}"
SHELLS = {
    "jenkins": ["sh", "-xe", "-c"],
    "circleci": ["bash", "-eo", "pipefail", "-c"],
    "azure": ["bash", "--noprofile", "--norc", "-c"],
}
HARDENED = ["--read-only", "--cap-drop ALL", "--security-opt no-new-privileges", "--tmpfs /tmp"]


def steps(lab: Lab, ci: str, job: Job, folder: Path, given: Mapping[str, str]) -> int:
    """Run the steps of a job; exit code of the first that fails, after which it ends."""
    secrets = dict.fromkeys(job.secrets, TOKEN)
    environment = {**job.environment, **given, **secrets}
    codes = (lab.run([*SHELLS[ci], command], folder, environment) for command in job.commands)
    return next((code for code in codes if code), 0)


def handed_on(source: Path, target: Path) -> None:
    """The artifact of a job, where the next one finds it."""
    assert not (source / "checkpoints").exists()
    shutil.copytree(source, target, dirs_exist_ok=True)


def jenkins(lab: Lab, name: str, pull_request: bool) -> int:
    folder, jobs = lab.checkout(name), jenkins_jobs()
    branch = "PR-7" if pull_request else BRANCH
    given = {
        "JENKINS_URL": "https://ci.example.com/",
        "BUILD_URL": "https://ci.example.com/job/training/1/",
        "BRANCH_NAME": branch,
        "GIT_COMMIT": git(folder, "rev-parse", "HEAD"),
        "WORKSPACE_TMP": str(lab.folder / f"{name}@tmp"),
    }
    if pull_request:
        given |= {"CHANGE_ID": "7", "CHANGE_BRANCH": BRANCH, "CHANGE_TARGET": "main"}
    code = 0
    for job in (jobs["prove"], jobs["publish"]):
        if jenkins_runs(job.runs, branch, pull_request):
            code = steps(lab, "jenkins", job, folder, given) or code
    return steps(lab, "jenkins", jobs["post"], folder, given) or code


def circleci(lab: Lab, name: str, pull_request: bool) -> int:
    jobs, code = circleci_jobs(), 0
    branch = "pull/7" if pull_request else BRANCH
    given = {"CIRCLECI": "true", "CIRCLE_BRANCH": branch}
    if pull_request:
        given |= {"CIRCLE_PR_NUMBER": "7", "CIRCLE_PULL_REQUEST": "https://example.com/pull/7"}
    before = None
    for job in (jobs["prove"], jobs["publish"]):
        if re.fullmatch(job.runs, branch):
            folder = lab.checkout(f"{name}-{job.name}")
            if before:
                handed_on(before / ".slogpt-hf", folder / ".slogpt-hf")
            commit = git(folder, "rev-parse", "HEAD")
            code = steps(lab, "circleci", job, folder, {**given, "CIRCLE_SHA1": commit}) or code
            before = folder
    return code


def azure(lab: Lab, name: str, pull_request: bool) -> int:
    jobs, code = azure_jobs(), 0
    branch = "refs/pull/7/merge" if pull_request else f"refs/heads/{BRANCH}"
    reason = "PullRequest" if pull_request else "IndividualCI"
    variables = {"Build.SourceBranch": branch, "Build.Reason": reason}
    given = {key.replace(".", "_").upper(): value for key, value in variables.items()}
    before = None
    for job in (jobs["prove"], jobs["publish"]):
        if azure_runs(job.runs, "Failed" if code else "Succeeded", variables):
            folder = lab.checkout(f"{name}-{job.name}")
            pipeline = lab.folder / f"{name}-{job.name}-pipeline"
            pipeline.mkdir()
            if before:
                handed_on(before / "slogpt-hf", pipeline / "slogpt-hf")
            run = {**given, "TF_BUILD": "True", "PIPELINE_WORKSPACE": str(pipeline)}
            run["BUILD_SOURCEVERSION"] = git(folder, "rev-parse", "HEAD")
            code = steps(lab, "azure", job, folder, run) or code
            before = pipeline
    return code


CIS = {"jenkins": jenkins, "circleci": circleci, "azure": azure}


@pytest.mark.parametrize("ci", CIS)
def test_a_push_releases_once(lab: Lab, ci: str) -> None:
    assert CIS[ci](lab, "push", pull_request=False) == 0
    seen, containers = lab.seen(), lab.containers()
    assert stages_of(seen) == ["prepare", "prove", "publish", "report"]
    assert holders(seen) == {"publish"}
    assert lab.tags() == ["v1.0.0"]
    for arguments in containers:
        assert IMAGE in arguments
        assert all(flag in " ".join(arguments) for flag in HARDENED)
    [alone] = [" ".join(each) for each in containers if "--network" in each]
    assert "--network none" in alone
    assert " ci prove " in alone

    assert CIS[ci](lab, "again", pull_request=False) == 0
    assert lab.tags() == ["v1.0.0"]
    assert list(lab.folder.rglob("evaluated")) == []  # the commit message says to touch it


@pytest.mark.parametrize("ci", CIS)
def test_a_pull_request_is_never_published(lab: Lab, ci: str) -> None:
    lab.skip_proofs()
    assert CIS[ci](lab, "pull-request", pull_request=True) == 0
    seen = lab.seen()
    assert {"prepare", "prove"} <= set(stages_of(seen)) <= {"prepare", "prove", "report"}
    assert holders(seen) == set()
    *_, work = seen[0]["arguments"]
    plan = json.loads((Path(work) / "plan.json").read_text())
    assert plan["publish"] is False  # had the example asked for it all the same


@pytest.mark.parametrize("name", ["Jenkins", "CircleCI", "Azure Pipelines"])
def test_what_tells_the_cis_apart_reaches_the_container(lab: Lab, name: str) -> None:
    [row] = [row for row in ROWS if row.name == name]
    names = set(re.findall(r"\{(\w*[A-Z]\w*)\}", repr(row))) | {row.sign}
    given = {**dict.fromkeys(names, "1"), "CIRCLE_OIDC_TOKEN": TOKEN, "SYSTEM_ACCESSTOKEN": TOKEN}
    lab.run(["bash", "release.sh", str(lab.folder / "work"), "report"], lab.checkout("a"), given)
    [arguments] = lab.containers()[-1:]
    assert names <= set(arguments)
    assert holders(lab.seen()) == set()


@pytest.mark.parametrize("ci", CIS)
def test_what_is_refused_fails_the_pipeline(lab: Lab, ci: str) -> None:
    clone = lab.checkout("spoiling")
    (clone / "out/ckpt.pt").write_bytes(b"no checkpoint")
    git(clone, "commit", "--quiet", "--all", "--message", "spoil")
    git(clone, "push", "--quiet", "origin", f"HEAD:{BRANCH}")
    if ci == "jenkins":  # there the step catchError notes the code and goes on
        folder, job = lab.checkout("spoilt"), jenkins_jobs()["prove"]
        assert steps(lab, ci, job, folder, {"WORKSPACE_TMP": str(lab.folder / "tmp")}) != 0
    else:
        assert CIS[ci](lab, "spoilt", pull_request=False) != 0
        assert "publish" in stages_of(lab.seen())
    assert lab.tags() == []


def test_docker_alone(lab: Lab) -> None:
    clone = lab.checkout("clone")
    given = {"SLOGPT_REPO_ID": REPO, "SLOGPT_CHECKPOINTS": "out/**/ckpt*.pt", "HF_TOKEN": TOKEN}
    for _ in range(2):
        assert lab.run(["bash", "release.sh"], clone, {**given, "TMPDIR": str(lab.folder)}) == 0
        seen = lab.seen()
        assert stages_of(seen) == ["prepare", "prove", "publish", "report"]
        assert holders(seen) == {"prepare", "publish"}
        assert lab.tags() == ["v1.0.0"]
    prove = next(each for each in seen if each["arguments"][1] == "prove")
    assert prove["environment"].keys() & {"HF_ENDPOINT", "SLOGPT_REPO_ID", "CI"} == set()
    assert git(clone, "status", "--porcelain") == ""
    assert list(lab.folder.glob("slogpt-hf-*")) == []


@pytest.mark.skipif("TESTS_IMAGE" not in os.environ, reason="TESTS_IMAGE names none")
def test_docker_alone_with_the_image(lab: Lab) -> None:
    clone, hub = lab.checkout("clone"), lab.folder / "folder-hub"
    hub.mkdir()
    (lab.programs / "docker").unlink()
    given = {
        "SLOGPT_REPO_ID": REPO,
        "SLOGPT_HUB": str(hub),
        "IMAGE": os.environ["TESTS_IMAGE"],
        "HF_ENDPOINT": "",
    }
    for _ in range(2):
        assert lab.run(["bash", "release.sh"], clone, given) == 0
        assert git(hub / f"{REPO}.git", "tag") == "v1.0.0"


def test_the_cron_job_releases_once(lab: Lab) -> None:
    found = container()
    plain = {each["name"]: each["value"] for each in found["env"] if "value" in each}
    secret = {each["name"]: TOKEN for each in found["env"] if "valueFrom" in each}
    source = "https://github.com/me/training.git"
    assert source in found["args"]
    arguments = [str(lab.origin) if each == source else each for each in found["args"]]
    for _ in range(2):
        home = {"HOME": str(lab.folder), "HF_HOME": str(lab.folder / "hf")}
        given = {**plain, **secret, **home}
        assert lab.run(["slogpt-hf", *arguments], lab.folder, given) == 0
        assert lab.tags() == ["v1.0.0"]


def test_the_cron_job_keeps_the_restricted_standard() -> None:
    """Pod Security Standards, policy "restricted", and a root file system that is read-only."""
    found, around = container(), pod()
    assert around["securityContext"]["runAsNonRoot"] is True
    assert around["securityContext"]["runAsUser"] > 0
    assert around["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert found["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"hostNetwork", "hostPID", "hostIPC"} & around.keys() == set()
    assert [set(volume) for volume in around["volumes"]] == [{"name", "emptyDir"}]
    assert around["automountServiceAccountToken"] is False
    [mount] = found["volumeMounts"]
    home = {each["name"]: each.get("value") for each in found["env"]}
    assert home["HOME"] == mount["mountPath"] == "/tmp"


FILES = sorted(
    path for path in EXAMPLES.glob("*/**/*") if path.is_file() and "ghcr.io/" in path.read_text()
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(EXAMPLES)))
def test_the_image_is_the_one_of_this_version(path: Path) -> None:
    assert set(re.findall(r"ghcr\.io/[\w./-]+:[\w.-]+", path.read_text())) == {IMAGE}


def test_every_example_names_its_image() -> None:
    named = {path.relative_to(EXAMPLES).parts[0] for path in FILES}
    assert named >= {"azure", "circleci", "docker", "gitlab", "jenkins", "kubernetes"}


SCHEMAS = {
    "circle-ci": "circleci/config.yml",
    "azure-pipelines": "azure/azure-pipelines.yml",
    "gitlab-ci": "gitlab/.gitlab-ci.yml",
}


@pytest.mark.parametrize("schema", SCHEMAS)
def test_schemas(schema: str) -> None:
    check = program("check-jsonschema")
    transform = [] if schema == "circle-ci" else ["--data-transform", schema]
    options = ["--builtin-schema", f"vendor.{schema}", "--regex-variant", "python", *transform]
    result = subprocess.run(
        [check, *options, EXAMPLES / SCHEMAS[schema]], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout


def test_shellcheck(tmp_path: Path) -> None:
    check = program("shellcheck")
    scripts = [EXAMPLES / "docker/release.sh"]
    for ci, jobs in {
        "jenkins": jenkins_jobs(),
        "circleci": circleci_jobs(),
        "azure": azure_jobs(),
    }.items():
        for job in jobs.values():
            scripts.append(tmp_path / f"{ci}-{job.name}")
            shell = "#!/bin/sh" if ci == "jenkins" else "#!/bin/bash"
            scripts[-1].write_text("\n".join([shell, *job.commands, ""]))
    result = subprocess.run([check, *scripts], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
