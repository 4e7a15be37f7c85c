"""That what was verified is one artefact: its files are the same at the end as at the start.

Weights are mapped, so what another program writes meanwhile is what the gate reads from then on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from slogpt_hf.errors import CheckpointError
from slogpt_hf.files import FileStamp, stamp_of

Stamps = Mapping[str, FileStamp | None]
MOST_NAMED = 6


def stamps_of(folder: Path) -> Stamps:
    """Name to stamp of the files of an artefact."""
    return {path.name: stamp_of(path) for path in sorted(folder.iterdir()) if path.is_file()}


def require_unchanged(folder: Path, before: Stamps) -> None:
    """Raise unless a folder holds the files that it held.

    Raises:
        CheckpointError: one was replaced, written to, added or removed.
    """
    now = stamps_of(folder)
    if changed := sorted(n for n in {*before, *now} if before.get(n) != now.get(n)):
        raise changed_meanwhile(folder, changed)


def changed_meanwhile(folder: Path, names: Sequence[str]) -> CheckpointError:
    """The error that says what of an artefact changed: files or tensors."""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return CheckpointError(
        f"{folder}: the artefact changed on disk while it was verified: "
        f"{', '.join(names[:MOST_NAMED])}{more}.",
        hint="Another program writes there; verify it again when that has ended.",
    )
