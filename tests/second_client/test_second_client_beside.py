"""Releases into repositories in which the second client has been, or is at this moment."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi

from slogpt_hf.hub.embedded import Request, RunningHub, serve

REPO = "me/model"
THEIRS = {
    "LICENSE": b"Copyright: me\n",
    "notebooks/explore.ipynb": b'{"cells": []}\n',
    "notebooks/plot.png": b"\x89PNG\r\n\x1a\n\0\xff",
}
Cli = Callable[..., str]


@pytest.fixture
def release(
    cli: Cli, golden: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, Any]]:
    """Releases a golden checkpoint to a running hub as a user with a token; what it reports."""

    def run(running: RunningHub, token: str, name: str = "slo-rope-rmsnorm-gelu") -> dict[str, Any]:
        monkeypatch.setenv("HF_ENDPOINT", running.endpoint)
        monkeypatch.setenv("HF_TOKEN", token)
        out = cli("release", golden(name) / "ckpt.pt", "--repo-id", REPO, "--json", "-q")
        result: dict[str, Any] = json.loads(out)[0]
        return result

    return run


def upload(client: Any, contents: dict[str, bytes]) -> str:
    files = [{"path": path, "content": data} for path, data in contents.items()]
    return str(client("uploadFiles", repo=REPO, files=files, useXet=False)["commit"]["oid"])


def contents_at(client: Any, revision: str) -> dict[str, bytes]:
    entries = client("listFiles", repo=REPO, revision=revision, recursive=True)
    paths = [entry["path"] for entry in entries if entry["type"] == "file"]
    return {p: client("downloadFile", repo=REPO, path=p, revision=revision) for p in paths}


def test_a_release_leaves_the_files_of_others_alone(
    client: Any, hub: RunningHub, release: Callable[..., dict[str, Any]]
) -> None:
    client("createRepo", repo=REPO, private=True)
    upload(client, THEIRS)
    first = release(hub, client.token)
    upload(client, {"notebooks/more.ipynb": b"{}\n"})
    second = release(hub, client.token, "slo-classic")
    assert first["tag"] == "v1.0.0" != second["tag"]
    for done, theirs in ((first, THEIRS), (second, THEIRS | {"notebooks/more.ipynb": b"{}\n"})):
        found = contents_at(client, done["tag"])
        assert {path: found[path] for path in theirs} == theirs
        proven = json.loads(found["release.json"])["files"]
        assert found.keys() == {*theirs, *proven, "README.md", "release.json", ".gitattributes"}
    assert client("modelInfo", name=REPO)["private"] is True


def test_a_commit_by_another_while_a_release_is_under_way(
    client: Any, hub: RunningHub, release: Callable[..., dict[str, Any]], api: HfApi
) -> None:
    client("createRepo", repo=REPO)
    others: list[str] = []

    def commit_before_the_release(request: Request) -> None:
        is_commit = request.method == "POST" and request.path[4:5] == ("commit",)
        if is_commit and not others:
            others.append("")
            others[0] = upload(replace(client, endpoint=hub.endpoint), THEIRS)

    with serve(hub.folder, token=client.token, intercept=commit_before_the_release) as contested:
        done = release(contested, client.token)
    history = [commit["oid"] for commit in client("listCommits", repo=REPO)]
    assert history[:2] == [done["commit"], others[0]]
    assert len(history) == 3
    found = contents_at(client, done["tag"])
    assert {path: found[path] for path in THEIRS} == THEIRS
    assert [tag.target_commit for tag in api.list_repo_refs(REPO).tags] == [done["commit"]]
