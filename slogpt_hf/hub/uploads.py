"""Sending a release's files: large ones first, each hashed while it is sent, none twice."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from slogpt_hf.errors import HubError, ParityError, UsageError
from slogpt_hf.files import sha256_of
from slogpt_hf.hub.attempts import causes, is_garbled, persevere, status_of
from slogpt_hf.hub.client import Hub, readable_errors, request
from slogpt_hf.hub.session import transfer
from slogpt_hf.hub.tree import HubFile, git_blob_id

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd

UNAUTHORISED = 401
NO_XET = frozenset({404, 405, 501})
# The Hub keeps larger files by LFS whatever they hold.
MOST_GIT_BYTES = 10 * 1024 * 1024


class Uploads:
    """The files of one release as they go to one repository, over several plans of its commit.

    Small files are read once: what is hashed is what is committed. Large ones are sent once.

    Args:
        hub: where to.
        repo_id: NAMESPACE/NAME.
        way: ``xet``, ``lfs`` or ``auto``.
    """

    def __init__(self, hub: Hub, repo_id: str, way: str) -> None:
        self._hub = hub
        self._repo_id = repo_id
        self._way = way
        self._files: dict[str, _File] = {}

    def consist_of(self, files: Mapping[str, Path], digests: Mapping[str, str]) -> None:
        """Set what the release consists of; files that are the same as before stay as they are.

        Args:
            files: path in the repository to file.
            digests: path in the repository to SHA-256 of what was proven.

        Raises:
            ParityError: a small file is not what was proven.
        """
        known = self._files
        self._files = {
            name: known[name]
            if name in known and known[name].digest == digests[name]
            else _File(name, path, digests[name])
            for name, path in files.items()
        }

    def missing_at(self, held: Mapping[str, HubFile]) -> list[str]:
        """The files that a commit with the files ``held`` lacks or has with another content."""
        return sorted(
            name for name, file in self._files.items() if not file.is_held(held.get(name))
        )

    def send(self, names: Iterable[str], branch: str) -> list[CommitOperationAdd]:
        """Send large files, and hash them meanwhile; the operations of a commit of all of them.

        Raises:
            ParityError: a large file is not what was proven.
            UsageError: the repository's .gitignore keeps a file out, or Xet is not installed.
            HubError: the hub refused or could not be reached.
        """
        files = [self._files[name] for name in names]
        additions = [file.addition for file in files]
        if all(addition._upload_mode is not None for addition in additions):
            return additions
        way = self._transfer(branch)
        with (
            _hashed_meanwhile([file for file in files if file.content is None]),
            readable_errors("uploading", self._repo_id),
            transfer(way),
        ):
            _preupload(self._hub, self._repo_id, additions, branch)
        require_not_ignored(self._repo_id, additions)
        return additions

    def _transfer(self, branch: str) -> str:
        """``xet`` or ``lfs``: what was asked for, or else Xet where both sides have it."""
        from huggingface_hub.utils import is_package_available

        asked = self._way == "xet"
        if self._way == "lfs" or (self._hub.folder and not asked):
            return "lfs"  # into a folder of this machine Xet would only take longer
        if not is_package_available("hf_xet"):
            if asked:
                raise UsageError("--transfer xet needs hf_xet.", hint="Run: pip install hf_xet")
            return "lfs"
        if _has_xet(self._hub, self._repo_id, branch):
            return "xet"
        if asked:
            raise HubError(
                f"{self._repo_id}: the hub has no Xet storage.",
                hint="Leave --transfer out, or pass --transfer lfs.",
            )
        return "lfs"


def require_not_ignored(repo_id: str, additions: Iterable[CommitOperationAdd]) -> None:
    """Raise UsageError if the hub would leave files out of a commit; they must be preuploaded."""
    if ignored := [a.path_in_repo for a in additions if getattr(a, "_should_ignore", False)]:
        raise UsageError(
            f"{repo_id}: its .gitignore keeps {', '.join(ignored)} out.",
            hint="Delete the .gitignore there, or the lines that match.",
        )


class _File:
    """A file of a release: read, if it is small; its operation is made once."""

    def __init__(self, name: str, path: Path, digest: str) -> None:
        from huggingface_hub import CommitOperationAdd

        self.path, self.digest = path, digest
        self.content = path.read_bytes() if path.stat().st_size <= MOST_GIT_BYTES else None
        if self.content is not None and hashlib.sha256(self.content).hexdigest() != digest:
            raise _changed([name])
        self.name = name
        self.addition = CommitOperationAdd(name, path if self.content is None else self.content)
        if self.content is None:
            # What was proven; the client would read the whole file for it before it sends a byte.
            self.addition.upload_info.sha256 = bytes.fromhex(digest)
        self.is_hashed = self.content is not None

    def is_held(self, held: HubFile | None) -> bool:
        """Whether a file of the hub has the content that was proven."""
        if held is None:
            return False
        if held.sha256 is not None:
            return held.sha256 == self.digest
        return self.content is not None and held.blob_id == git_blob_id(self.content)


def _changed(names: list[str]) -> ParityError:
    return ParityError(
        f"{', '.join(names)} changed since the artefact was proven.",
        hint="Convert the checkpoint again; what is published is what was proven.",
    )


def _preupload(hub: Hub, repo_id: str, additions: list[CommitOperationAdd], branch: str) -> None:
    """Send large files, once more with a new token where the old one ended on the way.

    Xet takes the token once, at the beginning; what arrived by then is not sent again.
    """

    def send() -> None:
        hub.api.preupload_lfs_files(
            repo_id, additions, repo_type=hub.repo_type, revision=branch, free_memory=False
        )

    for is_last in (False, True):
        hub.renew_token()
        try:
            persevere(send, hub.tell, may_pass=is_garbled)  # else the client tries again itself
            return
        except Exception as error:
            renewable = hub.credentials is not None and hub.credentials.renewable
            if is_last or not renewable or not _is_unauthorised(error):
                raise


def _is_unauthorised(error: BaseException) -> bool:
    return status_of(error) == UNAUTHORISED or any(
        type(cause).__name__ == "XetAuthenticationError" for cause in causes(error)
    )


@contextmanager
def _hashed_meanwhile(files: list[_File]) -> Iterator[None]:
    """Hash large files during the block, so that what is committed is what was proven.

    Raises:
        ParityError: a file has another content; at the end of the block, or in place of its error
            if that is known by then, since a hub refuses such a file too.
    """
    interrupted = threading.Event()

    def go_on(n_bytes: int) -> None:
        if interrupted.is_set():
            raise InterruptedError

    def find_changed() -> list[str]:
        changed = []
        for file in files:
            if not file.is_hashed:
                if sha256_of(file.path, go_on) == file.digest:
                    file.is_hashed = True
                else:
                    changed.append(file.name)
        return changed

    with ThreadPoolExecutor(1, "hash") as executor:
        hashing = executor.submit(find_changed)
        try:
            yield
            if changed := hashing.result():
                raise _changed(changed)
        except ParityError:
            raise
        except Exception as error:
            if hashing.done() and (changed := hashing.result()):
                raise _changed(changed) from error
            interrupted.set()
            raise
        except BaseException:
            interrupted.set()
            raise


def _has_xet(hub: Hub, repo_id: str, branch: str) -> bool:
    from huggingface_hub import get_session
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    url = f"{hub.endpoint}/api/{hub.repo_type}s/{repo_id}/xet-write-token/{quote(branch, safe='')}"

    def ask() -> bool:
        response = get_session().get(url, headers=build_hf_headers(token=hub.api.token))
        if response.status_code in NO_XET:
            return False
        hf_raise_for_status(response)
        return True

    return request(hub, "asking for Xet storage", repo_id, ask)
