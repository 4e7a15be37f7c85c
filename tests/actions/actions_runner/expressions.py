"""GitHub's library of expressions in a node process of its own."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


class UnsupportedError(Exception):
    """Something in a workflow or action that GitHub refuses, or that this runner does not know."""


@dataclass(frozen=True)
class Expressions:
    """`github.mjs` is the other end of the process."""

    process: subprocess.Popen[str]

    def fill(self, value: Any, contexts: Mapping[str, Any], status: str = "success") -> Any:
        """A value with every `${{ }}` in it replaced, however deep."""
        return self._ask("fill", value=value, contexts=contexts, status=status)

    def holds(self, condition: Any, contexts: Mapping[str, Any], status: str) -> bool:
        """Whether an `if:` holds; with none, whether all before it succeeded."""
        condition = "success()" if condition is None else str(condition)
        holds: bool = self._ask("holds", condition=condition, contexts=contexts, status=status)
        return holds

    def faults(self, kind: str, name: str, content: str) -> list[str]:
        """What GitHub's parser says against an `action` or a `workflow`."""
        faults: list[str] = self._ask("faults", kind=kind, name=name, content=content)
        return faults

    def _ask(self, ask: str, **request: Any) -> Any:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps({"ask": ask, **request}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f"node ended with {self.process.wait()}"
        answer = json.loads(line)
        if "error" in answer:
            raise UnsupportedError(f"{answer['error']} in {request}")
        return answer["value"]


def require_known(mapping: Mapping[Any, Any], known: str, where: str) -> None:
    """Raise where a mapping has keys besides those of `known`, which are separated by spaces."""
    if unknown := {str(key) for key in mapping} - set(known.split()):
        raise UnsupportedError(f"{where}: unknown keys {sorted(unknown)}")
