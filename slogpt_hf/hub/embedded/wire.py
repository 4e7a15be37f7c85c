"""Requests, responses and refusals: the values that pass between the sockets and the handlers."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

JSON_LIMIT = 16 * 1024 * 1024


class RefusalError(Exception):
    """An answer other than success; by its `X-Error-Code` the client picks an exception.

    Args:
        status: HTTP status.
        message: what is wrong, shown to the user by the client.
        code: `RepoNotFound`, `RevisionNotFound`, `EntryNotFound` or empty.
        headers: more response headers.
        extra: more members of the JSON body.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str = "",
        *,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.headers = dict(headers or {})
        self.extra = dict(extra or {})


@dataclass(frozen=True)
class FileSlice:
    """`length` bytes of the file `path` from `offset` on, sent without reading them into memory.

    A `temporary` file is removed when it is sent.
    """

    path: Path
    offset: int
    length: int
    temporary: bool = False


@dataclass(frozen=True)
class Response:
    """What goes back: `Content-Length` and `X-Request-Id` are added when it is sent."""

    status: int = 200
    body: bytes | FileSlice = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """One request as the handlers and `intercept` see it.

    Attributes:
        server: `"api"` or `"lfs"`, the socket on which it arrived.
        method: in capitals; a HEAD request keeps its name.
        path: percent-decoded segments, so that a revision with slashes is one segment.
        query: every value of every query parameter.
        headers: names in lower case.
        body: the request body, readable once.
        proceed: computes the hub's own answer; an interceptor may call it and then lose the answer.
    """

    server: str
    method: str
    path: tuple[str, ...]
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    body: io.BufferedReader
    proceed: Callable[[], Response]

    def first(self, name: str, default: str = "") -> str:
        """First value of a query parameter."""
        return self.query.get(name, [default])[0]

    def json(self) -> dict[str, Any]:
        """The body as a JSON object; an empty body is an empty object."""
        data = self.body.read(JSON_LIMIT + 1)
        if len(data) > JSON_LIMIT:
            raise RefusalError(413, f"The request body is larger than {JSON_LIMIT} bytes.")
        try:
            value = json.loads(data or b"{}")
        except (ValueError, RecursionError):
            raise RefusalError(400, "The request body is not JSON.") from None
        if not isinstance(value, dict):
            raise RefusalError(400, "The request body is not a JSON object.")
        return value


class FixedBody(io.RawIOBase):
    """The next `length` bytes of a socket; a connection that ends before is an error."""

    def __init__(self, source: BinaryIO, length: int) -> None:
        self._source = source
        self._left = length

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)[: self._left]
        if not view:
            return 0
        count = self._source.readinto(view)  # type: ignore[attr-defined]
        if not count:
            raise ConnectionAbortedError("the connection ended inside a request body")
        self._left -= count
        return int(count)


class ChunkedBody(io.RawIOBase):
    """A body in chunked transfer coding (RFC 9112, section 7.1)."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._left = 0
        self._done = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._done:
            return 0
        if not self._left:
            self._left = self._chunk_size()
            if not self._left:
                while self._source.readline(65537) not in (b"\r\n", b"\n", b""):
                    pass
                self._done = True
                return 0
        view = memoryview(buffer)[: self._left]
        count = self._source.readinto(view)  # type: ignore[attr-defined]
        if not count:
            raise ConnectionAbortedError("the connection ended inside a request body")
        self._left -= count
        if not self._left:
            self._source.readline(3)
        return int(count)

    def _chunk_size(self) -> int:
        size = self._source.readline(1025).split(b";")[0].strip()
        if not re.fullmatch(rb"[0-9A-Fa-f]{1,15}", size):  # int() takes more, such as a sign
            raise ConnectionAbortedError("malformed chunked request body")
        return int(size, 16)


def json_response(
    value: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """`value` as JSON; dates and other YAML scalars become strings."""
    body = json.dumps(value, default=str).encode()
    return Response(
        status, body, {"Content-Type": "application/json; charset=utf-8", **(headers or {})}
    )


def text_response(
    text: str, content_type: str = "text/plain; charset=utf-8", status: int = 200
) -> Response:
    return Response(status, text.encode("utf-8", "replace"), {"Content-Type": content_type})


def header_text(text: str) -> str:
    """`text` with everything replaced that cannot stand in a header field."""
    return "".join(c if " " <= c <= "~" else "?" for c in text)


def refusal_response(refusal: RefusalError) -> Response:
    """The Hub's error form: JSON `error`, `X-Error-Code`, `X-Error-Message`."""
    headers = {"X-Error-Message": header_text(refusal.message), **refusal.headers}
    if refusal.code:
        headers["X-Error-Code"] = refusal.code
    return json_response({"error": refusal.message, **refusal.extra}, refusal.status, headers)
