"""One commit, then one tag: the tag is the moment of publication."""

from __future__ import annotations

import threading
from collections.abc import Container, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from slogpt_hf.errors import ParityError, TagConflictError, UsageError
from slogpt_hf.files import sha256_of
from slogpt_hf.hub.attempts import causes, is_garbled, persevere, status_of
from slogpt_hf.hub.client import Hub, readable_errors, request
from slogpt_hf.hub.rounds import BranchMovedError, commit_on
from slogpt_hf.hub.session import transfer
from slogpt_hf.hub.state import DEFAULT_BRANCH, RepoState, read_state
from slogpt_hf.hub.tree import HubFile, files_at, git_blob_id
from slogpt_hf.signing import SIGNATURE_FILE

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd

CONFLICT, UNAUTHORISED = 409, 401
NO_XET = frozenset({404, 405, 501})
# The Hub keeps larger files by LFS whatever they hold.
MOST_GIT_BYTES = 10 * 1024 * 1024
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


@dataclass(frozen=True)
class Publication:
    """A finished artefact and where it goes.

    Attributes:
        files: path in the repository to file.
        digests: path in the repository to SHA-256 of what was proven, for every file.
        tag: of the release.
        branch: that takes the commit; made if missing.
        message: of the commit and the tag.
        private: whether a new repository is private; an existing public one is then refused.
        transfer: ``xet``, ``lfs`` or ``auto``.
    """

    files: Mapping[str, Path]
    digests: Mapping[str, str]
    tag: str
    branch: str
    message: str
    private: bool = False
    transfer: str = "auto"


def publish_artefact(hub: Hub, publication: Publication, state: RepoState) -> str:
    """Upload a finished artefact as one commit, tag that commit, check what the hub holds.

    Files that the branch's last release wrote and this one does not are deleted in the same
    commit; files that were never ours stay, unless ``from_pretrained`` would load them. Files that
    are there already are not sent.

    Args:
        hub: where to.
        publication: what.
        state: the repository as it was when the release was planned.

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

    repo_id, files = state.repo_id, publication.files
    require_free_tag(publication.tag, publication.branch, state)
    head = _prepared(hub, publication, state)
    found = files_at(hub, repo_id, head) if head else {}
    stale = stale_files(found, files, publication.branch, state)
    changed = {
        name: path
        for name, path in files.items()
        if name not in found or not _is_held(found[name], path, publication.digests[name])
    }
    additions = _uploaded(hub, repo_id, changed, publication)
    deletions = [CommitOperationDelete(path, is_folder=False) for path in stale]
    commit = commit_on(
        hub,
        repo_id,
        [*additions, *deletions],
        branch=publication.branch,
        head=head,
        message=publication.message,
    )
    require_held(hub, repo_id, commit, publication)
    create_tag(hub, repo_id, publication.tag, commit, publication.message)
    require_held(hub, repo_id, publication.tag, publication)
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
        TagConflictError: the tag names another commit.
        HubError: the hub refused or could not be reached.
    """

    def create() -> None:
        try:
            hub.api.create_tag(repo_id, tag=tag, tag_message=message, revision=commit)
        except Exception as error:
            if status_of(error) != CONFLICT:
                raise
            tags = {t.name: t.target_commit for t in hub.api.list_repo_refs(repo_id).tags}
            if tags.get(tag) != commit:
                raise TagConflictError(
                    f"{repo_id}: tag {tag} was created meanwhile, on another commit.",
                    hint="Choose another --tag and release again.",
                ) from error

    request(hub, "tagging", repo_id, create)


def require_held(hub: Hub, repo_id: str, revision: str, publication: Publication) -> None:
    """Raise unless the hub holds every file of a publication, by its checksum.

    Raises:
        ParityError: a file is missing or has another content.
        HubError: the hub refused or could not be reached.
    """
    found = files_at(hub, repo_id, revision)
    wrong = sorted(
        name
        for name, path in publication.files.items()
        if name not in found or not _is_held(found[name], path, publication.digests[name])
    )
    if wrong:
        raise ParityError(
            f"{repo_id}: at {revision} the hub does not hold what was proven: {', '.join(wrong)}.",
            hint="Do not use that revision; release again, and tell the hub's owner if it stays.",
        )


def _prepared(hub: Hub, publication: Publication, state: RepoState) -> str | None:
    """The commit that the branch is at, once there is such a repository and branch."""
    repo_id, api, head = state.repo_id, hub.api, state.head(publication.branch)
    if not state.exists:
        request(
            hub,
            "creating the repository",
            repo_id,
            lambda: api.create_repo(repo_id, private=publication.private, exist_ok=True),
        )
        created = read_state(hub, repo_id, state.revision)
        if created.ledger or created.tags:
            raise BranchMovedError(f"{repo_id}: was created by another release meanwhile.")
        head = created.head(publication.branch)
    elif publication.private:
        info = request(
            hub, "reading the repository", repo_id, lambda: api.repo_info(repo_id, timeout=60)
        )
        if not info.private:
            raise UsageError(
                f"{repo_id}: is public, but --private was asked for.",
                hint="Make it private in its settings on the Hub, or leave --private out.",
            )
    if head and publication.branch not in (*state.branches, DEFAULT_BRANCH):
        request(
            hub,
            "creating the branch",
            repo_id,
            lambda: api.create_branch(
                repo_id, branch=publication.branch, revision=head, exist_ok=True
            ),
        )
    return head


