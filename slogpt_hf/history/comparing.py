"""What changed between two releases."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit

from slogpt_hf.card.facts import remote_url
from slogpt_hf.card.record import Record
from slogpt_hf.errors import HubError, UsageError
from slogpt_hf.history.listing import (
    KnownRelease,
    existing_state,
    find_known,
    known_releases,
    section,
)
from slogpt_hf.hub.client import Hub
from slogpt_hf.hub.state import DEFAULT_BRANCH, record_at
from slogpt_hf.hub.tree import HubFile, files_at
from slogpt_hf.signing import SIGNATURE_FILE
from slogpt_hf.watch import Provenance

COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
COMPARE_PAGES = {  # below a repository's address, by host
    "github.com": "compare/{a}...{b}",
    "codeberg.org": "compare/{a}...{b}",
    "gitlab.com": "-/compare/{a}...{b}",
    "bitbucket.org": "branches/compare/{b}%0D{a}",
}
ADDED, REMOVED, CHANGED = "added", "removed", "changed"
# Heading to the path of a section in a record, and what of it a comparison leaves out: text for
# the card, and what another row tells.
SECTIONS: tuple[tuple[str, tuple[str, ...], frozenset[str]], ...] = (
    (
        "",
        (),
        frozenset(
            {
                "schema",
                "identity",
                "repo_id",
                "checkpoint",
                "source",
                "model",
                "tokenizer",
                "parity",
                "sample",
                "files",
                "previous",
                "rollback",
            }
        ),
    ),
    ("checkpoint", ("checkpoint",), frozenset({"settings", "notes"})),
    ("training", ("checkpoint", "settings"), frozenset()),
    ("architecture", ("model", "spec"), frozenset()),
    ("model", ("model",), frozenset({"spec", "tokenizer_sha256"})),
    ("tokenizer", ("tokenizer",), frozenset()),
    ("parity", ("parity",), frozenset()),
    ("source", ("source",), frozenset()),
)


@dataclass(frozen=True)
class Difference:
    """A fact in which two releases differ.

    Attributes:
        name: section and field, as in ``checkpoint step``.
        a: value in the first release; None if it has none.
        b: value in the second.
    """

    name: str
    a: Any
    b: Any


@dataclass(frozen=True)
class FileChange:
    """A file in which two releases differ; sizes in bytes, None where it is missing.

    Attributes:
        path: in the repository.
        change: ``added``, ``removed`` or ``changed``, from the first to the second.
        a_bytes: size in the first release.
        b_bytes: size in the second.
    """

    path: str
    change: str
    a_bytes: int | None
    b_bytes: int | None


@dataclass(frozen=True)
class Comparison:
    """Two releases, side by side.

    Attributes:
        repo_id: NAMESPACE/NAME.
        a: the first.
        b: the second.
        differences: facts, in the order of SECTIONS.
        files: of the artefact and its signature, sorted by path.
        compare_url: page that shows what changed in the source; None if it has no public address.
    """

    repo_id: str
    a: KnownRelease
    b: KnownRelease
    differences: tuple[Difference, ...]
    files: tuple[FileChange, ...]
    compare_url: str | None

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return not self.differences and not self.files

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {"same": self.same, **asdict(self)}


def compare(hub: Hub, repo_id: str, a: str, b: str) -> Comparison:
    """What changed from release ``a`` to release ``b``; large files are not downloaded.

    The requests of ``list_releases``, and two for each release.

    Args:
        hub: where.
        repo_id: NAMESPACE/NAME.
        a: version of a release, with or without ``v``, or its tag.
        b: likewise.

    Raises:
        UsageError: there is no such release.
        HubError: there is no such repository, a commit holds no release, or the hub refused or
            could not be reached.
    """
    state = existing_state(hub, repo_id, DEFAULT_BRANCH)
    releases = known_releases(hub, state)
    first, second = (find_known(releases, name, state.repo_id) for name in (a, b))
    records, trees = [], []
    for release in (first, second):
        if release.commit is None:
            raise UsageError(
                f"{state.repo_id}: release {release.version} has no tag {release.tag}, and nothing "
                "tells its commit.",
                hint="Release its checkpoint again, which finishes it.",
            )
        record = record_at(hub, state.repo_id, release.commit)
        if record is None or record["identity"] != release.identity:
            raise HubError(
                f"{state.repo_id}: commit {release.commit[:12]} does not hold release "
                f"{release.version}.",
                hint=f"Look at it with: slogpt-hf verify-release {state.repo_id}@{release.tag}",
            )
        records.append(record)
        trees.append(files_at(hub, state.repo_id, release.commit))
    return Comparison(
        state.repo_id,
        first,
        second,
        tuple(differences(*records)),
        tuple(file_changes(*records, *trees)),
        compare_url(records[0]["source"], records[1]["source"]),
    )


def differences(a: Record, b: Record) -> Iterator[Difference]:
    """The facts in which two records differ."""
    for heading, path, left_out in SECTIONS:
        old, new = _at(a, path), _at(b, path)
        for name in dict.fromkeys([*old, *new]):
            if name not in left_out and old.get(name) != new.get(name):
                yield Difference(f"{heading} {name}".strip(), old.get(name), new.get(name))


def file_changes(
    a: Record, b: Record, a_tree: Mapping[str, HubFile], b_tree: Mapping[str, HubFile]
) -> Iterator[FileChange]:
    """The files in which two releases differ, by the digests of their records.

    Args:
        a: record of the first.
        b: record of the second.
        a_tree: files of the first's commit.
        b_tree: files of the second's.
    """
    old, new = _digests(a, a_tree), _digests(b, b_tree)
    for path in sorted(old.keys() | new.keys()):
        if old.get(path) == new.get(path):
            continue
        change = ADDED if path not in old else REMOVED if path not in new else CHANGED
        yield FileChange(
            path,
            change,
            a_tree[path].n_bytes if path in old and path in a_tree else None,
            b_tree[path].n_bytes if path in new and path in b_tree else None,
        )


def compare_url(a: Mapping[str, Any], b: Mapping[str, Any]) -> str | None:
    """The page that shows what changed from one source to another.

    Args:
        a: ``source`` of a record.
        b: of the other.

    Returns:
        None for one and the same commit, and for a repository on a host that is not known to have
        such a page.
    """
    remotes, commits = (
        {text if isinstance(text := source.get(name), str) else "" for source in (a, b)}
        for name in ("remote", "commit")
    )
    if len(remotes) != 1 or len(commits) != 2 or not all(map(COMMIT.fullmatch, commits)):
        return None
    remote = remote_url(Provenance(remote=remotes.pop()))
    page = COMPARE_PAGES.get(urlsplit(remote).netloc) if remote else None
    return f"{remote}/{page.format(a=a['commit'], b=b['commit'])}" if page else None


def _digests(record: Record, tree: Mapping[str, HubFile]) -> dict[str, str]:
    # The record cannot have the digest of what signs it.
    signature = tree.get(SIGNATURE_FILE)
    return {**record["files"], **({SIGNATURE_FILE: signature.blob_id} if signature else {})}


def _at(record: Mapping[str, Any], path: tuple[str, ...]) -> Mapping[str, Any]:
    for name in path:
        record = section(record, name)
    return record
