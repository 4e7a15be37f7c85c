"""What the second client writes, as our client and git see it."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError

from slogpt_hf.hub.embedded import Request, RunningHub
from slogpt_hf.hub.embedded.attributes import REGULAR_LIMIT

REPO = "me/model"
WEIGHTS = random.Random(1).randbytes(300_000)
LONG_TEXT = b"a line of text\n" * (REGULAR_LIMIT // 15 + 1)
SMALL = {
    "LICENSE": b"MIT\n",
    "notes/Größe (1) +50%.ipynb": '{"cells": ["é"]}\n'.encode(),
    "empty.txt": b"",
}
LARGE = {
    "model.safetensors": WEIGHTS,
    "notes/picture.png": b"\x89PNG\r\n\x1a\n\0\xff" * 9,
    "corpus/all of it.txt": LONG_TEXT,
}
Read = Callable[..., bytes]


def added(path: str, content: Any) -> dict[str, Any]:
    return {"operation": "addOrUpdate", "path": path, "content": content}


def written(client: Any, content: bytes, **more: Any) -> str:
    """Commits a file of this content; the commit's id."""
    operations = [added("written.txt", content)]
    commit = client("commit", repo=REPO, title="write", operations=operations, **more)["commit"]
    return str(commit["oid"])


def head(api: HfApi, branch: str = "main") -> str:
    return {ref.name: ref.target_commit for ref in api.list_repo_refs(REPO).branches}[branch]


@pytest.fixture
def repo(client: Any) -> str:
    client("createRepo", repo=REPO)
    return REPO


@pytest.mark.parametrize("xet", [False, True], ids=["lfs", "xet"])
def test_files_of_every_kind(
    client: Any, api: HfApi, read: Read, repo: str, hub: RunningHub, tmp_path: Path, xet: bool
) -> None:
    contents = SMALL | LARGE
    on_disk = tmp_path / "all of it.txt"
    on_disk.write_bytes(LONG_TEXT)
    files = [{"path": path, "content": data} for path, data in contents.items()]
    files[-1]["content"] = on_disk
    commit = client(
        "uploadFiles", repo=repo, files=files, commitTitle="title", commitDescription="more\nlines",
        useXet=xet,
    )["commit"]  # fmt: skip
    assert commit["url"] == f"{hub.endpoint}/{repo}/commit/{commit['oid']}"
    [last, first] = api.list_repo_commits(repo)
    assert (last.commit_id, last.title, last.message) == (commit["oid"], "title", "more\nlines")
    assert first.title == "initial commit"

    infos = {info.path: info for info in api.get_paths_info(repo, list(contents))}
    assert infos.keys() == contents.keys()
    for path, data in contents.items():
        assert read(api, path) == data
        assert infos[path].size == len(data)
        lfs = infos[path].lfs
        assert (lfs and lfs.sha256) == (hashlib.sha256(data).hexdigest() if path in LARGE else None)
        if data:  # the package asks for the first byte, and is refused where there is none
            assert client("downloadFile", repo=repo, path=path.replace("%", "%25")) == data

    assert attributes_of_a_clone(hub.folder / f"{repo}.git", tmp_path / "clone", contents) == {
        path: "lfs" if path in LARGE else "unspecified" for path in contents
    }


def attributes_of_a_clone(git_dir: Path, clone: Path, paths: Mapping[str, bytes]) -> dict[str, str]:
    """What git filters each path of a checkout by; git-lfs would download those of `lfs`."""
    env = os.environ | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    subprocess.run(["git", "clone", "--quiet", git_dir, clone], env=env, check=True)
    command = ["git", "-C", clone, "check-attr", "-z", "filter", "--", *paths]
    fields = subprocess.run(command, env=env, capture_output=True, check=True).stdout.split(b"\0")
    return {
        path.decode(): value.decode()
        for path, value in zip(fields[:-1:3], fields[2::3], strict=True)
    }


@pytest.mark.parametrize("xet", [False, True], ids=["lfs", "xet"])
def test_what_is_there_already_is_not_sent_again(
    client: Any, repo: str, hub: RunningHub, requests: list[Request], xet: bool
) -> None:
    def sent(path: str, data: bytes) -> tuple[int, int]:
        """How many LFS objects and how many xorbs an upload sends."""
        requests.clear()
        client("uploadFile", repo=repo, file={"path": path, "content": data}, useXet=xet)
        puts = [request for request in requests if request.method == "PUT"]
        return len(puts), sum("xorbs" in request.path for request in requests)

    once = (0, 1) if xet and hub.xet else (1, 0)
    assert sent("a.bin", WEIGHTS) == once
    assert sent("b.bin", WEIGHTS) == (0, 0)
    assert sent("b.bin", b"\0new") == once
    assert client("downloadFile", repo=repo, path="b.bin") == b"\0new"
    assert client("downloadFile", repo=repo, path="a.bin") == WEIGHTS


def test_repositories_come_and_go(client: Any, api: HfApi, hub: RunningHub) -> None:
    made = client("createRepo", repo=REPO, private=True)
    assert made["repoUrl"] == f"{hub.endpoint}/{REPO}"
    assert api.model_info(REPO).private
    assert client.refusal("createRepo", repo=REPO) == 409
    assert client.refusal("createRepo", repo="me/..") == 400
    stranger = replace(client, token=None)
    assert stranger.refusal("checkRepoAccess", repo=REPO) == 401
    assert stranger.refusal("downloadFile", repo=REPO, path=".gitattributes") == 401
    assert list(stranger("listModels")) == []
    client("uploadFile", repo=REPO, file={"path": "a.bin", "content": WEIGHTS}, useXet=False)
    assert client("downloadFile", repo=REPO, path="a.bin") == WEIGHTS
    client("createRepo", repo="me/other", visibility="public")
    assert not api.model_info("me/other").private
    assert [model["name"] for model in stranger("listModels")] == ["me/other"]
    client("deleteRepo", repo=REPO)
    with pytest.raises(RepositoryNotFoundError):
        api.model_info(REPO)
    assert client.refusal("checkRepoAccess", repo=REPO) == 404
    assert client.refusal("deleteRepo", repo=REPO) == 404


