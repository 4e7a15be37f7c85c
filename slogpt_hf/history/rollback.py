"""A branch put back to a release by a new commit; history, tags and ledger stay."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slogpt_hf.build import today
from slogpt_hf.card.ledger import merged_ledgers
from slogpt_hf.card.record import CARD_FILE, RECORD_FILE, Record, dump_json
from slogpt_hf.errors import ParityError, UsageError
from slogpt_hf.history.listing import (
    KnownRelease,
    existing_state,
    find_known,
    key_of,
    known_releases,
    section,
)
from slogpt_hf.hub.client import Hub, request
from slogpt_hf.hub.preflight import require_write_access
from slogpt_hf.hub.publish import stale_files
from slogpt_hf.hub.rounds import commit_on, until_settled
from slogpt_hf.hub.state import DEFAULT_BRANCH, RepoState, read_file, record_at
from slogpt_hf.hub.tree import HubFile, files_at, git_blob_id
from slogpt_hf.hub.uploads import require_not_ignored
from slogpt_hf.hub.versions import filled, newest_first, require_ref
from slogpt_hf.signing import SIGNATURE_FILE

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd

    from slogpt_hf.hub.rounds import Operation

MESSAGE = "Roll back to {version}"


@dataclass(frozen=True)
class Rollback:
    """What became of a branch.

    Attributes:
        rolled_back: False if the branch held the release already.
        repo_id: NAMESPACE/NAME.
        version: of the release that the branch holds now.
        tag: of that release; it stays where it was.
        commit: id of the commit that the branch is at.
        branch: Hub branch.
        previous: version that the branch held before; None if it held no release.
        endpoint: base URL of the hub.
    """

    rolled_back: bool
    repo_id: str
    version: str
    tag: str
    commit: str
    branch: str
    previous: str | None
    endpoint: str


@dataclass(frozen=True)
class _Target:
    """A release as its commit holds it, checked against its record.

    Attributes:
        commit: of the release.
        record: its ``release.json``.
        digests: path to SHA-256, of every file but the record and the signature.
        contents: path to content, of those that git itself keeps.
    """

    commit: str
    record: Record
    digests: Mapping[str, str]
    contents: Mapping[str, bytes]

    def is_held(self, name: str, held: HubFile | None) -> bool:
        """Whether a file of the hub is that of the release."""
        if held is None:
            return False
        if held.sha256 is not None:
            return held.sha256 == self.digests[name]
        return name in self.contents and held.blob_id == git_blob_id(self.contents[name])


@dataclass(frozen=True)
class _Plan:
    """What a branch needs to hold a release.

    Attributes:
        head: commit that it was planned for.
        changed: files of the release that the branch lacks, or has with another content.
        stale: files that are to be deleted.
        record: the branch's new ``release.json``; None if it stays as it is.
        previous: version that the branch holds.
    """

    head: str
    changed: tuple[str, ...]
    stale: tuple[str, ...]
    record: bytes | None
    previous: str | None

    @property
    def is_empty(self) -> bool:
        return not self.changed and not self.stale and self.record is None


def roll_back(
    hub: Hub,
    repo_id: str,
    version: str,
    *,
    revision: str = DEFAULT_BRANCH,
    message: str | None = None,
) -> Rollback:
    """Make a branch hold exactly the files of a release again, by one commit on top of it.

    Files of the release that it holds now are deleted where the other one lacks them; files that
    were never ours stay. Large files are referred to, not transferred. The new ``release.json`` is
    the release's own, with the whole ledger and with ``rollback``; its signature would not fit it
    and is left out. No tag is made or moved.

    Args:
        hub: where.
        repo_id: NAMESPACE/NAME.
        version: version of the release, with or without ``v``, or its tag.
        revision: Hub branch.
        message: template of the commit's message; knows what a tag's template knows.

    Raises:
        UsageError: there is no such release or branch, the release has no tag, or the repository
            holds files that would be loaded beside it.
        ParityError: what the tag names is not what was proven.
        HubError: the hub refused or could not be reached.
    """
    require_ref(revision, "revision")
    state = existing_state(hub, repo_id, revision)
    _head(state, revision)
    release = find_known(known_releases(hub, state), version, state.repo_id)
    target = _target(hub, state.repo_id, release)
    text = _message(MESSAGE if message is None else message, target.record)
    planned = _plan(hub, state, revision, target)
    if planned.is_empty:
        return _result(False, hub, state, revision, target, planned.head, planned.previous)
    if hub.credentials is not None:
        require_write_access(hub, state.repo_id, hub.credentials, exists=True, create=False)
    first = planned

    def change(state: RepoState) -> Rollback:
        plan = first if state.branches.get(revision) == first.head else None
        plan = plan or _plan(hub, state, revision, target)
        commit = plan.head if plan.is_empty else _commit(hub, state, revision, target, plan, text)
        return _result(True, hub, state, revision, target, commit, plan.previous)

    def changed(state: RepoState) -> Rollback | None:
        plan = _plan(hub, state, revision, target)
        if not plan.is_empty:
            return None
        record = state.records.get(revision, {})
        before = section(record, "rollback").get("from", first.previous)
        return _result(True, hub, state, revision, target, plan.head, before)

    return until_settled(hub, state, change, changed)


def _target(hub: Hub, repo_id: str, release: KnownRelease) -> _Target:
    if not release.tagged or release.commit is None:
        raise UsageError(
            f"{repo_id}: release {release.version} has no tag {release.tag}: it was stopped before "
            "it was published, or the tag was deleted.",
            hint="Release its checkpoint again, which finishes it; then roll back.",
        )
    commit, tag = release.commit, release.tag
    record = record_at(hub, repo_id, commit)
    if record is None or key_of(record) != (release.version, release.identity):
        raise ParityError(
            f"{repo_id}: tag {tag} does not name release {release.version} any more.",
            hint=f"Look at it with: slogpt-hf verify-release {repo_id}@{tag}",
        )
    tree = files_at(hub, repo_id, commit)
    names = sorted({*record["files"], CARD_FILE} - {RECORD_FILE, SIGNATURE_FILE})
    digests, contents = {}, {}
    for name in names:
        if (held := tree.get(name)) is None:
            continue
        if held.sha256 is None:
            contents[name] = read_file(hub, repo_id, name, commit) or b""
        digests[name] = held.sha256 or hashlib.sha256(contents[name]).hexdigest()
    if wrong := [name for name, digest in record["files"].items() if digests.get(name) != digest]:
        raise ParityError(
            f"{repo_id}: tag {tag} does not hold what was proven: {', '.join(sorted(wrong))}.",
            hint=f"Look at it with: slogpt-hf verify-release {repo_id}@{tag}",
        )
    return _Target(commit, record, digests, contents)


def _plan(hub: Hub, state: RepoState, revision: str, target: _Target) -> _Plan:
    head = _head(state, revision)
    held = state.records.get(revision)
    is_there = held is not None and key_of(held) == key_of(target.record)
    found = files_at(hub, state.repo_id, head)
    # The signature of the very release that the branch holds fits its record.
    names = {*target.digests, RECORD_FILE} | ({SIGNATURE_FILE} if is_there else set())
    stale = stale_files(found, names, revision, state)
    changed = [n for n in target.digests if not target.is_held(n, found.get(n))]
    previous = held.get("version") if held else None
    record = None if is_there else dump_json(_record(state, target, previous)).encode()
    return _Plan(head, tuple(changed), tuple(stale), record, previous)


def _head(state: RepoState, revision: str) -> str:
    if revision not in state.branches:
        raise UsageError(
            f"{state.repo_id}: has no branch {revision!r}.",
            hint=f"Its branches are {', '.join(sorted(state.branches)[:10]) or 'none'}.",
        )
    return state.branches[revision]


def _record(state: RepoState, target: _Target, previous: str | None) -> Record:
    record = target.record
    entries = newest_first(merged_ledgers(state.ledger, record["previous"]))
    return record | {
        "previous": [entry for entry in entries if key_of(entry) != key_of(record)],
        "rollback": {"commit": target.commit, "from": previous, "date": today()},
    }


def _commit(
    hub: Hub, state: RepoState, revision: str, target: _Target, plan: _Plan, message: str
) -> str:
    from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete

    repo_id = state.repo_id
    small = {name: target.contents[name] for name in plan.changed if name in target.contents}
    if plan.record is not None:
        small[RECORD_FILE] = plan.record
    additions = [CommitOperationAdd(name, content) for name, content in small.items()]
    _prepare(hub, repo_id, revision, additions)
    operations: list[Operation] = [
        *additions,
        *(
            CommitOperationCopy(name, name, src_revision=target.commit)
            for name in plan.changed
            if name not in small
        ),
        *(CommitOperationDelete(path, is_folder=False) for path in plan.stale),
    ]
    commit = commit_on(hub, repo_id, operations, branch=revision, head=plan.head, message=message)
    found = files_at(hub, repo_id, commit)
    wrong = [name for name in target.digests if not target.is_held(name, found.get(name))]
    wrong += [name for name in plan.stale if name in found]
    if wrong:
        raise ParityError(
            f"{repo_id}: at {commit} the hub does not hold what was proven: {', '.join(wrong)}.",
            hint="Do not use that revision; roll back again.",
        )
    return commit


def _prepare(hub: Hub, repo_id: str, revision: str, additions: list[CommitOperationAdd]) -> None:
    """Ask how the hub takes each file, and send those that it now keeps by LFS."""
    hub.renew_token()
    request(
        hub,
        "uploading",
        repo_id,
        lambda: hub.api.preupload_lfs_files(
            repo_id, additions, revision=revision, free_memory=False
        ),
    )
    require_not_ignored(repo_id, additions)


def _message(template: str, record: Record) -> str:
    values = {
        "version": record["version"],
        "tag": record["tag"],
        "date": record["date"],
        "step": record["checkpoint"].get("step"),
        "branch": record["source"].get("branch"),
    }
    message = filled(template, values, "message")
    if not message.strip():
        raise UsageError("--message is empty.", hint="Leave it out, or say something.")
    return message


def _result(
    rolled_back: bool,
    hub: Hub,
    state: RepoState,
    revision: str,
    target: _Target,
    commit: str,
    previous: str | None,
) -> Rollback:
    version, tag = target.record["version"], target.record["tag"]
    return Rollback(
        rolled_back, state.repo_id, version, tag, commit, revision, previous, hub.shown_endpoint
    )
