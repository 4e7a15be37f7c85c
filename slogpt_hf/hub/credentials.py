"""Where the Hub token comes from: a file, standard input, the environment, OIDC or a login."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from slogpt_hf.errors import UsageError
from slogpt_hf.hub.oidc import (
    ID_TOKEN_VARIABLE,
    MINT_URL_VARIABLE,
    Exchange,
    Tell,
    renewed_token,
)
from slogpt_hf.redaction import register_secret
from slogpt_hf.settings import Settings

if TYPE_CHECKING:
    import httpx2

TOKEN_FILE = "--token-file"
STANDARD_INPUT = "standard input"
GITHUB = "OIDC (GitHub Actions)"
NO_IDENTITY = "OIDC (no identity)"
LOGIN = "the login of huggingface_hub"
EMBEDDED = "the embedded hub"
NONE = "none"
TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
RESOURCE_VARIABLE = "HF_OIDC_RESOURCE"  # has the client use OIDC, for the repository it names
OIDC_SOURCES = frozenset({GITHUB, ID_TOKEN_VARIABLE, NO_IDENTITY})
MOST_BYTES = 4096
TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # b64token of RFC 6750 section 2.1
ORIGIN_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Credentials:
    """What a release identifies itself with.

    Attributes:
        source: what messages call the place that the token comes from.
        renewable: whether ``token`` gives a new one when the old one nears its end.
        token: gives the token to send now, None without one; may ask the hub for it, and raises
            HubError where that fails. Safe to call from several threads.
    """

    source: str
    renewable: bool
    token: Callable[[], str | None] = field(repr=False)

    @property
    def is_oidc(self) -> bool:
        """Whether the token writes to one repository only and creates none."""
        return self.source in OIDC_SOURCES


def source_of(settings: Settings, environment: Mapping[str, str] = os.environ) -> str | None:
    """The place that settings and environment name for the token; None if they name none.

    Nothing is read. What is named on the command line counts more than the environment, and OIDC
    more than a stored token.
    """
    if settings.hub is not None:
        return EMBEDDED
    if settings.oidc or (settings.token_file is None and environment.get(RESOURCE_VARIABLE)):
        return _identity(environment) or NO_IDENTITY
    if settings.token_file is not None:
        return STANDARD_INPUT if settings.token_file == "-" else TOKEN_FILE
    return next((name for name in TOKEN_VARIABLES if environment.get(name, "").strip()), None)


def has_identity(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the CI gave an OIDC identity, or lets one be minted."""
    return _identity(environment) is not None


def _identity(environment: Mapping[str, str]) -> str | None:
    if environment.get(ID_TOKEN_VARIABLE, "").strip():
        return ID_TOKEN_VARIABLE
    return GITHUB if environment.get(MINT_URL_VARIABLE) else None


def find_credentials(
    settings: Settings, repo_id: str, endpoint: str, tell: Tell = lambda text: None
) -> Credentials:
    """What a release to ``repo_id`` identifies itself with.

    An identity that the CI minted beforehand lasts minutes, so it is exchanged here; one that can
    be minted any time is exchanged when the first token is needed.

    Args:
        settings: ``hub``, ``oidc`` and ``token_file`` count.
        repo_id: NAMESPACE/NAME; an OIDC token is for it alone.
        endpoint: base URL of the hub.
        tell: told of waits.

    Raises:
        UsageError: what should be a token is none, or settings contradict each other.
        HubError: there is no OIDC identity, or the hub refused it.
    """
    source = source_of(settings)
    if source == EMBEDDED:
        return Credentials(EMBEDDED, False, lambda: "embedded")
    if source in OIDC_SOURCES:
        return _by_oidc(source, settings, Exchange(endpoint, repo_id, tell))
    if source == TOKEN_FILE:
        path = settings.token_file or ""
        return _fixed(source, read_token(_file_content(path), path))
    if source == STANDARD_INPUT:
        return _fixed(source, read_token(_standard_input(), source))
    if source:
        return _fixed(
            source, read_token(os.environ[source].encode("utf-8", "surrogateescape"), source)
        )
    return _by_login()


