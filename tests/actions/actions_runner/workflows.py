"""Jobs of a workflow, and of the workflows that it calls."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import yaml

from actions_runner.expressions import Expressions, UnsupportedError, require_known
from actions_runner.machine import Machine
from actions_runner.steps import Job, run_steps, text_of

OF_A_WORKFLOW = "name on permissions env concurrency jobs"
OF_A_JOB = (
    "name needs if runs-on permissions env strategy steps outputs concurrency uses with secrets"
)
RESULTS = ("failure", "cancelled", "success")  # of a matrix: the first of them that there is
KINDS = {"string": str, "boolean": bool, "number": (int, float)}
LEVELS = ("none", "read", "write")


@dataclass
class Run:
    """What became of a workflow: jobs by name (those of a matrix and of called ones too)."""

    results: dict[str, str] = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)
    permissions: dict[str, Mapping[str, str]] = field(default_factory=dict)
    concurrency: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)

    @property
    def log(self) -> str:
        return "\n".join(job.log.text for job in self.jobs.values())


@dataclass(frozen=True)
class _Workflow:
    """A workflow file where it lies, and what it was called with."""

    content: Mapping[str, Any]
    repository: str
    sha: str
    inputs: Mapping[str, Any]
    secrets: Mapping[str, str]
    allowed: Mapping[str, str] | None = None  # permissions of the job that called it
    prefix: str = ""


def run_workflow(
    machine: Machine, expressions: Expressions, text: str, cancel_at: str | None = None
) -> Run:
    """Run a workflow file of the machine's repository for the machine's event."""
    content = _loaded(text)
    if machine.event.name not in content["on"]:
        raise UnsupportedError(f"the workflow does not run on {machine.event.name}")
    run = Run()
    workflow = _Workflow(content, machine.repository, machine.event.sha, {}, machine.secrets)
    _run_jobs(machine, expressions, workflow, run, cancel_at)
    return run


def _loaded(text: str) -> dict[str, Any]:
    content = {("on" if key is True else key): v for key, v in yaml.safe_load(text).items()}
    require_known(content, OF_A_WORKFLOW, "workflow")
    return content


def _run_jobs(
    machine: Machine,
    expressions: Expressions,
    workflow: _Workflow,
    run: Run,
    cancel_at: str | None,
) -> dict[str, str]:
    """Run every job once those that it needs are done; returns the workflow's outputs."""
    waiting = dict(workflow.content["jobs"])
    needed: dict[str, Any] = {}
    while waiting:
        name = next(n for n, job in waiting.items() if needed.keys() >= set(_needs(job)))
        job = waiting.pop(name)
        require_known(job, OF_A_JOB, f"job {name!r}")
        contexts = _contexts(machine, workflow, name)
        contexts["needs"] = {need: needed[need] for need in _needs(job)}
        results = {each["result"] for each in contexts["needs"].values()}
        status = "success" if results <= {"success"} else "skipped"
        status = next((each for each in RESULTS[:2] if each in results), status)
        result = {"result": "skipped", "outputs": {}}
        if expressions.holds(job.get("if"), contexts, status):
            run.permissions[workflow.prefix + name] = _permissions(job, workflow)
            if "concurrency" in job:
                filled = expressions.fill(job["concurrency"], contexts)
                run.concurrency[workflow.prefix + name] = filled
            act = _call if "uses" in job else _run_matrix
            result = act(machine, expressions, workflow, name, job, contexts, run, cancel_at)
        needed[name] = result
        run.results[workflow.prefix + name] = result["result"]
    call = (workflow.content["on"] or {}).get("workflow_call") if workflow.prefix else None
    values = {name: out["value"] for name, out in ((call or {}).get("outputs") or {}).items()}
    filled = expressions.fill(values, {**_contexts(machine, workflow, ""), "jobs": needed})
    return {name: text_of(value) for name, value in filled.items()}


def _needs(job: Mapping[str, Any]) -> list[str]:
    needs = job.get("needs") or []
    return [needs] if isinstance(needs, str) else list(needs)


def _permissions(job: Mapping[str, Any], workflow: _Workflow) -> Mapping[str, str]:
    wanted = job.get("permissions", workflow.content.get("permissions"))
    if wanted is None:
        wanted = workflow.allowed or {}
    for name, level in wanted.items():
        allowed = "write" if workflow.allowed is None else workflow.allowed.get(name, "none")
        if LEVELS.index(level) > LEVELS.index(allowed):
            raise UnsupportedError(
                f"the workflow is requesting '{name}: {level}', but is only allowed "
                f"'{name}: {allowed}'"
            )
    return dict(wanted)


def _contexts(machine: Machine, workflow: _Workflow, name: str) -> dict[str, Any]:
    event = machine.event
    github = {
        "actor": "someone",
        "api_url": "https://api.github.com",
        "base_ref": event.base_ref,
        "event": dict(event.payload),
        "event_name": event.name,
        "head_ref": event.head_ref,
        "job": name,
        "ref": event.ref,
        "ref_name": event.ref_name,
        "ref_type": "tag" if event.ref.startswith("refs/tags/") else "branch",
        "repository": machine.repository,
        "run_attempt": str(event.attempt),
        "run_id": "1001",
        "run_number": "7",
        "server_url": "https://github.com",
        "sha": event.sha,
        "token": "ghs_theTokenOfTheJob",
        "workflow": workflow.content.get("name", ""),
        "workspace": "",
    }
    job = {
        "workflow_repository": workflow.repository,
        "workflow_sha": workflow.sha,
        "status": "success",
    }
    runner = {"os": "Linux", "arch": "X64", "temp": ""}
    kept = {"github": github, "job": job, "runner": runner, "vars": {}, "env": {}}
    return {**kept, "inputs": dict(workflow.inputs), "secrets": dict(workflow.secrets)}


