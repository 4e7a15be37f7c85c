"""Two listening sockets in one process: the API, and the LFS objects.

They are apart because the client follows a redirect within one origin and would then lose the
headers (`X-Repo-Commit`) of the answer that redirected it.
"""

from __future__ import annotations

import io
import logging
import re
import secrets
import shutil
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import parse_qs, unquote, urlsplit

from slogpt_hf.errors import HubError, UsageError
from slogpt_hf.hub.embedded import routes, xet_xorbs
from slogpt_hf.hub.embedded.context import Hub
from slogpt_hf.hub.embedded.lfs import Signer
from slogpt_hf.hub.embedded.store import open_store
from slogpt_hf.hub.embedded.wire import (
    ChunkedBody,
    FileSlice,
    FixedBody,
    RefusalError,
    Request,
    Response,
    refusal_response,
)

Intercept = Callable[[Request], Response | None]

DRAIN_LIMIT = 64 * 1024 * 1024
IDLE_SECONDS = 120.0
STOP_SECONDS = 5.0
_REQUEST_ID = re.compile(r"[!-~]{1,200}")

_logger = logging.getLogger("slogpt_hf.hub.embedded")


@dataclass(frozen=True)
class RunningHub:
    """A hub that answers until the `serve` context ends.

    Attributes:
        endpoint: value for `HF_ENDPOINT`, without a slash at the end.
        lfs_endpoint: where LFS objects travel; clients learn it from the API.
        folder: the hub's folder, absolute.
        xet: whether clients may upload by the Xet protocol.
    """

    endpoint: str
    lfs_endpoint: str
    folder: Path
    xet: bool
    _stopped: threading.Event = field(repr=False, compare=False)

    def wait(self) -> None:
        """Block until the hub stops; KeyboardInterrupt passes through."""
        self._stopped.wait()


@contextmanager
def serve(
    folder: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    token: str | None = None,
    xet: bool = True,
    intercept: Intercept | None = None,
) -> Iterator[RunningHub]:
    """Serve the Hugging Face Hub's HTTP protocol over a folder of bare git repositories.

    Args:
        folder: where the repositories are, as `NAMESPACE/NAME.git`; created if absent.
        host: address to listen on.
        port: port of the API, 0 for any; the LFS socket takes the next port if that is free.
        token: when given, writing and reading private repositories need it.
        xet: whether to speak the Xet protocol too; needs the package `lz4`, without which the hub
            is one without Xet, and clients need `HF_HUB_DISABLE_XET=1` to upload.
        intercept: called with every request before it is handled; what it returns is the answer.
            It may raise ConnectionError to drop the connection without one.

    Raises:
        UsageError: the folder cannot be written, or the address not be listened on.
        HubError: git is not installed.
    """
    if shutil.which("git") is None:
        raise HubError("The embedded hub needs git, which is not on PATH.", hint="Install git.")
    if token is not None and not token.strip():
        raise UsageError("The hub's token is empty.", hint="Give a token, or none at all.")
    stopped = threading.Event()
    with ExitStack() as stack:
        store = stack.enter_context(open_store(folder))
        stack.callback(stopped.set)
        speaks_xet = xet and xet_xorbs.is_available()
        xorbs = store.incoming / f"xet-{secrets.token_hex(8)}" if speaks_xet else None
        if xorbs:
            stack.callback(shutil.rmtree, xorbs, ignore_errors=True)
        api = _listen(host, port, stack)
        lfs = _listen_beside(host, port, stack)
        signer = Signer(secrets.token_bytes(32))
        hub = Hub(store, _url_host(host), api.port, lfs.port, token, signer, xorbs)
        for server, name in ((api, "api"), (lfs, "lfs")):
            server.start(name, hub, intercept)
        endpoint, lfs_endpoint = (f"http://{hub.host}:{port}" for port in (api.port, lfs.port))
        running = RunningHub(endpoint, lfs_endpoint, store.folder, speaks_xet, stopped)
        _logger.info("serving %s on %s", store.folder, running.endpoint)
        yield running


class _Server(socketserver.TCPServer):
    """A listening socket, its accepting thread, and one thread for each connection."""

    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, host: str, port: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Connection)
        self.port = int(self.server_address[1])
        self.name = ""
        self.hub: Hub | None = None
        self.intercept: Intercept | None = None
        self._acceptor: threading.Thread | None = None
        self._connections: dict[socket.socket, threading.Thread] = {}
        self._lock = threading.Lock()

    def start(self, name: str, hub: Hub, intercept: Intercept | None) -> None:
        self.name, self.hub, self.intercept = name, hub, intercept
        self._acceptor = threading.Thread(
            target=self.serve_forever, args=(0.1,), name=f"hub-{name}", daemon=True
        )
        self._acceptor.start()

    def stop(self) -> None:
        """Stop accepting, let running requests end, cut what does not end in time, join all."""
        if self._acceptor:
            self.shutdown()
            self._acceptor.join()
        self.server_close()
        with self._lock:
            connections = dict(self._connections)
        for how, seconds in ((socket.SHUT_RD, STOP_SECONDS), (socket.SHUT_RDWR, None)):
            for connection in connections:
                _shut(connection, how)
            for thread in connections.values():
                thread.join(seconds)

    def process_request(self, request: Any, client_address: Any) -> None:
        thread = threading.Thread(
            target=self._serve_connection, args=(request, client_address), daemon=True
        )
        with self._lock:
            self._connections[request] = thread
        thread.start()

    def _serve_connection(self, connection: socket.socket, client_address: Any) -> None:
        try:
            self.finish_request(connection, client_address)
        except OSError as error:
            _logger.debug("connection ended: %s", error)
        except Exception:
            _logger.exception("connection failed")
        finally:
            with self._lock:
                del self._connections[connection]
            self.shutdown_request(connection)


