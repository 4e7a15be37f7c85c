"""Steps of a job or of a composite action."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from actions_runner.commands import Log, read_pairs
from actions_runner.events import written
from actions_runner.expressions import Expressions, UnsupportedError, require_known
from actions_runner.machine import STAND_INS, Machine

SHELLS = {
    None: ("bash", "-e"),
    "bash": ("bash", "--noprofile", "--norc", "-e", "-o", "pipefail"),
}
OF_A_STEP = "name id if shell run env with uses working-directory continue-on-error"
OF_AN_ACTION = "name description author branding inputs outputs runs"
IN_A_COMPOSITE = ("github", "env", "job", "runner", "strategy", "matrix")
STEP_FILES = ("GITHUB_OUTPUT", "GITHUB_ENV", "GITHUB_PATH", "GITHUB_STEP_SUMMARY", "GITHUB_STATE")


@dataclass
class Job:
    """A job while it runs.

    Attributes:
        machine: that it runs on.
        expressions: evaluates.
        workspace: that a checkout fills.
        temporary: RUNNER_TEMP, empty at first.
        contexts: what expressions know, besides `steps` and `env`.
        environment: variables of workflow and job, and those that steps exported.
        cancel_at: text in the log at which someone cancels the run.
        log: what it printed.
        status: `success`, `failure` or `cancelled`.
        summary: Markdown of its steps.
        paths: that steps put before PATH.
        steps: id to outputs and outcome, once they have run.
    """

    machine: Machine
    expressions: Expressions
    workspace: Path
    temporary: Path
    contexts: dict[str, Any]
    environment: dict[str, str] = field(default_factory=dict)
    cancel_at: str | None = None
    log: Log = field(default_factory=Log)
    status: str = "success"
    summary: str = ""
    paths: list[str] = field(default_factory=list)
    steps: dict[str, Any] = field(default_factory=dict)


def text_of(value: Any) -> str:
    """A value as GitHub puts it into an input or a variable."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def run_steps(
    job: Job,
    steps: Sequence[Mapping[str, Any]],
    contexts: Mapping[str, Any],
    environment: Mapping[str, str],
    action: Path | None = None,
) -> dict[str, Any]:
    """Run steps, and return the `steps` context that they leave; a failure is the job's."""
    done: dict[str, Any] = {}
    for number, step in enumerate(steps):
        require_known(step, OF_A_STEP, f"step {step.get('name', number)!r}")
        surroundings = {**environment, **job.environment} if action is None else dict(environment)
        known = {**contexts, "steps": done, "env": surroundings}
        result: dict[str, Any] = {"outputs": {}, "outcome": "skipped"}
        if job.expressions.holds(step.get("if"), known, job.status):
            filled = job.expressions.fill(step.get("env") or {}, known, job.status)
            surroundings |= {name: text_of(value) for name, value in filled.items()}
            known["env"] = surroundings
            result = _run_step(job, step, known, surroundings, action)
        failed = result["outcome"] == "failure"
        forgiven = failed and job.expressions.fill(step.get("continue-on-error", False), known)
        result["conclusion"] = "success" if forgiven else result["outcome"]
        if failed and not forgiven and job.status == "success":
            job.status = "failure"
        done[step.get("id", f"__{number}")] = result
    return done


def _run_step(
    job: Job,
    step: Mapping[str, Any],
    contexts: dict[str, Any],
    environment: Mapping[str, str],
    action: Path | None,
) -> dict[str, Any]:
    if "run" in step:
        if "uses" in step or "with" in step or (action and not step.get("shell")):
            raise UnsupportedError(f"{step}: run without shell, or with uses or with")
        return _run_script(job, step, contexts, environment, action)
    if "shell" in step or "working-directory" in step:
        raise UnsupportedError(f"{step}: uses with shell or working-directory")
    filled = job.expressions.fill(step.get("with") or {}, contexts, job.status)
    given = {name: text_of(value) for name, value in filled.items()}
    name, _, ref = str(step["uses"]).partition("@")
    if name in STAND_INS:
        STAND_INS[name](job.machine, job.workspace, given)
        return {"outputs": {}, "outcome": "success"}
    if name.startswith("./"):
        return run_action(job, job.workspace / name, given, contexts, environment)
    owner, repository, *path = name.split("/")
    folder = job.machine.files_of(f"{owner}/{repository}", ref)
    return run_action(job, folder.joinpath(*path), given, contexts, environment)


