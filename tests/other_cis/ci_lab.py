"""The laboratory of these tests: a training repository, a hub, and the programs of a job."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slogpt_hf.hub.embedded import RunningHub

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TOKEN = "hf_theTokenOfTheseTests"
REPO = "me/my-model"  # the one that the examples name
BRANCH = "train/a"
IDENTITY = {"GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@t", "GIT_COMMITTER_NAME": "t"}
GIT = {**IDENTITY, "GIT_COMMITTER_EMAIL": "t@t", "GIT_CONFIG_GLOBAL": os.devnull}


def git(folder: Path, *arguments: str) -> str:
    """What git says, without the user's configuration."""
    return subprocess.run(
        ["git", "-C", folder, *arguments],
        env={**os.environ, **GIT},
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()


@dataclass(frozen=True)
class Lab:
    """A training repository, a hub that asks for TOKEN, and the programs that a job finds."""

    folder: Path
    hub: RunningHub

    @property
    def origin(self) -> Path:
        return self.folder / "origin.git"

    @property
    def programs(self) -> Path:
        return self.folder / "bin"

    def checkout(self, name: str, branch: str = BRANCH) -> Path:
        """A clone as a CI makes it: a commit without a branch."""
        clone = self.folder / name
        git(self.folder, "clone", "--quiet", str(self.origin), str(clone))
        git(clone, "checkout", "--quiet", "--detach", f"origin/{branch}")
        return clone

    def environment(self, **given: str) -> dict[str, str]:
        """What a job sees besides what the example gives it."""
        path = os.pathsep.join((str(self.programs), os.environ["PATH"]))
        own = {"PATH": path, "HF_ENDPOINT": self.hub.endpoint, "HOME": str(self.folder)}
        return {**own, **GIT, "HF_HUB_DISABLE_XET": "1", "CI": "true", **given}

    def run(self, command: list[str], folder: Path, given: Mapping[str, str]) -> int:
        """Exit code of a step of a job."""
        environment = self.environment(**given)
        return subprocess.run(command, cwd=folder, env=environment, timeout=120).returncode

    def seen(self) -> list[dict[str, Any]]:
        """Arguments and environment of each run of slogpt-hf since the last call."""
        return self._notes("seen.jsonl")

    def skip_proofs(self, skipped: bool = True) -> None:
        """Let the stage `prove` do nothing: it is the slow one."""
        mark = self.programs / "unproven"
        mark.touch() if skipped else mark.unlink()

    def containers(self) -> list[list[str]]:
        """Arguments of each `docker run` since the last call."""
        return self._notes("docker.jsonl")

    def _notes(self, name: str) -> list[Any]:
        notes = self.programs / name
        lines = notes.read_text().splitlines() if notes.exists() else []
        notes.unlink(missing_ok=True)
        return [json.loads(line) for line in lines]

    def tags(self) -> list[str]:
        """Tags of the released model."""
        repository = self.hub.folder / f"{REPO}.git"
        return git(repository, "tag").split() if repository.is_dir() else []


def stages_of(seen: list[dict[str, Any]]) -> list[str]:
    """Names of the stages that ran."""
    return [each["arguments"][1] for each in seen]


def holders(seen: list[dict[str, Any]]) -> set[str]:
    """Names of the stages that saw the token, which no stage may have got as an argument."""
    assert TOKEN not in json.dumps([each["arguments"] for each in seen])
    return {each["arguments"][1] for each in seen if TOKEN in json.dumps(each["environment"])}
