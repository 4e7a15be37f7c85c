"""From a proven artefact to what is published: version and tag in record and card, a signature."""

from __future__ import annotations

from pathlib import Path

from slogpt_hf.build import card_for
from slogpt_hf.card.ledger import published_record
from slogpt_hf.card.record import CARD_FILE, RECORD_FILE, Record, artefact_files, dump_json
from slogpt_hf.errors import CheckpointError
from slogpt_hf.files import sha256_of
from slogpt_hf.settings import Settings
from slogpt_hf.signing import SIGNATURE_FILE, sign_artefact


def stamped(
    folder: Path, record: Record, work: Path, settings: Settings
) -> tuple[dict[str, Path], Record]:
    """The files of a release and its record.

    Args:
        folder: the artefact, which stays as it is.
        record: with the release's version, tag, repository and ledger.
        work: folder for what is written anew.
        settings: the card's template; whether and with which key to sign.

    Returns:
        Path in the repository to file, and the record that is among them: it has the SHA-256 of
        every file but itself and the signature.

    Raises:
        CheckpointError: the record is not as slogpt-hf writes it: no ledger would know the release.
        UsageError: the card cannot be rendered, or the key not be used.
        HubError: the signing service refused or could not be reached.
    """
    if published_record(record) is None:
        raise CheckpointError(
            f"{folder / RECORD_FILE}: is not as this version writes it.",
            hint="Convert the checkpoint again.",
        )
    card = work / CARD_FILE
    card.write_text(card_for(folder, record, settings), encoding="utf-8")
    record = record | {"files": record["files"] | {CARD_FILE: sha256_of(card)}}
    (work / RECORD_FILE).write_text(dump_json(record), encoding="utf-8")
    files = artefact_files(folder) | {CARD_FILE: card, RECORD_FILE: work / RECORD_FILE}
    if settings.sign:
        named = work / "signed" / record["repo_id"].rpartition("/")[2]
        key = Path(settings.signing_key) if settings.signing_key else None
        for name, path in files.items():
            (named / name).parent.mkdir(parents=True, exist_ok=True)
            (named / name).symlink_to(path.resolve())
        sign_artefact(named, work / SIGNATURE_FILE, key=key)
        files[SIGNATURE_FILE] = work / SIGNATURE_FILE
    return files, record
