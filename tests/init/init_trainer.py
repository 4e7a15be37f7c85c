"""A training repository, and the command run in it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slogpt_hf.cli import run

GOLDEN = Path(__file__).parents[1] / "data" / "golden"


@dataclass(frozen=True)
class Trainer:
    """A training repository."""

    folder: Path
    said: Callable[[], tuple[str, str]]

    def git(self, *arguments: str) -> str:
        command = ["git", "-C", str(self.folder), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def write(self, path: str, content: str | bytes = "") -> Path:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return file

    def copy(self, name: str, path: str, model: str = "slo-modern") -> None:
        self.write(path, (GOLDEN / model / name).read_bytes())

    def commit(self, *paths: str) -> None:
        self.git("add", "--force", *paths)
        self.git("commit", "--quiet", "--message", "more")

    def read(self, path: str) -> str:
        return (self.folder / path).read_text("utf-8")

    def files(self) -> set[str]:
        found = (path.relative_to(self.folder) for path in self.folder.rglob("*") if path.is_file())
        return {path.as_posix() for path in found if path.parts[0] != ".git"}

    def init(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, standard output, standard error of ``slogpt-hf init``."""
        code = run(["init", *arguments])
        return code, *self.said()

    def json(self, *arguments: str) -> Any:
        code, out, err = self.init("--json", *arguments)
        assert code == 0, err
        return json.loads(out)
