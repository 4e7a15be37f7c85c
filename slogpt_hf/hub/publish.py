"""One commit, then one tag: the tag is the moment of publication."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from slogpt_hf.card.record import RECORD_FILE, Record, is_record
from slogpt_hf.errors import HubError, TagConflictError, UsageError
from slogpt_hf.files import sha256_of
from slogpt_hf.hub.client import Hub, readable_errors
from slogpt_hf.hub.versions import newest_tag

DEFAULT_BRANCH = "main"
PRECONDITION_FAILED = 412
# What from_pretrained may read from the top of a repository besides, or instead of, our files.
LOADED_BY_TRANSFORMERS = (
    "*.safetensors",
    "*.safetensors.index.json",
    "pytorch_model*",
    "adapter_*",
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "vocab.*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "*.py",
)


class BranchMovedError(HubError):
    """Somebody committed to the branch after it was read: read it again."""


@dataclass(frozen=True)
class RepoState:
    """What the hub holds before a release.

    Attributes:
        head: commit id of the branch, or of main where the branch is missing and will start there;
            None if the repository is missing.
        record: the head's ``release.json``; None without one of ours.
        last: ``release.json`` of the newest release: the head's, or else that of the tag with
            the highest version.
        tags: tag name to commit id.
        branches: names of the branches.
    """

    head: str | None
    record: Record | None
    last: Record | None
    tags: Mapping[str, str]
    branches: tuple[str, ...]


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
            return RepoState(None, None, None, {}, ())
        heads = {branch.name: branch.target_commit for branch in refs.branches}
        head = heads.get(revision, heads.get(DEFAULT_BRANCH))
        tags = {tag.name: tag.target_commit for tag in refs.tags}
        record = last = record_at(hub, repo_id, head) if head else None
        if record is None and (newest := newest_tag(tags)):
            last = record_at(hub, repo_id, tags[newest])
        return RepoState(head, record, last, tags, tuple(heads))


def record_at(hub: Hub, repo_id: str, commit: str) -> Record | None:
    """The ``release.json`` of a commit; None if it has none that slogpt-hf wrote."""
    from huggingface_hub.errors import EntryNotFoundError

    with (
        readable_errors(f"reading {RECORD_FILE}", repo_id),
        tempfile.TemporaryDirectory() as folder,
    ):
        try:
            path = hub.api.hf_hub_download(repo_id, RECORD_FILE, revision=commit, local_dir=folder)
            record = json.loads(Path(path).read_text("utf-8"))
        except (EntryNotFoundError, ValueError, RecursionError):
            return None
    return record if is_record(record) else None


def holds_release(hub: Hub, repo_id: str, commit: str, record: Record) -> bool:
    """Whether every file of a commit is the one that ``record`` proves."""
    found = _files_at(hub, repo_id, commit)
    if not record["files"].keys() <= found.keys():
        return False
    with readable_errors("reading the files", repo_id), tempfile.TemporaryDirectory() as folder:
        for name, proven in record["files"].items():
            digest = found[name]
            if digest is None:
                path = hub.api.hf_hub_download(repo_id, name, revision=commit, local_dir=folder)
                digest = sha256_of(Path(path))
            if digest != proven:
                return False
    return True


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

    Files that the last release wrote and this one does not are deleted in the same commit; files
    that were never ours stay, unless ``from_pretrained`` would load them.

    Args:
        hub: where to.
        repo_id: NAMESPACE/NAME, created if missing.
        files: path in the repository to file: the finished artefact.
        tag: of the release.
        revision: branch that takes the commit, created from main if missing.
        state: the repository as it was when the release was planned.
        message: of the commit and the tag.
        private: whether a new repository is private; an existing public one is then refused.

    Returns:
        The commit's id.

    Raises:
        BranchMovedError: the branch is not where ``state`` saw it; nothing was committed.
        TagConflictError: the tag names another commit.
        UsageError: the repository holds files that would be loaded beside the artefact, or is
            public and should be private.
        HubError: the hub refused or could not be reached.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete
    from huggingface_hub.errors import HfHubHTTPError

    require_free_tag(repo_id, tag, revision, state)
    api, head = hub.api, state.head
    with readable_errors("creating the repository", repo_id):
        if head is None:
            api.create_repo(repo_id, private=private, exist_ok=True)
            created = read_state(hub, repo_id, revision)
            if created.record is not None or created.tags:
                raise BranchMovedError(f"{repo_id}: was created by another release meanwhile.")
            head = created.head
        elif private and not api.repo_info(repo_id).private:
            raise UsageError(
                f"{repo_id}: is public, but --private was asked for.",
                hint="Make it private in its settings on the Hub, or leave --private out.",
            )
        if head and revision not in state.branches and revision != DEFAULT_BRANCH:
            api.create_branch(repo_id, branch=revision, revision=head, exist_ok=True)
    stale = _stale_files(repo_id, _files_at(hub, repo_id, head) if head else {}, files, state)
    additions = [CommitOperationAdd(name, path) for name, path in files.items()]
    with readable_errors("uploading", repo_id):
        api.preupload_lfs_files(repo_id, additions, revision=revision, free_memory=False)
    with readable_errors("committing", repo_id):
        try:
            commit: str = api.create_commit(
                repo_id,
                [*additions, *(CommitOperationDelete(path, is_folder=False) for path in stale)],
                commit_message=message,
                revision=revision,
                parent_commit=head,
            ).oid
        except HfHubHTTPError as error:
            if error.response is None or error.response.status_code != PRECONDITION_FAILED:
                raise
            raise BranchMovedError(f"{repo_id}: somebody committed to {revision}.") from error
    create_tag(hub, repo_id, tag, commit, message)
    return commit


def require_free_tag(repo_id: str, tag: str, revision: str, state: RepoState) -> None:
    """Raise TagConflictError if the tag is there, or cannot stand beside the other refs."""
    if tag in state.tags:
        raise TagConflictError(
            f"{repo_id}: tag {tag} exists already, on commit {state.tags[tag][:12]}, with other "
            "content.",
            hint="Choose another --tag; a published release is never overwritten.",
        )
    if tag in (*state.branches, revision):
        raise TagConflictError(
            f"{repo_id}: {tag} is the name of a branch.", hint="Choose another --tag."
        )
    if revision in state.tags:
        raise TagConflictError(
            f"{repo_id}: {revision} is the name of a tag.", hint="Choose another --revision."
        )
    # To git a ref is a file: it cannot be a folder of others as well.
    for other in state.tags:
        if other.startswith(f"{tag}/") or tag.startswith(f"{other}/"):
            raise TagConflictError(
                f"{repo_id}: tag {tag} cannot stand beside tag {other}.",
                hint="Choose another --tag.",
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


def _files_at(hub: Hub, repo_id: str, commit: str) -> dict[str, str | None]:
    """Path to SHA-256 of the files of a commit that LFS keeps, and to None of the others."""
    from huggingface_hub.hf_api import RepoFile

    with readable_errors("listing the files", repo_id):
        tree = hub.api.list_repo_tree(repo_id, recursive=True, revision=commit)
        return {
            entry.path: entry.lfs.sha256 if entry.lfs else None
            for entry in tree
            if isinstance(entry, RepoFile)
        }


def _stale_files(
    repo_id: str, found: Mapping[str, str | None], files: Mapping[str, Path], state: RepoState
) -> list[str]:
    """Files of the last release that this one lacks and that nobody has replaced since.

    Raises:
        UsageError: a file that was never ours would be loaded beside ours.
    """
    ours = state.record["files"] if state.record else {}
    left = [name for name in found if name not in files]
    stale = sorted(name for name in left if name in ours and found[name] in (None, ours[name]))
    foreign = [
        name
        for name in left
        if name not in stale and any(fnmatch(name, p) for p in LOADED_BY_TRANSFORMERS)
    ]
    if foreign:
        raise UsageError(
            f"{repo_id}: holds {', '.join(sorted(foreign))}, which from_pretrained would load "
            "beside or instead of what was proven.",
            hint="Delete it there, or release to another repository.",
        )
    return stale
