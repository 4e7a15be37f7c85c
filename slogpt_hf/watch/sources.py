"""Where checkpoints are looked for: git repositories, files on disk, object stores."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from slogpt_hf.errors import HubError, UsageError
from slogpt_hf.files import is_folder
from slogpt_hf.progress import SILENT, Progress
from slogpt_hf.redaction import without_secrets
from slogpt_hf.settings import Settings
from slogpt_hf.watch.access import credentials_in, token_access, without_credentials
from slogpt_hf.watch.candidate import Candidate
from slogpt_hf.watch.event import Event
from slogpt_hf.watch.files import METADATA, digests_on_disk, file_candidates
from slogpt_hf.watch.git import DOWNLOAD_SECONDS, combined, git_bytes
from slogpt_hf.watch.patterns import escaped
from slogpt_hf.watch.repository import git_candidates, heads_of
from slogpt_hf.watch.tree import is_repository

GIT_SCHEMES = ("git", "ssh", "git+https", "git+http", "git+ssh", "git+file")
FORGES = ("github.com", "gitlab.com", "codeberg.org", "bitbucket.org")
SCP_LIKE = re.compile(r"[\w.-]+@[\w.-]+:[^\s]+")  # of `git clone`: user@host:path
CLONE_PROTOCOLS = "https:http:ssh:git:file"
EVERYTHING = ("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
CHECKPOINT_FOLDERS = (METADATA, "model.pt", "model.safetensors")  # a file that each holds


def sources_of(settings: Settings) -> tuple[str, ...]:
    """Where to look if nobody says it: the repository around, and the URLs among the globs."""
    urls = tuple(pattern for pattern in settings.checkpoints if "://" in pattern)
    return urls if len(urls) == len(settings.checkpoints) else (".", *urls)


def find_candidates(
    sources: Sequence[str],
    settings: Settings,
    event: Event | None,
    entries: Sequence[dict[str, Any]],
    progress: Progress = SILENT,
) -> tuple[Candidate, ...]:
    """Checkpoints that could be released, source by source, the oldest of each first.

    Args:
        sources: folders and URLs of git repositories, files and globs on disk, URLs of object
            stores. Where a folder is in no git repository, the globs apply to the disk below it.
        settings: ``checkpoints``, ``branches`` and ``base`` count.
        event: of the CI at hand.
        entries: of the hub's ledger; they say what need not be looked at again.
        progress: told what happens.

    Raises:
        UsageError: a source is not there or cannot be read.
        HubError: a URL could not be reached.
        CheckpointError: the name of a checkpoint is not UTF-8.
    """
    commits = {entry["source"].get("commit") for entry in entries}
    digests = {entry["checkpoint"].get("sha256") for entry in entries}
    found: list[Candidate] = []
    for source in sources:
        if is_store(source):
            from slogpt_hf.watch.stores import store_candidates

            # A ledger's digest is that of adapter and base, not of the object alone.
            objects = store_candidates([source], () if settings.base else entries)
            found += [_with_base(each, settings.base_path) for each in objects]
        elif (folder := _repository(source, progress)) is not None:
            own = None if is_git_url(source) else event
            known = [commit for commit in commits if isinstance(commit, str)]
            found += git_candidates(folder, _local(settings), own, known, digests, progress)
        else:
            found += file_candidates(_on_disk(source, settings), event, settings.base_path)
    unique = {(each.kind, each.place, each.name, each.sha256): each for each in found}
    return tuple(unique.values())


def branches_of(
    sources: Sequence[str], settings: Settings, event: Event | None
) -> tuple[str | None, ...]:
    """The branches that ``find_candidates`` would look at, as far as git tells them at once."""
    folders = [
        Path(source)
        for source in sources
        if not is_store(source) and not is_git_url(source) and _is_git_folder(source)
    ]
    heads = (head for folder in folders for head in heads_of(folder, settings, event))
    return tuple(dict.fromkeys(head.branch for head in heads))


def is_git_url(source: str) -> bool:
    """Whether a source is what ``git clone`` takes and no folder."""
    if "://" not in source:
        return SCP_LIKE.fullmatch(source) is not None and not Path(source).exists()
    try:
        parts = urlsplit(source)
    except ValueError:
        return False
    is_forge = parts.hostname in FORGES and parts.path.strip("/").count("/") == 1
    return parts.scheme in GIT_SCHEMES or parts.path.rstrip("/").endswith(".git") or is_forge


def is_store(source: str) -> bool:
    """Whether a source is the URL of an object store."""
    return "://" in source and not is_git_url(source)


def cloned(url: str, progress: Progress = SILENT) -> Path:
    """A bare clone of a repository in the user's cache, as it is now.

    Credentials of the URL go to git through the environment and are not kept.

    Raises:
        HubError: it cannot be fetched.
        UsageError: git is not installed, or the cache cannot be written.
    """
    real = url.removeprefix("git+")
    clean = without_credentials(real)
    folder = _cache() / hashlib.sha256(clean.encode()).hexdigest()[:16]
    progress.line(f"   fetch: {without_secrets(clean)}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"{folder}: cannot be written: {error.strerror}.", hint="Set XDG_CACHE_HOME."
        ) from error
    if not (folder / "HEAD").exists():
        git_bytes(folder, "init", "--quiet", "--bare")
        git_bytes(folder, "config", "remote.origin.url", clean)
    access = credentials_in(real) or token_access(clean)  # git would send both
    env = {"GIT_ALLOW_PROTOCOL": CLONE_PROTOCOLS}
    try:
        fetch = ("fetch", "--quiet", "--prune", "--no-auto-maintenance", "origin", *EVERYTHING)
        git_bytes(folder, *fetch, config=access, env=env, seconds=DOWNLOAD_SECONDS)
        head = git_bytes(
            folder, "ls-remote", "--symref", "origin", "HEAD", config=access, env=env
        ).decode("utf-8", "replace")
    except UsageError as error:
        raise HubError(
            f"{without_secrets(clean)}: cannot be fetched: {error.message}",
            hint="Check the URL and that git may read it.",
        ) from error
    if head.startswith("ref: refs/heads/"):
        git_bytes(folder, "symbolic-ref", "HEAD", head.split()[1])
    return folder


def _with_base(candidate: Candidate, base: Path | None) -> Candidate:
    """A candidate with the digest that a ledger has of it and what it adapts."""
    if base is None or candidate.sha256 is None:
        return candidate
    more = [each.sha256 for each in digests_on_disk(base).values()] if base.exists() else []
    return replace(candidate, sha256=combined([candidate.sha256, *more]) if more else None)


def _local(settings: Settings) -> Settings:
    globs = tuple(pattern for pattern in settings.checkpoints if "://" not in pattern)
    return replace(settings, checkpoints=globs)


def _repository(source: str, progress: Progress) -> Path | None:
    if is_git_url(source):
        return cloned(source, progress)
    return Path(source) if _is_git_folder(source) else None


def _is_git_folder(source: str) -> bool:
    return is_folder(Path(source)) and not _is_checkpoint(source) and is_repository(Path(source))


def _is_checkpoint(folder: str) -> bool:
    return any((Path(folder) / name).exists() for name in CHECKPOINT_FOLDERS)


def _on_disk(source: str, settings: Settings) -> list[str]:
    if not is_folder(Path(source)) or _is_checkpoint(source):
        return [source]
    return [f"{escaped(source)}/{glob}" for glob in _local(settings).checkpoints]


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "slogpt-hf" / "git"