class _Connection(BaseHTTPRequestHandler):
    """HTTP/1.1 with keep-alive: a request is answered only once its body is off the wire."""

    protocol_version = "HTTP/1.1"
    server_version = "slogpt-hf"
    sys_version = ""
    timeout = IDLE_SECONDS
    disable_nagle_algorithm = True
    server: _Server

    def _handle(self) -> None:
        body: io.BufferedReader | None = None
        try:
            raw_body = self._raw_body()
            body = io.BufferedReader(raw_body, 256 * 1024)
            response = self._answer(body)
        except RefusalError as refusal:
            self.close_connection = True
            response = refusal_response(refusal)
        if body is not None and not _drain(body):
            self.close_connection = True
        self._send(response)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = _handle  # noqa: N815

    def _raw_body(self) -> io.RawIOBase:
        source = cast(BinaryIO, self.rfile)
        if self.headers.get("Transfer-Encoding", "identity").lower() == "chunked":
            return ChunkedBody(source)
        length = self.headers.get("Content-Length", "0")
        if not re.fullmatch(r"[0-9]{1,18}", length) or "Transfer-Encoding" in self.headers:
            raise RefusalError(400, "The length of the request body is not known.")
        return FixedBody(source, int(length))

    def _answer(self, body: io.BufferedReader) -> Response:
        hub = self.server.hub
        if hub is None:
            raise RefusalError(503, "The hub is starting.")
        target = urlsplit(self.path)
        request = Request(
            server=self.server.name,
            method=self.command,
            path=tuple(
                unquote(part, errors="surrogateescape")
                for part in target.path.removeprefix("/").split("/")
            ),
            query=parse_qs(target.query, keep_blank_values=True),
            headers={name.lower(): value for name, value in self.headers.items()},
            body=body,
            proceed=lambda: Response(),
        )
        request = replace(request, proceed=lambda: routes.answer(hub, request))
        try:
            intercepted = self.server.intercept(request) if self.server.intercept else None
            return intercepted or request.proceed()
        except OSError as error:
            if isinstance(error, (ConnectionError, TimeoutError)):
                raise
            # The answer says it; where in the server it was met helps nobody with a full disk.
            _logger.debug("%s %s failed", self.command, target.path, exc_info=True)
            return refusal_response(
                RefusalError(500, f"The hub's folder failed: {error.strerror}.")
            )
        except Exception:
            _logger.exception("%s %s failed", self.command, target.path)
            return refusal_response(
                RefusalError(500, "The embedded hub failed; its log says where.")
            )

    def _request_id(self) -> str:
        """The client's own, as the Hub does it, where it has one that can be sent back."""
        sent = self.headers.get("X-Request-Id") or self.headers.get("X-Amzn-Trace-Id") or ""
        return sent if _REQUEST_ID.fullmatch(sent) else secrets.token_hex(8)

    def _send(self, response: Response) -> None:
        try:
            self._send_all(response)
        finally:
            if isinstance(response.body, FileSlice) and response.body.temporary:
                response.body.path.unlink(missing_ok=True)

    def _send_all(self, response: Response) -> None:
        body = response.body
        length = body.length if isinstance(body, FileSlice) else len(body)
        self.send_response(response.status)
        for name, value in response.headers.items():
            self.send_header(name, value)
        if response.status != 304:
            self.send_header("Content-Length", str(length))
        self.send_header("X-Request-Id", self._request_id())
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command == "HEAD" or response.status == 304 or not length:
            return
        if isinstance(body, bytes):
            self.wfile.write(body)
            return
        with body.path.open("rb") as file:
            if self.connection.sendfile(file, body.offset, body.length) != body.length:
                self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        path = urlsplit(getattr(self, "path", "")).path
        _logger.debug("%s %s %s", self.server.name, getattr(self, "command", ""), path)


def _listen(host: str, port: int, stack: ExitStack) -> _Server:
    try:
        server = _Server(host, port)
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"The hub cannot listen on {host}:{port}: {error}.",
            hint="Choose another port, or 0 for any that is free.",
        ) from None
    stack.callback(server.stop)
    return server


def _listen_beside(host: str, port: int, stack: ExitStack) -> _Server:
    try:
        return _listen(host, port + 1 if port else 0, stack)
    except UsageError:
        return _listen(host, 0, stack)


def _url_host(host: str) -> str:
    if host in ("", "0.0.0.0", "::"):
        return "127.0.0.1" if host != "::" else "[::1]"
    return f"[{host}]" if ":" in host else host


def _drain(body: io.BufferedReader) -> bool:
    """Read what is left of a request body; False if it is more than the limit."""
    left = DRAIN_LIMIT
    while left > 0:
        piece = body.read(min(left, 1024 * 1024))
        if not piece:
            return True
        left -= len(piece)
    return False


def _shut(connection: socket.socket, how: int) -> None:
    try:
        connection.shutdown(how)
    except OSError:
        return
