"""Processes that answer each line of JSON with one, and the side that asks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


class RefusedError(Exception):
    """The program does not run an artefact; the message is its own."""


def answer_all(function: Callable[..., dict[str, Any]]) -> None:
    """Answer every question on stdin by the function of its fields; what it prints goes aside."""
    shown, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        try:
            answer = function(**json.loads(line))
        except (Exception, SystemExit) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        shown.write(json.dumps(answer) + "\n")
        shown.flush()


class Answering:
    """A process that answers; it starts when it is asked, and again where it died."""

    def __init__(self, command: Sequence[str | Path], path: Path | None = None) -> None:
        self._command = command
        self._environment = os.environ | ({"PYTHONPATH": str(path)} if path else {})
        self._process: subprocess.Popen[str] | None = None

    def ask(self, **question: Any) -> dict[str, Any]:
        """The answer.

        Raises:
            RefusedError: it is an error, or the process died.
        """
        if self._process is None:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=self._environment,
            )
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            self.end()
            raise RefusedError("the program ended by itself")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RefusedError(answer["error"])
        return answer

    def end(self) -> None:
        """Let it end."""
        if self._process is not None:
            self._process.communicate()
            self._process = None
