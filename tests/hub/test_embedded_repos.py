"""The embedded hub's repositories as a whole: listed, moved, squashed, freed of large files."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import (
    BadRequestError,
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
)

from slogpt_hf.hub.embedded import RunningHub

REPO = "me/model"


def put(api: HfApi, path: str, content: bytes, revision: str = "main") -> None:
    api.upload_file(
        repo_id=REPO, path_or_fileobj=content, path_in_repo=path, revision=revision,
        commit_message=f"Write {path}",
    )  # fmt: skip


def git(hub: RunningHub, *arguments: str) -> str:
    command = ["git", f"--git-dir={hub.folder}/{REPO}.git", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_listed_with_what_they_take(api: HfApi) -> None:
    put(api, "w.bin", random.Random(0).randbytes(50_000))
    api.create_repo("other/data", repo_type="dataset", private=True)
    found = {repo.id: repo for repo in api.list_user_repos()}
    assert {(repo.id, repo.type, repo.visibility) for repo in found.values()} == {
        (REPO, "model", "public"), ("other/data", "dataset", "private"),
    }  # fmt: skip
    assert found[REPO].storage > 50_000 > found["other/data"].storage > 0
    assert sum(repo.storage_percent for repo in found.values()) == pytest.approx(100)
    assert [repo.id for repo in api.list_user_repos(namespace="OTHER")] == ["other/data"]


def test_moved(hub: RunningHub, api: HfApi, tmp_path: Path) -> None:
    put(api, "w.bin", b"weights")
    api.create_discussion(REPO, "A question")
    api.create_repo("me/taken")
    with pytest.raises(HfHubHTTPError, match="A model repository called me/taken already exists"):
        api.move_repo(REPO, "me/TAKEN")
    with pytest.raises(BadRequestError, match="Invalid repository id"):
        api.move_repo(REPO, "api/x")
    api.move_repo(REPO, "you/new")
    api.move_repo("you/new", "you/newer")
    for repo_id in ("you/newer", "you/new", REPO, "ME/Model"):
        assert api.model_info(repo_id).id == "you/newer"
    path = hf_hub_download(
        REPO, "w.bin", endpoint=hub.endpoint, cache_dir=tmp_path / "cache", token=False
    )
    assert Path(path).read_bytes() == b"weights"
    assert next(iter(api.get_repo_discussions("you/newer"))).repo_id == "you/newer"
    # What has only moved is not deleted by its old name, which can be taken anew.
    with pytest.raises(RepositoryNotFoundError):
        api.delete_repo(REPO)
    api.create_repo(REPO)
    assert api.model_info(REPO).id == REPO
    api.delete_repo(REPO)
    with pytest.raises(RepositoryNotFoundError):
        api.model_info(REPO)


def test_a_name_that_was_left_leads_to_no_stranger(api: HfApi) -> None:
    api.move_repo("me/model", "me/second")
    api.move_repo("me/second", "me/third")
    assert {api.repo_info(name).id for name in ("me/model", "me/second")} == {"me/third"}
    api.move_repo("me/third", "me/model")  # and back
    assert {api.repo_info(name).id for name in ("me/second", "me/third")} == {"me/model"}
    api.move_repo("me/model", "me/other")
    api.delete_repo("me/other")
    api.create_repo("me/other")
    for name in ("me/model", "me/second", "me/third"):
        assert not api.repo_exists(name)


def test_squashed(api: HfApi) -> None:
    for path in ("a", "w.bin", "b"):
        put(api, path, path.encode())
    api.create_branch(REPO, branch="v0.1")
    api.create_tag(REPO, tag="t")
    before = api.list_repo_files(REPO)
    api.super_squash_history(REPO, commit_message="One")
    assert [commit.title for commit in api.list_repo_commits(REPO)] == ["One"]
    assert api.list_repo_files(REPO) == before
    assert len(api.list_repo_commits(REPO, revision="v0.1")) == 4
    with pytest.raises(BadRequestError, match="Invalid reference for a branch"):
        api.super_squash_history(REPO, branch="t")


def test_a_license_makes_a_card(hub: RunningHub, api: HfApi) -> None:
    def create(name: str, license_id: str) -> int:
        body = {"name": name, "organization": "me", "license": license_id}
        return httpx2.post(f"{hub.endpoint}/api/repos/create", json=body).status_code

    assert create("mit", "mit") == 200
    info = api.model_info("me/mit")
    assert info.card_data and info.card_data.license == "mit"
    for wrong in ("asdf", "mit\nx: y", "mit\n---\n# x"):
        assert create("wrong", wrong) == 400
    assert not api.repo_exists("me/wrong")


def test_large_files_are_deleted_for_good(hub: RunningHub, api: HfApi, tmp_path: Path) -> None:
    put(api, "w.bin", b"weights")
    put(api, "text", b"text")
    put(api, "copy.bin", b"weights")
    api.create_tag(REPO, tag="v1", tag_message="Release")
    api.create_branch(REPO, branch="dev")
    put(api, "other.bin", b"other", "dev")
    files = {file.filename: file for file in api.list_lfs_files(REPO)}
    assert {(name, file.ref, file.size) for name, file in files.items()} == {
        ("copy.bin", "main", 7), ("other.bin", "dev", 5),
    }  # fmt: skip
    kept = git(hub, "log", "--format=%an %ae %ad %cd %B", "main")

    api.permanently_delete_lfs_files(REPO, [files["copy.bin"]])

    for revision, expected in (
        ("main", {"text"}),
        ("v1", {"text"}),
        ("dev", {"text", "other.bin"}),
    ):
        assert set(api.list_repo_files(REPO, revision=revision)) == {".gitattributes", *expected}
    assert git(hub, "log", "--format=%an %ae %ad %cd %B", "main") == kept
    assert git(hub, "for-each-ref", "--format=%(contents)", "refs/tags/v1").strip() == "Release"
    assert [file.filename for file in api.list_lfs_files(REPO)] == ["other.bin"]
    assert not list((hub.folder / f"{REPO}.git" / "lfs").rglob(files["copy.bin"].file_oid))
    with pytest.raises(EntryNotFoundError):
        hf_hub_download(REPO, "w.bin", endpoint=hub.endpoint, cache_dir=tmp_path, token=False)
    git(hub, "fsck", "--strict")

    api.permanently_delete_lfs_files(REPO, [files["other.bin"]], rewrite_history=False)
    assert "other.bin" in api.list_repo_files(REPO, revision="dev")
    assert list(api.list_lfs_files(REPO)) == []


@pytest.mark.parametrize("deletions", [None, [], {"sha": "x"}, {"sha": ["../../x"]}, {"sha": [1]}])
def test_malformed_deletions(hub: RunningHub, api: HfApi, deletions: object) -> None:
    url = f"{hub.endpoint}/api/models/{REPO}/lfs-files/batch"
    assert httpx2.post(url, json={"deletions": deletions}).status_code == 400
