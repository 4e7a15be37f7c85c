"""Uploads by the Xet protocol as the real `hf_xet` makes them, below `huggingface_hub`."""

from __future__ import annotations

import filecmp
import random
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, HfApi, constants, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError

from slogpt_hf.hub.embedded import Request, Response, RunningHub, serve, xet_xorbs

REPO = "me/model"
DRAWN = random.Random(0)
NOISE = DRAWN.randbytes(700_001)
WEIGHTS = struct.pack("<600000f", *(DRAWN.gauss(0, 0.02) for _ in range(600_000)))
TEXT = " ".join(DRAWN.choices(["the", "sea", "was", "angry", "that", "day"], k=200_000)).encode()
FILES = {
    "noise.bin": NOISE,
    "model.safetensors": WEIGHTS,
    "text.bin": TEXT,
    "zeros.bin": bytes(1_000_000),
    "tiny.bin": b"x",
    "config.json": b"{}",
}
SIMILAR = WEIGHTS[:1_000_000] + b"inserted" + WEIGHTS[1_000_000:]


@pytest.fixture(autouse=True)
def _xet_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)


@pytest.fixture
def seen() -> list[Request]:
    """The requests that the hub gets, in order."""
    return []


@pytest.fixture
def hub(tmp_path: Path, seen: list[Request]) -> Iterator[RunningHub]:
    def note(request: Request) -> Response | None:
        seen.append(request)
        return None

    with serve(tmp_path / "hub", token="right", intercept=note) as running:
        yield running


@pytest.fixture
def api(hub: RunningHub) -> HfApi:
    client = HfApi(endpoint=hub.endpoint, token="right")
    client.create_repo(REPO)
    return client


def commit(api: HfApi, repo: str = REPO, **files: bytes) -> str:
    operations = [CommitOperationAdd(path, data) for path, data in files.items()]
    return str(api.create_commit(repo, operations=operations, commit_message="files").oid)


def xorb_sizes(seen: list[Request]) -> list[int]:
    """Bytes of each xorb that was uploaded."""
    return [int(r.headers["content-length"]) for r in seen if r.path[-3:-1] == ("xorbs", "default")]


def tree_id(hub: RunningHub, repo: str) -> str:
    command = ["git", f"--git-dir={hub.folder}/{repo}.git", "rev-parse", "main^{tree}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_files_arrive_whole_and_as_lfs_objects(
    hub: RunningHub, api: HfApi, seen: list[Request], tmp_path: Path
) -> None:
    assert hub.xet
    commit(api, **FILES)
    assert len(xorb_sizes(seen)) == 1
    assert not any(r.method == "PUT" or r.path[-1] == "batch" for r in seen)
    for path, data in FILES.items():
        got = hf_hub_download(
            REPO, path, endpoint=hub.endpoint, token="right", cache_dir=tmp_path / "cache"
        )
        assert Path(got).read_bytes() == data
    entries = {e.path: e for e in api.list_repo_tree(REPO)}
    objects = hub.folder / f"{REPO}.git" / "lfs" / "objects"
    for path, data in FILES.items():
        lfs = entries[path].lfs
        if path == "config.json":
            assert lfs is None
            continue
        sha256 = lfs.sha256
        assert (objects / sha256[:2] / sha256[2:4] / sha256).read_bytes() == data


def test_xet_and_lfs_give_the_same_tree(
    hub: RunningHub, api: HfApi, monkeypatch: pytest.MonkeyPatch, seen: list[Request]
) -> None:
    commit(api, **FILES)
    api.create_repo("me/plain")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    seen.clear()
    commit(api, "me/plain", **FILES)
    assert sum(r.method == "PUT" for r in seen) == len(FILES) - 1
    assert not any("xet" in part for r in seen for part in r.path)
    assert tree_id(hub, REPO) == tree_id(hub, "me/plain")


def test_known_chunks_are_not_sent_again(
    hub: RunningHub, api: HfApi, seen: list[Request], tmp_path: Path
) -> None:
    commit(api, **{"a.safetensors": WEIGHTS})
    assert sum(xorb_sizes(seen)) > len(WEIGHTS) / 2
    seen.clear()
    commit(api, **{"b.safetensors": SIMILAR})
    assert 0 < sum(xorb_sizes(seen)) < len(WEIGHTS) / 4
    got = hf_hub_download(
        REPO, "b.safetensors", endpoint=hub.endpoint, token="right", cache_dir=tmp_path / "cache"
    )
    assert Path(got).read_bytes() == SIMILAR


def test_a_file_of_several_full_xorbs(
    hub: RunningHub, api: HfApi, seen: list[Request], tmp_path: Path
) -> None:
    large = tmp_path / "large.bin"
    large.write_bytes(random.Random(1).randbytes(70 * 1024 * 1024))
    operation = CommitOperationAdd("large.bin", str(large))
    api.create_commit(REPO, operations=[operation], commit_message="files")
    assert max(xorb_sizes(seen)) > 60_000_000
    assert len(xorb_sizes(seen)) == 2
    sha256 = operation.upload_info.sha256.hex()
    (stored,) = (hub.folder / f"{REPO}.git" / "lfs").rglob(sha256)
    assert filecmp.cmp(stored, large, shallow=False)


def test_unchanged_content_is_uploaded_once(
    hub: RunningHub, api: HfApi, seen: list[Request]
) -> None:
    first = commit(api, **FILES)
    seen.clear()
    assert commit(api, **FILES) == first
    assert xorb_sizes(seen) == []


def test_xorbs_end_with_the_run(tmp_path: Path) -> None:
    with serve(tmp_path / "hub") as hub:
        api = HfApi(endpoint=hub.endpoint, token=False)
        api.create_repo(REPO)
        commit(api, **{"noise.bin": NOISE})
        incoming = hub.folder / ".slogpt-hf" / "incoming"
        assert [path.name[:4] for path in incoming.iterdir()] == ["xet-"]
    assert list(incoming.iterdir()) == []


def test_content_with_another_sha256_is_refused(hub: RunningHub, api: HfApi) -> None:
    operation = CommitOperationAdd("a.bin", NOISE)
    operation.upload_info.sha256 = bytes(32)
    with pytest.raises(RuntimeError, match=f"not the object {'0' * 64} of {len(NOISE)} bytes"):
        api.create_commit(REPO, operations=[operation], commit_message="files")
    assert list((hub.folder / f"{REPO}.git" / "lfs" / "objects").rglob("?" * 64)) == []


@pytest.mark.parametrize("token", ["wrong", False])
def test_a_wrong_token_uploads_nothing(
    hub: RunningHub, api: HfApi, seen: list[Request], token: str | bool
) -> None:
    operation = CommitOperationAdd("a.bin", NOISE)
    operation._upload_mode = "lfs"
    stranger = HfApi(endpoint=hub.endpoint, token=token)
    with pytest.raises(OSError, match="401") as error:
        stranger.preupload_lfs_files(REPO, additions=[operation])
    assert not isinstance(error.value, HfHubHTTPError)
    assert xorb_sizes(seen) == []


@pytest.mark.parametrize("without", ["switched off", "no lz4"])
def test_a_hub_without_xet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without: str) -> None:
    if without == "no lz4":
        monkeypatch.setattr(xet_xorbs, "is_available", lambda: False)
    with serve(tmp_path / "hub", xet=without == "no lz4") as hub:
        assert not hub.xet
        api = HfApi(endpoint=hub.endpoint, token=False)
        api.create_repo(REPO)
        with pytest.raises(OSError, match="501"):
            commit(api, **{"a.bin": NOISE})
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        assert commit(api, **{"a.bin": NOISE})
