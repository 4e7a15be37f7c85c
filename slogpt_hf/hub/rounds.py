"""Changes to a branch that others change too, over answers that may be lost."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from slogpt_hf.errors import HubError
from slogpt_hf.hub import attempts
from slogpt_hf.hub.attempts import ATTEMPTS, is_transient, status_of, wait_after
from slogpt_hf.hub.client import Hub, hub_error, readable_errors
from slogpt_hf.hub.state import RepoState, read_state

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete

    Operation: TypeAlias = CommitOperationAdd | CommitOperationCopy | CommitOperationDelete

Result = TypeVar("Result")

MOST_ROUNDS = 60  # at most so many other commits may come first, ten minutes in all
LONGEST_PAUSE_SECONDS = 15.0
PRECONDITION_FAILED = 412


class BranchMovedError(HubError):
    """Somebody committed to the branch after it was read: read it again."""


class UnansweredError(HubError):
    """The commit's answer did not come: whether it was made shows only on reading again."""


def until_settled(
    hub: Hub,
    state: RepoState,
    change: Callable[[RepoState], Result],
    changed: Callable[[RepoState], Result | None],
) -> Result:
    """Make a change, planned anew where others came first or an answer was lost.

    Args:
        hub: where to.
        state: the repository as it was read last.
        change: plans the change for a state and makes it.
        changed: the result where a state shows that it was made already; else None.

    Raises:
        HubError: too many others came first, or the hub did not answer several times.
    """
    unanswered = 0
    for lost in range(MOST_ROUNDS):
        try:
            return change(state)
        except BranchMovedError as error:
            failed: HubError = error
            hub.tell(f"     hub: {error.message} Reading the repository again.")
            # Those who lost together must not come back together; refs may lag behind commits.
            attempts.sleep(random.uniform(0, min(LONGEST_PAUSE_SECONDS, 0.2 * 2**lost)))
        except UnansweredError as error:
            failed, unanswered = error, unanswered + 1
            cause = error.__cause__
            if unanswered == ATTEMPTS or not isinstance(cause, Exception):
                raise
            if not wait_after(cause, unanswered, hub.tell):
                raise
        state = read_state(hub, state.repo_id, state.revision)
        if (result := changed(state)) is not None:
            return result
    failed.hint = failed.hint or "Many releases go there at once; run it again later."
    raise failed


def commit_on(
    hub: Hub,
    repo_id: str,
    operations: Sequence[Operation],
    *,
    branch: str,
    head: str | None,
    message: str,
) -> str:
    """Commit on top of ``head`` and nothing else; the commit's id.

    Raises:
        BranchMovedError: the branch is somewhere else; nothing was committed.
        UnansweredError: the commit was sent and not answered.
        HubError: the hub refused.
    """
    try:
        commit: str = hub.api.create_commit(
            repo_id,
            list(operations),
            repo_type=hub.repo_type,
            commit_message=message,
            revision=branch,
            parent_commit=head,
        ).oid
    except Exception as error:
        if status_of(error) == PRECONDITION_FAILED:
            raise BranchMovedError(f"{repo_id}: somebody committed to {branch}.") from error
        if is_transient(error):
            refused = hub_error("committing", repo_id, error)
            raise UnansweredError(refused.message, hint=refused.hint) from error
        with readable_errors("committing", repo_id):
            raise
    return commit
