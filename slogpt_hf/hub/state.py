"""What the hub holds before a release: the hub is the only state, there is no database."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from slogpt_hf.card.ledger import ledger, merged_ledgers, published_record
from slogpt_hf.card.record import RECORD_FILE, Record
from slogpt_hf.errors import HubError
from slogpt_hf.hub.client import DATASET, MODEL, Hub, request
from slogpt_hf.hub.tree import files_at, loaded_beside
from slogpt_hf.hub.versions import newest_first, newest_tag
from slogpt_hf.parquet.record import dataset_ledger, published_dataset

DEFAULT_BRANCH = "main"
CANDIDATES = "{revision}-candidates"
REVISION_HEADER = "X-Repo-Commit"  # of every file that a hub gives
# What a release.json says of a release, and of those before it, by the type of the repository.
PUBLISHED = {MODEL: published_record, DATASET: published_dataset}
LEDGERS = {MODEL: ledger, DATASET: dataset_ledger}
MOST_FILE_BYTES = 64 * 1024 * 1024  # of a file that git itself keeps


@dataclass(frozen=True)
class RepoState:
    """A repository as it was when a release was planned.

    Attributes:
        repo_id: NAMESPACE/NAME, the new one if the repository was renamed.
        exists: whether there is such a repository.
        revision: branch that releases are promoted to.
        branches: name to commit id.
        tags: name to commit id.
        records: ``release.json`` at the head of ``revision`` and of its candidates, by branch; only
            those that slogpt-hf wrote.
        ledger: every release that these know of, the highest version first.
        repo_type: ``model`` or ``dataset``.
    """

    repo_id: str
    exists: bool
    revision: str
    branches: Mapping[str, str]
    tags: Mapping[str, str]
    records: Mapping[str, Record]
    ledger: tuple[Record, ...]
    repo_type: str = MODEL

    @property
    def candidates(self) -> str:
        """The branch of releases that are not promoted."""
        return CANDIDATES.format(revision=self.revision)

    def head(self, branch: str) -> str | None:
        """Commit that a branch is at or would start at; None for a repository without any."""
        for name in (branch, self.revision, DEFAULT_BRANCH):
            if name in self.branches:
                return self.branches[name]
        return None

    def record(self, branch: str) -> Record | None:
        """``release.json`` of the commit that a branch is at or would start at."""
        return next((r for b, r in self.records.items() if self.head(b) == self.head(branch)), None)

    @property
    def last(self) -> Record | None:
        """The release with the highest version; None without any."""
        return next(iter(self.ledger), None)


def read_state(hub: Hub, repo_id: str, revision: str) -> RepoState:
    """Look at the repository and the branches that a release would go to.

    Two requests, one more if there are candidates, one more if the branch has lost its record.

    Raises:
        HubError: the hub refused or could not be reached.
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    kind, ledger = hub.repo_type, LEDGERS[hub.repo_type]
    try:
        refs = request(
            hub,
            "reading the repository",
            repo_id,
            lambda: hub.api.list_repo_refs(repo_id, repo_type=kind),
        )
    except HubError as error:
        if not isinstance(error.__cause__, RepositoryNotFoundError):
            raise
        return RepoState(repo_id, False, revision, {}, {}, {}, (), kind)
    if repo_id in hub.renamed:
        hub.tell(f"     hub: {repo_id} was renamed to {hub.renamed[repo_id]}; going there.")
        repo_id = hub.renamed[repo_id]
    branches = {branch.name: branch.target_commit for branch in refs.branches}
    tags = {tag.name: tag.target_commit for tag in refs.tags}
    state = RepoState(repo_id, True, revision, branches, tags, {}, (), kind)
    # The candidates start at the branch, so that both may be one commit.
    heads = {state.head(branch): branch for branch in (state.candidates, revision)}
    found = {b: record_at(hub, repo_id, head) for head, b in heads.items() if head}
    records = {branch: record for branch, record in found.items() if record}
    known = [ledger(r, commit_of(r, state.head(b), tags)) for b, r in records.items()]
    entries = merged_ledgers(*known)
    tag = newest_tag(tags)
    if revision not in records and tag and tag not in {entry["tag"] for entry in entries}:
        # The branch's record was deleted by hand.
        last = record_at(hub, repo_id, tags[tag])
        entries = merged_ledgers(entries, ledger(last, tags[tag]))
    entries = newest_first(entries)
    return RepoState(repo_id, True, revision, branches, tags, records, entries, kind)


def commit_of(record: Record, head: str | None, tags: Mapping[str, str]) -> str | None:
    """The commit that published the release which ``record``, at ``head``, is about.

    None where only reading the tag's commit could tell, since somebody committed later.
    """
    if isinstance(rollback := record.get("rollback"), dict):
        commit = rollback.get("commit")
        return commit if isinstance(commit, str) else None
    return head if tags.get(record["tag"]) in (None, head) else None


def record_at(hub: Hub, repo_id: str, commit: str) -> Record | None:
    """The ``release.json`` of a commit; None if it has none that slogpt-hf wrote.

    Raises:
        HubError: the hub refused or could not be reached.
    """
    content = read_file(hub, repo_id, RECORD_FILE, commit)
    if content is None:
        return None
    try:
        record = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return PUBLISHED[hub.repo_type](record)


def read_file(hub: Hub, repo_id: str, path: str, commit: str) -> bytes | None:
    """A small file of a commit, by one request; None if it, or the commit, is not there.

    Raises:
        HubError: the hub refused or could not be reached, or the file is larger than
            MOST_FILE_BYTES.
    """
    from huggingface_hub import get_session, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError, RevisionNotFoundError
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    url = hf_hub_url(repo_id, path, repo_type=hub.repo_type, revision=commit, endpoint=hub.endpoint)
    headers = build_hf_headers(token=hub.api.token, library_name=hub.api.library_name)

    def read() -> bytes:
        with get_session().stream("GET", url, headers=headers) as response:
            if response.status_code >= 400:
                response.read()
            hf_raise_for_status(response)
            if not any(REVISION_HEADER in r.headers for r in (*response.history, response)):
                raise ConnectionError("what answered is no Hub")
            pieces, n_bytes = [], 0
            for piece in response.iter_bytes():
                pieces.append(piece)
                n_bytes += len(piece)
                if n_bytes > MOST_FILE_BYTES:
                    raise HubError(f"{repo_id}: {path} is larger than {MOST_FILE_BYTES} bytes.")
            return b"".join(pieces)

    def read_or_none() -> bytes | None:
        try:
            return read()
        except (EntryNotFoundError, RevisionNotFoundError):
            return None

    return request(hub, f"reading {path}", repo_id, read_or_none)


def holds_release(hub: Hub, repo_id: str, commit: str, record: Record) -> bool:
    """Whether a commit holds every file that ``record`` proves, and nothing else that is loaded.

    Raises:
        HubError: the hub refused or could not be reached.
    """
    found, proven = files_at(hub, repo_id, commit), record["files"]
    if not proven.keys() <= found.keys() or loaded_beside(found, proven, hub.repo_type):
        return False
    for name, digest in proven.items():
        held = found[name].sha256
        if held is None:
            held = hashlib.sha256(read_file(hub, repo_id, name, commit) or b"").hexdigest()
        if held != digest:
            return False
    return True
