"""Small git repositories as people have them, and the command run in them."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
sys.path.append(str(TESTS / "init"))

from init_trainer import Trainer  # noqa: E402

_spec = importlib.util.spec_from_file_location(
    "conftest_of_actions", TESTS / "actions" / "conftest.py"
)
assert _spec and _spec.loader
_module = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = _module
_spec.loader.exec_module(_module)
expressions = _module.expressions  # GitHub's own parser

IDENTITY = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
    "GIT_AUTHOR_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@example.org",
}


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("empty")
    for arguments in (
        ["init", "--quiet", "--initial-branch", "main"],
        ["commit", "--quiet", "--allow-empty", "--message", "first"],
        ["remote", "add", "origin", "git@github.com:acme/training.git"],
    ):
        subprocess.run(["git", *arguments], cwd=folder, check=True, env=os.environ | IDENTITY)
    return folder


@pytest.fixture
def trainer(
    empty: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Trainer:
    """An empty repository of acme/training on GitHub, in which the command runs."""
    folder = tmp_path / "training"
    shutil.copytree(empty, folder)
    for name, value in IDENTITY.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(folder)

    def said() -> tuple[str, str]:
        captured = capsys.readouterr()
        return captured.out, captured.err

    return Trainer(folder, said)
