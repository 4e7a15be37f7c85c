"""The embedded hub on the wire: what a well-behaved client never sends."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import logging
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from slogpt_hf.errors import HubError, UsageError
from slogpt_hf.hub.embedded import Response, RunningHub, serve

Answer = tuple[int, dict[str, str], bytes]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[RunningHub]:
    with serve(tmp_path / "hub") as running:
        assert (
            ask(running, "POST", "/api/repos/create", {"name": "m", "organization": "me"})[0] == 200
        )
        yield running


def connect(url: str) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)


def ask(
    hub: RunningHub, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> Answer:
    connection = connect(hub.endpoint)
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    connection.request(method, path, data, headers or {})
    response = connection.getresponse()
    answer = response.status, dict(response.getheaders()), response.read()
    connection.close()
    return answer


def commit(
    hub: RunningHub, *operations: tuple[str, dict[str, Any]], branch: str = "main"
) -> Answer:
    lines = [("header", {"summary": "s"}), *operations]
    body = "\n".join(json.dumps({"key": key, "value": value}) for key, value in lines)
    return ask(hub, "POST", f"/api/models/me/m/commit/{branch}", body.encode())


def file(path: str, content: bytes = b"x") -> tuple[str, dict[str, Any]]:
    text = base64.b64encode(content).decode()
    return "file", {"path": path, "content": text, "encoding": "base64"}


def upload_link(hub: RunningHub, content: bytes) -> str:
    item = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content)}
    body = {"operation": "upload", "objects": [item], "hash_algo": "sha_256"}
    body["transfers"] = ["basic"]
    answer = json.loads(ask(hub, "POST", "/me/m.git/info/lfs/objects/batch", body)[2])
    assert answer["transfer"] == "basic"
    return str(answer["objects"][0].get("actions", {}).get("upload", {}).get("href", ""))


def put(link: str, content: Any) -> int:
    connection, parts = connect(link), urlsplit(link)
    connection.request("PUT", f"{parts.path}?{parts.query}", content)
    status = connection.getresponse().status
    connection.close()
    return status


def store(hub: RunningHub, path: str, content: bytes) -> None:
    assert put(upload_link(hub, content), content) == 200
    oid = hashlib.sha256(content).hexdigest()
    value = {"path": path, "algo": "sha256", "oid": oid, "size": len(content)}
    assert commit(hub, ("lfsFile", value))[0] == 200


def test_error_form(hub: RunningHub) -> None:
    status, headers, body = ask(hub, "GET", "/api/models/me/absent")
    assert status == 404 and headers["X-Error-Code"] == "RepoNotFound"
    assert headers["X-Request-Id"] and headers["X-Error-Message"] == json.loads(body)["error"]


def test_keep_alive_after_errors_and_bodies(hub: RunningHub) -> None:
    connection = connect(hub.endpoint)
    local_port = None
    for method, path, body, status in (
        ("POST", "/api/unknown", b"z" * 3_000_000, 404),
        ("GET", "/api/models/me/m", None, 200),
        ("HEAD", "/me/m/resolve/main/.gitattributes", None, 200),
        ("POST", "/api/repos/create", b"not json", 400),
        ("POST", "/api/models/me/m/tag/main", b'{"tag": "v1"}', 200),
    ):
        connection.request(method, path, body)
        response = connection.getresponse()
        response.read()
        assert response.status == status, path
        port = connection.sock.getsockname()[1]
        assert local_port in (None, port), "the connection was not kept"
        local_port = port
    connection.close()


def test_chunked_body_and_expect_continue(hub: RunningHub) -> None:
    content = b"some weights" * 1000
    link = upload_link(hub, content)
    assert put(link, iter([content[:5], content[5:]])) == 200
    parts = urlsplit(hub.endpoint)
    with socket.create_connection((parts.hostname, parts.port), 20) as raw:
        raw.sendall(
            b"POST /api/models/me/m/tag/main HTTP/1.1\r\nHost: x\r\nContent-Length: 14\r\n"
            b"Expect: 100-continue\r\nConnection: close\r\n\r\n"
        )
        stream = raw.makefile("rb")
        assert stream.readline().startswith(b"HTTP/1.1 100")
        raw.sendall(b'{"tag":  "v7"}')
        assert b"HTTP/1.1 200" in stream.read()


@pytest.mark.parametrize("kind", ["file", "lfs"])
def test_conditional_and_range_requests(hub: RunningHub, kind: str) -> None:
    content = bytes(range(200))
    if kind == "lfs":
        store(hub, "f", content)
    else:
        assert commit(hub, file("f", content))[0] == 200
    status, headers, _ = ask(hub, "HEAD", "/me/m/resolve/main/f")
    head = json.loads(ask(hub, "GET", "/api/models/me/m")[2])["sha"]
    assert headers["X-Repo-Commit"] == head
    etag = headers["ETag"]
    assert ask(hub, "GET", "/me/m/resolve/main/f", None, {"If-None-Match": etag})[0] == 304
    path, base = "/me/m/resolve/main/f", hub.endpoint
    if kind == "lfs":
        assert status == 302
        assert (headers["X-Linked-Etag"], headers["X-Linked-Size"]) == (etag, "200")
        assert etag.strip('"') == hashlib.sha256(content).hexdigest()
        assert headers["Location"].startswith(hub.lfs_endpoint + "/")
        path, base = headers["Location"].removeprefix(hub.lfs_endpoint), hub.lfs_endpoint
    else:
        assert (status, headers["Content-Length"]) == (200, "200")
    connection = connect(base)
    for value, expected_status, expected in (
        ("bytes=0-0", 206, content[:1]),
        ("bytes=150-", 206, content[150:]),
        ("bytes=190-900", 206, content[190:]),
        ("bytes=-7", 206, content[-7:]),
        ("bytes=0-1,5-6", 200, content),
        ("bytes=200-", 416, None),
    ):
        connection.request("GET", path, headers={"Range": value})
        response = connection.getresponse()
        body = response.read()
        assert response.status == expected_status, value
        assert expected is None or body == expected, value
    connection.close()


def test_raw_readme_and_pages(hub: RunningHub) -> None:
    assert commit(hub, file("README.md", b"# <script>alert(1)</script>"))[0] == 200
    store(hub, "w.bin", b"weights")
    assert ask(hub, "GET", "/me/m/raw/main/README.md")[2].startswith(b"# <script>")
    assert ask(hub, "GET", "/me/m/raw/main/w.bin")[2].startswith(b"version https://git-lfs")
    assert b'href="/me/m"' in ask(hub, "GET", "/")[2]
    page = ask(hub, "GET", "/me/m")[2]
    assert b"&lt;script&gt;" in page and b"<script>" not in page and b"w.bin" in page


def test_uploads_are_checked(hub: RunningHub) -> None:
    content = b"weights" * 100
    link = upload_link(hub, content)
    assert put(link, b"x" * len(content)) == 400
    assert put(link, content[:-1]) == 400
    assert put(link, content + b"x") == 400
    assert put(link.replace("signature=", "signature=0"), content) == 403
    assert put(link.replace("size=700", "size=701"), content + b"x") == 403
    oid = hashlib.sha256(content).hexdigest()
    value = {"path": "w.bin", "algo": "sha256", "oid": oid, "size": len(content)}
    status, _, body = commit(hub, ("lfsFile", value))
    assert status == 400 and b"has not been uploaded" in body
    verify = "/me/m.git/info/lfs/objects/verify"
    assert ask(hub, "POST", verify, {"oid": oid, "size": len(content)})[0] == 404
    assert list((hub.folder / ".slogpt-hf" / "incoming").iterdir()) == []
    assert not list((hub.folder / "me" / "m.git" / "lfs" / "objects").rglob("*"))
    assert put(link, content) == 200
    assert ask(hub, "POST", verify, {"oid": oid, "size": len(content)})[0] == 200
    assert upload_link(hub, content) == ""


def test_an_upload_cut_short_leaves_nothing(hub: RunningHub) -> None:
    parts = urlsplit(upload_link(hub, b"w" * 1000))
    with socket.create_connection((parts.hostname, parts.port), 20) as raw:
        head = f"PUT {parts.path}?{parts.query} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
        raw.sendall(head.encode() + b"w" * 400)
        raw.shutdown(socket.SHUT_WR)
        assert raw.makefile("rb").read() == b""
    assert list((hub.folder / ".slogpt-hf" / "incoming").iterdir()) == []
    assert not list((hub.folder / "me" / "m.git" / "lfs" / "objects").rglob("*"))


HOSTILE_PATHS = (
    "../out", "a/../../out", "/etc/x", "a//b", ".", "..", "a/.", ".git/config", "a/.GIT/hooks",
    "a\0b", "", "\ud800", "..\\out", "C:\\out",
)  # fmt: skip


@pytest.mark.parametrize("path", HOSTILE_PATHS)
def test_hostile_paths(hub: RunningHub, path: str) -> None:
    expected = 422 if "\\" in path else 400
    status, _, body = commit(hub, file(path))
    assert status == expected and b"path" in body
    files = [{"path": path, "size": 1, "sample": ""}]
    assert ask(hub, "POST", "/api/models/me/m/preupload/main", {"files": files})[0] == expected
    coded = quote(path.encode("utf-8", "surrogatepass"), safe="")
    assert ask(hub, "GET", f"/me/m/resolve/main/{coded}")[0] == 404


@pytest.mark.parametrize(
    "name",
    ["..", ".", "a/../../b", "-x", ".hidden", "a..b", "a--b", "x.git", "a\0", "é", "", "n" * 97],
)
def test_hostile_repo_names(hub: RunningHub, name: str) -> None:
    before = sorted(hub.folder.parent.rglob("*"))
    for payload in ({"name": name, "organization": "me"}, {"name": "m", "organization": name}):
        if payload["organization"] == "":
            continue
        assert ask(hub, "POST", "/api/repos/create", payload)[0] == 400
        assert ask(hub, "DELETE", "/api/repos/delete", payload)[0] == 404
    coded = quote(name, safe="")
    assert ask(hub, "GET", f"/api/models/me/{coded}")[0] == 404
    assert sorted(hub.folder.parent.rglob("*")) == before


@pytest.mark.parametrize(
    "revision",
    [
        "--help",
        "-h",
        "main^",
        "main~1",
        "HEAD^{tree}",
        "@{-1}",
        "main:x",
        "../x",
        "a\nb",
        "*",
        "é b",
    ],
)
def test_hostile_revisions(hub: RunningHub, revision: str) -> None:
    coded = quote(revision, safe="")
    for path in (f"/api/models/me/m/revision/{coded}", f"/me/m/resolve/{coded}/.gitattributes"):
        status, headers, _ = ask(hub, "GET", path)
        assert (status, headers["X-Error-Code"]) == (404, "RevisionNotFound")
    assert commit(hub, file("x"), branch=coded)[0] == 404
    assert ask(hub, "POST", f"/api/models/me/m/branch/{coded}", {})[0] == 400
    assert ask(hub, "POST", "/api/models/me/m/tag/main", {"tag": revision})[0] == 400


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b'{"key": "header"}', b'{"key": "header", "value": 3}',
        b'{"key": "header", "value": {"summary": ""}}',
        b'{"key": "header", "value": {"summary": "\\ud800"}}',
        b'{"key": "what", "value": {"path": "x"}}\n{"key": "header", "value": {"summary": "s"}}',
        b'{"key": "file", "value": {"path": "x", "content": "!", "encoding": "base64"}}',
        b"[" * 100_000,
    ],
)  # fmt: skip
def test_malformed_commits(hub: RunningHub, body: bytes) -> None:
    assert ask(hub, "POST", "/api/models/me/m/commit/main", body)[0] == 400


@pytest.mark.parametrize("path", ["/api/spaces/a/b", "/spaces/a/b/resolve/main/x", "/spaces/a/b"])
def test_other_kinds_of_repositories(hub: RunningHub, path: str) -> None:
    status, _, body = ask(hub, "GET", path)
    assert status == 404 and b"models and datasets only" in body
    assert ask(hub, "POST", "/api/repos/create", {"name": "x", "type": "space"})[0] == 400


def test_web_pages_cannot_write(hub: RunningHub) -> None:
    body = {"name": "x", "organization": "me"}
    origin = {"Origin": "http://evil.example"}
    assert ask(hub, "POST", "/api/repos/create", body, origin)[0] == 403


def test_alias_bombs_are_not_expanded(hub: RunningHub) -> None:
    card = b"---\na: &a [x, x]\nb: [*a, *a]\n---\n"
    assert commit(hub, file("README.md", card))[0] == 400
    payload = {"content": card.decode()}
    assert ask(hub, "POST", "/api/validate-yaml", payload)[0] == 400


@pytest.mark.parametrize(
    "card",
    [
        "foo: 0x" + "f" * 9000,
        "tags: [0x" + "f" * 9000 + "]",
        "foo: {2020-01-01: x}",
        "foo: {!!binary aGk=: x}",
        "tags: [!!binary aGk=, 2020-01-01]",
        "foo: [.nan, .inf]",
    ],
)
def test_a_card_cannot_break_the_listing(hub: RunningHub, card: str) -> None:
    commit(hub, file("README.md", f"---\n{card}\n---\n".encode()))
    for path in ("/api/models/me/m", "/api/models?full=1"):
        status, _, body = ask(hub, "GET", path)
        assert status == 200 and b"NaN" not in body and b"Infinity" not in body


@pytest.mark.parametrize("head", ["Content-Length: " + "9" * 5000, "Transfer-Encoding: chunked"])
def test_lengths_that_are_none(hub: RunningHub, head: str) -> None:
    address = hub.endpoint.removeprefix("http://").split(":")
    with socket.create_connection((address[0], int(address[1])), timeout=10) as connection:
        request = f"POST /api/validate-yaml HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n-5\r\n{{}}\r\n"
        connection.sendall(request.encode())
        assert connection.recv(100)[:12] in (b"", b"HTTP/1.1 400")  # and no waiting for more


def test_racing_commits_all_land(hub: RunningHub) -> None:
    statuses: list[int] = []
    barrier = threading.Barrier(6)

    def run(number: int) -> None:
        barrier.wait()
        statuses.append(commit(hub, file(f"f{number}"))[0])

    threads = [threading.Thread(target=run, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 6
    siblings = json.loads(ask(hub, "GET", "/api/models/me/m")[2])["siblings"]
    assert {f"f{n}" for n in range(6)} <= {s["rfilename"] for s in siblings}


def test_racing_tags_have_one_winner(hub: RunningHub) -> None:
    statuses: list[int] = []
    barrier = threading.Barrier(6)

    def run() -> None:
        barrier.wait()
        statuses.append(ask(hub, "POST", "/api/models/me/m/tag/main", {"tag": "v1"})[0])

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200] + [409] * 5


def test_token_never_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), serve(tmp_path, token="hf_secret") as hub:
        headers = {"Authorization": "Bearer hf_secret"}
        assert ask(hub, "GET", "/api/whoami-v2", None, headers)[0] == 200
        assert ask(hub, "GET", "/api/whoami-v2?x=hf_secret", None, headers)[0] == 200
    assert "whoami" in caplog.text and "hf_secret" not in caplog.text


def test_serve_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(tmp_path / "one") as hub:
        port = int(hub.endpoint.rpartition(":")[2])
        with pytest.raises(UsageError, match="another port"), serve(tmp_path / "two", port=port):
            pass
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"), serve(tmp_path / "file"):
        pass
    with pytest.raises(UsageError, match="token"), serve(tmp_path / "one", token=" "):
        pass
    monkeypatch.setenv("PATH", "")
    with pytest.raises(HubError, match="git"), serve(tmp_path / "one"):
        pass


def test_stopping_closes_everything(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    with serve(tmp_path) as hub:
        idle = connect(hub.endpoint)
        idle.request("GET", "/api/models")
        idle.getresponse().read()
    hub.wait()
    assert set(threading.enumerate()) <= before
    with pytest.raises(OSError):
        connect(hub.endpoint).request("GET", "/")
    idle.close()


def test_interceptor_answers(tmp_path: Path) -> None:
    with serve(tmp_path, intercept=lambda r: Response(503, b"no") if r.path[0] else None) as hub:
        assert ask(hub, "GET", "/api/models")[::2] == (503, b"no")
        assert ask(hub, "GET", "/")[0] == 200
