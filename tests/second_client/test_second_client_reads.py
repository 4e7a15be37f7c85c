"""A release by our client, read by the second one."""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from slogpt_hf.hub.embedded import serve

REPO, TAG = "me/model", "v1.0.0"
WEIGHTS = "model.safetensors"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize {}\n"


@dataclass(frozen=True)
class Published:
    """A hub that is up, what the release said of itself, and its files with their SHA-256."""

    client: Any
    commit: str
    record: dict[str, Any]
    folder: Path

    @property
    def files(self) -> dict[str, str]:
        return {name: sha256(self.content(name)) for name in self.names}

    @property
    def names(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())

    def content(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(scope="session")
def published(
    tmp_path_factory: pytest.TempPathFactory,
    golden: Callable[[str], Path],
    cli: Callable[..., str],
    second_client: Callable[..., Any],
) -> Iterator[Published]:
    folder = tmp_path_factory.mktemp("published")
    checkpoint = golden("slo-rope-rmsnorm-gelu") / "ckpt.pt"
    out = cli(
        "release", checkpoint, "--repo-id", REPO, "--hub", folder / "hub",
        "--output", folder / "artefact", "--license", "mit", "--json",
    )  # fmt: skip
    release = json.loads(out)[0]
    # The hub has these with version and tag in them; git reads them without any client.
    git_dir = f"--git-dir={folder}/hub/{REPO}.git"
    for name in ("README.md", "release.json"):
        command = ["git", git_dir, "show", f"{release['commit']}:{name}"]
        shown = subprocess.run(command, capture_output=True, check=True).stdout
        (folder / "artefact" / name).write_bytes(shown)
    with serve(folder / "hub", token="hf_theTokenOfTheseTests") as running:
        record = json.loads((folder / "artefact/release.json").read_text("utf-8"))
        yield Published(second_client(running), release["commit"], record, folder / "artefact")


@pytest.fixture(params=["tag", "branch", "commit"])
def revision(request: pytest.FixtureRequest, published: Published) -> str:
    return {"tag": TAG, "branch": "main", "commit": published.commit}[request.param]


def test_every_file_is_the_one_that_the_record_proves(published: Published, revision: str) -> None:
    found = {
        name: sha256(published.client("downloadFile", repo=REPO, path=name, revision=revision))
        for name in published.names
    }
    assert found == published.files
    proven = published.record["files"]
    assert WEIGHTS in proven
    assert {name: found[name] for name in proven} == proven


def test_the_listing_says_what_the_files_are(published: Published, revision: str) -> None:
    entries = published.client("listFiles", repo=REPO, recursive=True, revision=revision)
    listed = {entry["path"]: entry for entry in entries}
    assert listed.keys() == {*published.names, ".gitattributes"}
    assert {entry["type"] for entry in entries} == {"file"}
    for name in published.names:
        assert listed[name]["size"] == len(published.content(name))
    weights = published.content(WEIGHTS)
    pointer = POINTER.format(sha256(weights), len(weights))
    assert listed[WEIGHTS]["lfs"] == {
        "oid": published.record["files"][WEIGHTS],
        "size": len(weights),
        "pointerSize": len(pointer),
    }
    assert "lfs" not in listed["config.json"]
    blob = published.content("config.json")
    assert listed["config.json"]["oid"] == git_blob_id(blob)
    raw = published.client("downloadFile", repo=REPO, path=WEIGHTS, revision=revision, raw=True)
    assert raw.decode() == pointer

    paths = [*listed, "missing.bin"]
    infos = published.client("pathsInfo", repo=REPO, paths=paths, revision=revision, expand=True)
    assert {info["path"] for info in infos} == listed.keys()
    for info in infos:
        same = listed[info["path"]]
        assert {key: info.get(key) for key in same} == same
        if info["path"] != ".gitattributes":  # the hub's, which a picture makes it write again
            assert info["lastCommit"]["id"] == published.commit


def git_blob_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@pytest.mark.parametrize("name", ["config.json", WEIGHTS])
def test_parts_of_files(published: Published, name: str) -> None:
    content = published.content(name)
    size = len(content)
    for part in ((0, 1), (0, size), (5, 21), (size - 3, size), (size - 3, size + 9)):
        read = published.client("downloadFile", repo=REPO, path=name, revision=TAG, part=part)
        assert read == content[slice(*part)]


def test_what_is_to_download(published: Published, revision: str) -> None:
    for name, etag in ((WEIGHTS, published.files[WEIGHTS]), ("config.json", None)):
        info = published.client("fileDownloadInfo", repo=REPO, path=name, revision=revision)
        content = published.content(name)
        assert info["size"] == len(content)
        assert info["etag"] == f'"{etag or git_blob_id(content)}"'
    assert published.client("fileExists", repo=REPO, path=WEIGHTS, revision=revision)
    assert not published.client("fileExists", repo=REPO, path="missing", revision=revision)
    for function in ("fileDownloadInfo", "downloadFile"):
        assert published.client(function, repo=REPO, path="missing", revision=revision) is None


def test_the_model_is_described_and_found(published: Published) -> None:
    fields = ["sha", "tags", "library_name", "cardData", "filePaths", "author"]
    info = published.client("modelInfo", name=REPO, revision=TAG, additionalFields=fields)
    assert info["name"] == REPO
    assert info["author"] == "me"
    assert info["sha"] == published.commit
    assert info["private"] is False
    assert info["gated"] is False
    assert info["task"] == "text-generation"
    assert info["library_name"] == info["cardData"]["library_name"] == "transformers"
    assert "license:mit" in info["tags"]
    assert set(info["filePaths"]) == {*published.names, ".gitattributes"}
    head = published.client("modelInfo", name=REPO, additionalFields=["sha"])
    assert head["sha"] == published.commit

    for search, is_found in (
        ({"query": "mod", "owner": "me"}, True),
        ({"task": "text-generation", "tags": ["license:mit"]}, True),
        ({"query": "elsewhere"}, False),
        ({"owner": "mo"}, False),
        ({"tags": ["license:gpl"]}, False),
    ):
        models = published.client("listModels", search=search)
        assert [model["name"] for model in models] == [REPO] * is_found


def test_commits_as_the_first_client_lists_them(published: Published, revision: str) -> None:
    from huggingface_hub import HfApi

    api = HfApi(endpoint=published.client.endpoint, token=False)
    expected = api.list_repo_commits(REPO, revision=revision)
    for size in (1, 100):
        commits = published.client("listCommits", repo=REPO, revision=revision, batchSize=size)
        assert [
            (commit["oid"], commit["title"], commit["message"], commit["date"][:19])
            for commit in commits
        ] == [(c.commit_id, c.title, c.message, f"{c.created_at:%FT%T}") for c in expected]
    assert commits[0]["oid"] == published.commit
    count = published.client("countCommits", repo=REPO, revision=revision)
    assert count == len(expected) == 2


def test_a_snapshot_in_the_cache_that_both_clients_share(
    published: Published, tmp_path: Path
) -> None:
    from huggingface_hub import snapshot_download

    published.client("snapshotDownload", repo=REPO, revision=TAG, cacheDir=str(tmp_path))
    folder = snapshot_download(REPO, revision=TAG, cache_dir=tmp_path, local_files_only=True)
    names = [path.name for path in Path(folder).iterdir()]
    assert sorted(names) == sorted([*published.names, ".gitattributes"])
    for name, digest in published.files.items():
        assert sha256((Path(folder) / name).read_bytes()) == digest


def test_tensors_are_counted_without_a_download(published: Published) -> None:
    metadata = published.client(
        "parseSafetensorsMetadata", repo=REPO, revision=TAG, computeParametersCount=True
    )
    header_size = int.from_bytes(published.content(WEIGHTS)[:8], "little")
    header = json.loads(published.content(WEIGHTS)[8 : 8 + header_size])
    assert metadata["header"] == header
    shapes = [tensor["shape"] for name, tensor in header.items() if name != "__metadata__"]
    assert metadata["parameterCount"] == {"F32": sum(map(math.prod, shapes))}


def test_who_may_read_what(published: Published) -> None:
    owner = published.client
    assert owner("whoAmI")["auth"]["accessToken"]["role"] == "admin"
    for client in (owner, replace(owner, token=None)):
        client("checkRepoAccess", repo=REPO)
        assert client("repoExists", repo=REPO)
        assert client("repoExists", repo=REPO, revision=TAG)
        assert not client("repoExists", repo="me/none")
        assert sha256(client("downloadFile", repo=REPO, path=WEIGHTS)) == published.files[WEIGHTS]


READS: dict[str, dict[str, Any]] = {
    "checkRepoAccess": {},
    "listFiles": {},
    "pathsInfo": {"paths": [WEIGHTS]},
    "fileDownloadInfo": {"path": WEIGHTS},
    "downloadFile": {"path": WEIGHTS},
    "listCommits": {},
    "countCommits": {},
    "modelInfo": {},
}


@pytest.mark.parametrize("function", READS)
def test_refusals_have_the_hubs_status(published: Published, function: str) -> None:
    owner, given = published.client, READS[function]
    named = {"repo": REPO, "name": REPO, **given}
    missing = {"repo": "me/none", "name": "me/none", **given}
    assert replace(owner, token="hf_wrong").refusal(function, **named) == 401
    assert owner.refusal(function, **missing) == 404
    assert replace(owner, token=None).refusal(function, **missing) == 401
    if function != "checkRepoAccess":
        for unknown in ("v9", "f" * 40):
            assert owner.refusal(function, **named, revision=unknown) == 404


def test_nobody_is_refused_by_name(published: Published) -> None:
    assert replace(published.client, token="hf_wrong").refusal("whoAmI") == 401
