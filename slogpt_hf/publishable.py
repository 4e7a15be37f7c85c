"""What must hold of an artefact before it may be published."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slogpt_hf.card.record import UNHASHED, artefact_files, hash_files
from slogpt_hf.errors import ParityError
from slogpt_hf.files import sha256_of
from slogpt_hf.parity.claims import Proof, assumed, meets, short_claim
from slogpt_hf.parity.stated import LEVEL_NOT_KNOWN

CLASS = "name the trainer's model class with --reference FILE.py:CLASS, or have it looked for"
WITNESSES = f"{CLASS} with --reference auto; or record logits where training saves, with "
WITNESSES += "slogpt_hf.record_parity(model, PATH, ids)"
LOSS = "; or name the dataset whose val.bin gives the validation loss that the checkpoint records"


def require_as_written(folder: Path, written: Mapping[str, str], checkpoint: Path) -> None:
    """Raise unless an artefact still holds what was written, now that foreign code may have run.

    Args:
        folder: the artefact.
        written: path in it to SHA-256, taken before the proof.
        checkpoint: for the message.

    Raises:
        ParityError: a file changed, went or came.
    """
    found = hash_files(folder)
    names = sorted(n for n in found.keys() | written.keys() if found.get(n) != written.get(n))
    if names:
        raise ParityError(
            f"{checkpoint}: {', '.join(names[:6])} of the artefact changed while it was being "
            "proven, so the proof is not about what was written. Nothing was published.",
            hint="Only slogpt-hf writes there: see whether the code of --reference does, or "
            "another program.",
        )


def require_level(
    proof: Proof, required: str | None, path: Path, note: str = "", *, again: bool = False
) -> None:
    """Raise where a proof rests on less than ``require_witness`` asks for.

    Args:
        proof: a report that passed, or what a record states of one.
        required: ``witnessed``, ``corroborated`` or None.
        path: of the checkpoint or artefact, for the message.
        note: why no witness was heard; may be empty.
        again: the proof was an earlier run's, and the checkpoint has to be converted again.

    Raises:
        ParityError: it does.
    """
    if meets(proof.level, required):
        return
    what = f"the proof is {proof.level}: {short_claim(proof)}"
    if proof.level is None:
        what = f"the level of the proof is {LEVEL_NOT_KNOWN}"
    names = assumed(proof)
    rests = f"; nothing confirmed: {names}" if names else ""
    more = f" Of witnesses: {note.rstrip('.')}." if note else ""
    more_ways = LOSS if required == "corroborated" else ""
    start = "Convert the checkpoint again" if again else "What to do"
    raise ParityError(
        f"{path}: require-witness asks for {required}, but {what}{rests}.{more} "
        "Nothing was published.",
        hint=f"{start}: {WITNESSES}{more_ways}.",
    )


def require_unchanged(
    folder: Path, record: Mapping[str, Any], most_bytes: int | None = None
) -> None:
    """Raise unless every file of an artefact is the one that was proven.

    Args:
        folder: the artefact.
        record: its record.
        most_bytes: larger files need only be there; None to look into every file.

    Raises:
        ParityError: the artefact was never proven, or a file changed since.
    """
    if not record.get("parity", {}).get("passed"):
        raise ParityError(
            f"{folder}: was never proven.",
            hint="Make an artefact with: slogpt-hf convert-model DATASET MODEL OUTPUT",
        )
    if changed := changed_files(folder, record, most_bytes):
        raise ParityError(
            f"{folder}: {', '.join(changed)} changed since the artefact was proven.",
            hint="Convert the checkpoint again; what is published is what was proven.",
        )


def changed_files(
    folder: Path, record: Mapping[str, Any], most_bytes: int | None = None
) -> list[str]:
    """Files that came, went or changed since ``record`` was written, sorted.

    Args:
        folder: the artefact.
        record: its record.
        most_bytes: larger files need only be there; None to look into every file.
    """
    found, proven = artefact_files(folder), record["files"]
    return sorted(
        name
        for name in (found.keys() | proven.keys()).difference(UNHASHED)
        if name not in found
        or name not in proven
        or (
            (most_bytes is None or found[name].stat().st_size <= most_bytes)
            and sha256_of(found[name]) != proven[name]
        )
    )
