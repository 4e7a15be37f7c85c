"""What happened in a repository, as far as a CI tells it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """Why a run was started. Nothing of it is believed: content decides what is released.

    Attributes:
        name: as the CI calls it, e.g. ``push``, ``schedule``, ``pull_request``.
        commit: that the run is about; None if nothing tells.
        branch: that was pushed to, or the source branch of a pull request; None for a tag, a
            schedule or a run by hand that names none.
        tag: that was pushed.
        before: commit that the branch was at before the push; None for a new one.
        is_pull_request: nothing may be published.
        run: URL of the run, for people.
    """

    name: str
    commit: str | None = None
    branch: str | None = None
    tag: str | None = None
    before: str | None = None
    is_pull_request: bool = False
    run: str | None = None
