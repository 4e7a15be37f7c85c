"""`release.yml`, called from another repository as users call it; the command line is a stub."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from actions_runner import Event, Expressions, Machine, Run, UnsupportedError, run_workflow
from actions_runner.events import Origin, git

PERMISSIONS = {"contents": "read", "id-token": "write", "pull-requests": "write"}
MATRIX = {
    "include": [
        {"key": key, "name": f"out/{key}.pt", "branch": "main", "commit": "c" * 40, "sha256": ""}
        for key in ("one", "two")
    ]
}
Runs = Callable[..., Run]


@pytest.fixture
def run(
    machine: Callable[..., Machine],
    expressions: Expressions,
    origin: Origin,
    stub: Any,
    action_repository: Path,
) -> Runs:
    """Calls the workflow: `(event=a push, permissions=PERMISSIONS, **inputs)`."""
    sha = git(action_repository, "rev-parse", "HEAD")

    def make(
        event: Event | None = None, permissions: dict[str, str] | None = None, **inputs: Any
    ) -> Run:
        call = {
            "uses": f"slogpt/slogpt-hf/.github/workflows/release.yml@{sha}",
            "permissions": PERMISSIONS if permissions is None else permissions,
            "with": {name.replace("_", "-"): value for name, value in inputs.items()},
            "secrets": {"hf-token": "${{ secrets.HF_TOKEN }}"},
        }
        text = {"on": {"push": None, "pull_request": None}, "jobs": {"release": call}}
        on = machine(
            event or origin.push(),
            secrets={"HF_TOKEN": "hf_secretOfTheHub"},
            PATH=f"{stub.folder}:{os.environ['PATH']}",  # its docker is the first
        )
        return run_workflow(on, expressions, yaml.safe_dump(text))

    return make


def test_plan_prove_publish(run: Runs, stub: Any) -> None:
    outputs = {"new": 2, "publish": "true", "matrix": json.dumps(MATRIX)}
    stub.tell(prepare={"outputs": outputs}, report={"outputs": {"released": "true"}})
    result = run(repo_id="me/model", image="present", which="latest")
    names = ["plan", "prove", "publish"]
    assert result.results == {
        **{f"release/{name}": "success" for name in names},
        "release/comment": "skipped",
        "release": "success",
    }, result.log
    assert result.outputs["released"] == "true"
    assert json.loads(result.outputs["matrix"]) == MATRIX
    stages = [(each["stage"], each["environment"].get("ACTION_STAGE")) for each in stub.seen]
    prove = [("prepare", "prove"), ("prove", "prove"), ("report", "prove")]
    publish = [(name, "publish") for name in ("prepare", "publish", "report")]
    assert stages == [("prepare", "plan"), *prove, *prove, *publish]
    assert stub.seen[0]["environment"]["SLOGPT_WHICH"] == "latest"
    assert [each["environment"].get("ACTION_CANDIDATE") for each in stub.seen[1:7:3]] == [
        "one",
        "two",
    ]
    gathered = Path(stub.seen[7]["environment"]["ACTION_ARTEFACTS"])
    assert (gathered / "slogpt-hf-two" / "plan.json").read_text() == "two"
    assert (gathered / "slogpt-hf-one" / "proof" / "outcomes" / "k.json").exists()
    assert not (gathered / "slogpt-hf-one" / "checkpoints").exists()


def test_every_job_has_the_least_permissions_and_publishing_waits_its_turn(
    run: Runs, stub: Any
) -> None:
    stub.tell(prepare={"outputs": {"new": 1, "publish": "true", "matrix": json.dumps(MATRIX)}})
    result = run(repo_id="me/model", image="present")
    identity = {"contents": "read", "id-token": "write"}
    assert result.permissions["release/plan"] == identity
    assert result.permissions["release/prove"] == {"contents": "read"}
    assert result.permissions["release/publish"] == identity
    assert result.concurrency == {
        "release/publish": {
            "group": "slogpt-hf-me/model",
            "cancel-in-progress": False,
            "queue": "max",
        }
    }


def test_nothing_new_starts_no_other_job(run: Runs, stub: Any) -> None:
    empty = json.dumps({"include": []})
    stub.tell(prepare={"outputs": {"new": 0, "publish": "true", "matrix": empty}})
    result = run(repo_id="me/model", image="present")
    assert list(result.jobs) == ["release/plan"]
    assert result.outputs["released"] == "false"


def test_what_is_proven_is_published_beside_what_is_refused(run: Runs, stub: Any) -> None:
    outputs = {"new": 2, "publish": "true", "matrix": json.dumps(MATRIX)}
    stub.tell(prepare={"outputs": outputs}, prove={"code": 4})
    result = run(repo_id="me/model", image="present")
    assert result.results["release/prove"] == "failure"
    assert result.results["release/publish"] == "success"
    assert result.results["release"] == "failure"


def test_a_pull_request_is_proven_and_commented(
    run: Runs, stub: Any, origin: Origin, tmp_path: Path
) -> None:
    fork = Origin.make(tmp_path / "fork", "someone-else/train")
    git(fork.clone, "pull", "--quiet", str(origin.server), "main")
    fork.commit(**{"out__ckpt.pt": b"checkpoint"})
    fork.push("theirs")
    event = origin.pull_request(fork, "theirs")
    outputs = {"new": 1, "publish": "false", "matrix": json.dumps(MATRIX)}
    stub.tell(prepare={"outputs": outputs})
    result = run(event, repo_id="me/model", image="present", comment=True)
    assert result.results["release/publish"] == "skipped"
    assert result.results["release/comment"] == "success"
    assert "publish" not in stub.stages
    assert result.permissions["release/comment"]["pull-requests"] == "write"
    assert stub.seen[-1]["environment"]["GITHUB_TOKEN"]


def test_a_caller_without_the_permissions_is_told(run: Runs) -> None:
    with pytest.raises(UnsupportedError, match="requesting 'id-token: write'"):
        run(permissions={"contents": "read"}, repo_id="me/model")


def test_an_unknown_input_is_refused(run: Runs) -> None:
    with pytest.raises(UnsupportedError, match="unknown inputs"):
        run(repository="me/model")
