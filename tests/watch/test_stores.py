"""Object stores: real ones in memory, on disk and on loopback; stand-ins where none is at hand."""

from __future__ import annotations

import base64
import hashlib
import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from object_stores import names, only, sha256

from slogpt_hf.errors import CheckpointError, HubError, UsageError
from slogpt_hf.planning import plan_releases
from slogpt_hf.settings import Settings
from slogpt_hf.watch import stores
from slogpt_hf.watch.fetching import fetch
from slogpt_hf.watch.sources import find_candidates
from slogpt_hf.watch.stores import fetch_object, learn, object_id, store_candidates

Entry = Callable[..., dict[str, Any]]

pytestmark = pytest.mark.usefixtures("fresh_stores")


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
