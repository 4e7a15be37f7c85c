"""What a commit on the hub holds: path, size and digest of every file, as the hub states them."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable
from dataclasses import dataclass
from fnmatch import fnmatch

from slogpt_hf.hub.attempts import is_garbled, persevere
from slogpt_hf.hub.client import Hub, readable_errors

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
LOADED_FOLDERS = ("additional_chat_templates/",)
# What load_dataset may read: the files that the card's configurations name, and a script.
LOADED_BY_DATASETS = ("text/*", "tokens/*", "*.py")
LOADERS = {"model": "from_pretrained", "dataset": "load_dataset"}


@dataclass(frozen=True)
class HubFile:
    """A file of a commit.

    Attributes:
        sha256: of the content as 64 hex digits where LFS keeps it; None for a file in git itself.
        blob_id: git's SHA-1 of the blob as 40 hex digits; for a file in LFS that of its pointer.
        n_bytes: size of the content.
    """

    sha256: str | None
    blob_id: str
    n_bytes: int


def files_at(hub: Hub, repo_id: str, revision: str) -> dict[str, HubFile]:
    """Every file of a revision, by its path.

    Raises:
        HubError: the hub refused or could not be reached.
    """
    from huggingface_hub.hf_api import RepoFile

    def listed() -> dict[str, HubFile]:
        return {
            entry.path: HubFile(entry.lfs.sha256 if entry.lfs else None, entry.blob_id, entry.size)
            for entry in hub.api.list_repo_tree(
                repo_id, recursive=True, revision=revision, repo_type=hub.repo_type
            )
            if isinstance(entry, RepoFile)
        }

    def listed_by_the_client() -> dict[str, HubFile]:
        return persevere(listed, hub.tell, may_pass=is_garbled)  # it tries again by itself

    with readable_errors("listing the files", repo_id):
        # To the client ``{}`` is an empty listing too; a repository seldom has one.
        return listed_by_the_client() or listed_by_the_client()


def git_blob_id(content: bytes) -> str:
    """The id that git gives a file of this content, 40 hex digits.

    Source: https://git-scm.com/book/en/v2/Git-Internals-Git-Objects
    """
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


class Digests:
    """SHA-256 and git's blob id of a file that is read in pieces.

    Args:
        n_bytes: of the whole file.
    """

    def __init__(self, n_bytes: int) -> None:
        self._sha256 = hashlib.sha256()
        self._sha1 = hashlib.sha1(b"blob %d\0" % n_bytes, usedforsecurity=False)

    def update(self, piece: bytes) -> None:
        """Take the next piece."""
        self._sha256.update(piece)
        self._sha1.update(piece)

    @property
    def sha256(self) -> str:
        """64 hex digits."""
        return self._sha256.hexdigest()

    def is_of(self, file: HubFile) -> bool:
        """Whether the hub lists a file of this content."""
        if file.sha256:
            return file.sha256 == self._sha256.hexdigest()
        return file.blob_id == self._sha1.hexdigest()


def loaded_beside(
    found: Iterable[str], ours: Container[str], repo_type: str = "model"
) -> list[str]:
    """Files that are not ours and that ``from_pretrained``, or ``load_dataset``, would read.

    Args:
        found: paths of the files of a commit.
        ours: paths of a release.
        repo_type: of the repository: ``model`` or ``dataset``.

    Returns:
        Their paths, sorted.
    """
    is_loaded = _is_loaded if repo_type == "model" else _is_loaded_as_data
    return sorted(name for name in found if name not in ours and is_loaded(name))


def _is_loaded(name: str) -> bool:
    if "/" in name:
        return name.startswith(LOADED_FOLDERS)
    return any(fnmatch(name, pattern) for pattern in LOADED_BY_TRANSFORMERS)


def _is_loaded_as_data(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in LOADED_BY_DATASETS)
