"""That foreign code left alone what it is to judge: digests before it runs, compared after."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from slogpt_hf.checkpoints import Checkpoint
from slogpt_hf.files import sha256_of

TOUCHED = "files that the trainer's class changed"


def digests(checkpoint: Checkpoint, artefact: Path) -> dict[Path, str]:
    """SHA-256 of every file of a checkpoint and of an artefact."""
    return {path: sha256_of(path) for path in _files(checkpoint, artefact) if path.is_file()}


def touched(before: Mapping[Path, str], checkpoint: Checkpoint, artefact: Path) -> tuple[str, ...]:
    """Names of the files that are others now, are gone or came."""
    now = digests(checkpoint, artefact)
    return tuple(sorted(p.name for p in before.keys() | now.keys() if before.get(p) != now.get(p)))


def _files(checkpoint: Checkpoint, artefact: Path) -> Iterable[Path]:
    return {*(checkpoint.files or (checkpoint.path,)), *artefact.rglob("*")}
