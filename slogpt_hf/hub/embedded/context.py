"""What a handler works with: the store, one request, its path parameters, and who is asking."""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from slogpt_hf.hub.embedded import git
from slogpt_hf.hub.embedded.git import Repository
from slogpt_hf.hub.embedded.lfs import Signer
from slogpt_hf.hub.embedded.store import Store, read_settings
from slogpt_hf.hub.embedded.wire import RefusalError, Request, Response

USER = "local"
"""The account that the hub pretends: owner of repositories created without a namespace."""

_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]{1,253})(:\d{1,5})?")


@dataclass(frozen=True)
class Hub:
    """What all requests share.

    Attributes:
        port, lfs_port: those of the two listening sockets.
        xet: where this server run keeps xorbs; None if it does not speak the Xet protocol.
    """

    store: Store
    host: str
    port: int
    lfs_port: int
    token: str | None
    signer: Signer
    xet: Path | None = None


@dataclass(frozen=True)
class Context:
    hub: Hub
    request: Request
    params: Mapping[str, str]
    kind: str = "model"

    @property
    def is_owner(self) -> bool:
        """Whether the caller may write and read private repositories.

        Raises:
            RefusalError: 401 if a token was sent and it is the wrong one.
        """
        if self.hub.token is None:
            return True
        sent = self.request.headers.get("authorization", "")
        if not sent:
            return False
        if not hmac.compare_digest(_token(sent), self.hub.token.encode()):
            raise RefusalError(401, "Invalid credentials in Authorization header")
        return True

    def require_owner(self) -> None:
        if not self.is_owner:
            raise RefusalError(401, "Invalid username or password.")

    def repository(self) -> Repository:
        """The repository of the path, by its name or one that it had; raises as named ones do."""
        namespace, name = self.params["ns"], self.params["name"]
        if self.hub.store.repository(namespace, name, self.kind) is None:
            moved = self.hub.store.moved(namespace, name, self.kind)
            namespace, _, name = moved.id.partition("/") if moved else (namespace, "", name)
        return self.repository_named(namespace, name, self.kind)

    def repository_named(self, namespace: str, name: str, kind: str) -> Repository:
        """A repository that the caller may read.

        Raises:
            RefusalError: 404 if it does not exist; 401 for an anonymous caller of a hub with a
                token, who cannot tell a private repository from none.
        """
        owner = self.is_owner
        repo = self.hub.store.repository(namespace, name, kind)
        if repo and (owner or not read_settings(repo).get("private")):
            return repo
        if not owner:
            raise RefusalError(401, "Invalid username or password.", "RepoNotFound")
        raise RefusalError(404, "Repository not found", "RepoNotFound")

    def commit(self, repo: Repository, revision: str = "") -> str:
        """Commit id of a revision, by default the one of the path, or `main`.

        Raises:
            RefusalError: 404 if there is none.
        """
        revision = revision or self.params.get("rev", "main")
        commit = git.resolve(repo, revision)
        if commit is None:
            raise RefusalError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    @property
    def endpoint(self) -> str:
        """The API's base URL, by the name under which this caller reached it."""
        return f"http://{self._host}:{self.hub.port}"

    @property
    def lfs_endpoint(self) -> str:
        return f"http://{self._host}:{self.hub.lfs_port}"

    @property
    def _host(self) -> str:
        match = _HOST.fullmatch(self.request.headers.get("host", ""))
        return match[1] if match else self.hub.host

    def url(self, repo: Repository, *rest: str) -> str:
        return "/".join((self.endpoint, repo.location, *(quote(part) for part in rest)))


def _token(authorization: str) -> bytes:
    """The token of a header: `Bearer TOKEN`, or the password of `Basic`, which git sends."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() != "basic":
        return value.encode("utf-8", "replace") if scheme == "Bearer" else b""
    try:
        return base64.b64decode(value, validate=True).partition(b":")[2]
    except ValueError:
        return b""


Handler = Callable[[Context], Response]


@dataclass(frozen=True)
class Route:
    """A method, a path with `{parameters}` (a last `{path*}` takes all that follows), a handler,
    and the kind of repository that it is about."""

    method: str
    pattern: str
    handler: Handler
    kind: str = "model"

    def match(self, method: str, path: tuple[str, ...]) -> dict[str, str] | None:
        """The path's parameters; None if this is another route's request."""
        parts = self.pattern.split("/")
        if parts[-1].endswith("*}"):
            keep = len(parts) - 1
            path = (*path[:keep], "/".join(path[keep:])) if len(path) > keep else path
        if method != self.method or len(parts) != len(path):
            return None
        params: dict[str, str] = {}
        for part, segment in zip(parts, path, strict=True):
            if part.startswith("{"):
                name, _, suffix = part[1:].partition("}")
                if not segment.endswith(suffix):
                    return None
                params[name.rstrip("*")] = segment[: len(segment) - len(suffix)]
            elif part != segment:
                return None
        return params
