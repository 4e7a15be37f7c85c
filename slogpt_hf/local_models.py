"""The models below a folder such as ``models/``: what was downloaded, and what was converted."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from slogpt_hf.card.record import RECORD_FILE, Record, is_record
from slogpt_hf.errors import UsageError
from slogpt_hf.files import bytes_below, is_folder, sha256_of
from slogpt_hf.parity.stated import stated
from slogpt_hf.verification.results import is_figure

METADATA_FILE = "hf_metadata.json"
FOLDERS = ("models", "hf_models")  # the second is where models used to be downloaded to
MOST_METADATA_BYTES = 1 << 16
MOST_RECORD_BYTES = 1 << 26
HASHED_BYTES = 1 << 20  # of larger files only the presence is looked at


@dataclass(frozen=True)
class Metadata:
    """What METADATA_FILE says of a download; the first four are as ever, None is not known.

    Attributes:
        model_id: repository on the hub.
        local_name: name of the folder.
        download_time: ISO 8601, or as it was written in seconds since 1970.
        repo_url: where it is from.
        revision: branch, tag or commit that was asked for.
        commit: that it named.
        tag: of the release, if it named this commit.
        checked: whether the checks of a release passed when it was downloaded.
    """

    model_id: str | None
    local_name: str | None
    download_time: str | None
    repo_url: str | None
    revision: str | None = None
    commit: str | None = None
    tag: str | None = None
    checked: bool = False


@dataclass(frozen=True)
class LocalModel:
    """A model in a folder.

    Attributes:
        name: of its folder.
        path: of its folder.
        kind: ``downloaded`` or ``converted``.
        origin: repository on the hub, or the checkpoint that it was converted from.
        revision: what was downloaded: tag, branch or commit; of a converted one the git commit
            that its checkpoint was found on.
        commit: on the hub; None of a converted one.
        date: ISO 8601; when it was downloaded or converted.
        n_bytes: of all its files.
        repo_url: where it was downloaded from.
        parity: what its record says of the proof: verdict, level, fp64_error, fp32_error; None
            of what is no release or artefact of slogpt-hf.
        proof: ``checked`` where the release was checked when it was downloaded, ``recorded`` where
            only its record says so, ``changed`` where a file is missing or a small one is not the
            one that the record lists; None without a record.
    """

    name: str
    path: str
    kind: str
    origin: str | None
    revision: str | None
    commit: str | None
    date: str | None
    n_bytes: int
    repo_url: str | None
    parity: Mapping[str, Any] | None
    proof: str | None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        content = asdict(self)
        content["bytes"] = content.pop("n_bytes")
        return content


def list_models(folders: Sequence[Path] = ()) -> list[LocalModel]:
    """The models directly below folders, by folder and name.

    Args:
        folders: where to look; those of FOLDERS that are there if empty.

    Raises:
        UsageError: a named folder is not there or cannot be read.
    """
    for folder in folders:
        if not is_folder(folder):
            raise UsageError(f"{folder}: no such folder.", hint="Name one that holds models.")
    found = folders or [path for path in map(Path, FOLDERS) if is_folder(path)]
    return [model for folder in found for model in _models_in(folder)]


def downloads_in(folders: Sequence[Path]) -> list[Metadata]:
    """What METADATA_FILE says, of every folder directly below ``folders`` that has one."""
    found = (read_metadata(path) for folder in folders for path in _folders_in(folder))
    return [metadata for metadata in found if metadata is not None]


def read_metadata(folder: Path) -> Metadata | None:
    """What METADATA_FILE of a folder says; None if there is none that can be read."""
    found = _json(folder / METADATA_FILE, MOST_METADATA_BYTES)
    if not isinstance(found, dict):
        return None
    texts = {
        name: str(found[name]) if isinstance(found.get(name), str | int | float) else None
        for name in ("model_id", "local_name", "download_time", "repo_url")
    }
    more = {
        name: found[name] if isinstance(found.get(name), str) else None
        for name in ("revision", "commit", "tag")
    }
    return Metadata(**texts, **more, checked=isinstance(found.get("checks"), dict))


def date_of(text: str | None) -> str | None:
    """A date as ISO 8601 in UTC; the script of old wrote seconds since 1970 as text."""
    try:
        then = datetime.fromtimestamp(float(text or ""), UTC)
    except (ValueError, OverflowError, OSError):
        return text
    return then.strftime("%Y-%m-%dT%H:%M:%SZ")


def _models_in(folder: Path) -> Iterator[LocalModel]:
    for path in _folders_in(folder):
        record, metadata = _record_in(path), read_metadata(path)
        if record is None and metadata is None:
            continue
        yield _model(path, metadata, record)


def _folders_in(folder: Path) -> list[Path]:
    try:
        return sorted(
            path for path in folder.iterdir() if is_folder(path) and not path.name.startswith(".")
        )
    except OSError as error:
        raise UsageError(
            f"{folder}: cannot be read: {error.strerror}.", hint="Check its permissions."
        ) from error


def _model(path: Path, metadata: Metadata | None, record: Record | None) -> LocalModel:
    source, checkpoint = (record[n] if record else {} for n in ("source", "checkpoint"))
    origin, revision = _text(checkpoint.get("file")), _text(source.get("commit"))
    date = _text(record.get("date")) if record else None
    if metadata:
        origin, revision = metadata.model_id, metadata.tag or metadata.revision
        date = date_of(metadata.download_time)
    return LocalModel(
        name=path.name,
        path=str(path),
        kind="downloaded" if metadata else "converted",
        origin=origin,
        revision=revision,
        commit=metadata.commit if metadata else None,
        date=date,
        n_bytes=bytes_below(path),
        repo_url=metadata.repo_url if metadata else None,
        parity=parity_facts(record["parity"]) if record else None,
        proof=_proof(path, metadata, record),
    )


def parity_facts(parity: Mapping[str, Any]) -> dict[str, Any]:
    """What is told of a proof beside a model: verdict, level and the errors as figures."""
    found = stated(parity)
    errors = {name: parity.get(name) for name in ("fp64_error", "fp32_error")}
    return {
        "verdict": found.verdict,
        "level": found.level,
        **{name: value if is_figure(value) else None for name, value in errors.items()},
    }


def _proof(path: Path, metadata: Metadata | None, record: Record | None) -> str | None:
    if record is None:
        return None
    for name, digest in record["files"].items():
        file = path / name
        safe = ".." not in Path(name).parts and not Path(name).is_absolute()
        if not safe or file.is_symlink() or not file.is_file():
            return "changed"
        if file.stat().st_size <= HASHED_BYTES and sha256_of(file) != digest:
            return "changed"
    return "checked" if metadata and metadata.checked else "recorded"


def _record_in(folder: Path) -> Record | None:
    record = _json(folder / RECORD_FILE, MOST_RECORD_BYTES)
    return record if is_record(record) else None


def _json(path: Path, most_bytes: int) -> Any:
    """The value of a JSON file; None of anything else, and of what is no plain file."""
    try:
        if not path.is_file() or path.stat().st_size > most_bytes:
            return None
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