def _run_matrix(
    machine: Machine,
    expressions: Expressions,
    workflow: _Workflow,
    name: str,
    job: Mapping[str, Any],
    contexts: dict[str, Any],
    run: Run,
    cancel_at: str | None,
) -> dict[str, Any]:
    strategy = expressions.fill(job.get("strategy") or {}, contexts)
    require_known(strategy, "matrix fail-fast max-parallel", "strategy")
    combinations = _combinations(strategy.get("matrix"))
    results, outputs = [], {}
    for number, matrix in enumerate(combinations):
        full = f"{workflow.prefix}{name}" + (f" {number}" if "matrix" in strategy else "")
        root = machine.root / full.replace("/", "-").replace(" ", "-")
        workspace, temporary = root / "workspace", root / "temp"
        for folder in (workspace, temporary, root / "home"):
            folder.mkdir(parents=True)
        known = {**contexts, "matrix": matrix, "strategy": {"job-index": number}}
        known["github"] = {**contexts["github"], "workspace": str(workspace)}
        known["runner"] = {**contexts["runner"], "temp": str(temporary)}
        merged: dict[str, str] = {}
        for level in (workflow.content.get("env"), job.get("env")):
            filled = expressions.fill(level or {}, {**known, "env": merged})
            merged |= {key: text_of(value) for key, value in filled.items()}
        permissions = run.permissions[workflow.prefix + name]
        identity = machine.identity if permissions.get("id-token") == "write" else {}
        here = replace(
            machine, environment={**machine.environment, **identity, "HOME": str(root / "home")}
        )
        running = Job(here, expressions, workspace, temporary, known, merged, cancel_at)
        running.log.masks += [secret for secret in workflow.secrets.values() if secret]
        run.jobs[full] = running
        running.steps = run_steps(running, job["steps"], known, {})
        filled = expressions.fill(job.get("outputs") or {}, {**known, "steps": running.steps})
        outputs |= {key: text for key, value in filled.items() if (text := text_of(value))}
        results.append(running.status)
    return {"result": next(each for each in RESULTS if each in results), "outputs": outputs}


def _combinations(matrix: Any) -> list[dict[str, Any]]:
    if matrix is None:
        return [{}]
    if "include" in matrix:
        require_known(matrix, "include", "matrix")
        if not matrix["include"]:
            raise UnsupportedError("a matrix without a combination")
        return list(matrix["include"])
    return [
        dict(zip(matrix, values, strict=True)) for values in itertools.product(*matrix.values())
    ]


def _call(
    machine: Machine,
    expressions: Expressions,
    workflow: _Workflow,
    name: str,
    job: Mapping[str, Any],
    contexts: dict[str, Any],
    run: Run,
    cancel_at: str | None,
) -> dict[str, Any]:
    require_known(job, "name needs if permissions uses with secrets concurrency", f"job {name!r}")
    path, _, ref = job["uses"].partition("@")
    repository, sha = workflow.repository, workflow.sha
    if not path.startswith("./"):
        owner, named, path = path.split("/", 2)
        repository, sha = f"{owner}/{named}", ref
    content = _loaded((machine.files_of(repository, sha) / path).read_text("utf-8"))
    call = content["on"]["workflow_call"] or {}
    require_known(call, "inputs secrets outputs", "workflow_call")
    given = expressions.fill(job.get("with") or {}, contexts)
    secrets = expressions.fill(job.get("secrets") or {}, contexts)
    if unknown := secrets.keys() - (call.get("secrets") or {}).keys():
        raise UnsupportedError(f"unknown secrets {sorted(unknown)}")
    called = _Workflow(
        content,
        repository,
        sha,
        _call_inputs(call.get("inputs") or {}, given),
        {key: text_of(value) for key, value in secrets.items()},
        run.permissions[workflow.prefix + name],
        f"{workflow.prefix}{name}/",
    )
    outputs = _run_jobs(machine, expressions, called, run, cancel_at)
    of_called = [r for n, r in run.results.items() if n.startswith(called.prefix)]
    result = next((each for each in RESULTS if each in of_called), "skipped")
    run.outputs = outputs
    return {"result": result, "outputs": outputs}


def _call_inputs(declared: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    if unknown := given.keys() - declared.keys():
        raise UnsupportedError(f"unknown inputs {sorted(unknown)}")
    values = {}
    for name, declaration in declared.items():
        require_known(declaration, "description type default required", f"input {name!r}")
        values[name] = given.get(name, declaration.get("default"))
        if name in given and not isinstance(given[name], KINDS[declaration["type"]]):
            raise UnsupportedError(f"input {name!r} is no {declaration['type']}")
    return values