def authorise(credentials: Credentials, endpoint: str) -> Callable[[httpx2.Request], None]:
    """A request hook that puts the current token into what goes to the hub with an older one.

    Requests without an Authorization header, and those to any other origin (storage with signed
    URLs, a CI's identity server), stay as they are.

    Raises:
        HubError: from the hook, where an expired token could not be renewed.
    """
    hub = _origin(endpoint)

    def put_token(request: httpx2.Request) -> None:
        if "authorization" not in request.headers or _origin(str(request.url)) != hub:
            return
        if token := credentials.token():
            request.headers["authorization"] = f"Bearer {token}"

    return put_token


def read_token(content: bytes, where: str) -> str:
    """The token that ``content`` holds; it is masked from now on wherever it would be printed.

    Raises:
        UsageError: it is not one token, as RFC 6750 spells tokens.
    """
    if len(content) > MOST_BYTES:
        raise UsageError(f"{where}: is larger than {MOST_BYTES} bytes, which no token is.")
    try:
        text = content.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        # The error holds the content, which may be the token in UTF-16.
        raise UsageError(
            f"{where}: is not text in UTF-8 (byte {error.start}).",
            hint="Write the token alone into it, as plain text.",
        ) from None
    if not text:
        raise UsageError(f"{where}: holds no token.", hint="Write the Hub token into it.")
    for word in TOKEN.findall(text):
        register_secret(word)
    if TOKEN.fullmatch(text):
        return text
    fault = "holds a character that no token has, such as a space or a quotation mark"
    if (lines := len(text.splitlines())) > 1:
        fault = f"holds {lines} lines, not one token"
    elif text.startswith(tuple(f"{name}=" for name in TOKEN_VARIABLES)):
        fault = f"holds {text.partition('=')[0]}= before the token"
    raise UsageError(f"{where}: {fault}.", hint="Write the Hub token alone into it.")


def _file_content(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:  # the latter for a path with a null byte
        reason = getattr(error, "strerror", None) or "is no path"
        raise UsageError(
            f"{path}: the token cannot be read ({reason}).",
            hint="Pass --token-file a file that holds it.",
        ) from error


def _standard_input() -> bytes:
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError(
            "standard input: is a terminal, which shows what is typed.",
            hint="Pipe the token in, e.g. pass hf | slogpt-hf release ... --token-file -",
        )
    return sys.stdin.buffer.read(MOST_BYTES + 1)


def _fixed(source: str, token: str) -> Credentials:
    return Credentials(source, False, lambda: token)


def _by_oidc(source: str, settings: Settings, exchange: Exchange) -> Credentials:
    if settings.oidc and settings.token_file is not None:
        raise UsageError("--oidc and --token-file are both given.", hint="Leave one of them out.")
    resource = os.environ.get(RESOURCE_VARIABLE)
    if not settings.oidc and resource != exchange.repo_id:
        raise UsageError(
            f"{RESOURCE_VARIABLE} names {resource!r}, but the release goes to "
            f"{exchange.repo_id!r}.",
            hint=f"Set it to {exchange.repo_id}, or unset it and pass --oidc.",
        )
    token = renewed_token(exchange)
    renewable = source == GITHUB
    if not renewable:
        token()
    return Credentials(source, renewable, token)


def _by_login() -> Credentials:
    """What ``hf auth login`` or a notebook's vault holds; the client renews it by itself."""
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN or not get_token():
        return Credentials(NONE, False, lambda: None)

    def token() -> str | None:
        stored: str | None = get_token()
        register_secret(stored)
        return stored

    return Credentials(LOGIN, True, token)


def _origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port of a URL (RFC 6454)."""
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    return scheme, (parts.hostname or "").lower(), parts.port or ORIGIN_PORTS.get(scheme)
