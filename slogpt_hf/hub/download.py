"""What is needed of a model on the hub to verify it, whoever made it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slogpt_hf.card.ledger import COMMIT
from slogpt_hf.errors import CheckpointError
from slogpt_hf.hub.client import Hub, readable_errors, request
from slogpt_hf.hub.state import DEFAULT_BRANCH
from slogpt_hf.hub.tree import files_at
from slogpt_hf.hub.versions import require_ref
from slogpt_hf.progress import SILENT, Progress
from slogpt_hf.settings import REPO_ID

ENDINGS = (".safetensors", ".json", ".py")


def model_of(text: str) -> tuple[str, str] | None:
    """Repository and revision of ``NS/NAME`` or ``NS/NAME@REVISION``; None of anything else.

    Raises:
        UsageError: the revision cannot be one.
    """
    repo_id, _, revision = text.partition("@")
    if not REPO_ID.fullmatch(repo_id):
        return None
    if "@" in text and not COMMIT.fullmatch(revision):
        require_ref(revision, "revision")
    return repo_id, revision or DEFAULT_BRANCH


@contextmanager
def downloaded(
    hub: Hub, repo_id: str, revision: str, progress: Progress = SILENT
) -> Iterator[tuple[Path, str]]:
    """The model of a repository in a folder, for the time of the block, and its commit.

    Weights come as safetensors alone, and nothing of a cache is believed.

    Args:
        hub: where it is.
        repo_id: NAMESPACE/NAME.
        revision: branch, tag or commit.
        progress: told of the download.

    Raises:
        HubError: the hub refused or could not be reached, or has no such repository or revision.
        CheckpointError: the repository holds no weights that can be read.
    """
    what = "reading the repository"
    info = request(hub, what, repo_id, lambda: hub.api.model_info(repo_id, revision=revision))
    commit = info.sha or revision
    tree = files_at(hub, repo_id, commit)
    files = {name: f for name, f in tree.items() if "/" not in name and name.endswith(ENDINGS)}
    if "config.json" not in files or not any(name.endswith(ENDINGS[0]) for name in files):
        raise CheckpointError(
            f"{repo_id}@{revision}: holds no config.json with *.safetensors beside it.",
            hint="Name a repository or revision that from_pretrained loads from safetensors.",
        )
    n_bytes = sum(file.n_bytes for file in files.values())
    with tempfile.TemporaryDirectory(prefix="slogpt-hf-") as temporary:
        with progress.client_stage("download", n_bytes), readable_errors("downloading", repo_id):
            hub.api.snapshot_download(
                repo_id, revision=commit, local_dir=temporary, allow_patterns=list(files)
            )
        yield Path(temporary), commit
