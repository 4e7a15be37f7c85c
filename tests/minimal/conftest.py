"""An environment of its own: what requirements-minimal.txt brings, and nothing else."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
START = "import sys; sys.path.append({!r}); sys.argv = ['slogpt-hf', *sys.argv[1:]]\n"
MAIN = "from slogpt_hf.cli import main; main()"


def brought_by(names: list[str]) -> set[str]:
    """Names of the distributions that pip installs for these."""
    found: set[str] = set()
    while names:
        name = re.sub(r"[-_.]+", "-", names.pop()).lower()
        if name in found:
            continue
        found.add(name)
        wanted = map(Requirement, metadata.requires(name) or [])
        names += [r.name for r in wanted if not r.marker or r.marker.evaluate({"extra": ""})]
    return found


@dataclass(frozen=True)
class Minimal:
    """Runs Python that sees the standard library and one folder of links."""

    folder: Path
    cwd: Path

    def python(self, code: str, *arguments: Any) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-I", "-S", "-c", START.format(str(self.folder)) + code]
        return subprocess.run(
            [*command, *map(str, arguments)], cwd=self.cwd, text=True, capture_output=True
        )

    def __call__(self, *arguments: Any) -> subprocess.CompletedProcess[str]:
        return self.python(MAIN, *arguments)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with links to what pip would put into a minimal install."""
    folder = tmp_path_factory.mktemp("minimal-site")
    lines = (ROOT / "requirements-minimal.txt").read_text("utf-8").splitlines()
    names = [Requirement(line).name for line in lines if line and not line.startswith("#")]
    for name in brought_by(names):
        distribution = metadata.distribution(name)
        tops = {file.parts[0] for file in distribution.files or [] if file.parts[0] != ".."}
        for top in tops - {"__pycache__"}:
            link, place = folder / top, Path(str(distribution.locate_file(top)))
            if not link.exists():
                link.symlink_to(place)
    (folder / "slogpt_hf").symlink_to(ROOT / "slogpt_hf")
    own = metadata.distribution("slogpt-hf")
    record = next(file for file in own.files or [] if file.name == "METADATA")
    (folder / record.parts[0]).symlink_to(Path(str(own.locate_file(record.parts[0]))))
    return folder


@pytest.fixture
def minimal(site: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command line in a minimal install; ``.python(code)`` runs Python there."""
    return Minimal(site, tmp_path)
