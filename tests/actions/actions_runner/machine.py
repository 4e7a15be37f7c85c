"""The machine that jobs run on: folders, repositories that can be reached, artifacts."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from actions_runner.events import Event, git
from actions_runner.expressions import UnsupportedError, require_known

StandIn = Callable[[Any, Mapping[str, str]], None]


@dataclass(frozen=True)
class Machine:
    """Where a run takes place.

    Attributes:
        root: an empty folder; each job gets a fresh workspace and temporary folder below it.
        repositories: `owner/name` to the git repository on the server.
        repository: the one whose workflow runs.
        event: why it runs.
        environment: variables of the machine, PATH among them.
        secrets: of the repository.
        identity: variables by which a job with `id-token: write` gets an identity token.
    """

    root: Path
    repositories: Mapping[str, Path]
    repository: str
    event: Event
    environment: Mapping[str, str]
    secrets: Mapping[str, str] = field(default_factory=dict)
    identity: Mapping[str, str] = field(default_factory=dict)

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    def files_of(self, repository: str, ref: str) -> Path:
        """The files of a repository at a commit, branch or tag."""
        folder = self.root / "_actions" / repository / ref.replace("/", "-")
        if not folder.exists():
            if repository not in self.repositories:
                raise UnsupportedError(f"{repository} cannot be reached")
            folder.mkdir(parents=True)
            git(folder, "init", "--quiet")
            git(folder, "fetch", "--quiet", "--depth=1", str(self.repositories[repository]), ref)
            git(folder, "checkout", "--quiet", "--detach", "FETCH_HEAD")
        return folder


def checkout(machine: Machine, workspace: Path, given: Mapping[str, str]) -> None:
    """As actions/checkout leaves a repository: one commit of one branch, or all with depth 0."""
    require_known(given, "repository ref path fetch-depth persist-credentials", "actions/checkout")
    repository = given.get("repository") or machine.repository
    folder = workspace / (given.get("path") or ".")
    folder.mkdir(parents=True, exist_ok=True)
    is_event = repository == machine.repository and not given.get("ref")
    ref = machine.event.ref if is_event else given["ref"]
    sha = machine.event.sha if is_event else ref
    git(folder, "init", "--quiet")
    git(folder, "remote", "add", "origin", str(machine.repositories[repository]))
    depth = str(given.get("fetch-depth") or "1")
    if depth == "0":
        git(folder, "fetch", "--quiet", "origin", "+refs/heads/*:refs/remotes/origin/*", "--tags")
    arguments = [f"--depth={depth}"] if depth != "0" else []
    branch = ref.removeprefix("refs/heads/") if ref.startswith("refs/heads/") else None
    local = f"refs/remotes/origin/{branch}" if branch else "refs/remotes/checked-out"
    git(folder, "fetch", "--quiet", *arguments, "--no-tags", "origin", f"+{sha}:{local}")
    to = ["-B", branch, local] if branch else ["--detach", local]
    git(folder, "checkout", "--quiet", *to)


def upload_artifact(machine: Machine, workspace: Path, given: Mapping[str, str]) -> None:
    """Copy a folder, less what patterns with `!` name, to where other jobs find it."""
    known = "name path include-hidden-files if-no-files-found overwrite"
    require_known(given, known, "actions/upload-artifact")
    first, *others = [line.strip() for line in given["path"].splitlines() if line.strip()]
    if not all(each.startswith("!") and each.endswith("/**") for each in others):
        raise UnsupportedError(f"paths {others}")
    source, target = workspace / first, machine.artifacts / given["name"]
    left_out = {Path(each[1:-3]) for each in others}
    if not source.exists():
        raise UnsupportedError(f"nothing at {source}")

    def ignored(folder: str, names: list[str]) -> list[str]:
        return [name for name in names if Path(folder) / name in left_out]

    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, ignore=ignored)


def download_artifact(machine: Machine, workspace: Path, given: Mapping[str, str]) -> None:
    """Copy artifacts whose names match, each into a folder of its name."""
    require_known(given, "pattern path", "actions/download-artifact")
    folder = workspace / given["path"]
    folder.mkdir(parents=True, exist_ok=True)
    for artifact in sorted(machine.artifacts.glob("*")):
        if fnmatch(artifact.name, given["pattern"]):
            shutil.copytree(artifact, folder / artifact.name)


STAND_INS = {
    "actions/checkout": checkout,
    "actions/upload-artifact": upload_artifact,
    "actions/download-artifact": download_artifact,
}
