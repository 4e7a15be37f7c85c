"""What the example files say: their jobs, the commands of these, and when they run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

EXAMPLES = Path(__file__).parents[2] / "examples"
JENKINS_STEPS = re.compile(
    r"sh '(?P<command>[^']*)'|credentialsId: '[^']*', variable: '(?P<secret>\w+)'"
)


@dataclass(frozen=True)
class Job:
    """A job or stage: its commands in their order, and the names of the secrets it gets."""

    name: str
    commands: tuple[str, ...]
    secrets: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    runs: str = ""  # the condition, as the file has it


def jenkins_jobs() -> dict[str, Job]:
    """Stages of the Jenkinsfile, and `post`."""
    text = (EXAMPLES / "jenkins/Jenkinsfile").read_text()
    environment = dict(re.findall(r"(\w+) = '([^']*)'", _block(text, "environment")))
    parts = {name: _block(text, f"stage('{name}')") for name in re.findall(r"stage\('(\w+)", text)}
    jobs = {}
    for name, part in {**parts, "post": _block(text, "post")}.items():
        found = [match.groupdict() for match in JENKINS_STEPS.finditer(part)]
        jobs[name.lower()] = Job(
            name,
            tuple(each["command"] for each in found if each["command"]),
            tuple(each["secret"] for each in found if each["secret"]),
            environment,
            _block(part, "when") if "when {" in part else "",
        )
    return jobs


def _block(text: str, head: str) -> str:
    """What stands between the braces after `head`."""
    start = text.index("{", text.index(head)) + 1
    depth, end = 1, start
    while depth:
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        end += 1
    return text[start : end - 1].strip()


def jenkins_runs(when: str, branch: str, is_change_request: bool) -> bool:
    """What Jenkins makes of a `when` block; of its conditions those that the example uses."""
    code = when.replace("{", "(").replace("}", ")").replace(";", ",")
    code = re.sub(r"branch ('[^']*')", r"branch(\1)", code).replace("not (", "not_(")
    names = {
        "all_": lambda *terms: all(terms),
        "anyOf": lambda *terms: any(terms),
        "not_": lambda term: not term,
        "branch": lambda pattern: fnmatchcase(branch, pattern),
        "changeRequest": lambda: is_change_request,
    }
    return bool(eval(f"all_({code})", {"__builtins__": {}}, names))


def circleci_jobs() -> dict[str, Job]:
    """Jobs of the CircleCI file; the condition is the filter of branches."""
    content = _yaml("circleci/config.yml")
    listed = content["workflows"]["release"]["jobs"]
    workflow = {name: facts for each in listed for name, facts in each.items()}
    jobs = {}
    for name, job in content["jobs"].items():
        steps = [step["run"]["command"] for step in job["steps"] if "run" in step]
        only = workflow[name]["filters"]["branches"]["only"]
        jobs[name] = Job(
            name,
            tuple(steps),
            ("HF_TOKEN",) if "context" in workflow[name] else (),
            content["executors"][job["executor"]]["environment"],
            "|".join(pattern.strip("/") for pattern in ([only] if type(only) is str else only)),
        )
    return jobs


def azure_jobs() -> dict[str, Job]:
    """Jobs of the Azure file."""
    content = _yaml("azure/azure-pipelines.yml")
    return {
        job["job"]: Job(
            job["job"],
            tuple(step["bash"] for step in job["steps"] if "bash" in step),
            tuple(name for step in job["steps"] for name in step.get("env", {})),
            content["variables"],
            job.get("condition", "succeeded()"),
        )
        for job in content["jobs"]
    }


def azure_runs(condition: str, result: str, variables: Mapping[str, str]) -> bool:
    """What Azure makes of a condition; of its functions those that the example uses."""
    code = re.sub(r"\b(and|not|in)\(", r"\1_(", condition)
    code = re.sub(r"dependencies\.\w+\.result", "result", code)
    names = {
        "and_": lambda *terms: all(terms),
        "not_": lambda term: not term,
        "in_": lambda value, *known: value in known,
        "ne": lambda one, other: one.lower() != other.lower(),
        "startsWith": lambda text, start: text.startswith(start),
        "canceled": lambda: False,
        "succeeded": lambda: True,
        "result": result,
        "variables": variables,
    }
    return bool(eval(code, {"__builtins__": {}}, names))


def container() -> dict[str, Any]:
    """The container of the Kubernetes CronJob."""
    [found] = pod()["containers"]
    return dict(found)


def pod() -> dict[str, Any]:
    """The pod of the Kubernetes CronJob."""
    return dict(_yaml("kubernetes/cronjob.yaml")["spec"]["jobTemplate"]["spec"]["template"]["spec"])


def _yaml(path: str) -> Any:
    return yaml.safe_load((EXAMPLES / path).read_text())
