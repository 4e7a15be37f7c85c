"""One commit, then one tag: the tag is the moment of publication."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path

from slogpt_hf.errors import HubError, ParityError, TagConflictError, UsageError
from slogpt_hf.hub.attempts import is_busy, status_of
from slogpt_hf.hub.client import Hub, request
from slogpt_hf.hub.rounds import BranchMovedError, commit_on
from slogpt_hf.hub.state import DEFAULT_BRANCH, RepoState, read_state
from slogpt_hf.hub.tree import LOADERS, HubFile, files_at, loaded_beside
from slogpt_hf.hub.uploads import Uploads
from slogpt_hf.progress import Progress
from slogpt_hf.signing import SIGNATURE_FILE

CONFLICT = 409


class TagTakenError(TagConflictError):
    """Somebody made the tag on another commit after the repository was read."""


@dataclass(frozen=True)
class Publication:
    """A finished artefact and where it goes.

    Attributes:
        files: path in the repository to file.
        digests: path in the repository to SHA-256 of what was proven, for every file.
        tag: of the release.
        branch: that takes the commit; made if missing.
        message: of the commit and the tag.
        private: whether a new repository is private; a public one is refused then.
        create: whether a missing repository is made.
    """

    files: Mapping[str, Path]
    digests: Mapping[str, str]
    tag: str
    branch: str
    message: str
    private: bool = False
    create: bool = True


def publish_planned(
    hub: Hub,
    publication: Publication,
    state: RepoState,
    uploads: Uploads,
    progress: Progress,
    *,
    tag_is_fixed: bool,
) -> str:
    """``publish_artefact``, of which the upload is shown.

    Args:
        tag_is_fixed: the tag was asked for; else the version made it, and the next one is free
            where another branch's release took it: then ``BranchMovedError`` is raised.
    """
    n_bytes = sum(path.stat().st_size for path in publication.files.values())
    with progress.client_stage("upload", n_bytes):
        try:
            return publish_artefact(hub, publication, state, uploads)
        except TagTakenError as error:
            if tag_is_fixed:
                raise
            raise BranchMovedError(error.message) from error


def publish_artefact(hub: Hub, publication: Publication, state: RepoState, uploads: Uploads) -> str:
    """Upload a finished artefact as one commit, tag that commit, check what the hub holds.

    Files that the branch's last release wrote and this one does not are deleted in the same
    commit; files that were never ours stay, unless ``from_pretrained`` would load them. Files that
    are there already are not sent.

    Args:
        hub: where to.
        publication: what.
        state: the repository as it was when the release was planned.
        uploads: what was sent so far of this release, by plans that others came before.

    Returns:
        The commit's id.

    Raises:
        BranchMovedError: the branch is not where ``state`` saw it; nothing was committed.
        UnansweredError: the commit was sent and not answered.
        TagConflictError: the tag names another commit.
        UsageError: the repository holds files that would be loaded beside the artefact, keeps
            files out by .gitignore, or is public and should be private.
        ParityError: a file changed since it was proven, or the hub holds another content.
        HubError: the hub refused or could not be reached.
    """
    from huggingface_hub import CommitOperationDelete

    repo_id, branch = state.repo_id, publication.branch
    require_free_tag(publication.tag, branch, state)
    uploads.consist_of(publication.files, publication.digests)
    head = _prepared(hub, publication, state)
    found = files_at(hub, repo_id, head) if head else {}
    stale = stale_files(found, publication.files, branch, state)
    additions = uploads.send(uploads.missing_at(found), branch)
    deletions = [CommitOperationDelete(path, is_folder=False) for path in stale]
    commit = commit_on(
        hub,
        repo_id,
        [*additions, *deletions],
        branch=branch,
        head=head,
        message=publication.message,
    )
    _require_held(hub, repo_id, commit, uploads)
    create_tag(hub, repo_id, publication.tag, commit, publication.message)
    _require_held(hub, repo_id, publication.tag, uploads)
    return commit


def require_free_tag(tag: str, branch: str, state: RepoState) -> None:
    """Raise TagConflictError if the tag is there, or cannot stand beside the other refs."""
    repo_id = state.repo_id
    if tag in state.tags:
        raise taken_tag(tag, state)
    if tag in (*state.branches, branch):
        raise TagConflictError(
            f"{repo_id}: {tag} is the name of a branch.", hint="Choose another --tag."
        )
    if branch in state.tags:
        raise TagConflictError(
            f"{repo_id}: {branch} is the name of a tag.", hint="Choose another --revision."
        )
    # To git a ref is a file: it cannot be a folder of others as well.
    for kind, name, others in (("tag", tag, state.tags), ("branch", branch, state.branches)):
        for other in others:
            if other.startswith(f"{name}/") or name.startswith(f"{other}/"):
                option = "--tag" if kind == "tag" else "--revision"
                raise TagConflictError(
                    f"{repo_id}: {kind} {name} cannot stand beside {kind} {other}.",
                    hint=f"Choose another {option}.",
                )


def taken_tag(tag: str, state: RepoState) -> TagConflictError:
    """The error of a tag that names other content."""
    return TagConflictError(
        f"{state.repo_id}: tag {tag} exists already, on commit {state.tags[tag][:12]}, with other "
        "content.",
        hint="Choose another --tag; a published release is never overwritten.",
    )


def create_tag(hub: Hub, repo_id: str, tag: str, commit: str, message: str) -> None:
    """Tag a commit; a tag that is there already on this very commit is success.

    Raises:
        TagTakenError: the tag names another commit.
        HubError: the hub refused or could not be reached.
    """

    def create() -> bool:
        try:
            hub.api.create_tag(
                repo_id,
                tag=tag,
                tag_message=message,
                revision=commit,
                repo_type=hub.repo_type,
            )
        except Exception as error:
            if status_of(error) != CONFLICT or is_busy(error):
                raise
            return False
        return True

    if request(hub, "tagging", repo_id, create):
        return
    refs = request(
        hub,
        "reading the tags",
        repo_id,
        lambda: hub.api.list_repo_refs(repo_id, repo_type=hub.repo_type),
    )
    if {t.name: t.target_commit for t in refs.tags}.get(tag) != commit:
        raise TagTakenError(
            f"{repo_id}: tag {tag} was created meanwhile, on another commit.",
            hint="Choose another --tag and release again.",
        )


def _require_held(hub: Hub, repo_id: str, revision: str, uploads: Uploads) -> None:
    """Raise ParityError unless the hub holds every file of a release, by its checksum."""
    if wrong := uploads.missing_at(files_at(hub, repo_id, revision)):
        raise ParityError(
            f"{repo_id}: at {revision} the hub does not hold what was proven: {', '.join(wrong)}.",
            hint="Do not use that revision; release again, and tell the hub's owner if it stays.",
        )


def _prepared(hub: Hub, publication: Publication, state: RepoState) -> str | None:
    """The commit that the branch is at, once there is such a repository and branch."""
    repo_id, api, branch = state.repo_id, hub.api, publication.branch
    head = state.head(branch)
    if not state.exists:
        if not publication.create:
            raise HubError(
                f"{repo_id}: does not exist any more.", hint="Create it, or check the name."
            )
        request(
            hub,
            "creating the repository",
            repo_id,
            lambda: api.create_repo(
                repo_id, repo_type=hub.repo_type, private=publication.private, exist_ok=True
            ),
        )
    if publication.private:
        require_private(hub, repo_id)
    if not state.exists:
        created = read_state(hub, repo_id, state.revision)
        if created.ledger or created.tags:
            raise BranchMovedError(f"{repo_id}: was created by another release meanwhile.")
        head = created.head(branch)
    if head and branch not in (*state.branches, DEFAULT_BRANCH):
        request(
            hub,
            "creating the branch",
            repo_id,
            lambda: _create_branch(hub, repo_id, branch, head),
        )
    return head


def require_private(hub: Hub, repo_id: str) -> None:
    """Raise UsageError if the repository is public."""
    what = "reading the repository"
    info = request(
        hub,
        what,
        repo_id,
        lambda: hub.api.repo_info(repo_id, repo_type=hub.repo_type, timeout=60),
    )
    if not info.private:
        raise UsageError(
            f"{repo_id}: is public, but --private was asked for.",
            hint="Make it private in its settings on the Hub, or leave --private out.",
        )


def _create_branch(hub: Hub, repo_id: str, branch: str, head: str) -> None:
    try:
        hub.api.create_branch(repo_id, branch=branch, revision=head, repo_type=hub.repo_type)
    except Exception as error:
        if status_of(error) != CONFLICT or is_busy(error):
            raise


def stale_files(
    found: Mapping[str, HubFile], files: Container[str], branch: str, state: RepoState
) -> list[str]:
    """Files of the branch's last release that this one lacks.

    A large file that somebody has replaced since is not one of them.

    Args:
        found: what the branch holds.
        files: paths of the release that it is to hold.
        branch: that takes the commit.
        state: the repository, with the record of the branch's last release.

    Returns:
        Paths, sorted.

    Raises:
        UsageError: a file that was never ours would be loaded beside ours.
    """
    record = state.record(branch)
    # A signature is in no record, since it signs the record.
    ours = record["files"] | {SIGNATURE_FILE: None} if record else {}
    left = [name for name in found if name not in files]
    stale = sorted(
        name for name in left if name in ours and found[name].sha256 in (None, ours[name])
    )
    ours = {*stale, *(name for name in found if name in files)}
    if foreign := loaded_beside(found, ours, state.repo_type):
        loader = LOADERS[state.repo_type]
        raise UsageError(
            f"{state.repo_id}: holds {', '.join(foreign)}, which {loader} would load beside "
            "or instead of what was proven.",
            hint="Delete it there, or release to another repository.",
        )
    return stale
