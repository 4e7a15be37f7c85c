"""The CIs that files are written for. A table: what tells them, their files, what to do there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

SCRIPT = "slogpt-hf.sh"
COMPONENT = ".gitlab/slogpt-hf.yml"
CREDENTIALS = ("token", "oidc")
BRANCHES = (
    "A push runs what its own branch holds: bring the files to the training branches too ({globs})."
)


@dataclass(frozen=True)
class File:
    """A file that a CI needs.

    Attributes:
        template: its name in ``templates/``, without ``.jinja``.
        path: relative to the top of the repository.
        otherwise: where it goes if ``path`` is somebody else's.
        is_shared: the CI knows no other place: where ``path`` is somebody else's, that it names
            the file before is enough.
    """

    template: str
    path: str
    otherwise: str | None = None
    is_shared: bool = False


@dataclass(frozen=True)
class Platform:
    """A CI, or what stands for one.

    Attributes:
        title: for people.
        files: that are written.
        signs: globs of tracked files that show that the repository uses it.
        hosts: globs of hosts that bring it.
        secret: what to do with a token, one step each.
        publisher: fields of the trusted publisher's form; empty where there is no such thing.
        steps: what else to do.
        repeats: settings that its file gives even though ``.slogpt-hf.yml`` does.
    """

    title: str
    files: tuple[File, ...]
    signs: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    secret: tuple[str, ...] = ()
    publisher: str = ""
    steps: tuple[str, ...] = ()
    repeats: tuple[str, ...] = ()


PLATFORMS = {
    "github": Platform(
        "GitHub Actions",
        (File("github.yml", ".github/workflows/slogpt-hf.yml"),),
        signs=(".github/workflows/*",),
        hosts=("github.com",),
        secret=(
            "Store it as the Actions secret HF_TOKEN: {page}/settings/secrets/actions/new, or: "
            "gh secret set HF_TOKEN --repo {slug}",
        ),
        publisher="provider GitHub Actions; repository {slug}; workflow slogpt-hf.yml; branch, ref "
        "and environment empty, since every training branch releases.",
        steps=(BRANCHES,),
    ),
    "gitlab": Platform(
        "GitLab",
        (
            File("gitlab-component.yml", COMPONENT),
            File("gitlab-ci.yml", ".gitlab-ci.yml", is_shared=True),
        ),
        signs=(".gitlab-ci.yml",),
        hosts=("gitlab.com", "gitlab.*"),
        secret=(
            "Store it as the CI/CD variable HF_TOKEN, masked and hidden, for the environment "
            "huggingface: {page}/-/settings/ci_cd#js-cicd-variables-settings, or: "
            "glab variable set HF_TOKEN --masked --scope huggingface",
        ),
        publisher="provider GitLab; project {slug}; branch and ref empty, since every training "
        "branch releases; environment huggingface.",
        steps=(BRANCHES,),
        repeats=("repo_id", "checkpoints"),
    ),
    "jenkins": Platform(
        "Jenkins",
        (
            File("release.sh", SCRIPT),
            File("Jenkinsfile", "Jenkinsfile", otherwise="Jenkinsfile.slogpt-hf"),
        ),
        signs=("Jenkinsfile",),
        secret=(
            'Store it in Jenkins, Manage Jenkins > Credentials, as a "Secret text" with the id '
            "hf-token.",
        ),
        steps=(
            "Make a Multibranch Pipeline of this repository with the script path {file}, and an "
            "agent with the label docker.",
            BRANCHES,
        ),
    ),
    "circleci": Platform(
        "CircleCI",
        (
            File("release.sh", SCRIPT),
            File("circleci.yml", ".circleci/config.yml", otherwise=".circleci/slogpt-hf.yml"),
        ),
        signs=(".circleci/config.yml",),
        secret=(
            "Store it as HF_TOKEN in the context huggingface: Organization Settings > Contexts.",
        ),
        steps=(
            "Set the project up with the config file {file}: Project Settings > Project Setup.",
            BRANCHES,
        ),
    ),
    "azure": Platform(
        "Azure Pipelines",
        (
            File("release.sh", SCRIPT),
            File(
                "azure-pipelines.yml",
                "azure-pipelines.yml",
                otherwise="azure-pipelines-slogpt-hf.yml",
            ),
        ),
        signs=("azure-pipelines.yml",),
        hosts=("dev.azure.com", "*.visualstudio.com"),
        secret=(
            "Store it as the secret HF_TOKEN of the variable group huggingface: Pipelines > "
            "Library.",
        ),
        steps=(
            "Make the pipeline: az pipelines create --name slogpt-hf --yml-path {file}",
            BRANCHES,
        ),
    ),
    "docker": Platform(
        "docker alone",
        (File("release.sh", SCRIPT),),
        secret=("Put it into the environment as HF_TOKEN; never into a file of the repository.",),
        steps=("Release what is new on the training branches: bash {file}",),
    ),
    "kubernetes": Platform(
        "Kubernetes",
        (File("cronjob.yaml", "slogpt-hf.cronjob.yaml"),),
        secret=(
            "Store it as a secret of the cluster, here from the shell's variable HF_TOKEN: "
            'printf %s "$HF_TOKEN" | '
            "kubectl create secret generic slogpt-hf --from-file=HF_TOKEN=/dev/stdin",
        ),
        steps=("Start it: kubectl apply -f {file}",),
        repeats=("repo_id", "checkpoints", "branches"),
    ),
}
WITH_OIDC = tuple(name for name, platform in PLATFORMS.items() if platform.publisher)


def platforms_of(files: Iterable[str], host: str | None) -> tuple[str, ...]:
    """The CIs at hand: the remote's own where its files are there, else those with files, else
    the remote's own.

    Args:
        files: paths in the repository.
        host: of the remote.
    """
    files = list(files)
    used = [
        name
        for name, platform in PLATFORMS.items()
        if any(fnmatchcase(path, sign) for path in files for sign in platform.signs)
    ]
    hosted = [
        name
        for name, platform in PLATFORMS.items()
        if host and any(fnmatchcase(host, each) for each in platform.hosts)
    ]
    return tuple([name for name in hosted if name in used] or used or hosted)
