"""The releases that a hub holds: listed, compared, and a branch put back to one of them."""

from __future__ import annotations

from slogpt_hf.history.comparing import Comparison, Difference, FileChange, compare
from slogpt_hf.history.listing import KnownRelease, list_releases
from slogpt_hf.history.rollback import Rollback, roll_back

__all__ = [
    "Comparison",
    "Difference",
    "FileChange",
    "KnownRelease",
    "Rollback",
    "compare",
    "list_releases",
    "roll_back",
]
