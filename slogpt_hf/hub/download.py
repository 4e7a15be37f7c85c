"""Files of the hub on the disk: what is needed to verify a model, and one file that goes on."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from slogpt_hf.card.ledger import COMMIT
from slogpt_hf.errors import CheckpointError, HubError
from slogpt_hf.hub.attempts import is_transient
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


def fetch(
    hub: Hub,
    repo_id: str,
    commit: str,
    name: str,
    part: Path,
    n_bytes: int,
    advance: Callable[[int], None] = lambda n_bytes: None,
) -> None:
    """Download a file behind what ``part`` holds of it already, also of an earlier process.

    The client itself begins a file anew in every process. Whether the bytes are the right ones is
    not looked at.

    Args:
        hub: where it is.
        repo_id: NAMESPACE/NAME.
        commit: of the file.
        name: path of the file in the repository.
        part: where it goes; holds the file when this returns.
        n_bytes: of the whole file.
        advance: told the bytes of each piece that arrives.

    Raises:
        HubError: the hub refused, could not be reached, or sent more than ``n_bytes``.
    """
    part.touch()
    while part.stat().st_size < n_bytes:
        request(
            hub,
            f"downloading {name}",
            repo_id,
            lambda: _go_on(hub, repo_id, commit, name, part, n_bytes, advance),
        )
    if part.stat().st_size > n_bytes:
        part.unlink()
        raise HubError(
            f"{repo_id}: {name} is longer than the {n_bytes} bytes that the hub lists.",
            hint="Run again to fetch it anew; if it stays so, ask its owner.",
        )


def _go_on(
    hub: Hub,
    repo_id: str,
    commit: str,
    name: str,
    part: Path,
    n_bytes: int,
    advance: Callable[[int], None],
) -> None:
    """Append what the hub gives until it ends; it failed only if nothing came."""
    from huggingface_hub import get_session, hf_hub_url
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    url = hf_hub_url(repo_id, name, revision=commit, endpoint=hub.endpoint)
    headers = build_hf_headers(token=hub.api.token, library_name=hub.api.library_name)
    # What is packed on the way cannot be gone on with.
    headers |= {"Accept-Encoding": "identity"}
    start = done = part.stat().st_size
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        with get_session().stream("GET", url, headers=headers) as response:
            if response.status_code >= 400:
                response.read()
            hf_raise_for_status(response)
            if start and response.status_code != 206:
                start = done = 0
            with part.open("r+b") as file:
                file.truncate(done)
                file.seek(done)
                for piece in response.iter_raw():
                    file.write(piece)
                    done += len(piece)
                    advance(len(piece))
                    if done > n_bytes:
                        return
    except Exception as error:
        if done == start or not is_transient(error):
            raise
    if done == start:
        raise ConnectionError("the hub sent nothing")
