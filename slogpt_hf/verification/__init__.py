"""Whether a published release is what was proven: its record, its files, its proof, its signature.

What the hub says and what it serves are not believed: digests are those of the bytes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from slogpt_hf.card.record import CARD_FILE, RECORD_FILE, REPORT_FILE, Record, is_record
from slogpt_hf.checkpoints.assumptions import Assumption
from slogpt_hf.errors import SloGPTError, UsageError
from slogpt_hf.hub.client import Hub
from slogpt_hf.hub.tree import files_at
from slogpt_hf.hub.versions import require_ref
from slogpt_hf.parity.stated import stated
from slogpt_hf.progress import SILENT, Progress
from slogpt_hf.settings import Settings
from slogpt_hf.signing import (
    SIGNATURE_FILE,
    SignatureError,
    Signer,
    require_signer,
    signed_files,
)
from slogpt_hf.verification.checks import (
    check_files,
    check_parity,
    check_record,
    check_signature,
    own_files,
    parsed,
)
from slogpt_hf.verification.code import check_code
from slogpt_hf.verification.contents import Contents, commit_of_tag, hash_contents, read_texts
from slogpt_hf.verification.levels import check_level
from slogpt_hf.verification.results import FAILED, NOT_CHECKED, Check

TEXTS = (RECORD_FILE, REPORT_FILE, SIGNATURE_FILE, CARD_FILE)
MOST_TEXT_BYTES = 1 << 26  # of what is read into memory
CHECKS = ("record", "files", "parity", "level", "code", "signature")

__all__ = ["Check", "ReleaseError", "Verification", "parse_release", "verify_release"]


class ReleaseError(SloGPTError):
    """A published release that is not what was proven."""

    exit_code = 4


@dataclass(frozen=True)
class Verification:
    """What was found out about a release.

    Attributes:
        repo_id: NAMESPACE/NAME.
        tag: of the release.
        commit: id of the commit that the tag names.
        endpoint: base URL of the hub.
        checks: one each of CHECKS.
        others: files beside the release's own, sorted.
        level: what the report says that the proof rests on; None where it does not say.
        assumptions: what no file records and no witness confirmed, by the report.
    """

    repo_id: str
    tag: str
    commit: str
    endpoint: str
    checks: tuple[Check, ...]
    others: tuple[str, ...]
    level: str | None = None
    assumptions: tuple[Assumption, ...] = ()

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the checks that failed."""
        return tuple(check.name for check in self.checks if check.status == FAILED)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values; ``ok`` is whether nothing failed."""
        return {"ok": not self.failed, **asdict(self)}


def parse_release(release: str) -> tuple[str, str]:
    """Repository and tag of ``NAMESPACE/NAME@TAG``.

    Raises:
        UsageError: it is not of this form.
    """
    repo_id, _, tag = release.rpartition("@")
    if not repo_id or not tag:
        raise UsageError(
            f"{release[:100]!r} is not REPO@TAG.", hint="Write e.g. me/my-model@v1.0.0."
        )
    Settings(repo_id=repo_id)
    require_ref(tag, "tag")
    return repo_id, tag


def verify_release(
    hub: Hub,
    repo_id: str,
    tag: str,
    *,
    signer: Signer | None = None,
    require_signature: bool = False,
    download: bool = True,
    progress: Progress = SILENT,
) -> Verification:
    """Check a release against its record, its proof and its signature.

    Args:
        hub: where it is.
        repo_id: NAMESPACE/NAME.
        tag: of the release.
        signer: who has to have signed it; None to leave a signature unchecked.
        require_signature: whether a signature that is missing or unchecked is a failure too.
        download: whether large files are downloaded and hashed; else the hub's own digests count.
        progress: told of the downloads.

    Raises:
        UsageError: there is no such tag, or the signer's key cannot be used.
        HubError: the hub or Sigstore refused or could not be reached.
    """
    if signer:
        require_signer(signer)
    commit = commit_of_tag(hub, repo_id, tag)
    tree = files_at(hub, repo_id, commit)
    small = [name for name in TEXTS if name in tree and tree[name].n_bytes <= MOST_TEXT_BYTES]
    texts = read_texts(hub, repo_id, commit, tree, small)
    record = parsed(texts.get(RECORD_FILE, b""))
    if not is_record(record):
        detail = f"{RECORD_FILE} {'is no record' if RECORD_FILE in tree else 'is missing'}"
        checks = [Check("record", FAILED, f"{detail}: this is no release of slogpt-hf")]
        checks += [Check(name, NOT_CHECKED, "there is no record") for name in CHECKS[1:]]
        return Verification(
            repo_id, tag, commit, hub.shown_endpoint, tuple(checks), tuple(sorted(tree))
        )
    signed = _signed(texts.get(SIGNATURE_FILE), signer)
    names = {*record["files"], *(signed if isinstance(signed, dict) else ())} & tree.keys()
    contents = hash_contents(
        hub, repo_id, commit, tree, texts, names, download=download, progress=progress
    )
    return judged(
        *(hub.shown_endpoint, repo_id, tag, commit, record, contents),
        signed=signed,
        signer=signer,
        require_signature=require_signature,
        download=download,
    )


def judged(
    endpoint: str,
    repo_id: str,
    tag: str,
    commit: str,
    record: Record,
    contents: Contents,
    *,
    signed: dict[str, str] | SignatureError | None = None,
    signer: Signer | None = None,
    require_signature: bool = False,
    download: bool = True,
) -> Verification:
    """The checks of a release whose files were read.

    Args:
        endpoint: base URL of the hub that it is from.
        repo_id: NAMESPACE/NAME.
        tag: of the release.
        commit: that the files are of.
        record: of the release.
        contents: with the digests of all files that the record lists and that are there.
        signed: what ``signer`` vouches for; why nothing; None if nothing could be looked at.
        signer: whose signature it has to be; None for no one's.
        require_signature: whether a signature that is missing or unchecked is a failure too.
        download: whether the digests are those of the bytes.
    """
    report = parsed(contents.texts.get(REPORT_FILE, b""))
    checks = (
        check_record(record, repo_id, tag),
        check_files(record, contents, download=download),
        check_parity(record, contents),
        check_level(record, report),
        check_code(record, contents),
        check_signature(record, contents, signed, signer, required=require_signature),
    )
    found = stated(report if isinstance(report, dict) else None)
    return Verification(
        *(repo_id, tag, commit, endpoint, checks),
        others=tuple(sorted(contents.tree.keys() - own_files(record))),
        level=found.level,
        assumptions=found.assumptions,
    )


def _signed(
    signature: bytes | None, signer: Signer | None
) -> dict[str, str] | SignatureError | None:
    """What the signer vouches for, path to SHA-256; None where nothing could be looked at."""
    if signature is None or signer is None:
        return None
    try:
        return signed_files(signature, signer)
    except SignatureError as error:
        return error
