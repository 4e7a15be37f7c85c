"""What the commit of a release holds: the digest of each file, stated by the hub and computed."""

from __future__ import annotations

import difflib
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from slogpt_hf.errors import UsageError
from slogpt_hf.files import sha256_of
from slogpt_hf.hub.client import Hub, readable_errors, request
from slogpt_hf.hub.tree import HubFile, git_blob_id
from slogpt_hf.progress import Progress

MOST_TAGS = 5  # in a hint


@dataclass(frozen=True)
class Contents:
    """The files of a commit.

    Attributes:
        tree: path to what the hub states.
        texts: content of the small files that were read.
        digests: path to SHA-256 of the files that were looked at: of the bytes, or as stated.
        faults: how the hub contradicts itself, one clause each.
    """

    tree: Mapping[str, HubFile]
    texts: Mapping[str, bytes]
    digests: Mapping[str, str]
    faults: tuple[str, ...]


def commit_of_tag(hub: Hub, repo_id: str, tag: str) -> str:
    """The id of the commit that a tag names.

    Raises:
        UsageError: there is no such tag.
        HubError: the hub refused or could not be reached, or holds no such repository.
    """
    what = "reading the repository"
    refs = request(hub, what, repo_id, lambda: hub.api.list_repo_refs(repo_id))
    tags: dict[str, str] = {ref.name: ref.target_commit for ref in refs.tags}
    if tag in tags:
        return tags[tag]
    near = difflib.get_close_matches(tag, tags, n=3) or sorted(tags, reverse=True)[:MOST_TAGS]
    is_branch = tag in {ref.name for ref in refs.branches}
    raise UsageError(
        f"{repo_id}: {f'{tag} is a branch, not a tag' if is_branch else f'has no tag {tag}'}.",
        hint=f"Its tags: {', '.join(near)}." if near else "It has no tags at all.",
    )


def read_texts(
    hub: Hub, repo_id: str, commit: str, tree: Mapping[str, HubFile], names: Iterable[str]
) -> dict[str, bytes]:
    """Content of those of the named small files that a commit has.

    Raises:
        HubError: the hub refused or could not be reached.
    """
    with tempfile.TemporaryDirectory() as folder:
        return {
            name: _download(hub, repo_id, commit, name, Path(folder)).read_bytes()
            for name in names
            if name in tree
        }


def hash_contents(
    hub: Hub,
    repo_id: str,
    commit: str,
    tree: Mapping[str, HubFile],
    texts: Mapping[str, bytes],
    names: Iterable[str],
    *,
    download: bool,
    progress: Progress,
) -> Contents:
    """Hash files one after the other, so that the disk holds one of them at a time.

    Args:
        hub: where they are.
        repo_id: NAMESPACE/NAME.
        commit: of the files.
        tree: path to what the hub states.
        texts: content of files that were read already.
        names: the files, all in ``tree``.
        download: whether to read files that LFS keeps too; else their stated digest is taken.
        progress: told of the downloads.

    Raises:
        HubError: the hub refused or could not be reached.
    """
    digests: dict[str, str] = {}
    faults = []
    wanted = sorted(name for name in names if name not in texts)
    n_bytes = sum(tree[n].n_bytes for n in wanted if download or tree[n].sha256 is None)
    with tempfile.TemporaryDirectory() as folder, progress.client_stage("download", n_bytes):
        for name in (*texts, *wanted):
            stated = tree[name].sha256
            if stated and not download and name not in texts:
                digests[name] = stated
                continue
            path = Path(folder, "text")
            if name in texts:
                path.write_bytes(texts[name])
            else:
                path = _download(hub, repo_id, commit, name, Path(folder))
            digests[name] = sha256_of(path)
            # Git's own id stands for a file that LFS does not keep; such files are small.
            seen = digests[name] if stated else git_blob_id(path.read_bytes())
            if seen != (stated or tree[name].blob_id):
                faults.append(f"{name} is served with other bytes than the hub lists")
            path.unlink()
    return Contents(tree, texts, digests, tuple(faults))


def _download(hub: Hub, repo_id: str, commit: str, name: str, folder: Path) -> Path:
    """Download a file from the hub itself, whatever this machine has cached."""
    with readable_errors(f"downloading {name}", repo_id):
        path = hub.api.hf_hub_download(
            repo_id, name, revision=commit, local_dir=folder, force_download=True
        )
    return Path(path)
