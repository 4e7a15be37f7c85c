"""The image under test, and containers of it as the action runs them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from needs import missing

HARDENED = (
    *("--rm", "--user", "12345:54321", "--read-only", "--cap-drop", "ALL"),
    *("--security-opt", "no-new-privileges", "--tmpfs", "/tmp"),
)
# What the image has for a shell and its tools is not there.
SHELL_LESS = ("--volume", "/dev/null:/usr/bin/busybox:ro")

Done = subprocess.CompletedProcess[str]


def _docker(*arguments: str, check: bool = True) -> Done:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=120)
    assert not check or done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="session")
def docker() -> Callable[..., Done]:
    """The docker client; a command that fails fails the test."""
    return _docker


@pytest.fixture(scope="session")
def image() -> str:
    """The image that TESTS_IMAGE names; where none is, these tests are skipped or fail."""
    name = os.environ.get("TESTS_IMAGE")
    if name:
        return name
    missing("engine", "TESTS_IMAGE names no image")


@pytest.fixture(scope="session")
def hardened(image: str) -> Callable[..., tuple[str, ...]]:
    """Arguments of `docker run` for the image, without a network, a shell or a known user."""

    def arguments(
        *command: str,
        network: str = "none",
        mounts: dict[Path, str] | None = None,
        environment: dict[str, str] | None = None,
        options: tuple[str, ...] = (),
        program: str = "",
    ) -> tuple[str, ...]:
        given = [f"--network={network}", *HARDENED, *SHELL_LESS, *options]
        given += [f"--volume={folder}:{target}" for folder, target in (mounts or {}).items()]
        given += [f"--env={name}={value}" for name, value in (environment or {}).items()]
        given += [f"--entrypoint={program}"] if program else []
        return ("run", *given, image, *command)

    return arguments


@pytest.fixture(scope="session")
def run(hardened: Callable[..., tuple[str, ...]]) -> Callable[..., Done]:
    """Run a command in the image, as `hardened` says."""

    def call(*command: str, check: bool = True, **given: object) -> Done:
        return _docker(*hardened(*command, **given), check=check)

    return call


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A folder that the user of a container may write to."""
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o777)
    return folder
