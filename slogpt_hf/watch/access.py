"""Credentials of git repositories: how git and Git LFS get them without anyone seeing them."""

from __future__ import annotations

import base64
import os
from urllib.parse import unquote, urlsplit

from slogpt_hf.redaction import register_secret, without_secrets

DEFAULT_SERVER = "https://github.com"
Config = list[tuple[str, str]]


def without_credentials(url: str) -> str:
    """A URL without user and password; the user of SSH is part of the address."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return without_secrets(url)
    if "@" not in parts.netloc or parts.scheme not in ("http", "https"):
        return url
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def credentials_in(url: str) -> Config:
    """Configuration that has git send the user and password of a URL (RFC 7617)."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or "@" not in parts.netloc:
        return []
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    register_secret(password or user)
    return _basic(url, user, password)


def token_access(url: str | None) -> Config:
    """Configuration that has git send the CI's ``GITHUB_TOKEN`` to the server that it is of."""
    token = os.environ.get("GITHUB_TOKEN", "").strip()
    server = urlsplit(os.environ.get("GITHUB_SERVER_URL") or DEFAULT_SERVER)
    parts = urlsplit(url or "")
    same = (parts.scheme, parts.netloc) == (server.scheme, server.netloc)
    if not token or parts.scheme != "https" or not same:
        return []
    register_secret(token)
    return _basic(f"{parts.scheme}://{parts.netloc}/", "x-access-token", token)


def _basic(url: str, user: str, password: str) -> Config:
    parts = urlsplit(url)
    text = base64.b64encode(f"{user}:{password}".encode()).decode()
    register_secret(text)
    place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/"
    return [(f"http.{place}.extraheader", f"Authorization: Basic {text}")]
