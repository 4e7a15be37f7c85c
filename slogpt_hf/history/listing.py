"""Every release of a repository: what the ledgers of its branches and its tags know."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slogpt_hf.card.ledger import ledger, merged_ledgers
from slogpt_hf.card.record import Record
from slogpt_hf.errors import HubError, UsageError
from slogpt_hf.hub.client import Hub
from slogpt_hf.hub.state import DEFAULT_BRANCH, RepoState, commit_of, read_state, record_at
from slogpt_hf.hub.versions import newest_first, parsed

MOST_SUGGESTED = 5  # releases in a message


@dataclass(frozen=True)
class KnownRelease:
    """A release as a ledger has it.

    Attributes:
        version: semantic version.
        tag: that it was to get.
        identity: SHA-256 of what makes two releases the same, 64 hex digits.
        commit: id of the Hub commit; None if nothing tells it.
        tagged: whether the tag is there; if not, the release was stopped between commit and tag, or
            somebody deleted the tag.
        date: day of the conversion, ``YYYY-MM-DD``.
        step: of the training run.
        val_loss: validation loss, in nats a token as the trainer has it.
        checkpoint: name of the checkpoint's file.
        parity: the figures of the proof, as in ``release.json``.
        source_commit: id of the git commit that the checkpoint was found on.
        source_branch: its branch.
        branches: of the Hub, that hold this release.
    """

    version: str
    tag: str
    identity: str
    commit: str | None
    tagged: bool
    date: str | None
    step: int | None
    val_loss: float | None
    checkpoint: str | None
    parity: Mapping[str, Any]
    source_commit: str | None
    source_branch: str | None
    branches: tuple[str, ...]


def list_releases(hub: Hub, repo_id: str) -> tuple[KnownRelease, ...]:
    """All releases of a repository, the highest version first.

    One request, and one more for each commit that a branch is at and for each tag that no ledger
    knows.

    Raises:
        HubError: there is no such repository, or the hub refused or could not be reached.
    """
    return known_releases(hub, existing_state(hub, repo_id, DEFAULT_BRANCH))


def existing_state(hub: Hub, repo_id: str, revision: str) -> RepoState:
    """Like ``read_state``, for a repository that has to be there.

    Raises:
        HubError: there is none, or the hub refused or could not be reached.
    """
    state = read_state(hub, repo_id, revision)
    if not state.exists:
        raise HubError(
            f"{repo_id}: does not exist on {hub.shown_endpoint}, or the token may not see it.",
            hint="Check the name and --hub, and for a private repository HF_TOKEN.",
        )
    return state


def known_releases(hub: Hub, state: RepoState) -> tuple[KnownRelease, ...]:
    """All releases of a repository whose ``state`` was read, the highest version first.

    Raises:
        HubError: the hub refused or could not be reached.
    """
    at_heads = _records_at_heads(hub, state)
    ledgers = [
        ledger(record, commit_of(record, commit, state.tags))
        for commit, record in at_heads.items()
        if record
    ]
    entries = merged_ledgers(state.ledger, *ledgers)
    known = {entry["tag"] for entry in entries}
    seen = {*at_heads, *(entry.get("commit") for entry in entries)}
    others = {
        commit for tag, commit in state.tags.items() if tag not in known and commit not in seen
    }
    for commit in sorted(others):
        if record := record_at(hub, state.repo_id, commit):
            entries = merged_ledgers(entries, ledger(record, commit_of(record, commit, state.tags)))
    holders: dict[tuple[Any, str], list[str]] = {}
    for branch, head in sorted(state.branches.items()):
        if record := at_heads.get(head):
            holders.setdefault(key_of(record), []).append(branch)
    return tuple(
        _known(entry, state, holders.get(key_of(entry), ())) for entry in newest_first(entries)
    )


def find_known(releases: Sequence[KnownRelease], wanted: str, repo_id: str) -> KnownRelease:
    """The release that a user names: by its tag, or by its version with or without ``v``.

    Raises:
        UsageError: there is none, or several branches have one of this version.
    """
    numbers = parsed(wanted)
    of_version = [
        each
        for each in releases
        if each.version == wanted or (numbers and parsed(each.version) == numbers)
    ]
    of_tag = [each for each in releases if each.tag == wanted]
    if found := [each for each in of_tag if each.tagged] or of_version or of_tag:
        if len(found) > 1:
            raise UsageError(
                f"{repo_id}: {wanted} is the version of several releases, on several branches.",
                hint=f"Name the tag: {', '.join(each.tag for each in found)}.",
            )
        return found[0]
    if not releases:
        raise UsageError(f"{repo_id}: has no releases.", hint="Release a checkpoint to it first.")
    names = [name for each in releases for name in (each.version, each.tag)]
    near = difflib.get_close_matches(wanted, dict.fromkeys(names), n=2)
    newest = [each.version for each in releases[:MOST_SUGGESTED]]
    raise UsageError(
        f"{repo_id}: has no release {wanted[:100]!r}.",
        hint=f"Did you mean {' or '.join(near)}?"
        if near
        else f"The newest are {', '.join(newest)}; list all with: slogpt-hf releases {repo_id}",
    )


def key_of(entry: Mapping[str, Any]) -> tuple[Any, str]:
    """What tells one release of a ledger from another: version (if it is one) and identity."""
    return entry.get("version"), entry["identity"]


def section(entry: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A section of a record or of a ledger's entry; empty if it is none."""
    return found if isinstance(found := entry.get(name), dict) else {}


def _records_at_heads(hub: Hub, state: RepoState) -> dict[str, Record | None]:
    """Commit to ``release.json``, of every commit that a branch is at."""
    read = {head for b in (state.revision, state.candidates) if (head := state.head(b))}
    found: dict[str, Record | None] = dict.fromkeys(read)
    found |= {head: r for b, r in state.records.items() if (head := state.head(b))}
    for commit in state.branches.values():
        if commit not in found:
            found[commit] = record_at(hub, state.repo_id, commit)
    return found


def _known(entry: Record, state: RepoState, branches: Sequence[str]) -> KnownRelease:
    checkpoint, source = section(entry, "checkpoint"), section(entry, "source")
    step, loss = checkpoint.get("step"), checkpoint.get("val_loss")
    tag = entry["tag"]
    return KnownRelease(
        version=entry["version"],
        tag=tag,
        identity=entry["identity"],
        commit=state.tags.get(tag) or _text(entry.get("commit")),
        tagged=tag in state.tags,
        date=_text(entry.get("date")),
        step=step if type(step) is int else None,
        val_loss=float(loss) if isinstance(loss, int | float) else None,
        checkpoint=_text(checkpoint.get("file")),
        parity=section(entry, "parity"),
        source_commit=_text(source.get("commit")),
        source_branch=_text(source.get("branch")),
        branches=tuple(branches),
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
