"""The stages of a CI job: prepare, prove, publish, report. What each leaves lies in one folder.

The stages are apart so that the code that reads a checkpoint meets neither token nor network, and
the code that meets the token reads no checkpoint. ``Work`` says which stage writes what.
"""

from __future__ import annotations

from slogpt_hf.stages.preparing import Job, Prepared, prepare
from slogpt_hf.stages.proving import prove
from slogpt_hf.stages.publishing import publish
from slogpt_hf.stages.reporting import report
from slogpt_hf.stages.work import REMARKED, Work, known_outcomes, outcomes_of

__all__ = [
    "REMARKED",
    "Job",
    "Prepared",
    "Work",
    "known_outcomes",
    "outcomes_of",
    "prepare",
    "prove",
    "publish",
    "report",
]