def test_a_commit_on_what_is_no_longer_the_head(
    client: Any, api: HfApi, read: Read, repo: str
) -> None:
    start = head(api)
    first = written(client, b"first", parentCommit=start)
    for late in ({}, {"useXet": False}):
        more = {"operations": [added("written.txt", b"late"), added("late.bin", WEIGHTS)], **late}
        given = {"repo": repo, "title": "late", "parentCommit": start, **more}
        assert client.refusal("commit", **given) == 412
    assert (
        client.refusal("deleteFiles", repo=repo, paths=["written.txt"], parentCommit=start) == 412
    )
    assert head(api) == first
    assert read(api, "written.txt") == b"first"
    assert head(api) == first != written(client, b"second", parentCommit=first)
    assert read(api, "written.txt") == b"second"


def test_deleting(client: Any, api: HfApi, repo: str) -> None:
    files = [{"path": path, "content": b"1"} for path in ("a", "b", "sub/c", "sub/d")]
    client("uploadFiles", repo=repo, files=files)
    client("deleteFiles", repo=repo, paths=["a", "sub/c"], commitTitle="less")
    client("deleteFile", repo=repo, path="b")
    assert set(api.list_repo_files(repo)) == {".gitattributes", "sub/d"}
    assert client.refusal("deleteFiles", repo=repo, paths=["a"]) == 404
    assert [commit.title for commit in api.list_repo_commits(repo)][1] == "less"


def test_branches(client: Any, api: HfApi, read: Read, repo: str) -> None:
    start = head(api)
    main = written(client, b"main")
    client("createBranch", repo=repo, branch="next")
    client("createBranch", repo=repo, branch="from/start", revision=start)
    assert client.refusal("createBranch", repo=repo, branch="next") == 409
    assert client.refusal("createBranch", repo=repo, branch="new", revision="none") == 404
    assert (head(api, "next"), head(api, "from/start")) == (main, start)
    nested = written(client, b"nested", branch="from/start", parentCommit=start)
    assert (head(api), head(api, "from/start")) == (main, nested)
    assert read(api, "written.txt", "from/start") == b"nested"
    assert client("downloadFile", repo=repo, path="written.txt", revision="from/start") == b"nested"
    for branch in ("from/start", "next"):
        client("deleteBranch", repo=repo, branch=branch)
    assert [ref.name for ref in api.list_repo_refs(repo).branches] == ["main"]
    assert client.refusal("deleteBranch", repo=repo, branch="next") == 404
    assert client.refusal("commit", repo=repo, branch="next", title="t", operations=[]) == 404


@pytest.mark.parametrize(("token", "status"), [(None, 401), ("hf_wrong", 401)])
def test_strangers_write_nothing(
    client: Any, api: HfApi, repo: str, token: str | None, status: int
) -> None:
    before = head(api)
    stranger = replace(client, token=token)
    file = {"path": "a", "content": b"1"}
    for function, given in (
        ("createRepo", {"repo": "me/other"}),
        ("uploadFile", {"repo": repo, "file": file}),
        ("commit", {"repo": repo, "title": "t", "operations": []}),
        ("deleteFiles", {"repo": repo, "paths": [".gitattributes"]}),
        ("createBranch", {"repo": repo, "branch": "b"}),
        ("deleteBranch", {"repo": repo, "branch": "main"}),
        ("deleteRepo", {"repo": repo}),
    ):
        assert stranger.refusal(function, **given) == status
    assert head(api) == before
    assert [model.id for model in api.list_models()] == [repo]


def test_the_files_with_which_a_repository_begins(client: Any, api: HfApi, read: Read) -> None:
    attributes = b"*.html filter=lfs diff=lfs merge=lfs -text"
    files = {".gitattributes": attributes, "sub/a.txt": b"1"}
    client("createRepo", repo=REPO, files=[{"path": p, "content": c} for p, c in files.items()])
    assert {path: read(api, path) for path in api.list_repo_files(REPO)} == files
    assert [commit.title for commit in api.list_repo_commits(REPO)] == ["initial commit"]
    for paths in (["../a"], ["a", "a/b"]):
        wrong = [{"path": path, "content": b"1"} for path in paths]
        assert client.refusal("createRepo", repo="me/other", files=wrong) == 400
    assert [model.id for model in api.list_models()] == [REPO]


def test_attributes_count_for_the_files_that_come_with_them(
    client: Any, api: HfApi, read: Read, repo: str
) -> None:
    attributes = b"*.special filter=lfs diff=lfs merge=lfs -text\n"
    contents = {".gitattributes": attributes, "a.special": b"text", "b.safetensors": b"text"}
    operations = [added(path, data) for path, data in contents.items()]
    client("commit", repo=repo, title="attributes", operations=operations, useXet=False)
    infos = {info.path: info for info in api.get_paths_info(repo, list(contents))}
    assert [path for path, info in infos.items() if info.lfs] == ["a.special"]
    assert {path: read(api, path) for path in contents} == contents
