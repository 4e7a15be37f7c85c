"""Runs composite actions and workflows as GitHub does, as far as ours use what it knows.

Expressions are evaluated by GitHub's own library. A key that is not known here fails loudly.
"""

from __future__ import annotations

from actions_runner.events import Event
from actions_runner.expressions import Expressions, UnsupportedError
from actions_runner.machine import Machine
from actions_runner.steps import Job, run_steps
from actions_runner.workflows import Run, run_workflow

__all__ = [
    "Event",
    "Expressions",
    "Job",
    "Machine",
    "Run",
    "UnsupportedError",
    "run_steps",
    "run_workflow",
]
