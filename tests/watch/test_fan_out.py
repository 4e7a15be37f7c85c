"""Plans as the jobs of GitLab and Kubernetes: nothing is lost, nothing is obeyed."""

from __future__ import annotations

import importlib
import importlib.util
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from needs import missing, program

from slogpt_hf import fan_out
from slogpt_hf.errors import UsageError
from slogpt_hf.planning import Decision, Plan
from slogpt_hf.settings import Settings, load_settings
from slogpt_hf.watch import Candidate, Provenance

SETTINGS = Settings(repo_id="me/model", checkpoints=("out/**/*.pt",), oidc=True)
SOURCES = ["https://git.example.com/me/training.git"]
COUNTS = [0, 1, 200, 201, 256, 257, 1000, 1001, 2500]


def plan_of(count: int) -> Plan:
    """A plan with so many that are wanted, and one that is not."""
    candidate = Candidate(name="ckpt.pt", kind="git", place=".", provenance=Provenance())
    wanted = [Decision(f"{n:012x}", candidate, True, "new") for n in range(count)]
    return Plan("me/model", (*wanted, Decision("known", candidate, False, "released")))


def keys_of(plan: Plan) -> list[str]:
    return [decision.key for decision in plan.wanted]


@pytest.mark.parametrize("count", COUNTS)
def test_gitlab_gets_every_checkpoint_once(count: int) -> None:
    plan = plan_of(count)
    pipeline = fan_out.gitlab(plan, SETTINGS)
    parts = [
        job["parallel"]["matrix"][0]["CANDIDATE"]
        for job in pipeline.values()
        if isinstance(job, dict) and "parallel" in job
    ]
    assert [key for part in parts for key in part] == keys_of(plan)
    assert all(1 <= len(part) <= 200 for part in parts)
    assert ("slogpt-hf nothing new" in pipeline) == (count == 0)


@pytest.mark.parametrize("count", COUNTS)
def test_kubernetes_gets_every_checkpoint_once(count: int) -> None:
    plan = plan_of(count)
    documents = fan_out.kubernetes(plan, SETTINGS, SOURCES)
    keys, names = [], set()
    for config, job in zip(documents[::2], documents[1::2], strict=True):
        assert job["spec"]["completions"] == len(config["data"]) <= fan_out.MOST_INDEXES
        keys += [config["data"][str(index)] for index in range(len(config["data"]))]
        [volume] = [v for v in job["spec"]["template"]["spec"]["volumes"] if "configMap" in v]
        assert volume["configMap"]["name"] == config["metadata"]["name"]
        names.add(job["metadata"]["name"])
        # What kubectl keeps of it as an annotation is 256 KiB at most.
        assert len(json.dumps(config)) < 1 << 18
    assert keys == keys_of(plan)
    assert len(names) == len(documents) // 2
    assert fan_out.kubernetes(plan, SETTINGS, SOURCES) == documents  # the same plan, the same names


def job_of(settings: Settings = SETTINGS, sources: list[str] = SOURCES) -> dict[str, Any]:
    _, job = fan_out.kubernetes(plan_of(2), settings, sources)
    return job


def test_only_what_fetches_and_publishes_has_the_token() -> None:
    spec = job_of()["spec"]["template"]["spec"]
    containers = [*spec["initContainers"], *spec["containers"]]
    holders = [c["name"] for c in containers if any("valueFrom" in each for each in c["env"])]
    assert [c["name"] for c in containers] == ["prepare", "prove", "publish"]
    assert holders == ["prepare", "publish"]
    pipeline = fan_out.gitlab(plan_of(2), SETTINGS)
    with_identity = [n for n, job in pipeline.items() if "id_tokens" in job or "environment" in job]
    assert with_identity == ["slogpt-hf publish"]


def test_one_that_fails_keeps_none_of_the_others() -> None:
    spec = job_of()["spec"]
    assert spec["backoffLimitPerIndex"] == 0 and "backoffLimit" not in spec
    assert fan_out.gitlab(plan_of(2), SETTINGS)["slogpt-hf publish"]["when"] == "always"


def test_a_merge_request_is_proven_alone() -> None:
    pipeline = fan_out.gitlab(plan_of(2), SETTINGS, publish=False)
    assert "slogpt-hf publish" not in pipeline
    assert "--no-publish" in pipeline["slogpt-hf prove 1"]["script"][0]


@given(
    message=st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1),
    globs=st.lists(st.from_regex(r"[a-z$()*{}]{1,8}", fullmatch=True), min_size=1),
)
def test_variables_are_the_settings_again(message: str, globs: list[str]) -> None:
    settings = Settings(
        repo_id="me/model", message=message, checkpoints=tuple(globs), private=True, create=False
    )
    variables = fan_out.variables_of(settings)
    assert load_settings({}, variables, Path("/nowhere")) == settings
    pipeline = fan_out.gitlab(plan_of(1), settings)["variables"]
    assert {n: pipeline[n].replace("$$", "$") for n in variables} == variables
    assert not any("$" in pipeline[n].replace("$$", "") for n in variables)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"checkpoints": ("a,b.pt",)}, "comma"),
        ({"tokenizer": "https://me:hunter2secret@example.com/t"}, "credential"),
        ({"which": "best"}, "--which best"),
    ],
)
def test_what_cannot_be_handed_on_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        job_of(Settings(repo_id="me/model", **change))


def test_a_pod_sees_urls_alone_and_no_credential_of_them() -> None:
    with pytest.raises(UsageError, match="a pod cannot see it"):
        job_of(sources=["."])
    text = json.dumps(job_of(sources=["https://me:hunter2@git.example.com/t.git"]))
    assert "hunter2" not in text and "https://git.example.com/t.git" in text
    assert "$$(HOME)" in json.dumps(job_of(Settings(repo_id="me/m", message="$(HOME)")))
    # "$$" is one "$" to Kubernetes: of "$$$(HOME)" it would expand the second half.
    assert "$$$$(HOME)" in json.dumps(job_of(Settings(repo_id="me/m", message="$$(HOME)")))


@pytest.mark.parametrize("count", [0, 2, 1001])
def test_kubernetes_own_schema_takes_it(count: int) -> None:
    if importlib.util.find_spec("kubernetes_validate") is None:
        missing("programs", "kubernetes-validate is not installed")
    schemas = importlib.import_module("kubernetes_validate")
    for document in fan_out.kubernetes(plan_of(count), SETTINGS, SOURCES):
        schemas.validate(document, "1.34", strict=True)


@pytest.mark.parametrize("count", [0, 2, 257])
def test_gitlabs_own_schema_takes_it(count: int, tmp_path: Path) -> None:
    path = tmp_path / "child.yml"
    path.write_text(json.dumps(fan_out.gitlab(plan_of(count), SETTINGS)))
    options = ["--builtin-schema", "vendor.gitlab-ci", "--regex-variant", "python"]
    command = [program("check-jsonschema"), *options, "--data-transform", "gitlab-ci", path]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
