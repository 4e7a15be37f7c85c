"""A checkpoint that could be released, wherever it lies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from slogpt_hf.watch.provenance import Provenance

Kind = Literal["git", "file", "store"]


@dataclass(frozen=True)
class Candidate:
    """A checkpoint that was found, before anything of it was downloaded.

    Attributes:
        name: path in the git repository (with ``/``), path on disk, or URL without credentials.
        kind: ``git`` for a file of a commit, ``file`` for one on disk, ``store`` for an object of
            a store that fsspec reaches.
        place: folder of the git repository, absolute; the absolute path on disk; the URL.
        provenance: commit, branch and remote of a git candidate; URL and etag of an object.
        time: when it was committed or last modified, in seconds since 1970; None if nothing tells.
        sha256: of its content, 64 hex digits; None where only a download could tell.
        n_bytes: size; None if nothing tells.
        is_pointer: git holds a Git LFS pointer in its place.
    """

    name: str
    kind: Kind
    place: str
    provenance: Provenance
    time: float | None = None
    sha256: str | None = None
    n_bytes: int | None = None
    is_pointer: bool = False
