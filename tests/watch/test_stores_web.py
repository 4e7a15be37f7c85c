"""Object stores on a real web server on loopback."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from object_stores import LAST_MODIFIED, Web, only, serving, sha256

from slogpt_hf.errors import CheckpointError, HubError, UsageError
from slogpt_hf.planning import plan_releases
from slogpt_hf.redaction import without_secrets
from slogpt_hf.settings import Settings
from slogpt_hf.watch.fetching import fetch
from slogpt_hf.watch.stores import fetch_object

Entry = Callable[..., dict[str, Any]]

pytestmark = pytest.mark.usefixtures("fresh_stores")


def test_an_object_of_a_web_server(web: Web, tmp_path: Path) -> None:
    url = web.put("/a%20b/ckpt.pt", b"content", ETag='"abc"', Last_Modified=LAST_MODIFIED)
    candidate = only(url)
    assert (candidate.name, candidate.place, candidate.n_bytes) == (url, url, 7)
    assert (candidate.provenance.url, candidate.provenance.etag) == (url, "abc")
    assert (candidate.time, candidate.sha256) == (1_700_000_000, None)
    assert web.downloads == []
    fetched = fetch(candidate, tmp_path / "work", Settings())
    assert fetched.path.name == "ckpt.pt" and fetched.path.read_bytes() == b"content"
    assert len(web.downloads) == 1
    assert {headers["accept-encoding"] for _, _, headers in web.seen} == {"identity"}


def test_only_what_is_new_is_downloaded(
    web: Web, new_hub: Callable[..., Path], ledger_entry: Entry, tmp_path: Path
) -> None:
    old = web.put("/old.pt", b"1", ETag='"1"')
    new = web.put("/new.pt", b"2", ETag='"2"')
    entry = ledger_entry("1.0.0", sha256=sha256(b"1"))
    entry["source"] |= {"url": old, "etag": "1"}
    settings = Settings(repo_id="me/model", hub=str(new_hub(entry)))
    plan = plan_releases([old, new], settings)
    assert [each.candidate.name for each in plan.wanted] == [new]
    assert web.downloads == []
    fetch(plan.wanted[0].candidate, tmp_path / "work", settings)
    assert web.downloads == ["/new.pt"]


@pytest.mark.parametrize(
    ("headers", "etag"),
    [
        ({"ETag": '"strong"'}, "strong"),
        ({"ETag": 'W/"weak"', "Last_Modified": LAST_MODIFIED}, "7-1700000000.000000"),
        ({"Last_Modified": LAST_MODIFIED}, "7-1700000000.000000"),
        ({"Last_Modified": "yesterday"}, None),
        ({"ETag": 'W/"weak"'}, None),
        ({"ETag": '""'}, None),
        ({"Last_Modified": LAST_MODIFIED, "Content_Length": ""}, None),
    ],
)
def test_what_stands_for_the_content(
    web: Web, tmp_path: Path, headers: dict[str, str], etag: str | None
) -> None:
    candidate = only(web.put("/ckpt.pt", b"content", **headers))
    assert candidate.provenance.etag == etag
    fetch_object(candidate, tmp_path / "ckpt.pt")
    assert (tmp_path / "ckpt.pt").read_bytes() == b"content"


@pytest.mark.parametrize("status", [400, 403, 405, 501])
def test_a_server_that_knows_get_alone(web: Web, status: int) -> None:
    """A signed URL is signed for one method."""
    web.put("HEAD /ckpt.pt", b"", status)
    url = web.put("GET /ckpt.pt", b"content", ETag='"abc"')
    assert only(url).provenance.etag == "abc"


def test_head_and_get_that_tell_unlike_facts(web: Web, tmp_path: Path) -> None:
    web.put("HEAD /ckpt.pt", b"", Content_Length="")
    url = web.put("GET /ckpt.pt", b"content", ETag='"abc"')
    fetch_object(only(url), tmp_path / "ckpt.pt")
    web.put("HEAD /ckpt.pt", b"", Content_Length="", ETag='"abc"')
    web.put("GET /ckpt.pt", b"content")
    fetch_object(only(url), tmp_path / "ckpt.pt")


@pytest.mark.parametrize(
    ("content", "headers"),
    [
        (b"content", {"ETag": '"2"'}),
        (b"longer content", {"ETag": '"1"'}),
        (b"short", {"ETag": '"1"'}),
    ],
)
def test_what_changed_on_the_server(
    web: Web, tmp_path: Path, content: bytes, headers: dict[str, str]
) -> None:
    candidate = only(web.put("/ckpt.pt", b"content", ETag='"1"'))
    web.put("/ckpt.pt", content, **headers)
    with pytest.raises(CheckpointError, match="changed since it was planned"):
        fetch_object(candidate, tmp_path / "ckpt.pt")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "headers",
    [
        {"Content_Length": "100"},
        {"Content_Length": "", "Transfer_Encoding": "chunked"},
    ],
)
def test_a_download_that_is_cut_off(web: Web, tmp_path: Path, headers: dict[str, str]) -> None:
    content = b"content" if "Transfer_Encoding" not in headers else b"7\r\ncontent\r\n"
    candidate = only(web.put("/ckpt.pt", content, ETag='"1"', **headers))
    with pytest.raises(HubError, match="cannot be reached"):
        fetch(candidate, tmp_path / "work", Settings())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        (404, UsageError, "no such object"),
        (410, UsageError, "no such object"),
        (401, HubError, r"cannot be read \(status 401\)"),
        (403, HubError, r"cannot be read \(status 403\)"),
        (500, HubError, "cannot be reached"),
        (429, HubError, "cannot be reached"),
    ],
)
def test_what_a_server_refuses(
    web: Web, tmp_path: Path, status: int, error: type[Exception], message: str
) -> None:
    candidate = only(web.put("/ckpt.pt", b"content"))
    url = web.put("/ckpt.pt", b"an answer for people", status)
    with pytest.raises(error, match=message):
        only(url)
    with pytest.raises(error, match=message):
        fetch_object(candidate, tmp_path / "ckpt.pt")
    assert not list(tmp_path.iterdir())


def test_a_server_that_is_not_there() -> None:
    with serving() as web:
        url = web.put("/ckpt.pt", b"")
    with pytest.raises(HubError, match=r"cannot be reached .* Check the network"):
        only(url)


def test_secrets_of_a_url_are_used_and_never_shown(web: Web, tmp_path: Path) -> None:
    plain = web.put("/ckpt.pt", b"content", ETag='"1"')
    url = plain.replace("//", "//me:hunter2%40hunter2@") + "?sig=0123456789abcdef"
    candidate = only(url)
    assert only(url) == candidate, "a URL is one place, however often it is looked at"
    assert candidate.name == candidate.provenance.url == plain
    shown = json.dumps([candidate.name, candidate.place, vars(candidate.provenance)])
    assert "hunter2" not in shown and "sig" not in shown and "0123456789" not in shown
    fetch_object(candidate, tmp_path / "ckpt.pt")
    for _, path, headers in web.seen:
        assert path == "/ckpt.pt?sig=0123456789abcdef"
        sent = base64.b64decode(headers["authorization"].removeprefix("Basic "))
        assert sent == b"me:hunter2@hunter2"
    for secret in ("hunter2@hunter2", "hunter2%40hunter2", "sig=0123456789abcdef"):
        assert secret not in without_secrets(f"an error of somebody's: {secret}.")
    web.put("/ckpt.pt", b"", 500)
    with pytest.raises(HubError) as caught:
        only(url)
    assert "hunter2" not in str(caught.value) and "0123456789" not in str(caught.value)
    other = only(web.put("/ckpt.pt", b"content") + "?sig=another-signature")
    assert other.name == candidate.name and other.place != candidate.place


def test_a_redirect_gets_no_password_of_another_server(web: Web, tmp_path: Path) -> None:
    with serving() as storage:
        target = storage.put("/object", b"content", ETag='"1"') + "?X-Signature=0123456789"
        plain = web.put("/ckpt.pt", b"", 302, Location=target)
        candidate = only(plain.replace("//", "//me:hunter2hunter2@"))
        fetch_object(candidate, tmp_path / "ckpt.pt")
        assert candidate.provenance.url == plain
        assert [path for _, path, _ in storage.seen] == ["/object?X-Signature=0123456789"] * 2
        assert not any("authorization" in headers for _, _, headers in storage.seen)
        assert all("authorization" in headers for _, _, headers in web.seen)
        storage.put("/object", b"", 500)
        with pytest.raises(HubError) as caught:
            only(plain)
        assert "0123456789" not in str(caught.value)
