"""A plan for the engines that people have: GitLab's child pipeline, Kubernetes' Indexed Job.

Each new checkpoint is a job of its own, by its key; what it does are the stages of ``slogpt-hf
ci``. Keys are of ``[0-9a-z-]``; whatever else is written is data of YAML, and what the engine would
expand in it is escaped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from slogpt_hf.errors import UsageError
from slogpt_hf.planning import Plan
from slogpt_hf.redaction import without_secrets
from slogpt_hf.settings import ENVIRONMENT_PREFIX, NAMES, Settings
from slogpt_hf.version import __version__
from slogpt_hf.watch.access import without_credentials

IMAGE = f"ghcr.io/slogpt/slogpt-hf:{__version__}"
MOST_PARALLEL = 200  # jobs of one parallel:matrix, https://docs.gitlab.com/ci/yaml/#parallelmatrix
MOST_PODS = 4  # at once; spec.parallelism can be changed while the Job runs
MOST_INDEXES = 1000  # of a Job: kubectl apply notes what it applied, in 256 KiB at most
OWN = ("hub", "token_file", "output", "report", "signing_key")  # of a machine, not of a repository
FOLDER = ".slogpt-hf"
WORK, PLAN = "/tmp/work", "/plan"
USER = 65532  # of the image


def gitlab(plan: Plan, settings: Settings, *, publish: bool = True) -> dict[str, Any]:
    """A child pipeline: a job for every checkpoint that is wanted, then one that publishes.

    Args:
        plan: what is new.
        settings: what the plan was made with; the child's jobs get them as variables.
        publish: whether what is proven may be published; no for a merge request.

    Raises:
        UsageError: a setting cannot be handed on.
    """
    keys = [decision.key for decision in plan.wanted]
    variables = {name: value.replace("$", "$$") for name, value in variables_of(settings).items()}
    content: dict[str, Any] = {
        "workflow": {"rules": [{"when": "always"}]},
        "stages": ["prove", "publish"],
        "variables": {
            "IMAGE": IMAGE,
            "GIT_LFS_SKIP_SMUDGE": "1",
            "FF_DISABLE_UMASK_FOR_DOCKER_EXECUTOR": "true",
            **variables,
        },
        "default": {"image": {"name": "$IMAGE", "entrypoint": [""]}},
    }
    if not keys:  # GitLab refuses a pipeline without jobs
        script = ["slogpt-hf --version"]
        nothing = {"stage": "prove", "variables": {"GIT_STRATEGY": "none"}, "script": script}
        return content | {"slogpt-hf nothing new": nothing}
    for n, start in enumerate(range(0, len(keys), MOST_PARALLEL), 1):
        part = keys[start : start + MOST_PARALLEL]
        content[f"slogpt-hf prove {n}"] = _gitlab_prove(part, publish)
    return content | ({"slogpt-hf publish": _gitlab_publish(plan.repo_id)} if publish else {})


def _gitlab_prove(keys: Sequence[str], publish: bool) -> dict[str, Any]:
    folder = f"{FOLDER}/$CANDIDATE"
    options = '--job prove --candidate "$CANDIDATE"' + ("" if publish else " --no-publish")
    return {
        "stage": "prove",
        "parallel": {"matrix": [{"CANDIDATE": list(keys)}]},
        "script": [
            f'slogpt-hf ci prepare "{folder}" {options}',
            f'slogpt-hf ci prove "{folder}" || code=$?',
            f'slogpt-hf ci report "{folder}" --job prove',
            'exit "${code:-0}"',
        ],
        "artifacts": {
            "when": "always",
            "access": "developer",
            "expire_in": "1 week",
            "paths": [folder],
            "exclude": [f"{folder}/checkpoints/**/*", f"{folder}/cache/**/*"],
        },
    }


def _gitlab_publish(repo_id: str) -> dict[str, Any]:
    folder = f"{FOLDER}-publish"
    return {
        "stage": "publish",
        "when": "always",  # a checkpoint that is refused keeps none of the others
        "resource_group": repo_id,
        "environment": {"name": "huggingface", "action": "access"},
        "id_tokens": {"HF_OIDC_ID_TOKEN": {"aud": "https://huggingface.co"}},
        "script": [
            f"slogpt-hf ci prepare {folder} --job publish --artefacts {FOLDER}",
            f"slogpt-hf ci publish {folder} || code=$?",
            f"slogpt-hf ci report {folder} --job publish",
            'exit "${code:-0}"',
        ],
    }


def kubernetes(plan: Plan, settings: Settings, sources: Sequence[str]) -> list[dict[str, Any]]:
    """ConfigMaps with the key of each index, and Indexed Jobs: a pod for every checkpoint.

    A pod fetches, proves without the token, publishes; one that fails keeps none of the others.
    A plan of more than MOST_INDEXES is several Jobs.

    Args:
        plan: what is new.
        settings: what the plan was made with.
        sources: where it was looked for; URLs, since a pod sees nothing else.

    Raises:
        UsageError: a source is no URL, or a setting cannot be handed on.
    """
    if settings.which == "best":
        raise UsageError(
            "--which best compares what is proven, which pods of a Job cannot.",
            hint="Take --which all with --promote best in the settings.",
        )
    urls = [without_credentials(source) for source in sources]
    if local := next((url for url in urls if "://" not in url), None):
        raise UsageError(
            f"{local}: a pod cannot see it.",
            hint="Name the URL of the training repository, or of an object store.",
        )
    globs = [each for each in settings.checkpoints if "://" not in each]
    variables = variables_of(settings) | {
        f"{ENVIRONMENT_PREFIX}REPO_ID": plan.repo_id,
        f"{ENVIRONMENT_PREFIX}CHECKPOINTS": "\n".join([*urls, *globs]),
    }
    keys = [decision.key for decision in plan.wanted]
    parts = [keys[start : start + MOST_INDEXES] for start in range(0, len(keys), MOST_INDEXES)]
    return [each for part in parts or [[]] for each in _job(plan.repo_id, part, variables)]


def _job(
    repo_id: str, keys: Sequence[str], variables: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    digest = hashlib.sha256("\n".join([repo_id, *keys]).encode()).hexdigest()
    name = f"slogpt-hf-{digest[:12]}"  # the same plan is the same Job
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name},
        "data": {str(index): key for index, key in enumerate(keys)},
    }
    spec = {
        "completionMode": "Indexed",
        "completions": len(keys),
        "parallelism": min(MOST_PODS, len(keys)),
        "backoffLimitPerIndex": 0,  # the next run tries again
        "template": {"spec": _pod(name, variables)},
    }
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec}
    return config, job


def _pod(config: str, variables: Mapping[str, str]) -> dict[str, Any]:
    home = {"HOME": "/tmp", "HF_HOME": "/tmp/hf"}
    secret = {"secretKeyRef": {"name": "slogpt-hf", "key": "HF_TOKEN"}}
    plain = [
        {"name": name, "value": value.replace("$", "$$")}
        for name, value in {**variables, **home}.items()
    ]
    token = [{"name": "HF_TOKEN", "valueFrom": secret}]
    index = f"@{PLAN}/$(JOB_COMPLETION_INDEX)"
    prepare = ["ci", "prepare", WORK, "--job", "prove", "--candidate", index]
    containers = [
        _container("prepare", prepare, [*plain, *token], plan=True),
        _container("prove", ["ci", "prove", WORK], plain),
        _container("publish", ["ci", "publish", WORK], [*plain, *token]),
    ]
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,  # a service's variables may begin with SLOGPT_
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "initContainers": containers[:-1],
        "containers": containers[-1:],
        "volumes": [
            {"name": "tmp", "emptyDir": {"sizeLimit": "50Gi"}},
            {"name": "plan", "configMap": {"name": config}},
        ],
    }


def _container(
    name: str, args: Sequence[str], env: Sequence[Mapping[str, Any]], *, plan: bool = False
) -> dict[str, Any]:
    mounts: list[dict[str, Any]] = [{"name": "tmp", "mountPath": "/tmp"}]
    if plan:
        mounts.append({"name": "plan", "mountPath": PLAN, "readOnly": True})
    return {
        "name": name,
        "image": IMAGE,
        "args": list(args),
        "workingDir": "/tmp",
        "env": [dict(each) for each in env],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "resources": {
            "requests": {"cpu": "1", "memory": "1Gi", "ephemeral-storage": "1Gi"},
            "limits": {"memory": "8Gi", "ephemeral-storage": "50Gi"},
        },
        "volumeMounts": mounts,
    }


def variables_of(settings: Settings) -> dict[str, str]:
    """The settings that are not the default, as the environment of another machine's job.

    Raises:
        UsageError: one holds a credential, or cannot be written as a variable.
    """
    variables = {}
    for name, field in NAMES.items():
        value = getattr(settings, name)
        if name in OWN or value == field.default:
            continue
        several = value if isinstance(value, tuple) else ()
        text = "\n".join(several) if several else str(value)
        text = str(value).lower() if isinstance(value, bool) else text
        if any("," in each or "\n" in each for each in several):
            raise UsageError(
                f"{name.replace('_', '-')} {text[:80]!r} holds a comma or a line break, which a "
                "variable cannot hand on.",
                hint="Write it into .slogpt-hf.yml of the repository.",
            )
        if without_secrets(text) != text:
            raise UsageError(
                f"{name.replace('_', '-')} holds a credential, which must not be written there.",
                hint="Leave it out of the URL; docs/other-cis.md says how a job gets it.",
            )
        variables[ENVIRONMENT_PREFIX + name.upper()] = text
    return variables
