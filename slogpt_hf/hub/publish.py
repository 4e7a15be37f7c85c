"""One commit, then one tag: the tag is the moment of publication."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from slogpt_hf.card.record import RECORD_FILE, Record, stale_files
from slogpt_hf.errors import HubError, TagConflictError
from slogpt_hf.hub.client import Hub, readable_errors
from slogpt_hf.hub.versions import newest_tag


@dataclass(frozen=True)
class RepoState:
    """What the hub holds before a release.

    Attributes:
        exists: the repository is there.
        head: commit id of the branch, or of main where the branch is missing and will start there;
            None if the repository is missing.
        record: the head's ``release.json``; None without one.
        last: ``release.json`` of the newest release: the head's, or else that of the tag with
            the highest version.
        tags: tag name to commit id.
    """

    exists: bool
    head: str | None
    record: Record | None
    last: Record | None
    tags: dict[str, str]


def read_state(hub: Hub, repo_id: str, revision: str) -> RepoState:
    """Look at the repository and the branch that a release would go to.

    Raises:
        HubError: the hub refused or could not be reached.
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    with readable_errors("reading the repository", repo_id):
        try:
            refs = hub.api.list_repo_refs(repo_id)
        except RepositoryNotFoundError:
            return RepoState(False, None, None, None, {})
        heads = {branch.name: branch.target_commit for branch in refs.branches}
        head = heads.get(revision, heads.get("main"))
        tags = {tag.name: tag.target_commit for tag in refs.tags}
        record = last = _record_at(hub, repo_id, head) if head else None
        if record is None and (newest := newest_tag(tags)):
            last = _record_at(hub, repo_id, tags[newest])
        return RepoState(True, head, record, last, tags)


def publish_artefact(
    hub: Hub,
    repo_id: str,
    files: Mapping[str, Path],
    *,
    tag: str,
    revision: str,
    state: RepoState,
    message: str,
    private: bool = False,
) -> str:
    """Upload a finished artefact as one commit and tag that commit.

    Files that the last release wrote and this one does not are deleted in the same commit;
    files that were never ours stay.

    Args:
        hub: where to.
        repo_id: NAMESPACE/NAME, created if missing.
        files: path in the repository to file: the finished artefact.
        tag: of the release.
        revision: branch that takes the commit, created from main if missing.
        state: the repository as it was when the release was planned; a branch that moved since
            is refused.
        message: of the commit and the tag.
        private: whether a new repository is private.

    Returns:
        The commit's id.

    Raises:
        TagConflictError: the tag names another commit.
        HubError: the hub refused or could not be reached.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    require_free_tag(repo_id, tag, state)
    api = hub.api
    with readable_errors("creating the repository", repo_id):
        api.create_repo(repo_id, private=private, exist_ok=True)
        head = state.head or api.repo_info(repo_id).sha
        if revision != "main":
            api.create_branch(repo_id, branch=revision, revision=head, exist_ok=True)
    additions = [CommitOperationAdd(name, path) for name, path in files.items()]
    stale = stale_files(state.record, files)
    with readable_errors("uploading", repo_id):
        api.preupload_lfs_files(repo_id, additions, revision=revision, free_memory=False)
    with readable_errors("committing", repo_id):
        commit: str = api.create_commit(
            repo_id,
            [*additions, *(CommitOperationDelete(path, is_folder=False) for path in stale)],
            commit_message=message,
            revision=revision,
            parent_commit=head,
        ).oid
    create_tag(hub, repo_id, tag, commit, message)
    return commit


def require_free_tag(repo_id: str, tag: str, state: RepoState) -> None:
    """Raise TagConflictError if the repository has the tag already."""
    if tag in state.tags:
        raise TagConflictError(
            f"{repo_id}: tag {tag} exists already, on commit {state.tags[tag][:12]}, with other "
            "content.",
            hint="Choose another --tag; a published release is never overwritten.",
        )


def create_tag(hub: Hub, repo_id: str, tag: str, commit: str, message: str) -> None:
    """Tag a commit; a tag that is there already on this very commit is success.

    Raises:
        TagConflictError: the tag names another commit.
        HubError: the hub refused or could not be reached.
    """
    from huggingface_hub.errors import HfHubHTTPError

    with readable_errors("tagging", repo_id):
        try:
            hub.api.create_tag(repo_id, tag=tag, tag_message=message, revision=commit)
        except HfHubHTTPError as error:
            if error.response is None or error.response.status_code != 409:
                raise
            tags = {t.name: t.target_commit for t in hub.api.list_repo_refs(repo_id).tags}
            if tags.get(tag) != commit:
                raise TagConflictError(
                    f"{repo_id}: tag {tag} was created meanwhile, on another commit.",
                    hint="Choose another --tag and release again.",
                ) from error


def _record_at(hub: Hub, repo_id: str, commit: str) -> Record | None:
    import tempfile

    from huggingface_hub.errors import EntryNotFoundError

    with tempfile.TemporaryDirectory() as folder:
        try:
            path = hub.api.hf_hub_download(repo_id, RECORD_FILE, revision=commit, local_dir=folder)
        except EntryNotFoundError:
            return None
        try:
            record = json.loads(Path(path).read_text("utf-8"))
        except ValueError as error:
            raise HubError(
                f"{repo_id}: its {RECORD_FILE} is not JSON ({error}).",
                hint="Restore it from an earlier commit of the repository.",
            ) from error
    return record if isinstance(record, dict) else None
