"""Where the token comes from, what is no token, and which requests carry it."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx2
import pytest
from huggingface_hub import constants
from hypothesis import given
from hypothesis import strategies as st

from slogpt_hf import redaction
from slogpt_hf.errors import UsageError
from slogpt_hf.hub.client import open_hub
from slogpt_hf.hub.credentials import (
    EMBEDDED,
    GITHUB,
    LOGIN,
    NO_IDENTITY,
    NONE,
    TOKEN,
    Credentials,
    authorise,
    find_credentials,
    read_token,
    source_of,
)
from slogpt_hf.hub.embedded import Request, Response, serve
from slogpt_hf.settings import Settings

REPO = "me/model"
ENDPOINT = "http://127.0.0.1:9"
VARIABLES = (
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "HF_OIDC_RESOURCE",
    "HF_OIDC_ID_TOKEN",
    "ACTIONS_ID_TOKEN_REQUEST_URL",
    "ACTIONS_ID_TOKEN_REQUEST_TOKEN",
)


@pytest.fixture(autouse=True)
def _no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "login"))
    monkeypatch.setattr(redaction, "_known", frozenset())
    monkeypatch.setattr(redaction, "_pattern", None)


def found(monkeypatch: pytest.MonkeyPatch, settings: Settings, **variables: str) -> Credentials:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return find_credentials(settings, REPO, ENDPOINT)


@pytest.mark.parametrize(
    ("settings", "environment", "source"),
    [
        ({}, {}, None),
        ({}, {"HF_TOKEN": " \n"}, None),
        ({}, {"HUGGING_FACE_HUB_TOKEN": "old"}, "HUGGING_FACE_HUB_TOKEN"),
        ({}, {"HF_TOKEN": "t", "HUGGING_FACE_HUB_TOKEN": "old"}, "HF_TOKEN"),
        ({"token_file": "t"}, {"HF_TOKEN": "t"}, "--token-file"),
        ({"token_file": "-"}, {"HF_TOKEN": "t"}, "standard input"),
        ({"token_file": "t"}, {"HF_OIDC_RESOURCE": REPO}, "--token-file"),
        ({"oidc": True}, {"HF_TOKEN": "t"}, NO_IDENTITY),
        ({"oidc": True}, {"HF_TOKEN": "t", "ACTIONS_ID_TOKEN_REQUEST_URL": "u"}, GITHUB),
        ({}, {"HF_TOKEN": "t", "ACTIONS_ID_TOKEN_REQUEST_URL": "u"}, "HF_TOKEN"),
        (
            {"oidc": True},
            {"HF_OIDC_ID_TOKEN": "j", "ACTIONS_ID_TOKEN_REQUEST_URL": "u"},
            "HF_OIDC_ID_TOKEN",
        ),
        ({}, {"HF_TOKEN": "t", "HF_OIDC_RESOURCE": REPO, "HF_OIDC_ID_TOKEN": "j"}, VARIABLES[3]),
        ({"hub": "h", "oidc": True, "token_file": "t"}, {"HF_TOKEN": "t"}, EMBEDDED),
    ],
)
def test_order_of_the_sources(
    settings: dict[str, Any], environment: Mapping[str, str], source: str | None
) -> None:
    assert source_of(Settings(**settings), environment) == source


@pytest.mark.parametrize(
    "content", [b"hf_abc", b"hf_abc\n", b"hf_abc\r\n", b"\xef\xbb\xbfhf_abc\r\n", b"\n  hf_abc\t\n"]
)
def test_token_of_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "token").write_bytes(content)
    credentials = found(monkeypatch, Settings(token_file=str(tmp_path / "token")), HF_TOKEN="other")
    assert (credentials.source, credentials.token()) == ("--token-file", "hf_abc")
    assert not credentials.renewable and "hf_abc" not in repr(credentials)


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        (b"", "no token"),
        (b"\xef\xbb\xbf \r\n", "no token"),
        (b'"planted-token"\n', "quotation mark"),
        (b"planted token", "space"),
        (b"Bearer planted-token", "space"),
        ("planted-töken".encode(), "character that no token has"),
        (b"planted-\x00token", "character that no token has"),
        (b"planted-token\nplanted-other\n", "holds 2 lines"),
        (b"HF_TOKEN=planted-token", "HF_TOKEN= before the token"),
        ("planted-token".encode("utf-16"), "not text in UTF-8"),
        (b"planted-" * 513, "larger than 4096 bytes"),
    ],
)
def test_what_is_no_token(tmp_path: Path, content: bytes, fragment: str) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=fragment) as caught:
        find_credentials(Settings(token_file=str(path)), REPO, ENDPOINT)
    where, _, said = str(caught.value).partition(": ")
    assert where == str(path) and caught.value.__cause__ is None
    assert "planted" not in said


def test_a_token_that_is_not_taken_is_masked_too() -> None:
    with pytest.raises(UsageError):
        read_token(b'export HF_TOKEN="planted-token"\nplanted-other', "x")
    assert redaction.without_known_secrets("planted-token, planted-other") == "***, ***"


@pytest.mark.parametrize("name", ["missing", "", "null\0byte"])
def test_token_file_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        find_credentials(Settings(token_file=str(tmp_path / name)), REPO, ENDPOINT)


@given(st.from_regex(TOKEN, fullmatch=True), st.text(" \t\r\n"), st.text(" \t\r\n"))
def test_space_around_a_token_is_not_part_of_it(token: str, before: str, after: str) -> None:
    assert read_token(f"{before}{token}{after}".encode(), "x") == token


@given(st.binary(max_size=200))
def test_a_token_can_always_stand_in_a_header(content: bytes) -> None:
    try:
        token = read_token(content, "x")
    except UsageError:
        return
    assert token.encode("ascii") in content
    httpx2.Headers({"authorization": f"Bearer {token}"})


@pytest.mark.parametrize("value", ["two words", "two\nlines", "\udcff"])
def test_variable_without_a_token(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    with pytest.raises(UsageError, match=r"^HF_TOKEN: "):
        found(monkeypatch, Settings(), HF_TOKEN=value)


class Terminal(io.BytesIO):
    def isatty(self) -> bool:
        return True


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(token_file="-")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"hf_piped\n")))
    credentials = found(monkeypatch, settings, HF_TOKEN="other")
    assert (credentials.source, credentials.token()) == ("standard input", "hf_piped")
    assert credentials.token() == "hf_piped"  # read once
    with pytest.raises(UsageError, match="standard input: holds no token"):
        find_credentials(settings, REPO, ENDPOINT)
    for terminal in (io.TextIOWrapper(Terminal(b"hf_typed\n")), None):
        monkeypatch.setattr(sys, "stdin", terminal)
        with pytest.raises(UsageError, match="terminal"):
            find_credentials(settings, REPO, ENDPOINT)


def test_login(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    credentials = find_credentials(Settings(), REPO, ENDPOINT)
    assert (credentials.source, credentials.token()) == (NONE, None)
    (tmp_path / "login").write_text("hf_stored")
    credentials = find_credentials(Settings(), REPO, ENDPOINT)
    assert (credentials.source, credentials.token()) == (LOGIN, "hf_stored")
    (tmp_path / "login").write_text("hf_renewed")
    assert credentials.token() == "hf_renewed"
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    assert find_credentials(Settings(), REPO, ENDPOINT).source == NONE


def test_the_embedded_hub_gets_no_token_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    credentials = found(monkeypatch, Settings(hub="hub", oidc=True), HF_TOKEN="hf_mine")
    assert credentials.token() == "embedded"


def test_no_other_token_than_the_one_that_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client looks for one by itself where it passes none on."""
    from huggingface_hub.utils import build_hf_headers

    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with open_hub(None, Credentials("a test", False, lambda: "hf_given")) as hub:
        assert hub.api.token == "hf_given"
        assert "authorization" not in build_hf_headers(token=None)
    assert build_hf_headers(token=None)["authorization"] == "Bearer hf_other"