def run_action(
    job: Job,
    folder: Path,
    given: Mapping[str, str],
    contexts: Mapping[str, Any],
    environment: Mapping[str, str],
) -> dict[str, Any]:
    """Run a composite action."""
    content = yaml.safe_load((folder / "action.yml").read_text("utf-8"))
    require_known(content, OF_AN_ACTION, str(folder))
    require_known(content["runs"], "using steps", str(folder))
    if content["runs"]["using"] != "composite":
        raise UnsupportedError(f"{folder}: is not composite")
    known = {name: contexts[name] for name in IN_A_COMPOSITE if name in contexts}
    known["github"] = {**contexts["github"], "action_path": str(folder.resolve())}
    known["inputs"] = _inputs(job, content.get("inputs") or {}, given, known)
    before = job.status
    done = run_steps(job, content["runs"]["steps"], known, environment, folder.resolve())
    conclusions = {each["conclusion"] for each in done.values()}
    outcome = next((each for each in ("cancelled", "failure") if each in conclusions), "success")
    job.status = "cancelled" if job.status == "cancelled" else before
    values = {name: out["value"] for name, out in (content.get("outputs") or {}).items()}
    filled = job.expressions.fill(values, {**known, "steps": done})
    outputs = {name: text_of(value) for name, value in filled.items()}
    return {"outputs": outputs, "outcome": outcome, "steps": done}


def _inputs(
    job: Job,
    declared: Mapping[str, Any],
    given: Mapping[str, str],
    contexts: Mapping[str, Any],
) -> dict[str, str]:
    if unknown := given.keys() - declared.keys():
        raise UnsupportedError(f"unknown inputs {sorted(unknown)}")
    for name, declaration in declared.items():
        require_known(declaration, "description default required", f"input {name!r}")
        if declaration.get("required") and not given.get(name):
            raise UnsupportedError(f"input {name!r} is required")
    defaults = {name: declaration.get("default", "") for name, declaration in declared.items()}
    filled = job.expressions.fill(defaults, contexts)
    return {**{name: text_of(value) for name, value in filled.items()}, **given}


def _run_script(
    job: Job,
    step: Mapping[str, Any],
    contexts: Mapping[str, Any],
    environment: Mapping[str, str],
    action: Path | None,
) -> dict[str, Any]:
    shell = SHELLS.get(step.get("shell"))
    if shell is None:
        raise UnsupportedError(f"shell {step['shell']!r}")
    filled = {key: step[key] for key in ("run", "working-directory") if key in step}
    filled = job.expressions.fill(filled, contexts, job.status)
    count = len(list((job.temporary.parent / "commands").glob("*.sh")))
    files = job.temporary.parent / "commands" / str(count)
    files.mkdir(parents=True)
    script = files.with_suffix(".sh")
    script.write_text(filled["run"], "utf-8")
    variables = {
        **job.machine.environment,
        **environment,
        **_github_variables(job, files),
        **({"GITHUB_ACTION_PATH": str(action)} if action else {}),
    }
    variables["PATH"] = os.pathsep.join([*reversed(job.paths), variables["PATH"]])
    folder = job.workspace / filled.get("working-directory", ".")
    outcome = _streamed(job, [*shell, str(script)], folder, variables)
    job.environment |= read_pairs(files / "GITHUB_ENV")
    job.paths += (files / "GITHUB_PATH").read_text("utf-8").split()
    job.summary += (files / "GITHUB_STEP_SUMMARY").read_text("utf-8")
    return {"outputs": read_pairs(files / "GITHUB_OUTPUT"), "outcome": outcome}


def _github_variables(job: Job, files: Path) -> dict[str, str]:
    github = job.contexts["github"]
    named = (
        "actor api_url base_ref event_name head_ref job ref ref_name ref_type repository "
        "run_attempt run_id run_number server_url sha workflow workspace"
    )
    variables = {f"GITHUB_{name.upper()}": str(github[name]) for name in named.split()}
    for name in STEP_FILES:
        (files / name).touch()
        variables[name] = str(files / name)
    event = written(job.machine.event, files / "event.json")
    return {
        **variables,
        "CI": "true",
        "GITHUB_ACTIONS": "true",
        "GITHUB_EVENT_PATH": str(event),
        "RUNNER_TEMP": str(job.temporary),
        "RUNNER_OS": "Linux",
    }


def _streamed(job: Job, command: list[str], folder: Path, variables: Mapping[str, str]) -> str:
    """Run a command and read its log as it comes; the outcome of the step."""
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=dict(variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    assert process.stdout
    killer = threading.Timer(100, process.kill)
    killer.start()
    for line in process.stdout:
        job.log.read(line.rstrip("\n"))
        if job.cancel_at and job.cancel_at in line and job.status != "cancelled":
            # The runner signals the process that it started, not those that this one started.
            process.send_signal(signal.SIGINT)
            job.status = "cancelled"
    code = process.wait()
    killer.cancel()
    if job.status == "cancelled":
        return "cancelled" if code else "success"
    return "failure" if code else "success"