def _is_held(held: HubFile, path: Path, digest: str) -> bool:
    """Whether a file of the hub has the content of ``path``, whose SHA-256 is ``digest``."""
    if held.sha256 is not None:
        return held.sha256 == digest
    n_bytes = path.stat().st_size
    if held.n_bytes != n_bytes or n_bytes > MOST_GIT_BYTES:
        return False
    return held.blob_id == git_blob_id(path.read_bytes())


def _uploaded(
    hub: Hub, repo_id: str, files: Mapping[str, Path], publication: Publication
) -> list[CommitOperationAdd]:
    """Send large files, and hash all of them meanwhile: both begin at once."""
    from huggingface_hub import CommitOperationAdd

    additions = []
    for name, path in files.items():
        addition = CommitOperationAdd(name, path)
        # What was proven; the client would read the whole file for it before it sends a byte.
        addition.upload_info.sha256 = bytes.fromhex(publication.digests[name])
        additions.append(addition)
    way = _transfer_of(hub, repo_id, publication)
    with (
        _hashed_meanwhile(files, publication.digests),
        readable_errors("uploading", repo_id),
        transfer(way),
    ):
        _preupload(hub, repo_id, additions, publication.branch)
    require_not_ignored(repo_id, additions)
    return additions


def require_not_ignored(repo_id: str, additions: Sequence[CommitOperationAdd]) -> None:
    """Raise UsageError if the hub would leave files out of a commit; they must be preuploaded."""
    if ignored := [a.path_in_repo for a in additions if getattr(a, "_should_ignore", False)]:
        raise UsageError(
            f"{repo_id}: its .gitignore keeps {', '.join(ignored)} out.",
            hint="Delete the .gitignore there, or the lines that match.",
        )


def _preupload(
    hub: Hub, repo_id: str, additions: Sequence[CommitOperationAdd], branch: str
) -> None:
    """Send large files, once more with a new token where the old one ended on the way.

    Xet takes the token once, at the beginning; what arrived by then is not sent again.
    """

    def send() -> None:
        hub.api.preupload_lfs_files(repo_id, additions, revision=branch, free_memory=False)

    for is_last in (False, True):
        hub.renew_token()
        try:
            persevere(send, hub.tell, may_pass=is_garbled)  # else the client tries again itself
            return
        except Exception as error:
            renewable = hub.credentials is not None and hub.credentials.renewable
            if is_last or not renewable or not _is_unauthorised(error):
                raise


def _is_unauthorised(error: BaseException) -> bool:
    return status_of(error) == UNAUTHORISED or any(
        type(cause).__name__ == "XetAuthenticationError" for cause in causes(error)
    )


@contextmanager
def _hashed_meanwhile(files: Mapping[str, Path], digests: Mapping[str, str]) -> Iterator[None]:
    """Hash files during the block, so that what is committed is what was proven.

    Raises:
        ParityError: a file has another content; at the end of the block, or in place of its error,
            since a hub refuses such a file too.
    """
    interrupted = threading.Event()

    def go_on(n_bytes: int) -> None:
        if interrupted.is_set():
            raise InterruptedError

    def changed() -> list[str]:
        return [name for name, path in files.items() if sha256_of(path, go_on) != digests[name]]

    def require_unchanged() -> None:
        if names := hashing.result():
            raise ParityError(
                f"{', '.join(names)} changed since the artefact was proven.",
                hint="Convert the checkpoint again; what is published is what was proven.",
            )

    with ThreadPoolExecutor(1, "hash") as executor:
        hashing = executor.submit(changed)
        try:
            yield
        except Exception:
            require_unchanged()
            raise
        except BaseException:
            interrupted.set()
            raise
        require_unchanged()


def _transfer_of(hub: Hub, repo_id: str, publication: Publication) -> str:
    """``xet`` or ``lfs``: what was asked for, or else Xet where both sides have it."""
    from huggingface_hub.utils import is_package_available

    if publication.transfer == "lfs" or (publication.transfer == "auto" and hub.folder):
        return "lfs"  # into a folder of this machine Xet would only take longer
    asked = publication.transfer == "xet"
    if not is_package_available("hf_xet"):
        if asked:
            raise UsageError("--transfer xet needs hf_xet.", hint="Run: pip install hf_xet")
        return "lfs"
    if asked or _has_xet(hub, repo_id, publication.branch):
        return "xet"
    return "lfs"


def _has_xet(hub: Hub, repo_id: str, branch: str) -> bool:
    from urllib.parse import quote

    from huggingface_hub import get_session
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    url = f"{hub.endpoint}/api/models/{repo_id}/xet-write-token/{quote(branch, safe='')}"

    def ask() -> bool:
        response = get_session().get(url, headers=build_hf_headers(token=hub.api.token))
        if response.status_code in NO_XET:
            return False
        hf_raise_for_status(response)
        return True

    return request(hub, "asking for Xet storage", repo_id, ask)


def stale_files(
    found: Mapping[str, HubFile], files: Container[str], branch: str, state: RepoState
) -> list[str]:
    """Files of the branch's last release that this one lacks and that nobody has replaced since.

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
    foreign = [
        name
        for name in left
        if name not in stale and any(fnmatch(name, p) for p in LOADED_BY_TRANSFORMERS)
    ]
    if foreign:
        raise UsageError(
            f"{state.repo_id}: holds {', '.join(sorted(foreign))}, which from_pretrained would "
            "load beside or instead of what was proven.",
            hint="Delete it there, or release to another repository.",
        )
    return stale
