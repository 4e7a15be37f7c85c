"""Object stores: real ones in memory, on disk and on loopback; stand-ins where none is at hand."""

from __future__ import annotations

import base64
import hashlib
import importlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from slogpt_hf.errors import CheckpointError, HubError, UsageError
from slogpt_hf.planning import plan_releases
from slogpt_hf.redaction import without_secrets
from slogpt_hf.settings import Settings
from slogpt_hf.watch import Candidate, stores
from slogpt_hf.watch.fetching import fetch
from slogpt_hf.watch.sources import find_candidates
from slogpt_hf.watch.stores import fetch_object, learn, object_id, store_candidates

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


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of other tests: neither in this module's memory nor in that of fsspec."""
    from fsspec.implementations.memory import MemoryFileSystem

    monkeypatch.setattr(stores, "_entrusted", {})
    monkeypatch.setattr(stores, "_learned", {})
    monkeypatch.setattr(MemoryFileSystem, "store", {})
    monkeypatch.setattr(MemoryFileSystem, "pseudo_dirs", [""])
    monkeypatch.delenv("HF_TOKEN", raising=False)


# Stores that fsspec reaches, and globs


@pytest.fixture
def memory() -> Any:
    import fsspec

    system = fsspec.filesystem("memory")
    for name in ("a/ckpt.pt", "a/b/ckpt-2.pt", "a/b/c/ckpt-3.pt", "a/b/meta.pkl", "top.pt"):
        system.pipe(f"/{name}", name.encode())
    return system


@pytest.mark.parametrize(
    ("glob", "found"),
    [
        ("memory://a/ckpt.pt", ["a/ckpt.pt"]),
        ("MEMORY://a/ckpt.pt", ["a/ckpt.pt"]),
        ("memory://a/**/ckpt*.pt", ["a/ckpt.pt", "a/b/ckpt-2.pt", "a/b/c/ckpt-3.pt"]),
        ("memory://a/*/ckpt*", ["a/b/ckpt-2.pt"]),
        ("memory://a/b/ckpt-[0-9].p?", ["a/b/ckpt-2.pt"]),
        ("memory://*.pt", ["top.pt"]),
        ("memory://**/ckpt.pt", ["a/ckpt.pt"]),
        ("memory://a/b/**", ["a/b/ckpt-2.pt", "a/b/c/ckpt-3.pt", "a/b/meta.pkl"]),
        ("memory://a/*.bin", []),
        ("memory://nothing/here/*.pt", []),
    ],
)
def test_globs(memory: Any, glob: str, found: list[str]) -> None:
    assert sorted(names(glob)) == sorted(f"memory://{name}" for name in found)


def test_an_object_is_found_and_fetched(memory: Any, tmp_path: Path) -> None:
    candidate = only("memory://a/ckpt.pt")
    assert (candidate.kind, candidate.n_bytes, candidate.sha256) == ("store", 9, None)
    assert candidate.provenance.url == "memory://a/ckpt.pt"
    assert candidate.provenance.etag and candidate.time
    fetched = fetch(candidate, tmp_path / "work", Settings())
    assert fetched.path == tmp_path / "work" / "ckpt.pt"
    assert fetched.path.read_bytes() == b"a/ckpt.pt"
    assert fetched.sha256 == sha256(b"a/ckpt.pt")
    assert [each.name for each in (tmp_path / "work").iterdir()] == ["ckpt.pt"]


def test_the_oldest_come_first_and_each_once(memory: Any) -> None:
    memory.pipe("/a/ckpt.pt", b"written again")
    urls = ["memory://a/**/ckpt*.pt", "memory://a/ckpt.pt"]
    found = [each.name for each in store_candidates(urls, ())]
    assert found == [
        "memory://a/b/ckpt-2.pt",
        "memory://a/b/c/ckpt-3.pt",
        "memory://a/ckpt.pt",
    ]


