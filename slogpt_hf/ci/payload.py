"""GitHub's event as JSON: what it tells beyond the variables. Anything may be missing or wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from slogpt_hf.ci.values import branch_and_tag, commit_id, ref_name, text_or_none
from slogpt_hf.watch.event import Event

Payload = Mapping[str, Any]
LARGEST_EVENT = 32 << 20  # bytes; GitHub sends 25 MB at most
LARGEST_NUMBER = 10**12  # of a pull request
DELETED = "delete"


def refine(event: Event, payload: Payload) -> Event:
    """An event of the variables with what its payload tells."""
    refined = _READERS[event.name](event, payload) if event.name in _READERS else event
    if not pull_request_of(payload):
        return refined
    return replace(refined, is_pull_request=True, before=None)


def pull_request_of(payload: Payload) -> Payload:
    """The pull request that an event is about; of a comment only where to find it."""
    return inner(payload, "pull_request") or inner(payload, "issue", "pull_request")


def number_of(payload: Payload) -> int | None:
    """The number of the pull request that an event is about."""
    issue = inner(payload, "issue") if inner(payload, "issue", "pull_request") else {}
    found = (inner(payload, "pull_request").get("number"), issue.get("number"))
    numbers = (n for n in found if isinstance(n, int) and not isinstance(n, bool))
    return next((n for n in numbers if 0 < n < LARGEST_NUMBER), None)


def is_foreign(payload: Payload) -> bool:
    """Whether what an event is about comes from another repository than its own."""
    own = inner(payload, "repository").get("full_name")
    if head := inner(payload, "pull_request", "head"):
        return inner(head, "repo").get("full_name") != own
    source = inner(payload, "workflow_run", "head_repository")
    return bool(source) and source.get("full_name") != own


def _push(event: Event, payload: Payload) -> Event:
    branch, tag = branch_and_tag(text_or_none(payload.get("ref")))
    if branch or tag:
        event = replace(event, branch=branch, tag=tag)
    if payload.get("deleted") is True:
        # The run is about the default branch, which nobody pushed to.
        return replace(event, name=DELETED, commit=None)
    after = commit_id(payload.get("after"))
    # The commit of an annotated tag is not what `after` is.
    commit = event.commit if event.tag else after or event.commit
    return replace(event, commit=commit, before=commit_id(payload.get("before")))


def _delete(event: Event, payload: Payload) -> Event:
    name = ref_name(text_or_none(payload.get("ref")))
    is_tag = payload.get("ref_type") == "tag"
    return replace(
        event, commit=None, branch=None if is_tag else name, tag=name if is_tag else None
    )


def _pull_request(event: Event, payload: Payload) -> Event:
    head = inner(payload, "pull_request", "head")
    branch = event.branch or ref_name(text_or_none(head.get("ref")))
    # For `pull_request` the variable names the merge with the target, which is checked out.
    commit = event.commit if event.name == "pull_request" else commit_id(head.get("sha"))
    return replace(event, commit=commit or event.commit, branch=branch)


def _workflow_run(event: Event, payload: Payload) -> Event:
    """That of the workflow that ended: the variables are about the default branch."""
    run = inner(payload, "workflow_run")
    origin = text_or_none(run.get("event")) or ""
    return replace(
        event,
        commit=commit_id(run.get("head_sha")) or event.commit,
        branch=ref_name(text_or_none(run.get("head_branch"))) or event.branch,
        is_pull_request=origin.startswith(("pull_request", "merge_group")) or is_foreign(payload),
    )


_READERS: Mapping[str, Callable[[Event, Payload], Event]] = {
    "push": _push,
    "delete": _delete,
    "pull_request": _pull_request,
    "pull_request_target": _pull_request,
    "pull_request_review": _pull_request,
    "pull_request_review_comment": _pull_request,
    "workflow_run": _workflow_run,
}


def read_file(path: Path) -> bytes:
    """The content of a file, no more than is looked at."""
    with path.open("rb") as file:
        return file.read(LARGEST_EVENT + 1)


def read_payload(path: str | None, read: Callable[[Path], bytes]) -> Payload:
    """The event in a file; empty where it cannot be read or is none."""
    try:
        content = read(Path(path)) if path else b"{}"
        parsed = json.loads(content) if len(content) <= LARGEST_EVENT else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return parsed if isinstance(parsed, dict) else {}


def inner(payload: Any, *names: str) -> Payload:
    """A mapping within mappings; empty where there is none."""
    for name in names:
        payload = payload.get(name) if isinstance(payload, dict) else None
    return payload if isinstance(payload, dict) else {}
