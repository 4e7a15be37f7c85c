"""The laboratory of these tests: jobs of a CI, over a training repository and a hub."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from slogpt_hf import cli
from slogpt_hf.hub.embedded import RunningHub

ROOT = Path(__file__).parents[2]
TOKEN = "hf_theTokenOfTheseTests"
REPO = "me/model"
HANDED_ON = shutil.ignore_patterns("checkpoints", "cache")
IDENTITY = {"GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@t", "GIT_COMMITTER_NAME": "t"}
GIT = {**IDENTITY, "GIT_COMMITTER_EMAIL": "t@t", "GIT_CONFIG_GLOBAL": os.devnull}
KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "HF_HOME", "OMP_NUM_THREADS", "SLOGPT_SMOKE")
KEPT += ("TOKENIZERS_PARALLELISM",)
CIS: dict[str, dict[str, str]] = {
    "none": {},
    "github": {"GITHUB_ACTIONS": "true", "GITHUB_EVENT_NAME": "push"},
    "gitlab": {"GITLAB_CI": "true", "CI_PIPELINE_SOURCE": "push", "CI_COMMIT_BRANCH": "main"},
    "azure": {"TF_BUILD": "True", "BUILD_REASON": "IndividualCI"},
    "jenkins": {"JENKINS_URL": "https://ci.example.com/", "BRANCH_NAME": "main"},
}


def git(folder: Path, *arguments: str) -> str:
    """What git says, without the user's configuration."""
    command = ["git", "-C", str(folder), *arguments]
    environment = {name: os.environ[name] for name in KEPT if name in os.environ} | GIT
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def commit(repository: Path, **files: bytes) -> str:
    """Commit files (``/`` as ``__`` in their names); the commit's id."""
    for name, content in files.items():
        path = repository / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "--message", "train")
    return git(repository, "rev-parse", "HEAD")


def checkpoint(golden: Path, place: str, most: int | None = None) -> dict[str, bytes]:
    """A golden checkpoint and its vocabulary as files to commit; its first ``most`` bytes."""
    content = (golden / "ckpt.pt").read_bytes()[:most]
    return {
        f"{place}__ckpt.pt": content,
        f"{place}__meta.pkl": (golden / "meta.pkl").read_bytes(),
    }


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one message that it ended with, of one line and without a traceback."""
        messages = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(messages) == 1 and "Traceback" not in self.err, self.err
        assert "a bug of" not in messages[0], self.err
        return messages[0]


@dataclass
class Jobs:
    """The jobs of a CI for one repository; every command sees the environment given here alone."""

    folder: Path
    repository: Path
    endpoint: str = ""
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def work(self) -> Path:
        return self.folder / "work"

    def on(self, ci: str) -> dict[str, str]:
        """Run on a CI from now on; its variables."""
        self.environment |= CIS[ci]
        if ci == "github":
            for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY"):
                self.environment[name] = str(self.folder / name.lower())
        return self.environment

    def variables(self, given: Mapping[str, str]) -> dict[str, str]:
        own = {name: os.environ[name] for name in KEPT if name in os.environ}
        settings = {"SLOGPT_REPO_ID": REPO, "SLOGPT_CHECKPOINTS": "out/**/ckpt.pt"}
        hub = {"HF_ENDPOINT": self.endpoint} if self.endpoint else {}
        return {**own, **GIT, **settings, **hub, **self.environment, **given}

    def ci(self, stage: str, *arguments: str, **given: str) -> Ran:
        """A stage on the job's work folder, within this process."""
        return self.command("ci", stage, str(self.work), *arguments, **given)

    def command(self, *arguments: str, **given: str) -> Ran:
        out, err, before = StringIO(), StringIO(), Path.cwd()
        environment = self.variables({"HF_HUB_DISABLE_PROGRESS_BARS": "1", **given})
        with replaced_environment(environment), redirect_stdout(out), redirect_stderr(err):
            os.chdir(self.repository)
            try:
                code = cli.run(list(arguments))
            finally:
                os.chdir(before)
        return Ran(code, out.getvalue(), err.getvalue())

    def process(self, *arguments: str, options: tuple[str, ...] = (), **given: str) -> Ran:
        """A command line in a process of its own."""
        command = [sys.executable, *options, "-m", "slogpt_hf", *arguments]
        environment = self.variables({"PYTHONPATH": str(ROOT), "HF_HUB_DISABLE_XET": "1", **given})
        done = subprocess.run(
            command, cwd=self.repository, env=environment, capture_output=True, text=True
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    def copy_of(self, other: Path) -> Path:
        """Go on in this job with what another one left, as artifacts hand it on."""
        shutil.copytree(other, self.work, ignore=HANDED_ON, symlinks=True)
        return self.work

    def read(self, name: str) -> Any:
        return json.loads((self.work / name).read_text())

    def rewrite(self, name: str, /, **changes: Any) -> Path:
        """Change members of a JSON file of the work folder."""
        path = self.work / name
        content = json.loads(path.read_text()) | changes
        path.write_text(json.dumps(content))
        return path

    def wanted(self) -> list[str]:
        """Of what is to be released, in the order of the plan."""
        return [each["key"] for each in self.read("plan.json")["decisions"] if each["wanted"]]


@contextmanager
def replaced_environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def outputs(path: Path) -> dict[str, str]:
    """What a file of GitHub's outputs holds; of several values for a name the last."""
    found, lines = {}, iter(path.read_text().splitlines())
    for line in lines:
        name, _, delimiter = line.partition("<<")
        value = []
        while (each := next(lines)) != delimiter:
            value.append(each)
        found[name] = "\n".join(value)
    return found


def tags(hub: RunningHub) -> list[str]:
    """Tags of the released model."""
    repository = hub.folder / f"{REPO}.git"
    return git(repository, "tag").split() if repository.is_dir() else []


def published(hub: RunningHub, revision: str, name: str) -> bytes:
    """A file of a release, in git itself."""
    command = ["git", "-C", str(hub.folder / f"{REPO}.git"), "show", f"{revision}:{name}"]
    return subprocess.run(command, check=True, capture_output=True).stdout


def keys_of(artifacts: Path) -> dict[str, str]:
    """Path of each checkpoint that was proven or refused, to its key."""
    outcomes = [json.loads(path.read_text()) for path in artifacts.glob("*/proof/outcomes/*.json")]
    return {each["name"]: each["key"] for each in outcomes}


def plant_fault(monkeypatch: pytest.MonkeyPatch, tensor: str) -> None:
    """Have conversions write one tensor wrong, which only the proof can notice."""
    from safetensors.torch import load_file, save_file

    from slogpt_hf import build

    write = build.write_model

    def write_wrongly(*arguments: Any, **named: Any) -> Any:
        artefact = write(*arguments, **named)
        path = artefact.folder / "model.safetensors"
        tensors = load_file(path)
        tensors[tensor] = tensors[tensor] * 1.5
        save_file(tensors, path, metadata={"format": "pt"})
        return artefact

    monkeypatch.setattr(build, "write_model", write_wrongly)
