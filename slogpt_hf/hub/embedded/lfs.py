"""LFS objects on disk, in git-lfs's own layout, and the signed links by which they travel."""

from __future__ import annotations

import hashlib
import hmac
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlencode

from slogpt_hf.hub.embedded.git import Repository
from slogpt_hf.hub.embedded.wire import RefusalError

PIECE = 1024 * 1024


def object_path(repo: Repository, sha256: str) -> Path:
    return repo.git_dir / "lfs" / "objects" / sha256[:2] / sha256[2:4] / sha256


def object_size(repo: Repository, sha256: str) -> int | None:
    """Size in bytes of a stored object; None where there is none."""
    try:
        return object_path(repo, sha256).stat().st_size
    except FileNotFoundError:
        return None


def stored_at(repo: Repository, sha256: str) -> datetime:
    """When an object that is there was stored."""
    return datetime.fromtimestamp(object_path(repo, sha256).stat().st_mtime, UTC)


def pieces(body: BinaryIO) -> Iterator[memoryview]:
    """A body in pieces of one reused buffer."""
    piece = memoryview(bytearray(PIECE))
    while read := body.readinto(piece):  # type: ignore[attr-defined]
        yield piece[:read]


def receive(repo: Repository, sha256: str, size: int, content: Iterable[memoryview]) -> None:
    """Store an object, in constant memory; it gets its name only when digest and size are right.

    Raises:
        RefusalError: 400 if the content is not the announced one, 404 if the repository has gone.
    """
    final = object_path(repo, sha256)
    with tempfile.NamedTemporaryFile(dir=repo.incoming, prefix="lfs-", delete=False) as file:
        try:
            digest, count = hashlib.sha256(), 0
            for piece in content:
                digest.update(piece)
                file.write(piece)
                count += len(piece)
                if count > size:
                    break
            if count != size or digest.hexdigest() != sha256:
                raise RefusalError(
                    400, f"The content received is not the object {sha256} of {size} bytes."
                )
            file.flush()
            os.fsync(file.fileno())
            for folder in (final.parent.parent, final.parent):
                folder.mkdir(exist_ok=True)
            Path(file.name).chmod(0o644)
            Path(file.name).replace(final)
        except FileNotFoundError:
            raise RefusalError(404, f"Repository {repo.id} has gone.", "RepoNotFound") from None
        finally:
            Path(file.name).unlink(missing_ok=True)
    for folder in (final.parent, final.parent.parent, final.parent.parent.parent):
        fsync_folder(folder)


def write_whole(incoming: Path, path: Path, text: str) -> None:
    """Write a small file; readers see the old one or the new one."""
    descriptor, name = tempfile.mkstemp(dir=incoming, prefix="file-")
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    Path(name).replace(path)
    fsync_folder(path.parent)


def fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class Signer:
    """Signatures that are good for one server run.

    Links to objects carry no token, so they carry a signature; a Xet token is one.
    """

    secret: bytes

    def link(self, base: str, action: str, repo_id: str, sha256: str, size: int) -> str:
        signature = self._signature(action, repo_id, sha256, size)
        return f"{base}/{repo_id}/{sha256}?{urlencode({'size': size, 'signature': signature})}"

    def is_valid(self, signature: str, action: str, repo_id: str, sha256: str, size: int) -> bool:
        expected = self._signature(action, repo_id, sha256, size)
        return hmac.compare_digest(expected.encode(), signature.encode("utf-8", "replace"))

    def token(self, action: str, repo_id: str, expires: int) -> str:
        """A Xet token for one repository; `expires` in seconds since 1970."""
        return f"{action}.{expires}.{self._signature('xet', action, repo_id, expires)}"

    def token_action(self, token: str, repo_id: str, now: float) -> str | None:
        """What a Xet token allows; None if it is not one of this repository or has expired."""
        action, _, rest = token.partition(".")
        expires = rest.partition(".")[0]
        if not (expires.isascii() and expires.isdigit() and len(expires) < 19):
            return None
        expected = self.token(action, repo_id, int(expires))
        is_mine = hmac.compare_digest(
            expected.encode("utf-8", "replace"), token.encode("utf-8", "replace")
        )
        return action if is_mine and int(expires) > now else None

    def _signature(self, *parts: str | int) -> str:
        message = "\n".join(map(str, parts))
        return hmac.new(self.secret, message.encode("utf-8", "replace"), hashlib.sha256).hexdigest()
