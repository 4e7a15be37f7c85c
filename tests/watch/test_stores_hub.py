"""Files of Hub repositories and buckets as object stores."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from object_stores import Web, names, only, sha256

from slogpt_hf.errors import CheckpointError, UsageError
from slogpt_hf.planning import plan_releases
from slogpt_hf.settings import Settings
from slogpt_hf.watch.fetching import fetch
from slogpt_hf.watch.stores import fetch_object

Entry = Callable[..., dict[str, Any]]

pytestmark = pytest.mark.usefixtures("fresh_stores")


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
