"""Which stage of `action.yml` runs when, and what it sees; the command line is a stub."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from actions_runner import Event, Expressions, Machine, Run, run_workflow
from actions_runner.events import Origin, git

TOKENS = {
    "HF_TOKEN": "hf_secretOfTheHub",
    "GITHUB_TOKEN": "ghs_theTokenOfTheJob",
    "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "identitySecret",
    "ACTIONS_RUNTIME_TOKEN": "runtimeSecret",
    "AWS_SECRET_ACCESS_KEY": "storeSecret",
}


def workflow(uses: str, given: Mapping[str, Any], *more: Mapping[str, Any]) -> str:
    """A workflow with one job that checks out and uses an action."""
    steps = [
        {"uses": "actions/checkout@v7"},
        {"id": "release", "uses": uses, "with": {"token": "${{ secrets.HF }}", **given}},
        *more,
    ]
    job = {"runs-on": "ubuntu-latest", "steps": steps}
    events = dict.fromkeys(("push", "pull_request", "schedule", "workflow_dispatch"))
    return yaml.safe_dump({"name": "Release", "on": events, "jobs": {"release": job}})


Runs = Callable[..., Run]


@pytest.fixture
def run(
    machine: Callable[..., Machine],
    expressions: Expressions,
    origin: Origin,
    stub: Any,
    action_repository: Path,
) -> Runs:
    """Runs the action: `(event=a push, cancel_at=None, uses=, environment={}, **inputs)`."""

    def make(
        event: Event | None = None,
        cancel_at: str | None = None,
        uses: str | None = None,
        environment: Mapping[str, str] | None = None,
        **inputs: str,
    ) -> Run:
        sha = git(action_repository, "rev-parse", "HEAD")
        surroundings = {**TOKENS, "ACTION_PYTHON": "", **(environment or {})}
        given = {"python": stub.interpreter} if not environment else {}
        given |= {name.replace("_", "-"): value for name, value in inputs.items()}
        on = machine(event or origin.push(), secrets={"HF": TOKENS["HF_TOKEN"]}, **surroundings)
        uses = uses or f"slogpt/slogpt-hf@{sha}"
        return run_workflow(on, expressions, workflow(uses, given), cancel_at)

    return make


def seen_tokens(stage: Mapping[str, Any]) -> set[str]:
    assert stage["arguments"] == ["-m", "slogpt_hf", "ci", stage["stage"], stage["work"]]
    text = str(stage["environment"])
    return {name for name, value in TOKENS.items() if value in text}


def test_every_stage_runs_and_sees_what_it_needs(run: Runs, stub: Any) -> None:
    result = run(repo_id="me/model", checkpoints="a/*.pt\nb/*.pt", set="n_head=8")
    assert result.results == {"release": "success"}, result.log
    assert stub.stages == ["prepare", "prove", "publish", "report"]
    prepare, prove, publish, report = stub.seen
    known = {"HF_TOKEN", "ACTIONS_ID_TOKEN_REQUEST_TOKEN"}
    assert seen_tokens(prepare) == known | {"GITHUB_TOKEN", "AWS_SECRET_ACCESS_KEY"}
    assert seen_tokens(prove) == set()
    assert seen_tokens(publish) == known
    assert seen_tokens(report) == set()
    assert prepare["environment"]["SLOGPT_REPO_ID"] == "me/model"
    assert prepare["environment"]["SLOGPT_CHECKPOINTS"] == "a/*.pt\nb/*.pt"
    assert prepare["environment"]["ACTION_STAGE"] == "all"
    assert "SLOGPT_DTYPE" not in prepare["environment"]  # an empty one is no setting
    assert "HF_ENDPOINT" not in prepare["environment"]
    assert {each["work"] for each in stub.seen} == {prepare["work"]}
    assert prove["environment"]["HF_HUB_OFFLINE"] == "1"


def test_a_comment_gets_the_token_to_write_it(run: Runs, stub: Any) -> None:
    run(comment="true")
    assert seen_tokens(stub.seen[-1]) == {"GITHUB_TOKEN"}


def test_settings_of_the_jobs_environment_count_where_no_input_is_given(
    run: Runs, stub: Any, machine: Callable[..., Machine], expressions: Expressions, origin: Origin
) -> None:
    text = yaml.safe_load(workflow("slogpt/slogpt-hf@main", {"python": stub.interpreter}))
    text["env"] = {"SLOGPT_DTYPE": "float16", "SLOGPT_REPO_ID": "me/environment"}
    text["jobs"]["release"]["steps"][1]["with"]["repo-id"] = "me/input"
    run_workflow(machine(origin.push()), expressions, yaml.safe_dump(text))
    seen = stub.seen[0]["environment"]
    assert (seen["SLOGPT_DTYPE"], seen["SLOGPT_REPO_ID"]) == ("float16", "me/input")


def test_nothing_new_ends_after_the_first_stage(run: Runs, stub: Any) -> None:
    stub.tell(prepare={"outputs": {"new": 0, "publish": "true", "released": "false"}})
    assert run().results == {"release": "success"}
    assert stub.stages == ["prepare"]


def test_a_refused_checkpoint_fails_the_job_and_does_not_stop_the_others(
    run: Runs, stub: Any
) -> None:
    stub.tell(prepare={"outputs": {"new": 2, "publish": "true"}}, prove={"code": 4})
    assert run().results == {"release": "failure"}
    assert stub.stages == ["prepare", "prove", "publish", "report"]


def test_a_pull_request_is_proven_and_not_published(run: Runs, stub: Any) -> None:
    stub.tell(prepare={"outputs": {"new": 1, "publish": "false"}})
    assert run().results == {"release": "success"}
    assert stub.stages == ["prepare", "prove", "report"]


def test_a_failed_first_stage_ends_the_action(run: Runs, stub: Any) -> None:
    stub.tell(prepare={"code": 6})
    assert run().results == {"release": "failure"}
    assert stub.stages == ["prepare"]


@pytest.mark.parametrize(
    ("stage", "stages"),
    [
        ("plan", ["prepare"]),
        ("prove", ["prepare", "prove", "report"]),
        ("publish", ["prepare", "publish", "report"]),
    ],
)
def test_a_job_of_many_does_one_stage(run: Runs, stub: Any, stage: str, stages: list[str]) -> None:
    run(stage=stage)
    assert stub.stages == stages


def test_a_cancelled_run_ends_the_stage_and_publishes_nothing(run: Runs, stub: Any) -> None:
    stub.tell(prepare={"outputs": {"new": 1, "publish": "true"}}, prove={"waits": True})
    result = run(cancel_at="waiting to be cancelled")
    assert (stub.folder / "ended").exists()
    assert stub.stages == ["prepare", "prove", "report"]
    assert result.results == {"release": "cancelled"}


def test_nothing_that_the_proof_prints_is_obeyed(run: Runs, stub: Any) -> None:
    lines = ["::error file=x::no", "::add-mask::prepare", "::stop-commands::mine", "::mine::"]
    told = {"says": "\n".join([*lines, "::notice::without newline"])}
    stub.tell(prepare={"outputs": {"new": 1}}, prove=told, report={"says": "::notice::obeyed"})
    log = run().jobs["release"].log
    assert [each.message for each in log.annotations] == ["obeyed"]
    assert all(line in log.lines for line in lines)


def test_the_token_is_masked(run: Runs, stub: Any) -> None:
    stub.tell(prepare={"says": TOKENS["HF_TOKEN"], "outputs": {"new": 0}})
    assert TOKENS["HF_TOKEN"] not in run().log


def test_outputs_are_those_of_the_report(
    stub: Any, machine: Callable[..., Machine], expressions: Expressions, origin: Origin
) -> None:
    show = {"run": 'echo "version: $V, again: $R"', "env": {}}
    show["env"] = {
        "V": "${{ steps.release.outputs.version }}",
        "R": "${{ steps.release.outputs.released }}",
    }
    text = workflow("slogpt/slogpt-hf@main", {"python": stub.interpreter}, show)
    assert (
        "version: 1.0.0, again: true" in run_workflow(machine(origin.push()), expressions, text).log
    )


def test_it_works_below_another_composite_action(run: Runs, stub: Any, origin: Origin) -> None:
    step = {
        "uses": "slogpt/slogpt-hf@main",
        "with": {"python": "${{ inputs.python }}", "token": "${{ inputs.token }}"},
    }
    wrapper = {
        "name": "wrapper",
        "description": "of someone else",
        "inputs": {"python": {"description": "p"}, "token": {"description": "t"}},
        "runs": {"using": "composite", "steps": [step]},
    }
    origin.commit(**{".github__actions__wrapper__action.yml": yaml.safe_dump(wrapper).encode()})
    assert run(origin.push(), uses="./.github/actions/wrapper").results == {"release": "success"}
    assert stub.stages == ["prepare", "prove", "publish", "report"]


def test_a_working_directory_is_where_every_stage_starts(
    run: Runs, stub: Any, origin: Origin
) -> None:
    origin.commit(**{"models__README.md": b""})
    run(origin.push(), working_directory="models")
    assert {Path(each["folder"]).name for each in stub.seen} == {"models"}
