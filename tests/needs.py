"""What some tests need that no Python package brings, and what becomes of them without it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).parents[1]
# In the order in which a program is looked for: what .ci/setup put there comes first.
PATH = os.pathsep.join((str(ROOT / ".venv/bin"), os.environ.get("PATH", os.defpath)))


def missing(kind: str, what: str) -> NoReturn:
    """Skip a test that cannot run here; on a machine that tests/run.sh set up for it, fail.

    Args:
        kind: ``node``, ``programs`` or ``engine``, as TESTS_NEED lists them.
        what: that is missing, a sentence without its end.
    """
    message = f"{what}: tests/run.sh sets it up, docs/testing.md says how."
    if kind in os.environ.get("TESTS_NEED", "").split():
        pytest.fail(message)
    pytest.skip(message)


def node_for(folder: Path, package: str) -> str:
    """The node that runs what lies in a folder, which has its packages."""
    node = shutil.which("node", path=PATH)
    if node is None or not (folder / "node_modules" / package).is_dir():
        missing("node", f"{folder.relative_to(ROOT)} lacks node or its package {package}")
    return node


def program(name: str) -> str:
    """A program of the system or of the tests' virtual environment."""
    return shutil.which(name, path=PATH) or missing("programs", f"{name} is not installed")
