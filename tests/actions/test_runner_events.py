"""What a checkout finds for each kind of event: the runner that the other tests trust."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from actions_runner import Event, Expressions, Machine, UnsupportedError, run_workflow
from actions_runner.events import NOTHING, Origin, git

SHOW = """git rev-parse HEAD >> "$GITHUB_STEP_SUMMARY"
echo "$(git branch --show-current)" >> "$GITHUB_STEP_SUMMARY"
git rev-list --count HEAD >> "$GITHUB_STEP_SUMMARY"
"""


def shown(machine: Machine, expressions: Expressions, depth: int) -> list[str]:
    steps = [{"uses": "actions/checkout@v7", "with": {"fetch-depth": depth}}, {"run": SHOW}]
    job = {"runs-on": "ubuntu-latest", "steps": steps}
    text = yaml.safe_dump({"on": {machine.event.name: None}, "jobs": {"show": job}})
    return run_workflow(machine, expressions, text).jobs["show"].summary.splitlines()


def new_branch(origin: Origin) -> Event:
    git(origin.clone, "checkout", "--quiet", "-b", "train/wide")
    origin.commit(**{"ckpt.pt": b"wide"})
    return origin.push("train/wide")


def force_push(origin: Origin) -> Event:
    git(origin.clone, "commit", "--quiet", "--amend", "--message", "again")
    return origin.push(force=True)


def tag(origin: Origin) -> Event:
    return origin.push_tag("v1")


def merge(origin: Origin) -> Event:
    git(origin.clone, "checkout", "--quiet", "-b", "side")
    origin.commit(**{"side.pt": b"side"})
    git(origin.clone, "checkout", "--quiet", "main")
    git(origin.clone, "merge", "--quiet", "--no-ff", "--message", "merge", "side")
    return origin.push()


def fork(origin: Origin) -> Event:
    other = Origin.make(origin.server.parent / "fork", "someone-else/train")
    git(other.clone, "pull", "--quiet", str(origin.server), "main")
    other.commit(**{"ckpt.pt": b"theirs"})
    other.push("theirs")
    return origin.pull_request(other, "theirs")


@pytest.mark.parametrize(
    ("make", "branch", "commits"),
    [
        (new_branch, "train/wide", 2),
        (force_push, "main", 1),
        (tag, "", 1),
        (merge, "main", 3),
        (fork, "", 3),
        (Origin.schedule, "main", 1),
        (Origin.dispatch, "main", 1),
    ],
)
def test_checkout_has_the_events_commit(
    machine: Callable[..., Machine],
    expressions: Expressions,
    origin: Origin,
    make: Callable[[Origin], Event],
    branch: str,
    commits: int,
) -> None:
    event = make(origin)
    assert shown(machine(event), expressions, 1) == [event.sha, branch, "1"]
    assert shown(machine(event, 1), expressions, 0) == [event.sha, branch, str(commits)]


def test_payloads_say_what_happened(origin: Origin) -> None:
    created, first = new_branch(origin), origin.head
    assert (created.payload["before"], created.payload["created"]) == (NOTHING, True)
    git(origin.clone, "commit", "--quiet", "--amend", "--message", "again")
    forced = origin.push("train/wide", force=True)
    assert (forced.payload["before"], forced.payload["forced"]) == (first, True)
    request = fork(origin)
    assert request.payload["pull_request"]["head"]["repo"]["full_name"] == "someone-else/train"


@pytest.mark.parametrize(
    "step",
    [
        {"run": "true", "continue": True},
        {"run": "true", "shell": "pwsh"},
        {"uses": "someone/else@v1"},
        {"run": "echo ${{ githup.sha }}"},
        {"run": "echo ::set-output name=a::b"},
    ],
    ids=["key", "shell", "action", "context", "command"],
)
def test_what_the_runner_does_not_know_fails_loudly(
    machine: Callable[..., Machine], expressions: Expressions, origin: Origin, step: dict[str, str]
) -> None:
    text = yaml.safe_dump({"on": {"schedule": None}, "jobs": {"a": {"steps": [step]}}})
    with pytest.raises(UnsupportedError):
        run_workflow(machine(origin.schedule()), expressions, text)


def test_statuses_steps_and_files(
    machine: Callable[..., Machine], expressions: Expressions, origin: Origin, tmp_path: Path
) -> None:
    text = """
    on: schedule
    jobs:
      one:
        strategy: {matrix: {n: [1, 2]}}
        outputs: {last: "${{ steps.out.outputs.multi }}"}
        steps:
          - {run: "echo NAME=value >> $GITHUB_ENV"}
          - {id: out, run: 'printf "multi<<END\\\\na\\\\nb\\\\nEND\\\\n" >> $GITHUB_OUTPUT'}
          - {run: "exit 1", continue-on-error: true}
          - {run: 'echo "n=${{ matrix.n }} $NAME"; false'}
          - {run: "echo never"}
          - {if: failure(), run: "echo failed"}
          - {if: "${{ !cancelled() }}", run: "echo always"}
      two: {needs: one, steps: [{run: "echo two"}]}
      three:
        needs: [one]
        if: always()
        steps: [{run: "echo '${{ needs.one.result }} ${{ needs.one.outputs.last }}'"}]
    """
    content = yaml.safe_load(text)
    content["on"] = {"schedule": None}
    content.pop(True, None)
    run = run_workflow(machine(origin.schedule()), expressions, yaml.safe_dump(content))
    assert run.results == {"one": "failure", "two": "skipped", "three": "success"}
    assert run.jobs["one 1"].log.lines == ["n=2 value", "failed", "always"]
    assert run.jobs["three"].log.lines == ["failure a", "b"]
