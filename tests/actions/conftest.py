"""Runs `action.yml` and the workflows of the working tree as GitHub would."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.append(str(HERE))

from actions_runner import Event, Expressions, Machine  # noqa: E402
from actions_runner.events import Origin, git  # noqa: E402
from needs import PATH, node_for  # noqa: E402

ACTION = "slogpt/slogpt-hf"
TRAINER = "someone/train"


@pytest.fixture(scope="session")
def expressions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Expressions]:
    """GitHub's expressions and parser, in one process for all tests."""
    node = node_for(HERE, "@actions/expressions")
    process = subprocess.Popen(
        [node, HERE / "github.mjs"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        cwd=tmp_path_factory.mktemp("node"),
        env={"PATH": PATH},
    )
    yield Expressions(process)
    process.communicate()


def as_outside_of_a_container(folder: Path) -> None:
    """Have a copy of the action look for a container's mark in its own folder."""
    script = folder / ".ci" / "runtime"
    text = script.read_text()
    assert "/.dockerenv" in text
    script.write_text(text.replace("/.dockerenv", f"{folder}/.dockerenv"))


@pytest.fixture(scope="session")
def action_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository whose only commit is the action as it lies in the working tree."""
    folder = tmp_path_factory.mktemp("action")
    listed = ["action.yml", "Dockerfile", "entrypoint", ".ci", ".github"]
    for name in listed:
        source, target = ROOT / name, folder / name
        if source.is_dir():
            shutil.copytree(source, target)
        elif source.exists():
            shutil.copy2(source, target)
    as_outside_of_a_container(folder)
    git(folder, "init", "--quiet")
    git(folder, "add", "--all", "--force")
    git(folder, "commit", "--quiet", "--message", "release")
    return folder


@pytest.fixture
def action_copy(tmp_path: Path) -> Path:
    """A folder with the action's scripts; a file `.dockerenv` in it marks a container."""
    folder = tmp_path / "action"
    shutil.copytree(ROOT / ".ci", folder / ".ci")
    as_outside_of_a_container(folder)
    return folder


@pytest.fixture
def origin(tmp_path: Path) -> Origin:
    """A training repository with a first commit."""
    origin = Origin.make(tmp_path / "origin", TRAINER)
    origin.commit("start", **{"README.md": b"# train\n"})
    origin.push()
    return origin


@pytest.fixture
def machine(tmp_path: Path, origin: Origin, action_repository: Path) -> Callable[..., Machine]:
    """Makes a machine: `(event, number=0, repositories={}, secrets={}, **environment)`."""

    def make(
        event: Event,
        number: int = 0,
        repositories: dict[str, Path] | None = None,
        secrets: dict[str, str] | None = None,
        **environment: str,
    ) -> Machine:
        root = tmp_path / f"run-{number}"
        reachable = {ACTION: action_repository, TRAINER: origin.server, **(repositories or {})}
        surroundings = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "ACTION_PYTHON": "",
            **environment,
        }
        return Machine(root, reachable, TRAINER, event, surroundings, secrets or {})

    return make


@dataclass(frozen=True)
class Stub:
    """A command line that notes what it sees and does what it is told, stage by stage."""

    folder: Path

    @property
    def interpreter(self) -> str:
        return str(self.folder / "stub.py")

    def tell(self, **stages: dict[str, Any]) -> None:
        """For each stage: `outputs`, `says` on standard output, `code` to exit with, `waits`."""
        (self.folder / "told.json").write_text(json.dumps(stages))

    @property
    def seen(self) -> list[dict[str, Any]]:
        """Of every stage that ran: `stage`, `work`, `arguments`, `environment`, `folder`."""
        return self._notes("seen.jsonl")

    @property
    def stages(self) -> list[str]:
        return [each["stage"] for each in self.seen]

    @property
    def docker(self) -> list[list[str]]:
        """Arguments of every call of docker."""
        return self._notes("docker.jsonl")

    def _notes(self, name: str) -> list[Any]:
        path = self.folder / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def stub(tmp_path: Path) -> Stub:
    """One new checkpoint that is proven and published, unless told otherwise."""
    folder = tmp_path / "stub"
    folder.mkdir()
    for source, name in (("stub.py", "stub.py"), ("fake_docker.py", "docker")):
        text = (HERE / source).read_text().replace("#!PYTHON", f"#!{sys.executable}")
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    stub = Stub(folder)
    stub.tell(
        prepare={"outputs": {"new": 1, "publish": "true", "matrix": '{"include": []}'}},
        report={"outputs": {"released": "true", "version": "1.0.0"}},
    )
    return stub