def test_settings_that_contradict_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="--oidc and --token-file"):
        found(monkeypatch, Settings(oidc=True, token_file="t"), HF_OIDC_ID_TOKEN="j")
    with pytest.raises(UsageError, match="HF_OIDC_RESOURCE names 'me/other', but") as caught:
        found(monkeypatch, Settings(), HF_OIDC_RESOURCE="me/other")
    assert "me/model" in caught.value.hint


@pytest.fixture
def seen(tmp_path: Path) -> Iterator[tuple[str, str, list[str | None]]]:
    """Two origins of one server, and the Authorization headers that reach them."""
    headers: list[str | None] = []

    def answer(request: Request) -> Response:
        headers.append(request.headers.get("authorization"))
        target = request.first("to")
        return Response(307 if target else 200, b"", {"Location": target} if target else {})

    with serve(tmp_path, intercept=answer) as running:
        yield running.endpoint, running.lfs_endpoint, headers


def session(endpoint: str, token: str | None = "current") -> httpx2.Client:
    hook = authorise(Credentials("test", True, lambda: token), endpoint)
    return httpx2.Client(
        event_hooks={"request": [hook]},
        headers={"authorization": "Bearer old"},
        follow_redirects=True,
    )


def test_requests_to_the_hub_carry_the_current_token(seen: tuple[str, str, list[Any]]) -> None:
    endpoint, other, headers = seen
    with session(f"{endpoint}/") as client:
        client.get(f"{endpoint}/api/x")
        client.get(f"{other}/object")
        client.get(f"{endpoint}/api/x", params={"to": f"{other}/object"})
        client.headers.pop("authorization")
        client.get(f"{endpoint}/api/x")
        client.get(f"{other}/object", headers={"authorization": "Basic theirs"})
    ours = "Bearer current"
    assert headers == [ours, "Bearer old", ours, None, None, "Basic theirs"]


def test_without_a_token_requests_stay_as_they_are(seen: tuple[str, str, list[Any]]) -> None:
    endpoint, _, headers = seen
    with session(endpoint, None) as client:
        client.get(endpoint)
    assert headers == ["Bearer old"]


@pytest.mark.parametrize(
    ("endpoint", "url", "same"),
    [
        ("https://huggingface.co", "https://HuggingFace.co:443/api", True),
        ("https://huggingface.co/prefix", "https://huggingface.co/other", True),
        ("https://huggingface.co", "http://huggingface.co/api", False),
        ("https://huggingface.co", "https://huggingface.co.evil.org/api", False),
        ("https://huggingface.co", "https://huggingface.co:8443/api", False),
        ("https://huggingface.co", "https://huggingface.co@evil.org/api", False),
    ],
)
def test_only_the_hubs_own_origin_counts(endpoint: str, url: str, same: bool) -> None:
    request = httpx2.Request("GET", url, headers={"authorization": "Bearer old"})
    authorise(Credentials("test", True, lambda: "current"), endpoint)(request)
    assert request.headers["authorization"] == ("Bearer current" if same else "Bearer old")
