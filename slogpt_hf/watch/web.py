"""Objects behind ``https://``: what a server tells of one, and its download."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx2

CONNECT_SECONDS = 20.0
SILENT_SECONDS = 120.0  # without a byte
PIECE = 1 << 20
# To HEAD; a signed URL is signed for GET alone, and some servers know nothing else.
ASK_BY_GET = frozenset({400, 403, 405, 501})


@dataclass(frozen=True)
class WebObject:
    """What a server tells of an object; None for what it does not.

    Attributes:
        n_bytes: size.
        etag: the strong one, without its quotes; a weak one stands for unlike contents too.
        time: of the last change, in seconds since 1970.
    """

    n_bytes: int | None
    etag: str | None
    time: float | None


def look(url: str) -> WebObject:
    """What the server tells of an object, of which nothing is downloaded; redirects are followed.

    Raises:
        FileNotFoundError: there is none.
        PermissionError: the server does not let it be read.
        httpx2.HTTPError: the server could not be reached, or failed.
    """
    with _client() as client:
        reply = client.head(url)
        if reply.status_code not in ASK_BY_GET:
            return _told(reply)
        with client.stream("GET", url) as reply:
            return _told(reply)


def download(url: str, file: Path, advance: Callable[[int], None]) -> WebObject:
    """Write an object to ``file``; what the server tells of the content that it sent.

    Raises:
        FileNotFoundError, PermissionError, httpx2.HTTPError: as for ``look``.
        OSError: ``file`` cannot be written.
    """
    with _client() as client, client.stream("GET", url) as reply, file.open("wb") as target:
        told = _told(reply)
        for piece in reply.iter_bytes(PIECE):
            target.write(piece)
            advance(len(piece))
    return told


@contextmanager
def _client() -> Iterator[httpx2.Client]:
    import httpx2

    timeout = httpx2.Timeout(SILENT_SECONDS, connect=CONNECT_SECONDS)
    headers = {"Accept-Encoding": "identity"}  # else size and etag are those of another form
    with httpx2.Client(timeout=timeout, headers=headers, follow_redirects=True) as client:
        yield client


def _told(reply: httpx2.Response) -> WebObject:
    """Format: sections 8.6 and 8.8 of RFC 9110."""
    if reply.status_code in (404, 410):
        raise FileNotFoundError
    if reply.status_code in (401, 403, 407):
        raise PermissionError(f"status {reply.status_code}")
    reply.raise_for_status()
    length, etag = reply.headers.get("content-length", ""), reply.headers.get("etag", "")
    is_plain = reply.headers.get("content-encoding", "identity") == "identity"
    is_number = length.isascii() and length.isdecimal() and len(length) < 19
    try:
        time = parsedate_to_datetime(reply.headers.get("last-modified", "")).timestamp()
    except (ValueError, OverflowError):
        time = None
    return WebObject(
        n_bytes=int(length) if is_plain and is_number else None,
        etag=None if etag.startswith("W/") else etag.strip('"') or None,
        time=time,
    )
