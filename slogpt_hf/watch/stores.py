"""Checkpoints in object stores: found by URL or glob, known without a download where possible."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from slogpt_hf.errors import CheckpointError, HubError, SloGPTError, UsageError, first_line
from slogpt_hf.files import DISK_ERRORS
from slogpt_hf.progress import SILENT, Progress
from slogpt_hf.redaction import REMOVED, register_secret, without_secrets
from slogpt_hf.watch import web
from slogpt_hf.watch.candidate import Candidate
from slogpt_hf.watch.patterns import compiled, fixed_folder, is_glob
from slogpt_hf.watch.provenance import Provenance

WEB = ("https", "http")
# Scheme to the extra of slogpt-hf that brings what reads it; None where nothing is missing.
EXTRAS = {
    "s3": "s3",
    "s3a": "s3",
    "gs": "gcs",
    "gcs": "gcs",
    "abfs": "azure",
    "abfss": "azure",
    "az": "azure",
    "hf": None,
    "file": None,
    "memory": None,
}
ACCESS_HINTS = {
    "s3": "Set AWS_ACCESS_KEY_ID and so on; for a public bucket FSSPEC_S3_ANON=true.",
    "gcs": "Set GOOGLE_APPLICATION_CREDENTIALS; for a public bucket FSSPEC_GS_TOKEN=anon.",
    "azure": "Set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or FSSPEC_ABFS_ANON.",
    "hf": "Set HF_TOKEN to a token that may read it.",
}
# What file systems call the same facts, the most telling first.
ETAGS = ("ETag", "etag", "xet_hash", "generation", "blob_id")
TIMES = ("LastModified", "last_modified", "mtime", "updated", "uploaded_at", "created")
SHA256 = re.compile(r"[0-9a-f]{64}")

# Place of a candidate to its URL as it was given, where that holds a secret: plans are printed and
# written, and what fetches a candidate gets nothing but the candidate.
_entrusted: dict[str, str] = {}
# Id of an object to its SHA-256, of what was downloaded before.
_learned: dict[str, str] = {}


@dataclass(frozen=True)
class _Object:
    """What a store tells of an object; ``etag`` stands for its content."""

    name: str
    place: str
    n_bytes: int | None
    time: float | None
    etag: str | None
    sha256: Callable[[], str | None]


def store_candidates(
    urls: Sequence[str], known: Sequence[Mapping[str, Any]]
) -> tuple[Candidate, ...]:
    """Checkpoints in object stores, the oldest first. Nothing of them is downloaded.

    The digest of an object is that of the release in ``known`` that came from the same URL with the
    same etag, or what was learned of that, or else what the store itself tells: the Hub of LFS
    files, S3 of objects that were uploaded in one piece with a SHA-256.

    Args:
        urls: of objects, or with a glob in the path; ``https://`` takes no globs.
        known: entries of the hub's ledger.

    Raises:
        UsageError: a URL cannot be meant, names nothing, or its extra is not installed.
        HubError: a store refused or could not be reached.
    """
    released = _released(known)
    found = {each.place: each for url in urls for each in _objects(url)}
    candidates = [_candidate(each, released) for each in found.values()]
    return tuple(sorted(candidates, key=lambda each: (each.time or 0, each.name)))


def object_id(url: str | None, etag: str | None) -> str | None:
    """What stands for the content of an object; None where nothing does."""
    if url is None or etag is None:
        return None
    return hashlib.sha256(json.dumps([url, etag]).encode()).hexdigest()


def learn(digests: Mapping[str, str]) -> None:
    """Have candidates know the SHA-256 of objects that were downloaded before, by their ids."""
    _learned.update(digests)


def forget(identity: str) -> None:
    """Take back what was learned of an object."""
    _learned.pop(identity, None)


def fetch_object(candidate: Candidate, file: Path, progress: Progress = SILENT) -> None:
    """Download an object; ``file`` appears only when whole and still what was planned.

    Size and etag are compared. The SHA-256 is for the caller to check, who needs it anyway.

    Raises:
        CheckpointError: it changed since it was found, or while it was downloaded.
        UsageError: it is not there any more.
        HubError: the store refused or could not be reached.
    """
    url = _entrusted.get(candidate.place, candidate.place)
    work = file.with_name(f".{file.name}.partial-{os.getpid()}")
    try:
        with readable_errors(candidate.name, _scheme(url)):
            etag = _download(url, work, candidate.n_bytes or 0, progress)
        n_bytes, planned = work.stat().st_size, candidate.provenance.etag
        is_other = None not in (etag, planned) and etag != planned
        if candidate.n_bytes not in (None, n_bytes) or is_other:
            raise CheckpointError(
                f"{candidate.name}: changed since it was planned.",
                hint="Plan again when nothing writes to it.",
            )
        work.replace(file)
    finally:
        work.unlink(missing_ok=True)


@contextmanager
def readable_errors(name: str, scheme: str) -> Iterator[None]:
    """Turn whatever reads a store raises into one message.

    Raises:
        UsageError: an object or bucket is not there.
        HubError: anything else, of whatever library it is.
    """
    try:
        yield
    except SloGPTError:
        raise
    except FileNotFoundError as error:
        raise UsageError(
            f"{name}: no such object.", hint="Check the URL, and that it may be seen."
        ) from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            raise  # of the disk here
        said = first_line(without_secrets(str(error) or type(error).__name__))
        is_access = isinstance(error, PermissionError) or "redentials" in type(error).__name__
        if is_access:
            hint = ACCESS_HINTS.get(EXTRAS.get(scheme) or scheme, "Check who may read it.")
        else:
            hint = "Check the network and the URL; run again."
        verb = "cannot be read" if is_access else "cannot be reached"
        raise HubError(f"{name}: {verb} ({said}).", hint=hint) from error


def _candidate(found: _Object, released: Mapping[tuple[str, str | None], str]) -> Candidate:
    learned = _learned.get(object_id(found.name, found.etag) or "")
    return Candidate(
        name=found.name,
        kind="store",
        place=found.place,
        provenance=Provenance(url=found.name, etag=found.etag),
        time=found.time,
        sha256=released.get((found.name, found.etag)) or learned or found.sha256(),
        n_bytes=found.n_bytes,
    )


def _released(known: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str | None], str]:
    """URL and etag of releases to the SHA-256 of their checkpoint; the newest release counts."""
    return {
        (entry["source"].get("url"), entry["source"].get("etag")): digest
        for entry in reversed(known)
        if isinstance(entry["source"].get("etag"), str)
        and isinstance(digest := entry["checkpoint"].get("sha256"), str)
    }


def _objects(url: str) -> Iterator[_Object]:
    scheme, _, rest = url.partition("://")
    scheme = scheme.lower()
    if scheme in WEB:
        yield _web_object(url)
        return
    url = f"{scheme}://{rest}"
    if scheme not in EXTRAS:
        raise UsageError(
            f"{without_secrets(url)}: {scheme}:// is no known object store.",
            hint=f"Known are {', '.join(f'{name}://' for name in (*WEB, *EXTRAS))}.",
        )
    extra, bucket = EXTRAS[scheme], rest.partition("/")[0]
    # A secret key may hold a slash, so that no part of the URL is shown.
    if extra in ("s3", "gcs") and ("@" in bucket or _is_user(bucket)):
        raise UsageError(
            f"{scheme}://{REMOVED}: has credentials in it.", hint=ACCESS_HINTS[extra or ""]
        )
    if extra is not None and is_glob(bucket):
        raise UsageError(f"{url}: names no bucket.", hint="Write globs behind the bucket alone.")
    with readable_errors(url, scheme):
        system = _file_system(scheme)
        infos = _listed(system, url) if is_glob(rest) else {url: system.info(url)}
        for name, info in infos.items():
            if info["type"] == "directory":
                raise UsageError(
                    f"{name}: is a folder.", hint="Name an object in it, or write a glob."
                )
            yield _stored_object(system, scheme, name, info)


def _listed(system: Any, url: str) -> dict[str, Any]:
    """URL to facts of the objects that a glob matches, in the language of ``patterns``."""
    scheme, _, glob = url.partition("://")
    root = fixed_folder(glob)
    place = system._strip_protocol(f"{scheme}://{root}")
    if scheme == "hf":
        place = system.resolve_path(place).unresolve()
    start, expression = place.strip("/") + "/", compiled(glob)
    above = f"{root.rstrip('/')}/" if root else ""
    found = {
        above + name.strip("/").removeprefix(start): info
        for name, info in system.find(place, detail=True).items()
    }
    return {
        f"{scheme}://{name}": info
        for name, info in sorted(found.items())
        if expression.fullmatch(name)
    }


def _stored_object(system: Any, scheme: str, url: str, info: Mapping[str, Any]) -> _Object:
    path = info["name"]
    tells_checksum = EXTRAS[scheme] == "s3"
    return _Object(
        name=url,
        place=url,
        n_bytes=info.get("size"),
        time=_time(info),
        etag=_etag(info),
        sha256=(lambda: _s3_sha256(system, path)) if tells_checksum else lambda: _lfs_sha256(info),
    )


def _web_object(url: str) -> _Object:
    try:
        parts = urlsplit(url)
        is_whole = bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_whole = False
    if not is_whole:
        raise UsageError(f"{without_secrets(url)}: is no URL.", hint="Check it.")
    host = parts.netloc.rpartition("@")[2]
    name = parts._replace(netloc=host, query="", fragment="").geturl()
    if is_glob(parts.path):
        raise UsageError(
            f"{name}: a web server does not list what it has.", hint="Name each object by its URL."
        )
    for secret in (parts.password, parts.username, parts.query):
        register_secret(unquote(secret) if secret else None)
    with readable_errors(name, parts.scheme):
        told = web.look(url)
    etag = told.etag or _fallback_etag(told.n_bytes, told.time)
    return _Object(name, _place(url, name), told.n_bytes, told.time, etag, lambda: None)


def _place(url: str, name: str) -> str:
    """What stands for ``url`` in a candidate: nothing of a secret, not even a hash."""
    if url == name:
        return name
    known = (place for place, given in _entrusted.items() if given == url)
    place = next(known, None) or f"{name}#{len(_entrusted) + 1}"
    _entrusted[place] = url
    return place


def _download(url: str, file: Path, n_bytes: int, progress: Progress) -> str | None:
    """Write an object to ``file``; the etag of what was written."""
    scheme = _scheme(url)
    if scheme in WEB:
        with progress.stage("fetch", n_bytes) as advance:
            told = web.download(url, file, advance)
        return told.etag or _fallback_etag(told.n_bytes, told.time)
    system = _file_system(scheme)
    path = system._strip_protocol(url)
    if scheme == "hf":  # with a callback it reads block by block
        with progress.client_stage("fetch", n_bytes):
            system.get_file(path, str(file))
    else:
        with progress.stage("fetch", n_bytes) as advance:
            system.get_file(path, str(file), callback=_counted(advance))
    system.invalidate_cache()
    return _etag(system.info(url))


def _counted(advance: Callable[[int], None]) -> Any:
    from fsspec.callbacks import Callback

    class Counted(Callback):  # type: ignore[misc, unused-ignore]
        def relative_update(self, inc: int = 1) -> None:
            advance(inc)

    return Counted()


def _file_system(scheme: str) -> Any:
    """What reads a store, without what it remembers of an earlier look.

    Raises:
        UsageError: its extra is not installed.
    """
    import fsspec

    options: dict[str, Any] = {}
    try:
        if scheme == "hf":
            from huggingface_hub import get_token

            # While a release is planned, the client does not look for a token by itself.
            options = {"token": get_token(), "expand_info": True}
            options["endpoint"] = os.environ.get("HF_ENDPOINT") or None
        system = fsspec.filesystem(scheme, **options)
    except (ImportError, ValueError) as error:
        extra = EXTRAS[scheme]
        package = f"'slogpt-hf[{extra}]'" if extra else "--upgrade huggingface_hub fsspec"
        raise UsageError(
            f"{scheme}:// needs more than what is installed ({first_line(error)}).",
            hint=f"Run: pip install {package}",
        ) from error
    system.invalidate_cache()
    return system


def _is_user(bucket: str) -> bool:
    """Whether what stands for a bucket is the start of ``USER:PASSWORD@BUCKET``."""
    return ":" in bucket and not bucket.startswith("arn:")


def _scheme(url: str) -> str:
    return url.partition("://")[0].lower()


def _etag(info: Mapping[str, Any]) -> str | None:
    told = next((info[name] for name in ETAGS if info.get(name)), None)
    if told is not None:
        return str(told).strip('"')
    return _fallback_etag(info.get("size"), _time(info))


def _fallback_etag(n_bytes: int | None, time: float | None) -> str | None:
    return None if n_bytes is None or time is None else f"{n_bytes}-{time:.6f}"


def _time(info: Mapping[str, Any]) -> float | None:
    """When an object was last changed, in seconds since 1970."""
    told = next((info[name] for name in TIMES if info.get(name)), None)
    told = told or getattr(info.get("last_commit"), "date", None)
    with suppress(ValueError):
        told = datetime.fromisoformat(told) if isinstance(told, str) else told
    if isinstance(told, datetime):
        return (told if told.tzinfo else told.replace(tzinfo=UTC)).timestamp()
    return float(told) if isinstance(told, int | float) else None


def _lfs_sha256(info: Mapping[str, Any]) -> str | None:
    """SHA-256 of a file that the Hub holds as a Git LFS object."""
    told = getattr(info.get("lfs"), "sha256", None)
    return told if isinstance(told, str) and SHA256.fullmatch(told) else None


def _s3_sha256(system: Any, path: str) -> str | None:
    """SHA-256 of a whole S3 object; None where S3 has none, or only one of its parts' digests.

    Source: "Checking object integrity", https://docs.aws.amazon.com/AmazonS3/latest/userguide/.
    """
    bucket, key, _ = system.split_path(path)
    try:
        reply = system.call_s3("head_object", Bucket=bucket, Key=key, ChecksumMode="ENABLED")
        told = reply.get("ChecksumSHA256") or ""
        digest = base64.b64decode(told, validate=True).hex()
    except Exception:  # "-N" follows where it is of N parts; who may not ask may still download
        return None
    is_whole = reply.get("ChecksumType") in (None, "FULL_OBJECT")
    return digest if is_whole and SHA256.fullmatch(digest) else None
