"""Credentials of git repositories; which server gets which is in test_sources.py."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path
from typing import Any

import pytest

from slogpt_hf.errors import HubError
from slogpt_hf.redaction import without_secrets
from slogpt_hf.watch.access import credentials_in, token_access, without_credentials
from slogpt_hf.watch.sources import cloned

TOKEN = "of-the-ci-0123456789"  # of no known form


@pytest.fixture(autouse=True)
def _surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("GITHUB_TOKEN", "GITHUB_SERVER_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:pw@example.org/a", "https://example.org/a"),
        ("https://token@example.org/a", "https://example.org/a"),
        ("https://me:p@w@example.org/a", "https://example.org/a"),
        ("http://me:pw@[::1]:80/a@b", "http://[::1]:80/a@b"),
        ("https://example.org/a@b", "https://example.org/a@b"),
        ("git@example.org:a", "git@example.org:a"),
        ("ssh://git@example.org/a", "ssh://git@example.org/a"),
        ("/srv/a@b", "/srv/a@b"),
        ("https://me:pw@[broken/a", "https://***@[broken/a"),
    ],
)
def test_urls_without_credentials(url: str, shown: str) -> None:
    assert without_credentials(url) == shown


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("https://only-a-token@example.org/a", b"only-a-token:"),
        ("https://me:s%C3%A9cret%3Aof-mine@example.org/a", "me:sécret:of-mine".encode()),
        ("http://:of-nobody@example.org:1/a", b":of-nobody"),
    ],
)
def test_what_a_url_says_is_sent_and_never_shown(url: str, sent: bytes) -> None:
    ((name, value),) = credentials_in(url)
    encoded = value.removeprefix("Authorization: Basic ")
    assert base64.b64decode(encoded) == sent
    assert name.startswith(("http.https://example.org/.", "http.http://example.org:1/."))
    assert encoded not in without_secrets(f"git said {encoded}, {value}")
    user, _, password = sent.decode().partition(":")
    secret = password or user
    assert secret not in without_secrets(f"git said {secret}!")


def test_what_is_sent_for_a_short_password_is_not_shown() -> None:
    ((_, value),) = credentials_in("https://me:pw@example.org/a")
    encoded = value.rpartition(" ")[2]
    assert base64.b64decode(encoded) == b"me:pw"
    assert encoded not in without_secrets(f"git said {encoded}!")


@pytest.mark.parametrize("url", ["ssh://git@example.org/a", "git@example.org:a", "/srv/a@b"])
def test_what_is_no_password(url: str) -> None:
    assert credentials_in(url) == []


def test_the_token_of_the_ci_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", f"\t{TOKEN}\n")
    monkeypatch.setenv("GITHUB_SERVER_URL", "https://git.example.org")
    ((name, value),) = token_access("https://git.example.org/me/model")
    assert name == "http.https://git.example.org/.extraheader"
    encoded = value.rpartition(" ")[2]
    assert base64.b64decode(encoded) == f"x-access-token:{TOKEN}".encode()
    assert encoded not in without_secrets(encoded) and TOKEN not in without_secrets(TOKEN)
    monkeypatch.setenv("GITHUB_TOKEN", " ")
    assert token_access("https://git.example.org/me/model") == []


def test_one_authorisation_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """git would send both headers, and servers refuse that."""
    monkeypatch.setenv("GITHUB_TOKEN", TOKEN)
    monkeypatch.setenv("GITHUB_SERVER_URL", "https://127.0.0.1:1")
    sent: list[list[str]] = []
    run = subprocess.run

    def record(command: list[str], **options: Any) -> Any:
        environment = options.get("env") or {}
        if "fetch" in command:
            sent.append(
                [
                    environment[name.replace("_KEY_", "_VALUE_")]
                    for name, value in environment.items()
                    if name.startswith("GIT_CONFIG_KEY_") and value.endswith(".extraheader")
                ]
            )
        return run(command, **options)

    monkeypatch.setattr(subprocess, "run", record)
    for url in ("https://127.0.0.1:1/a.git", "https://me:of-the-url@127.0.0.1:1/a.git"):
        with pytest.raises(HubError, match="cannot be fetched"):
            cloned(url)
    of_the_ci, of_the_url = (base64.b64decode(value.rpartition(" ")[2]) for (value,) in sent)
    assert of_the_ci == f"x-access-token:{TOKEN}".encode()
    assert of_the_url == b"me:of-the-url"