def test_files_by_url(tmp_path: Path) -> None:
    folder = tmp_path / "a b"
    (folder / "c").mkdir(parents=True)
    (folder / "ckpt.pt").write_bytes(b"1")
    (folder / "c" / "ckpt.pt").write_bytes(b"22")
    os.utime(folder / "ckpt.pt", ns=(0, 1_700_000_000_123_456_789))
    assert names(f"file://{folder}/*.pt") == [f"file://{folder}/ckpt.pt"]
    assert len(names(f"file://{folder}/**/*.pt")) == 2
    candidate = only(f"file://{folder}/ckpt.pt")
    assert candidate.provenance.etag == "1-1700000000.123457"
    fetched = fetch(candidate, tmp_path / "work", Settings())
    assert (fetched.path.read_bytes(), fetched.path.parent) == (b"1", tmp_path / "work")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("memory://a/nothing.pt", "a/nothing.pt: no such object"),
        ("memory://a/b", "a/b: is a folder"),
        ("ftp://example.org/ckpt.pt", "ftp:// is no known object store"),
        ("s3://*/ckpt.pt", "names no bucket"),
        ("https://example.org/*.pt", "a web server does not list"),
        ("https://[/ckpt.pt", "is no URL"),
        ("https:///ckpt.pt", "is no URL"),
        ("https://example.org:0x/ckpt.pt", "is no URL"),
    ],
)
def test_what_cannot_be_meant(memory: Any, url: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        store_candidates([url], ())
    assert message in str(caught.value)


# Which content an object has


def test_the_ledger_knows_what_is_behind_an_etag(
    memory: Any, new_hub: Callable[..., Path], ledger_entry: Entry
) -> None:
    url = "memory://a/ckpt.pt"
    etag = only(url).provenance.etag

    def entry(version: str, content: bytes, **source: Any) -> dict[str, Any]:
        made = ledger_entry(version, sha256=sha256(content))
        return made | {"source": {"commit": None, "branch": None, **source}}

    known = entry("1.0.0", b"a/ckpt.pt", url=url, etag=etag)
    assert only(url, known).sha256 == sha256(b"a/ckpt.pt")
    others = (
        entry("1.0.0", b"x", url=url, etag="another"),
        entry("1.0.0", b"x", url="memory://top.pt", etag=etag),
        entry("1.0.0", b"x", url=url, etag=None),
        entry("1.0.0", b"x"),
    )
    assert only(url, *others).sha256 is None
    newer = entry("1.0.1", b"newer", url=url, etag=etag)
    assert only(url, newer, known).sha256 == sha256(b"newer")
    settings = Settings(repo_id="me/model", hub=str(new_hub(known)))
    (decision,) = plan_releases([url], settings).decisions
    assert (decision.wanted, decision.reason) == (False, "released as v1.0.0")
    memory.pipe("/a/ckpt.pt", b"a/ckpt.PT")
    (decision,) = plan_releases([url], settings).decisions
    assert (decision.wanted, decision.candidate.sha256) == (True, None)


def test_what_was_downloaded_before_is_known(memory: Any) -> None:
    url = "memory://a/ckpt.pt"
    identity = object_id(url, only(url).provenance.etag)
    assert identity is not None
    learn({identity: sha256(b"1")})
    assert only(url).sha256 == sha256(b"1")
    assert only("memory://top.pt").sha256 is None
    stores.forget(identity)
    stores.forget(identity)
    assert only(url).sha256 is None
    assert object_id(url, None) is object_id(None, "1") is None


def test_an_adapter_is_known_by_both_digests(
    memory: Any, tmp_path: Path, ledger_entry: Entry
) -> None:
    """What the ledger has of (URL, etag) is the digest of both files already."""
    url, base = "memory://a/ckpt.pt", tmp_path / "base.pt"
    base.write_bytes(b"base")
    found = only(url).provenance
    both = sha256(f"{sha256(b'a/ckpt.pt')}\n{sha256(b'base')}\n".encode())
    known = ledger_entry("1.0.0", sha256=both)
    known["source"] |= {"url": url, "etag": found.etag}
    settings = Settings(base=str(base))
    (candidate,) = find_candidates([url], settings, None, [known])
    assert candidate.sha256 in (None, both)
    assert fetch(candidate, tmp_path / "work", settings).sha256 == both
    learn({object_id(url, found.etag) or "": sha256(b"a/ckpt.pt")})
    (candidate,) = find_candidates([url], settings, None, [known])
    assert candidate.sha256 == both


# Downloads that go wrong


@pytest.mark.parametrize("content", [b"b/ckpt.pt", b"longer than before"])
def test_what_changed_since_it_was_planned(memory: Any, tmp_path: Path, content: bytes) -> None:
    candidate = only("memory://a/ckpt.pt")
    memory.pipe("/a/ckpt.pt", content)
    with pytest.raises(CheckpointError, match=r"a/ckpt\.pt: changed since it was planned"):
        fetch_object(candidate, tmp_path / "ckpt.pt")
    assert not list(tmp_path.iterdir())


def test_what_changes_while_it_is_downloaded(
    memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    get_file = type(memory).get_file

    def slowly(self: Any, *arguments: Any, **options: Any) -> None:
        get_file(self, *arguments, **options)
        self.pipe("/a/ckpt.pt", b"a/ckpt.PT")

    candidate = only("memory://a/ckpt.pt")
    monkeypatch.setattr(type(memory), "get_file", slowly)
    with pytest.raises(CheckpointError, match="changed since"):
        fetch_object(candidate, tmp_path / "ckpt.pt")
    assert not list(tmp_path.iterdir())


def test_what_ends_too_early(memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def truncated(self: Any, path: str, local: str, **options: Any) -> None:
        Path(local).write_bytes(b"a/ck")

    candidate = only("memory://a/ckpt.pt")
    monkeypatch.setattr(type(memory), "get_file", truncated)
    with pytest.raises(CheckpointError, match="changed since"):
        fetch_object(candidate, tmp_path / "ckpt.pt")
    assert not list(tmp_path.iterdir())


def test_what_vanished(memory: Any, tmp_path: Path) -> None:
    candidate = only("memory://a/ckpt.pt")
    memory.rm("/a/ckpt.pt")
    with pytest.raises(UsageError, match="no such object"):
        fetch(candidate, tmp_path / "work", Settings())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "said", "hint"),
    [
        (PermissionError("denied"), "cannot be read (denied)", "Check who may read it"),
        (
            type("NoCredentialsError", (Exception,), {})("none"),
            "cannot be read (none)",
            "Check who",
        ),
        (RuntimeError("\nodd\nthing"), "cannot be reached (odd)", "Check the network"),
        (TimeoutError(), "cannot be reached (TimeoutError)", "Check the network"),
        (OSError(5, "https://me:hunter2@h/"), "https://***@h/", "Check the network"),
    ],
)
def test_whatever_a_store_raises_is_one_message(
    memory: Any, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str, hint: str
) -> None:
    def fail(self: Any, *arguments: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(type(memory), "info", fail)
    with pytest.raises(HubError) as caught:
        store_candidates(["memory://a/ckpt.pt"], ())
    assert str(caught.value).startswith("memory://a/ckpt.pt: ")
    assert said in caught.value.message and hint in caught.value.hint


def test_a_full_disk_is_not_the_stores(
    memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Any, *arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    candidate = only("memory://a/ckpt.pt")
    monkeypatch.setattr(type(memory), "get_file", full)
    with pytest.raises(UsageError, match="cannot be written: No space left"):
        fetch(candidate, tmp_path / "work", Settings())


# What has to be installed


@pytest.mark.parametrize(
    ("url", "extra"),
    [
        ("s3://bucket/ckpt.pt", "slogpt-hf[s3]"),
        ("S3A://bucket/*.pt", "slogpt-hf[s3]"),
        ("gs://bucket/ckpt.pt", "slogpt-hf[gcs]"),
        ("gcs://bucket/*.pt", "slogpt-hf[gcs]"),
        ("az://container/ckpt.pt", "slogpt-hf[azure]"),
        ("abfs://container@account.dfs.core.windows.net/ckpt.pt", "slogpt-hf[azure]"),
    ],
)
def test_the_extra_is_named(url: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("s3fs", "gcsfs", "adlfs"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError) as caught:
        store_candidates([url], ())
    scheme = url.partition("://")[0].lower()
    assert caught.value.message.startswith(f"{scheme}:// needs more than what is installed (")
    assert caught.value.hint == f"Run: pip install '{extra}'"


@pytest.mark.parametrize("url", ["hf://buckets/me/bucket/*.pt", "hf://me/model/ckpt.pt"])
def test_a_hub_client_without_a_file_system(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = importlib.import_module("fsspec.registry")
    monkeypatch.delitem(registry._registry, "hf", raising=False)
    missing = {"class": "nowhere.HfFileSystem", "err": "Too old"}
    monkeypatch.setitem(registry.known_implementations, "hf", missing)
    with pytest.raises(UsageError) as caught:
        store_candidates([url], ())
    assert caught.value.message == "hf:// needs more than what is installed (Too old)."
    assert caught.value.hint == "Run: pip install --upgrade huggingface_hub fsspec"


# Credentials


@pytest.mark.parametrize(
    "url",
    [
        "s3://AKIAEXAMPLE:hunter2hunter2@bucket/ckpt.pt",
        "s3://AKIAEXAMPLE:hunter2/hunter2+x@bucket/*.pt",
        "s3://hunter2hunter2@bucket/ckpt.pt",
        "gs://me:hunter2hunter2@bucket/ckpt.pt",
    ],
)
def test_credentials_in_the_url_of_a_bucket(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        store_candidates([url], ())
    assert "has credentials in it. Set " in str(caught.value)
    assert "hunter2" not in str(caught.value) and "AKIA" not in str(caught.value)


@pytest.mark.parametrize("url", ["s3://arn:aws:s3:eu-1:1:accesspoint/x/a@b.pt", "s3://b/a:c@d.pt"])
def test_what_only_looks_like_credentials(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(UsageError, match="needs more than what is installed"):
        store_candidates([url], ())


# S3 tells a digest


class _Bucket:
    """What of s3fs tells a digest."""

    def __init__(self, reply: Any) -> None:
        self.reply = reply

    def split_path(self, path: str) -> tuple[str, str, None]:
        bucket, _, key = path.partition("/")
        return bucket, key, None

    def call_s3(self, method: str, **arguments: Any) -> Any:
        expected = {"Bucket": "bucket", "Key": "a/ckpt.pt", "ChecksumMode": "ENABLED"}
        assert (method, arguments) == ("head_object", expected)
        if isinstance(self.reply, Exception):
            raise self.reply
        return self.reply


CHECKSUM = base64.b64encode(hashlib.sha256(b"1").digest()).decode()


@pytest.mark.parametrize(
    ("reply", "digest"),
    [
        ({"ChecksumSHA256": CHECKSUM}, sha256(b"1")),
        ({"ChecksumSHA256": CHECKSUM, "ChecksumType": "FULL_OBJECT"}, sha256(b"1")),
        ({"ChecksumSHA256": CHECKSUM, "ChecksumType": "COMPOSITE"}, None),
        ({"ChecksumSHA256": f"{CHECKSUM}-3"}, None),
        ({"ChecksumSHA256": CHECKSUM[:-4]}, None),
        ({}, None),
        (PermissionError("no GetObjectAttributes"), None),
    ],
)
def test_the_digest_that_s3_tells(reply: Any, digest: str | None) -> None:
    assert stores._s3_sha256(_Bucket(reply), "bucket/a/ckpt.pt") == digest


@pytest.mark.parametrize(
    ("info", "etag", "time"),
    [
        ({"ETag": '"abc"', "LastModified": "2023-11-14T22:13:20.000Z"}, "abc", 1.7e9),
        ({"etag": "x", "generation": "7", "updated": "2023-11-14T22:13:20"}, "x", 1.7e9),
        ({"generation": 7}, "7", None),
        ({"xet_hash": "x", "uploaded_at": None, "mtime": 5}, "x", 5.0),
        ({"size": 9, "created": 1.5}, "9-1.500000", 1.5),
        ({"size": 9, "mtime": "yesterday"}, None, None),
        ({}, None, None),
    ],
)
def test_facts_by_many_names(info: dict[str, Any], etag: str | None, time: float | None) -> None:
    assert (stores._etag(info), stores._time(info)) == (etag, time)


# A web server


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


@pytest.fixture
def web() -> Iterator[Web]:
    with serving() as running:
        yield running


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


# The Hub


@pytest.fixture
def hub_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str, bytes], None]]:
    """An embedded hub for hf:// URLs; writes a file of me/model."""
    import fsspec
    from huggingface_hub import HfApi, constants

    from slogpt_hf.hub.embedded import serve

    with serve(tmp_path / "hub") as running:
        monkeypatch.setenv("HF_ENDPOINT", running.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        fsspec.get_filesystem_class("hf").clear_instance_cache()
        api = HfApi(endpoint=running.endpoint, token="embedded")
        api.create_repo("me/model")

        def write(name: str, content: bytes) -> None:
            api.upload_file(path_or_fileobj=content, path_in_repo=name, repo_id="me/model")

        yield write
    fsspec.get_filesystem_class("hf").clear_instance_cache()


def test_files_of_a_hub_repository(hub_files: Callable[[str, bytes], None], tmp_path: Path) -> None:
    large = bytes(range(256)) * 50_000  # which the hub keeps as a Git LFS object
    hub_files("out/ckpt.pt", large)
    hub_files("out/notes.txt", b"notes")
    url = "hf://me/model/out/ckpt.pt"
    assert names("hf://me/model/**/*.pt") == [url]
    assert names("hf://me/model@main/out/*.pt") == ["hf://me/model@main/out/ckpt.pt"]
    for candidate in (only(url), only("hf://me/model/out/*.pt")):
        assert (candidate.name, candidate.n_bytes) == (url, len(large))
        assert candidate.sha256 == sha256(large), "the Hub tells it without a download"
    fetched = fetch(only(url), tmp_path / "work", Settings())
    assert fetched.sha256 == sha256(large)
    before = only("hf://me/model/out/notes.txt")
    hub_files("out/notes.txt", b"other")
    assert before.provenance.etag != only("hf://me/model/out/notes.txt").provenance.etag
    with pytest.raises(CheckpointError, match="changed since"):
        fetch_object(before, tmp_path / "notes.txt")


@pytest.mark.parametrize(
    "url",
    [
        "hf://me/model/nothing.pt",
        "hf://me/nobody/ckpt.pt",
        "hf://buckets/me/nothing/ckpt.pt",
        "hf://buckets/me/nothing/*.pt",
    ],
)
def test_what_the_hub_does_not_have(hub_files: Callable[[str, bytes], None], url: str) -> None:
    with pytest.raises(UsageError, match="no such object"):
        only(url)


@pytest.fixture
def bucket(web: Web, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """A stand-in for the Hub with the bucket me/bucket, without Xet."""
    import fsspec
    from huggingface_hub import constants

    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{web.port}")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_bucket")
    fsspec.get_filesystem_class("hf").clear_instance_cache()
    info = {
        "id": "me/bucket",
        "private": True,
        "createdAt": "2026-01-01T00:00:00.000Z",
        "size": 7,
        "totalFiles": 1,
    }
    web.put("/api/buckets/me/bucket", json.dumps(info).encode())
    put_in_bucket(web, b"content", "f" * 64)
    yield web
    fsspec.get_filesystem_class("hf").clear_instance_cache()


def put_in_bucket(web: Web, content: bytes, xet_hash: str) -> None:
    file = {
        "type": "file",
        "path": "out/ckpt.pt",
        "size": len(content),
        "xetHash": xet_hash,
        "mtime": "2023-11-14T22:13:20.000Z",
    }
    for path in ("/tree", "/tree/out"):
        web.put(f"/api/buckets/me/bucket{path}", json.dumps([file]).encode())
    web.put("/buckets/me/bucket/resolve/out/ckpt.pt", content, ETag=f'"{xet_hash}"')


def test_a_bucket_of_the_hub(bucket: Web, tmp_path: Path) -> None:
    url = "hf://buckets/me/bucket/out/ckpt.pt"
    assert names("hf://buckets/me/bucket/**/*.pt") == [url]
    assert names("hf://buckets/me/bucket/*.pt") == []
    candidate = only(url)
    assert candidate == only("hf://buckets/me/bucket/out/*.pt")
    assert (candidate.n_bytes, candidate.time) == (7, 1_700_000_000)
    assert (candidate.sha256, candidate.provenance.etag) == (None, "f" * 64)
    assert not any("resolve" in path for path in bucket.downloads)
    assert fetch(candidate, tmp_path / "work", Settings()).sha256 == sha256(b"content")
    (got,) = [headers for _, path, headers in bucket.seen if "/resolve/" in path]
    assert "range" not in got, "block by block takes long"
    tokens = {headers.get("authorization") for _, _, headers in bucket.seen}
    assert tokens == {"Bearer hf_of_the_bucket"}
    put_in_bucket(bucket, b"changed", "e" * 64)
    with pytest.raises(CheckpointError, match="changed since"):
        fetch_object(candidate, tmp_path / "ckpt.pt")
    assert only(url).provenance.etag == "e" * 64, "a look remembers nothing of the one before"


def test_a_bucket_while_a_release_is_planned(
    bucket: Web, new_hub: Callable[..., Path], ledger_entry: Entry
) -> None:
    """The session of the hub looks for no token; and a look remembers nothing of the one before."""
    url, hub = "hf://buckets/me/bucket/out/ckpt.pt", new_hub(ledger_entry("1.0.0"))
    settings = Settings(repo_id="me/model", hub=str(hub))
    etags = []
    for digit in "fe":
        put_in_bucket(bucket, b"content", digit * 64)
        (decision,) = plan_releases([url], settings).decisions
        etags.append(decision.candidate.provenance.etag)
    assert etags == ["f" * 64, "e" * 64]
    tokens = {headers.get("authorization") for _, _, headers in bucket.seen}
    assert tokens == {"Bearer hf_of_the_bucket"}


def test_a_bucket_that_changes_while_it_is_read(
    bucket: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fsspec

    file_system = fsspec.get_filesystem_class("hf")
    get_file = file_system.get_file

    def slowly(self: Any, *arguments: Any, **options: Any) -> None:
        self.info("buckets/me/bucket/out/ckpt.pt")  # which it remembers
        get_file(self, *arguments, **options)
        put_in_bucket(bucket, b"changed", "e" * 64)

    candidate = only("hf://buckets/me/bucket/out/ckpt.pt")
    monkeypatch.setattr(file_system, "get_file", slowly)
    with pytest.raises(CheckpointError, match="changed since"):
        fetch_object(candidate, tmp_path / "ckpt.pt")
    assert not list(tmp_path.iterdir())


# What is imported


def test_looking_at_other_sources_imports_no_store(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from slogpt_hf.settings import Settings\n"
        "from slogpt_hf.watch.sources import find_candidates\n"
        f"find_candidates([{str(tmp_path)!r}], Settings(), None, ())\n"
        "import slogpt_hf.watch.stores\n"
        "print([name for name in ('fsspec', 'httpx2', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
