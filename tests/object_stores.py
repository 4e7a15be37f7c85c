"""What the tests of object stores share: a web server on loopback, and looks at one URL."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from slogpt_hf.watch import Candidate
from slogpt_hf.watch.stores import store_candidates

Entry = Callable[..., dict[str, Any]]
LAST_MODIFIED = "Tue, 14 Nov 2023 22:13:20 GMT"  # 1700000000
MISSING = object()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def names(url: str) -> list[str]:
    return [each.name for each in store_candidates([url], ())]


def only(url: str, *entries: dict[str, Any]) -> Candidate:
    (candidate,) = store_candidates([url], entries)
    return candidate


@dataclass
class Web:
    """A web server on loopback.

    Attributes:
        answers: path to status, headers and content; each may differ by method, as GET /path.
        seen: requests, each as method, path and headers.
    """

    port: int
    answers: dict[str, tuple[int, Mapping[str, str], bytes]] = field(default_factory=dict)
    seen: list[tuple[str, str, Mapping[str, str]]] = field(default_factory=list)

    def put(self, path: str, content: bytes, status: int = 200, **headers: str) -> str:
        """Serve ``content`` at ``path`` (``METHOD /path`` for one method); its URL."""
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answers[path] = (status, names, content)
        return f"http://127.0.0.1:{self.port}{path.rpartition(' ')[2]}"

    @property
    def downloads(self) -> list[str]:
        return [path for method, path, _ in self.seen if method == "GET"]


@contextmanager
def serving() -> Iterator[Web]:
    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            path = self.path.partition("?")[0]
            headers = {name.lower(): value for name, value in self.headers.items()}
            web.seen.append((self.command, self.path, headers))
            missing = (404, {}, b"nothing here")
            status, answered, content = web.answers.get(
                f"{self.command} {path}", web.answers.get(path, missing)
            )
            self.send_response_only(status)
            told = {"Content-Length": str(len(content)), "Connection": "close"} | dict(answered)
            for name, value in told.items():
                if value:
                    self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)
            self.close_connection = True

        do_GET = do_HEAD = answer  # noqa: N815

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    web = Web(server.server_port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
