"""LFS objects on disk, in git-lfs's own layout, and the signed links by which they travel."""

from __future__ import annotations

import hashlib
import hmac
import os
import tempfile
from dataclasses import dataclass
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


def receive(repo: Repository, sha256: str, size: int, body: BinaryIO) -> None:
    """Store an object, in constant memory; it gets its name only when digest and size are right.

    Raises:
        RefusalError: 400 if the content is not the announced one, 404 if the repository has gone.
    """
    final = object_path(repo, sha256)
    with tempfile.NamedTemporaryFile(dir=repo.incoming, prefix="lfs-", delete=False) as file:
        try:
            digest, count = hashlib.sha256(), 0
            piece = memoryview(bytearray(PIECE))
            while (read := body.readinto(piece)) and count <= size:  # type: ignore[attr-defined]
                digest.update(piece[:read])
                file.write(piece[:read])
                count += read
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


def fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class Signer:
    """Links to objects carry no token, so they carry a signature; it is good for one server run."""

    secret: bytes

    def link(self, base: str, action: str, repo_id: str, sha256: str, size: int) -> str:
        signature = self._signature(action, repo_id, sha256, size)
        return f"{base}/{repo_id}/{sha256}?{urlencode({'size': size, 'signature': signature})}"

    def is_valid(self, signature: str, action: str, repo_id: str, sha256: str, size: int) -> bool:
        expected = self._signature(action, repo_id, sha256, size)
        return hmac.compare_digest(expected.encode(), signature.encode("utf-8", "replace"))

    def _signature(self, action: str, repo_id: str, sha256: str, size: int) -> str:
        message = "\n".join((action, repo_id, sha256, str(size)))
        return hmac.new(self.secret, message.encode(), hashlib.sha256).hexdigest()
