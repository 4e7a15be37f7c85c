"""Releases that the hub holds: which one has an identity, and where the next one goes."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from slogpt_hf.card.ledger import find_release
from slogpt_hf.card.record import Record
from slogpt_hf.hub.client import DATASET, Hub, request
from slogpt_hf.hub.publish import create_tag, taken_tag
from slogpt_hf.hub.state import RepoState, holds_release, record_at

MOST_COMMITS = 50  # that are looked at for one whose tag is missing


@dataclass(frozen=True)
class Release:
    """A release on the hub.

    Attributes:
        released: False if this checkpoint with these settings was released before.
        repo_id: NAMESPACE/NAME.
        version: semantic version.
        tag: of the release.
        commit: id of the Hub commit.
        branch: Hub branch that took the commit; None if it was released before.
        endpoint: base URL of the hub.
        record: the release's ``release.json``, or what the ledger keeps of it if it was released
            before.
        smoke: ``status`` (``ok``, ``not checked`` or ``FAILED``) and ``detail`` of the smoke test;
            None where there was none.
    """

    released: bool
    repo_id: str
    version: str
    tag: str
    commit: str
    branch: str | None
    endpoint: str
    record: Record
    smoke: dict[str, str] | None = None

    @property
    def url(self) -> str:
        """Page of the release on the hub."""
        prefix = "datasets/" if self.record.get("kind") == DATASET else ""
        return f"{self.endpoint}/{prefix}{self.repo_id}/tree/{quote(self.tag, safe='')}"


def branch_for(promote: str, record: Record, state: RepoState) -> str:
    """The branch that a release goes to.

    Args:
        promote: ``latest``, ``best`` or ``never``.
        record: of the release; its validation loss counts for ``best``.
        state: the repository, with what its branch holds now.
    """
    held = state.records.get(state.revision)
    loss = record["checkpoint"].get("val_loss")
    is_best = loss is not None and (
        held is None or (best := held["checkpoint"].get("val_loss")) is None or loss < best
    )
    promoted = {"latest": True, "best": is_best, "never": False}[promote]
    return state.revision if promoted else state.candidates


def published_release(
    hub: Hub, state: RepoState, wanted: str, tag: str | None, required: str | None = None
) -> Release | None:
    """The release with this identity, if the hub holds it; one that lacks its tag gets it.

    Args:
        hub: where to look.
        state: the repository as it is.
        wanted: the identity.
        tag: that the release would get; None if its version decides.
        required: the least level of its proof; one that is proven to less is none. None for any.

    Raises:
        TagConflictError: the tag is there, with other content.
    """
    if entry := find_release(state.ledger, wanted, required):
        return _as_released(hub, state, entry)
    if tag is None or tag not in state.tags:
        return None
    # On another branch than those whose ledgers were read.
    record = record_at(hub, state.repo_id, state.tags[tag])
    if record is None or find_release([record], wanted, required) is None:
        raise taken_tag(tag, state)
    return _found(hub, state, record, state.tags[tag])


def _as_released(hub: Hub, state: RepoState, entry: Record) -> Release | None:
    """The release of a ledger's entry, as far as its tag or commit are what the entry says."""
    repo_id, tag, commit = state.repo_id, entry["tag"], entry.get("commit")
    if tagged := state.tags.get(tag):
        if tagged == commit:
            return _found(hub, state, entry, tagged)
        record = record_at(hub, repo_id, tagged)
        if record is None or record["identity"] != entry["identity"]:
            return None  # the tag names something else, whatever the ledger says
        return _found(hub, state, record, tagged)
    # Stopped between commit and tag: the tag is all that is missing.
    if tag in state.branches or (untagged := _untagged_commit(hub, state, entry)) is None:
        return None
    version = entry["version"]
    create_tag(hub, repo_id, tag, untagged, f"Release {version}")
    record = record_at(hub, repo_id, untagged) or entry
    branch = next((b for b, head in state.branches.items() if head == untagged), None)
    return Release(True, repo_id, version, tag, untagged, branch, hub.shown_endpoint, record)


def _untagged_commit(hub: Hub, state: RepoState, entry: Record) -> str | None:
    """The commit that a release made before it was stopped; None if none holds it whole.

    Somebody may have committed since: of the commits that carry its record, the oldest is its own.
    """
    heads = [state.head(b) for b, r in state.records.items() if _are_one(r, entry)]
    own = None
    for start in [entry["commit"]] if entry.get("commit") else heads:
        for commit in _commits_from(hub, state.repo_id, start) if start else ():
            held = record_at(hub, state.repo_id, commit)
            if held is None or not _are_one(held, entry):
                break
            if holds_release(hub, state.repo_id, commit, held):
                own = commit
    return own


def _are_one(record: Record, entry: Record) -> bool:
    """Whether both are of one release; what was proven again has another version."""
    return all(record[name] == entry[name] for name in ("identity", "version"))


def _commits_from(hub: Hub, repo_id: str, start: str) -> list[str]:
    """A commit and those before it, the newest first; none if it is not there any more."""
    from huggingface_hub.errors import RevisionNotFoundError

    def read() -> list[str]:
        try:
            commits = hub.api.list_repo_commits(repo_id, revision=start, repo_type=hub.repo_type)
        except RevisionNotFoundError:
            return []
        return [commit.commit_id for commit in commits[:MOST_COMMITS]]

    return request(hub, "reading the commits", repo_id, read)


def _found(hub: Hub, state: RepoState, entry: Record, commit: str) -> Release:
    version, tag = entry["version"], entry["tag"]
    # A ledger's entry is short; the record at a branch's head says all, without another request.
    record = next((head for head in state.records.values() if _are_one(head, entry)), entry)
    return Release(False, state.repo_id, version, tag, commit, None, hub.shown_endpoint, record)
