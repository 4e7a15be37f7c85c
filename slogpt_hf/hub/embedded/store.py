"""The hub's folder: `NAMESPACE/NAME.git` for each model, `datasets/NAMESPACE/NAME.git` for each
dataset, and a folder for what is not ready.

A repository appears and disappears by one rename. What is temporary lies in `.slogpt-hf/incoming`
on the same file system; what a killed server left there, and git's stale lock files, are swept
when a server starts and finds that no other process uses the folder. A folder that holds something
else does not become a hub, and repositories that the hub did not create are not swept.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any

from slogpt_hf.errors import UsageError
from slogpt_hf.hub.embedded import attributes, commits, git, lfs, names
from slogpt_hf.hub.embedded.git import Repository
from slogpt_hf.hub.embedded.wire import RefusalError

SETTINGS = "slogpt-hf.json"
MARKER = ".slogpt-hf"
KINDS = ("model", "dataset")
# No model's namespace is called datasets, see `names`.
_REPOSITORIES = {"model": "[!.]*/*.git", "dataset": "datasets/[!.]*/*.git"}
_MINE = tuple(f"{pattern}/{SETTINGS}" for pattern in _REPOSITORIES.values())
_NOTHING = {".DS_Store", ".gitkeep", "lost+found"}  # in folders that people call empty
_STALE = (
    "*.lock",
    "refs/**/*.lock",
    "objects/*/tmp_*",  # objects and packs that were being written
    "objects/tmp_objdir-*",  # pushes that had not been accepted
)


@dataclass(frozen=True)
class Store:
    """An open hub folder; `lock_fd` holds a shared lock on it as long as the store is open."""

    folder: Path
    incoming: Path
    lock_fd: int

    def repository(self, namespace: str, name: str, kind: str = "model") -> Repository | None:
        """The repository of this name; None where there is none or it cannot exist."""
        if not names.is_repo_id(namespace, name):
            return None
        repo = self._repository(namespace, name, kind)
        return repo if (repo.git_dir / "HEAD").is_file() else None

    def repositories(self, kind: str = "model") -> list[Repository]:
        """Every repository of a kind, sorted by id."""
        found = (
            self.repository(path.parent.name, path.name.removesuffix(".git"), kind)
            for path in sorted(self.folder.glob(_REPOSITORIES[kind]))
        )
        return [repo for repo in found if repo]

    def create(
        self,
        namespace: str,
        name: str,
        *,
        private: bool,
        kind: str = "model",
        contents: Mapping[str, bytes] = MappingProxyType({}),
    ) -> Repository:
        """Create a repository with the Hub's initial commit on `main`.

        Args:
            namespace: of the repository, as `name` beside it.
            name: of the repository.
            private: whether only the owner may read it.
            kind: `model` or `dataset`.
            contents: path to content of the commit's files; they come before the Hub's own.

        Raises:
            RefusalError: 400 for a name that the Hub would not take, 409 if it exists.
        """
        names.require_repo_id(namespace, name)
        if taken := self.repository(namespace, name, kind):
            raise _taken(taken)
        repo = self._repository(namespace, name, kind)
        draft_dir = Path(tempfile.mkdtemp(dir=self.incoming, prefix="new-"))
        draft = Repository(repo.id, draft_dir, self.incoming, self.lock_fd)
        try:
            git.git(draft, "init", "--bare", "--quiet", "--template=", "--initial-branch=main")
            (draft_dir / "lfs" / "objects").mkdir(parents=True)
            settings = {"private": private, "createdAt": datetime.now(UTC).isoformat()}
            (draft_dir / SETTINGS).write_text(json.dumps(settings), encoding="utf-8")
            defaults = {attributes.FILE: attributes.INITIAL.encode()}
            commits.write_initial(draft, {**defaults, **contents})
            _fsync_all(draft_dir)
            draft_dir.chmod(0o755)
            repo.git_dir.parent.mkdir(parents=True, exist_ok=True)
            draft_dir.rename(repo.git_dir)
            self._alias(repo).unlink(missing_ok=True)
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
                raise _taken(repo) from None
            raise
        finally:
            shutil.rmtree(draft_dir, ignore_errors=True)
        for folder in (repo.git_dir.parent, repo.git_dir.parent.parent, self.folder):
            lfs.fsync_folder(folder)
        return repo

    def move(self, repo: Repository, namespace: str, name: str) -> Repository:
        """Give a repository another name, by one rename; the old one is remembered.

        Raises:
            RefusalError: 400 for a name that the Hub would not take, 409 if it is taken.
        """
        names.require_repo_id(namespace, name)
        moved = self._repository(namespace, name, repo.kind)
        moved.git_dir.parent.mkdir(parents=True, exist_ok=True)
        try:
            if moved.git_dir == repo.git_dir:
                raise OSError(errno.ENOTEMPTY, "")
            repo.git_dir.rename(moved.git_dir)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            taken = f"A {repo.kind} repository called {moved.id} already exists"
            raise RefusalError(409, taken) from None
        self._alias(repo).parent.mkdir(parents=True, exist_ok=True)
        for alias in (self._alias(repo), *self._aliases(repo)):
            lfs.write_whole(self.incoming, alias, moved.id)
        self._alias(moved).unlink(missing_ok=True)
        for folder in (repo.git_dir.parent, moved.git_dir.parent, moved.git_dir.parent.parent):
            lfs.fsync_folder(folder)
        return moved

    def moved(self, namespace: str, name: str, kind: str) -> Repository | None:
        """The repository that once had this name; None where there is none."""
        if not names.is_repo_id(namespace, name):
            return None
        try:
            now = self._alias(self._repository(namespace, name, kind)).read_text("utf-8")
        except FileNotFoundError:
            return None
        namespace, _, name = now.partition("/")
        return self.repository(namespace, name, kind)

    def delete(self, repo: Repository) -> None:
        """Remove a repository: one rename, then the files; names that it had lead nowhere."""
        aliases = self._aliases(repo)
        grave = Path(tempfile.mkdtemp(dir=self.incoming, prefix="old-"))
        repo.git_dir.rename(grave / "repo.git")
        lfs.fsync_folder(repo.git_dir.parent)
        for alias in aliases:
            alias.unlink(missing_ok=True)
        shutil.rmtree(grave, ignore_errors=True)

    def _aliases(self, repo: Repository) -> list[Path]:
        """Where the names that a repository had are written."""
        known = (self.folder / MARKER / "moved" / repo.kind).glob("*/*")
        return [path for path in known if path.read_text("utf-8").lower() == repo.id.lower()]

    def _alias(self, repo: Repository) -> Path:
        """Where the new name of a repository that had this one is written."""
        return self.folder / MARKER / "moved" / repo.kind / repo.id.lower()

    def _repository(self, namespace: str, name: str, kind: str) -> Repository:
        """The repository of this id in whatever case its folders have; a name is taken once."""
        home = self.folder if kind == "model" else self.folder / f"{kind}s"
        namespace = _spelled(home, namespace)
        name = _spelled(home / namespace, f"{name}.git").removesuffix(".git")
        repo_id = f"{namespace}/{name}"
        git_dir = self.folder / f"{git.located(repo_id, kind)}.git"
        return Repository(repo_id, git_dir, self.incoming, self.lock_fd, kind)


def _taken(repo: Repository) -> RefusalError:
    return RefusalError(409, f"You already created this {repo.kind} repo")


def _spelled(folder: Path, name: str) -> str:
    """`name` as it is spelled in a folder that has it in another case."""
    if (folder / name).exists() or not folder.is_dir():
        return name
    same = (path.name for path in folder.iterdir() if path.name.lower() == name.lower())
    return min(same, default=name)


def read_settings(repo: Repository) -> Mapping[str, Any]:
    """`private` and `createdAt`; empty for a bare repository that the user put there."""
    try:
        settings: dict[str, Any] = json.loads((repo.git_dir / SETTINGS).read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return settings


def write_settings(repo: Repository, **changes: object) -> None:
    """Change settings; readers see the old ones or the new ones."""
    text = json.dumps({**read_settings(repo), **changes})
    lfs.write_whole(repo.incoming, repo.git_dir / SETTINGS, text)


@contextmanager
def open_store(folder: Path) -> Iterator[Store]:
    """Open (and create) a hub folder.

    Raises:
        UsageError: the folder cannot be created or written, or holds something else than a hub.
    """
    folder = folder.expanduser().resolve()
    incoming = folder / MARKER / "incoming"
    try:
        _require_hub(folder)
        incoming.mkdir(parents=True, exist_ok=True)
        lock_fd = os.open(folder / MARKER / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UsageError(
            f"The hub folder {folder} cannot be written: {error.strerror}.",
            hint="Name a folder that can be created or written.",
        ) from None
    try:
        if not os.access(incoming, os.W_OK | os.X_OK):
            raise UsageError(
                f"The hub folder {folder} cannot be written.",
                hint="Name a folder that can be written.",
            )
        _sweep_if_unused(folder, incoming, lock_fd)
        fcntl.flock(lock_fd, fcntl.LOCK_SH)
        yield Store(folder, incoming, lock_fd)
    finally:
        os.close(lock_fd)


def _require_hub(folder: Path) -> None:
    """Refuse a folder of other things, which a slip of the keys would otherwise make a hub."""
    if not folder.is_dir() or (folder / MARKER).is_dir() or any(map(any, map(folder.glob, _MINE))):
        return
    other = next((path.name for path in folder.iterdir() if path.name not in _NOTHING), None)
    if other is not None:
        raise UsageError(
            f"The folder {folder} is not a hub: it holds {other!r}.",
            hint="Name a new or an empty folder, or one that a hub was made in before.",
        )


def _sweep_if_unused(folder: Path, incoming: Path, lock_fd: int) -> None:
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    for path in incoming.iterdir():
        _remove(path)
    for settings in chain.from_iterable(map(folder.glob, _MINE)):
        for pattern in _STALE:
            for path in settings.parent.glob(pattern):
                _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _fsync_all(folder: Path) -> None:
    for parent, _, files in os.walk(folder):
        for name in files:
            with (Path(parent) / name).open("rb") as file:
                os.fsync(file.fileno())
        lfs.fsync_folder(Path(parent))
