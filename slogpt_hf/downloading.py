"""Downloading a model into a folder: what is there in the end is what the hub lists, and proven.

A download that was stopped goes on where it was. A release of slogpt-hf is checked as
``verify-release`` does, by the bytes that arrived; the folder appears only if nothing failed.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any

from slogpt_hf.card.ledger import COMMIT
from slogpt_hf.card.record import RECORD_FILE, dump_json, is_record
from slogpt_hf.errors import HubError, UsageError
from slogpt_hf.files import (
    DISK_ERRORS,
    HASH_CHUNK,
    bytes_below,
    is_folder,
    resumable_folder,
    write_atomically,
)
from slogpt_hf.hub.attempts import causes
from slogpt_hf.hub.client import Hub, place_of, request
from slogpt_hf.hub.download import fetch
from slogpt_hf.hub.state import DEFAULT_BRANCH
from slogpt_hf.hub.tree import Digests, HubFile, files_at
from slogpt_hf.hub.versions import require_ref
from slogpt_hf.local_models import METADATA_FILE, read_metadata
from slogpt_hf.progress import SILENT, Progress, human_bytes
from slogpt_hf.settings import REPO_ID, TYPE_PREFIXES
from slogpt_hf.verification import MOST_TEXT_BYTES, TEXTS, ReleaseError, Verification, judged
from slogpt_hf.verification.checks import parsed
from slogpt_hf.verification.contents import Contents

MODELS = "models"
CANONICAL_ID = re.compile(r"\w(?:[\w.-]{0,94}\w)?", re.ASCII)  # such as gpt2: of no namespace
LOCAL_NAME = re.compile(r"\w[\w. +@=-]{0,199}")
PARTS = ".slogpt-hf"  # folder of files that are on the way
SMALL_BYTES = 8_000_000  # files that are fetched side by side: none takes long to stop
WORKERS = 8


@dataclass(frozen=True)
class Download:
    """A model of a hub in a folder.

    Attributes:
        downloaded: False if the folder held it already, whole.
        repo_id: as it was asked for.
        revision: branch, tag or commit that was asked for.
        commit: id of the commit that it names.
        folder: with the files of the commit, and METADATA_FILE.
        n_bytes: of the files.
        repo_url: page of the repository, or the git repository of an embedded hub.
        tag: of the release, if it names this commit; None otherwise.
        verification: the checks of the release; None of what is no release of slogpt-hf.
        notes: what else a reader has to know, one sentence each.
    """

    downloaded: bool
    repo_id: str
    revision: str
    commit: str
    folder: Path
    n_bytes: int
    repo_url: str
    tag: str | None = None
    verification: Verification | None = None
    parity: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "downloaded": self.downloaded,
            "repo_id": self.repo_id,
            "revision": self.revision,
            "commit": self.commit,
            "folder": str(self.folder),
            "bytes": self.n_bytes,
            "repo_url": self.repo_url,
            "tag": self.tag,
            "verification": self.verification.to_dict() if self.verification else None,
            "parity": self.parity,
            "notes": list(self.notes),
        }


def download_model(
    hub: Hub,
    repo_id: str,
    revision: str = DEFAULT_BRANCH,
    *,
    folder: Path = Path(MODELS),
    local_name: str | None = None,
    progress: Progress = SILENT,
) -> Download:
    """Download every file of a model, unless the folder holds it already.

    Args:
        hub: where it is.
        repo_id: NAMESPACE/NAME, or the name of a model without a namespace.
        revision: branch, tag or commit.
        folder: that gets the model's own folder.
        local_name: name of the model's own folder; by default NAMESPACE_NAME.
        progress: told of the download.

    Raises:
        UsageError: a name cannot be meant, the model's folder holds something else, or the disk
            is full.
        HubError: the hub refused or could not be reached, names files that cannot be written, or
            serves other bytes than it lists; what arrived is kept, and gone on with.
        ReleaseError: it is a release of slogpt-hf and not what was proven; nothing is kept.
    """
    require_repo(repo_id)
    if not COMMIT.fullmatch(revision):
        require_ref(revision, "revision")
    final = folder / _local_name(repo_id, local_name)
    plan, tree = _planned(hub, repo_id, revision, final)
    if final.exists() or final.is_symlink():
        return _as_it_is(hub, plan, tree, progress)
    with resumable_folder(final) as work:
        _keep_only(work, plan)
        _require_space(work, plan.n_bytes)
        _fetch(hub, plan, tree, work, progress)
        shutil.rmtree(work / PARTS)
        contents, wrong = _read(work, tree, progress)
        for name in wrong:
            (work / name).unlink(missing_ok=True)
        if wrong:
            raise HubError(
                f"{repo_id}: {', '.join(wrong[:5])} arrived with other bytes than the hub lists.",
                hint="Run again to fetch it anew; if it stays so, ask its owner.",
            )
        try:
            done = _checked(hub, plan, contents)
        except ReleaseError:
            shutil.rmtree(work, ignore_errors=True)
            raise
        write_atomically(work / METADATA_FILE, dump_json(_metadata(done)))
    return done


def _planned(
    hub: Hub, repo_id: str, revision: str, final: Path
) -> tuple[Download, dict[str, HubFile]]:
    """What a download will be, and the files of the commit by their paths, which are safe."""
    info = request(
        hub,
        "reading the repository",
        repo_id,
        lambda: hub.api.model_info(repo_id, revision=revision),
    )
    if not isinstance(info.sha, str) or not COMMIT.fullmatch(info.sha):
        raise HubError(f"{repo_id}: the hub names no commit for {revision[:80]!r}.")
    tree = files_at(hub, repo_id, info.sha)
    tree = {name: file for name, file in tree.items() if name != METADATA_FILE}
    _require_safe(repo_id, tree)
    plan = Download(
        *(True, repo_id, revision, info.sha, final),
        n_bytes=sum(file.n_bytes for file in tree.values()),
        repo_url=place_of(hub.shown_endpoint, hub.folder, repo_id),
    )
    return plan, tree


def require_repo(repo_id: str) -> None:
    """Raise UsageError unless this can name a model of the Hub."""
    if repo_id.startswith(TYPE_PREFIXES):
        raise UsageError(
            f"{repo_id[:100]!r} begins with a type of repository.", hint="Name a model: NS/NAME."
        )
    if not REPO_ID.fullmatch(repo_id) and not CANONICAL_ID.fullmatch(repo_id):
        raise UsageError(
            f"{repo_id[:100]!r} is no name of a model.", hint="Write e.g. me/my-model, or gpt2."
        )


def _local_name(repo_id: str, local_name: str | None) -> str:
    name = repo_id.replace("/", "_") if local_name is None else local_name
    if not LOCAL_NAME.fullmatch(name) or name != name.rstrip(". "):
        raise UsageError(
            f"local-name {name[:100]!r} is no name of a folder below {MODELS}/.",
            hint="Use letters, digits, '-', '_' and '.'; --folder says below which folder.",
        )
    return name


def _require_safe(repo_id: str, names: Iterable[str]) -> None:
    """Raise HubError where a path of a repository would leave the folder, or is none of a model."""
    for name in map(str, names):
        parts = name.split("/")
        odd = "\\" in name or not name.isprintable() or any(p in ("", ".", "..") for p in parts)
        if odd or parts[0].lower() in (".git", PARTS):
            raise HubError(
                f"{repo_id}: holds a file of the name {name[:100]!a}, which is not written here.",
                hint="Ask its owner to rename it.",
            )


def _require_space(work: Path, n_bytes: int) -> None:
    needed = n_bytes - bytes_below(work)
    free = shutil.disk_usage(work).free
    if needed > free:
        raise UsageError(
            f"{work.parent}: the model needs {human_bytes(needed)}, and "
            f"{human_bytes(free)} are free.",
            hint="Free some space, or name another --folder.",
        )


def _fetch(
    hub: Hub, plan: Download, tree: Mapping[str, HubFile], work: Path, progress: Progress
) -> None:
    """Get every file: the small ones side by side, the others in turn."""
    lock, parts = Lock(), work / PARTS

    def get(name: str) -> None:
        file, path = tree[name], work / name
        part = parts / hashlib.sha256(name.encode()).hexdigest()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                fetch(hub, plan.repo_id, plan.commit, name, part, file.n_bytes, advanced)
                part.replace(path)
        except (HubError, OSError) as error:
            cause = next((c for c in causes(error) if isinstance(c, OSError)), None)
            if cause is not None and cause.errno in DISK_ERRORS:
                raise cause from None
            if isinstance(error, HubError):
                raise
            raise HubError(
                f"{plan.repo_id}: the file {name[:100]!a} cannot be written ({error.strerror}).",
                hint="Ask its owner to rename it.",
            ) from error

    small = [name for name, file in tree.items() if file.n_bytes <= SMALL_BYTES]
    missing = max(0, plan.n_bytes - bytes_below(work))
    with progress.stage("download", missing) as advance:

        def advanced(n_bytes: int) -> None:
            with lock:
                advance(n_bytes)

        with ThreadPoolExecutor(WORKERS) as pool:
            try:
                list(pool.map(get, small))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        for name in sorted(tree.keys() - set(small)):
            get(name)


def _keep_only(work: Path, plan: Download) -> None:
    """Remove what an earlier attempt left of another commit or repository."""
    noted, said = work / PARTS / "of", f"{plan.repo_id}@{plan.commit}"
    if noted.is_file() and noted.read_text("utf-8") == said:
        return
    for path in work.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    write_atomically(noted, said)


def _read(
    folder: Path, tree: Mapping[str, HubFile], progress: Progress
) -> tuple[Contents, list[str]]:
    """What a folder holds of a commit, and the files that are missing or not as the hub lists."""
    digests, wrong = {}, []
    with progress.stage("hash", sum(file.n_bytes for file in tree.values())) as advance:
        for name, file in sorted(tree.items()):
            path = folder / name
            if path.is_symlink() or not path.is_file():
                wrong.append(name)
                continue
            found = Digests(path.stat().st_size)
            with path.open("rb") as stream:
                while piece := stream.read(HASH_CHUNK):
                    found.update(piece)
                    advance(len(piece))
            digests[name] = found.sha256
            if not found.is_of(file):
                wrong.append(name)
    texts = {
        name: (folder / name).read_bytes()
        for name in TEXTS
        if name in digests and tree[name].n_bytes <= MOST_TEXT_BYTES
    }
    return Contents(tree, texts, digests, ()), wrong


def _checked(hub: Hub, plan: Download, contents: Contents) -> Download:
    """The download with the checks of its release, if it is one.

    Raises:
        ReleaseError: a check failed.
    """
    record = parsed(contents.texts.get(RECORD_FILE, b""))
    if not is_record(record):
        return plan
    refs = request(
        hub, "reading the tags", plan.repo_id, lambda: hub.api.list_repo_refs(plan.repo_id)
    )
    tags = {ref.name: ref.target_commit for ref in refs.tags}
    tag = plan.revision if plan.revision in tags else record.get("tag")
    tag = tag if isinstance(tag, str) else ""
    result = judged(
        hub.shown_endpoint, plan.repo_id, tag, plan.commit, record=record, contents=contents
    )
    if result.failed:
        found = "; ".join(c.detail for c in result.checks if c.name in result.failed)
        raise ReleaseError(
            f"{plan.repo_id}@{plan.revision} is not what was proven: "
            f"{', '.join(result.failed)} failed ({found}). Nothing was kept.",
            hint="Do not load it; ask its owner.",
        )
    at = tags.get(tag)
    note = f"The tag {tag} names another commit, {at}." if at else f"The hub has no tag {tag}."
    return replace(
        plan,
        tag=tag if at == plan.commit else None,
        verification=result,
        parity=record["parity"],
        notes=() if at == plan.commit else (note,),
    )


def _as_it_is(
    hub: Hub, plan: Download, tree: Mapping[str, HubFile], progress: Progress
) -> Download:
    """The folder that is there, if it holds this very commit.

    Raises:
        UsageError: it holds something else.
    """
    final = plan.folder
    told = read_metadata(final)
    same = told is not None and (told.model_id, told.commit) == (plan.repo_id, plan.commit)
    if not same or final.is_symlink() or not is_folder(final):
        held = f": {told.model_id}, commit {told.commit or 'not known'}" if told else ""
        raise UsageError(
            f"{final}: exists already{held[:200]}.",
            hint="Remove it, or name another --local-name.",
        )
    contents, changed = _read(final, tree, progress)
    if changed:
        raise UsageError(
            f"{final}: holds {plan.repo_id}, but {', '.join(changed[:5])} changed since.",
            hint="Remove it to download it anew, or name another --local-name.",
        )
    return replace(_checked(hub, plan, contents), downloaded=False)


def _metadata(done: Download) -> dict[str, Any]:
    """METADATA_FILE: the four names of old, and what is known today."""
    checks = done.verification.checks if done.verification else ()
    return {
        "model_id": done.repo_id,
        "local_name": done.folder.name,
        "download_time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "repo_url": done.repo_url,
        "revision": done.revision,
        "commit": done.commit,
        "tag": done.tag,
        "checks": {check.name: check.status for check in checks} or None,
    }
