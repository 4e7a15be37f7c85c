"""Git LFS objects: from the repository's own store, or by ``git lfs fetch`` from its server.

``git lfs`` runs in a repository of its own, whose one commit points to just the objects that are
wanted: the training repository stays as it is, and of its configuration only addresses and what
authorises a request count.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from slogpt_hf.errors import CheckpointError, HubError, UsageError
from slogpt_hf.files import sha256_of
from slogpt_hf.progress import Progress, human_bytes
from slogpt_hf.watch.access import Config, token_access
from slogpt_hf.watch.git import DOWNLOAD_SECONDS, Content, git_bytes, git_text, pointer_text
from slogpt_hf.watch.tree import Repository

COPIED = r"^(http\..*|remote\.origin\.(url|lfsurl)|lfs\.url|url\..*\.insteadof)$"
LFS_CONFIG = ".lfsconfig"
REMOTE = "origin"
STORE, OWN = "lfs", "lfs.git"
AUTHOR = {
    f"GIT_{role}_{what}": value
    for role in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "slogpt-hf"), ("EMAIL", "slogpt-hf@localhost"))
}


def fetch_objects(
    repository: Repository,
    files: Mapping[str, str],
    objects: Mapping[Path, Content],
    work: Path,
    progress: Progress,
) -> None:
    """Write Git LFS objects.

    Args:
        repository: that points to them.
        files: of the commit, path to blob; ``.lfsconfig`` may name the server.
        objects: file to write, to what it is to hold.
        work: folder for what is needed meanwhile.
        progress: told what is downloaded.

    Raises:
        UsageError: Git LFS is not installed, or nothing tells where the objects are.
        HubError: the server refused, does not have an object, or could not be reached.
        CheckpointError: an object of the repository's own store is damaged.
    """
    common = git_text(repository.folder, "rev-parse", "--git-common-dir") or ".git"
    local = repository.folder / common / STORE
    missing = {c for c in objects.values() if not _object(local, c).is_file()}
    if missing:
        _download(repository, files, missing, work, progress)
    for target, content in objects.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        if content not in missing:
            shutil.copyfile(_object(local, content), target)
            if sha256_of(target) != content.sha256:
                raise CheckpointError(
                    f"{_object(local, content)}: is not the object of its name.",
                    hint="Run: git lfs fsck",
                )
            continue
        found = _object(work / STORE, content)
        if not found.is_file():
            raise HubError(
                f"{target.name}: Git LFS did not fetch its object {content.sha256[:12]}.",
                hint="Push it from where the checkpoint was committed: git lfs push --all origin",
            )
        try:
            os.link(found, target)
        except OSError:  # a file system without links
            shutil.copyfile(found, target)
    shutil.rmtree(work / STORE, ignore_errors=True)
    shutil.rmtree(work / OWN, ignore_errors=True)


def _object(store: Path, content: Content) -> Path:
    digest = content.sha256
    return store / "objects" / digest[:2] / digest[2:4] / digest


def _download(
    repository: Repository,
    files: Mapping[str, str],
    objects: set[Content],
    work: Path,
    progress: Progress,
) -> None:
    if git_text(repository.folder, "lfs", "version") is None:
        raise UsageError(
            "Git LFS is not installed, and the checkpoint is a Git LFS object.",
            hint="Install git-lfs, or fetch the objects before: git lfs pull",
        )
    config = _configuration(repository, files)
    own = work / OWN
    own.mkdir()
    git_bytes(own, "init", "--quiet", "--bare")
    lines = ""
    for content in objects:
        blob = git_bytes(own, "hash-object", "-w", "--stdin", stdin=pointer_text(content))
        lines += f"100644 blob {blob.decode().strip()}\t{content.sha256}\n"
    tree = git_bytes(own, "mktree", stdin=lines.encode()).decode().strip()
    commit = git_bytes(own, "commit-tree", "-m", "Wanted", tree, env=AUTHOR).decode().strip()
    n_bytes = sum(content.n_bytes for content in objects)
    try:
        with progress.stage("fetch", n_bytes) as advance:
            git_bytes(
                own,
                "lfs",
                "fetch",
                REMOTE,
                commit,
                config=[*config, ("lfs.storage", str((work / STORE).absolute()))],
                seconds=DOWNLOAD_SECONDS,
            )
            advance(n_bytes)
    except UsageError as error:
        raise HubError(
            f"{repository.folder}: {human_bytes(n_bytes)} of Git LFS objects cannot be fetched: "
            f"{error.message}",
            hint="Check that the job may read them, and the quota of the LFS server.",
        ) from error


def _configuration(repository: Repository, files: Mapping[str, str]) -> Config:
    """Addresses and authorisation, as configuration for the environment of a command."""
    listed = git_text(repository.folder, "config", "-z", "--get-regexp", COPIED) or ""
    config = [(k, v) for k, _, v in (line.partition("\n") for line in listed.split("\0")) if k]
    names = {name.lower() for name, _ in config}
    if LFS_CONFIG in files and "lfs.url" not in names:
        url = git_text(repository.folder, "config", "--blob", files[LFS_CONFIG], "--get", "lfs.url")
        if url and urlsplit(url).scheme in ("http", "https"):  # others start programs
            config.append(("lfs.url", url))
    told = {name.lower(): value for name, value in config}
    addresses = [told[name] for name in ("remote.origin.url", "lfs.url") if name in told]
    if not addresses:
        raise UsageError(
            f"{repository.folder}: a checkpoint is a Git LFS object, and no remote tells where.",
            hint="Add the remote origin, or fetch the objects before: git lfs pull",
        )
    if "remote.origin.url" not in told:
        config.append(("remote.origin.url", addresses[0]))
    if not any(name.endswith(".extraheader") for name in names):
        config += dict(pair for url in addresses for pair in token_access(url)).items()
    return [*config, ("lfs.fetchrecentalways", "false")]
