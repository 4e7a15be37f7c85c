"""The embedded hub as the real `huggingface_hub` client sees it."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
from pathlib import Path

import pytest
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    HfApi,
    hf_hub_download,
    snapshot_download,
)
from huggingface_hub.errors import (
    BadRequestError,
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from slogpt_hf.hub.embedded import Request, Response, RunningHub, serve

REPO = "me/model"
CARD = b"---\nlicense: mit\nlibrary_name: transformers\ntags: [slo, char]\n---\n# A model & <b>\n"
WEIGHTS = random.Random(0).randbytes(300_000)


def release(api: HfApi, **contents: bytes) -> str:
    files = {"README.md": CARD, "model.safetensors": WEIGHTS, "sub/config.json": b"{}"} | contents
    operations = [CommitOperationAdd(path, data) for path, data in files.items()]
    return str(api.create_commit(REPO, operations=operations, commit_message="release").oid)


def download(api: HfApi, cache: Path, revision: str, path: str = "model.safetensors") -> bytes:
    name = hf_hub_download(
        REPO, path, revision=revision, endpoint=api.endpoint, cache_dir=cache, token=False
    )
    return Path(name).read_bytes()


def git(hub: RunningHub, *arguments: str) -> str:
    command = ["git", f"--git-dir={hub.folder}/{REPO}.git", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def status(error: pytest.ExceptionInfo[HfHubHTTPError]) -> int:
    return int(error.value.response.status_code)


def test_repo_life(hub: RunningHub, api: HfApi) -> None:
    assert str(api.create_repo(REPO, exist_ok=True)) == f"{hub.endpoint}/{REPO}"
    with pytest.raises(HfHubHTTPError) as error:
        api.create_repo(REPO)
    assert status(error) == 409
    assert api.repo_exists(REPO)
    assert api.create_repo("alone").repo_id == "local/alone"
    assert api.whoami("any")["name"] == "local"
    api.auth_check(REPO, write=True)
    api.delete_repo(REPO)
    assert not api.repo_exists(REPO)
    with pytest.raises(RepositoryNotFoundError):
        api.delete_repo(REPO)
    api.delete_repo(REPO, missing_ok=True)
    assert list((hub.folder / ".slogpt-hf" / "incoming").iterdir()) == []


def test_release_is_described(api: HfApi) -> None:
    oid = release(api)
    info = api.model_info(REPO, files_metadata=True)
    assert (info.sha, info.private, info.author) == (oid, False, "me")
    assert info.card_data is not None and info.card_data.license == "mit"
    assert info.tags == ["transformers", "slo", "char", "license:mit"]
    assert info.last_modified is not None and info.created_at is not None
    siblings = {s.rfilename: s for s in info.siblings or []}
    assert set(siblings) == {".gitattributes", "README.md", "model.safetensors", "sub/config.json"}
    weights, config = siblings["model.safetensors"], siblings["sub/config.json"]
    assert weights.lfs is not None and weights.size == len(WEIGHTS)
    assert weights.lfs.sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    assert config.lfs is None and config.blob_id == hashlib.sha1(b"blob 2\0{}").hexdigest()
    assert api.model_info(REPO, revision=oid[:10]).sha == oid
    assert api.list_repo_files(REPO) == sorted(siblings)
    assert api.file_exists(REPO, "README.md") and not api.file_exists(REPO, "nothing")


def test_tree_and_paths(api: HfApi) -> None:
    oid = release(api)
    assert [e.path for e in api.list_repo_tree(REPO)] == [
        ".gitattributes", "README.md", "model.safetensors", "sub",
    ]  # fmt: skip
    (inside,) = api.list_repo_tree(REPO, "sub", expand=True)
    assert inside.path == "sub/config.json" and inside.last_commit.oid == oid
    assert len(list(api.list_repo_tree(REPO, recursive=True))) == 5
    infos = api.get_paths_info(REPO, ["sub", "model.safetensors", "nothing"], expand=True)
    assert [i.path for i in infos] == ["sub", "model.safetensors"]
    with pytest.raises(EntryNotFoundError):
        list(api.list_repo_tree(REPO, "nothing"))


def test_download_by_branch_tag_and_commit(api: HfApi, tmp_path: Path) -> None:
    first = release(api)
    api.create_tag(REPO, tag="v1.0.0", tag_message="the first")
    api.create_branch(REPO, branch="runs/one", revision="v1.0.0")
    second = release(api, **{"model.safetensors": WEIGHTS[::-1]})
    expected = {
        "main": WEIGHTS[::-1], "v1.0.0": WEIGHTS, "runs/one": WEIGHTS, first: WEIGHTS,
        second: WEIGHTS[::-1], "refs/heads/runs/one": WEIGHTS,
    }  # fmt: skip
    for number, (revision, data) in enumerate(expected.items()):
        cache = tmp_path / str(number)
        assert download(api, cache, revision) == data, revision
        assert download(api, cache, revision, "README.md") == CARD, revision
    folder = Path(
        snapshot_download(
            REPO, revision="v1.0.0", endpoint=api.endpoint, cache_dir=tmp_path / "all", token=False
        )
    )
    assert folder.name == first
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


def test_missing_things_are_typed(api: HfApi, tmp_path: Path) -> None:
    release(api)
    with pytest.raises(EntryNotFoundError):
        download(api, tmp_path, "main", "nothing.json")
    with pytest.raises(RevisionNotFoundError):
        download(api, tmp_path, "v9")
    with pytest.raises(RevisionNotFoundError):
        api.model_info(REPO, revision="main~1")
    for absent in ("me/nothing", "gpt2"):
        with pytest.raises(RepositoryNotFoundError):
            api.model_info(absent)
        with pytest.raises(RepositoryNotFoundError):
            hf_hub_download(absent, "x", endpoint=api.endpoint, cache_dir=tmp_path, token=False)
    with pytest.raises(RepositoryNotFoundError, match="models and datasets only"):
        api.space_info("me/data")
    with pytest.raises(BadRequestError, match="models and datasets only"):
        api.create_repo("me/data", repo_type="space", space_sdk="static")


def test_refs(api: HfApi) -> None:
    oid = release(api)
    api.create_tag(REPO, tag="v1.0.0", tag_message="text")
    api.create_tag(REPO, tag="light")
    api.create_tag(REPO, tag="light", exist_ok=True)
    with pytest.raises(HfHubHTTPError) as error:
        api.create_tag(REPO, tag="v1.0.0")
    assert status(error) == 409
    with pytest.raises(HfHubHTTPError) as error:
        api.create_tag(REPO, tag="v1.0.0/below")
    assert status(error) == 409
    with pytest.raises(RevisionNotFoundError):
        api.create_tag(REPO, tag="v2", revision="nowhere")
    with pytest.raises(BadRequestError):
        api.create_tag(REPO, tag="a..b")
    api.create_branch(REPO, branch="other/branch")
    with pytest.raises(HfHubHTTPError) as error:
        api.create_branch(REPO, branch="other/branch")
    assert status(error) == 409
    refs = api.list_repo_refs(REPO, include_pull_requests=True)
    assert {(r.name, r.target_commit) for r in refs.tags} == {("light", oid), ("v1.0.0", oid)}
    assert {r.name for r in refs.branches} == {"main", "other/branch"}
    api.delete_tag(REPO, tag="light")
    api.delete_branch(REPO, branch="other/branch")
    with pytest.raises(RevisionNotFoundError):
        api.delete_tag(REPO, tag="light")
    with pytest.raises(HfHubHTTPError) as error:
        api.delete_branch(REPO, branch="main")
    assert status(error) == 403
    refs = api.list_repo_refs(REPO)
    assert ([r.name for r in refs.branches], [r.name for r in refs.tags]) == (["main"], ["v1.0.0"])


def test_commits_on_a_branch(api: HfApi, tmp_path: Path) -> None:
    release(api)
    api.create_branch(REPO, branch="x/y")
    operation = CommitOperationAdd("new.txt", b"new")
    info = api.create_commit(
        REPO, operations=[operation], commit_message="one", commit_description="two\n\nthree",
        revision="x/y",
    )  # fmt: skip
    assert download(api, tmp_path, "x/y", "new.txt") == b"new"
    assert not api.file_exists(REPO, "new.txt")
    commits = api.list_repo_commits(REPO, revision="x/y", formatted=True)
    assert [c.title for c in commits] == ["one", "release", "initial commit"]
    assert (commits[0].commit_id, commits[0].message) == (info.oid, "two\n\nthree")


def test_parent_commit(api: HfApi) -> None:
    first = release(api)
    add = [CommitOperationAdd("a.txt", b"a")]
    api.create_commit(REPO, operations=add, commit_message="a", parent_commit=first)
    with pytest.raises(HfHubHTTPError) as error:
        api.create_commit(
            REPO,
            operations=[CommitOperationAdd("b.txt", b"b")],
            commit_message="b",
            parent_commit=first,
        )
    assert status(error) == 412
    assert not api.file_exists(REPO, "b.txt")


def test_delete_copy_and_refused_operations(api: HfApi, tmp_path: Path) -> None:
    release(api)
    api.create_commit(
        REPO,
        operations=[
            CommitOperationCopy("model.safetensors", "copy/model.safetensors"),
            CommitOperationCopy("README.md", "copy/README.md"),
            CommitOperationDelete("sub/"),
            CommitOperationDelete("README.md"),
        ],
        commit_message="move",
    )
    assert api.list_repo_files(REPO) == [
        ".gitattributes", "copy/README.md", "copy/model.safetensors", "model.safetensors",
    ]  # fmt: skip
    assert download(api, tmp_path, "main", "copy/model.safetensors") == WEIGHTS
    with pytest.raises(EntryNotFoundError):
        api.delete_file("nothing", REPO)
    with pytest.raises(BadRequestError, match="file and a folder"):
        release(api, **{"model.safetensors/inner": b"x"})
    with pytest.raises(RevisionNotFoundError):
        api.upload_file(
            path_or_fileobj=b"x", path_in_repo="x.txt", repo_id=REPO, revision="nowhere"
        )  # fmt: skip
    with pytest.raises(ValueError, match="metadata"):
        release(api, **{"README.md": b"---\n[1\n---\n"})


def test_which_files_become_lfs(api: HfApi) -> None:
    binary = bytes(range(256)) * 4
    release(api, **{"odd name*.dat": binary, "tiny.bin": b"text", "empty.bin": b"", "o.txt": b"x"})
    sizes = {e.path: e.lfs for e in api.list_repo_tree(REPO) if hasattr(e, "lfs")}
    assert {path for path, lfs in sizes.items() if lfs} == {
        "model.safetensors", "odd name*.dat", "tiny.bin",
    }  # fmt: skip


def test_ignored_and_unchanged_files(api: HfApi) -> None:
    head = release(api, **{".gitignore": b"*.log\n"})
    assert release(api, **{".gitignore": b"*.log\n"}) == head
    release(api, **{"run.log": b"x", "run.txt": b"x"})
    assert api.file_exists(REPO, "run.txt") and not api.file_exists(REPO, "run.log")


def test_a_clone_is_the_release(hub: RunningHub, api: HfApi, tmp_path: Path) -> None:
    oid = release(api, **{"odd name*.dat": b"\0binary"})
    api.create_tag(REPO, tag="v1.0.0", tag_message="the first")
    clone = tmp_path / "clone"
    source = hub.folder / f"{REPO}.git"
    # Where git-lfs is installed it would put the weights in place of the pointer.
    own = os.environ | {"GIT_LFS_SKIP_SMUDGE": "1"}
    subprocess.run(["git", "clone", "-q", "-b", "v1.0.0", source, clone], env=own, check=True)
    sha256 = hashlib.sha256(WEIGHTS).hexdigest()
    assert (clone / "model.safetensors").read_text() == (
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(WEIGHTS)}\n"
    )
    assert git(hub, "rev-parse", "v1.0.0^{commit}").strip() == oid
    assert (source / "lfs/objects" / sha256[:2] / sha256[2:4] / sha256).read_bytes() == WEIGHTS
    command = ["git", "check-attr", "filter", "odd name*.dat", "model.safetensors", "README.md"]
    attributes = subprocess.run(command, cwd=clone, capture_output=True, text=True, check=True)
    values = [line.rpartition(" ")[2] for line in attributes.stdout.splitlines()]
    assert values == ["lfs", "lfs", "unspecified"]
    assert git(hub, "log", "--format=%cn", "-1").strip() == "slogpt-hf embedded hub"
    git(hub, "fsck", "--full", "--strict")


def test_search(api: HfApi) -> None:
    release(api)
    api.create_repo("you/other")
    assert {m.id for m in api.list_models()} == {REPO, "you/other"}
    assert [m.id for m in api.list_models(search="MOD")] == [REPO]
    assert [m.id for m in api.list_models(author="you")] == ["you/other"]
    assert [m.id for m in api.list_models(search="o", author="me", filter="slo")] == [REPO]
    assert [m.id for m in api.list_models(filter="absent")] == []
    assert len(list(api.list_models(limit=1, full=True))) == 1


def test_token(tmp_path: Path) -> None:
    with serve(tmp_path / "hub", token="secret") as hub:
        owner = HfApi(endpoint=hub.endpoint, token="secret")
        stranger = HfApi(endpoint=hub.endpoint, token="wrong")
        nobody = HfApi(endpoint=hub.endpoint, token=False)
        owner.create_repo(REPO)
        release(owner)
        for client in (stranger, nobody):
            with pytest.raises(HfHubHTTPError) as error:
                client.create_repo("me/third")
            assert status(error) == 401
        assert nobody.repo_exists(REPO)
        owner.update_repo_settings(REPO, private=True)
        assert owner.model_info(REPO).private is True
        owner.auth_check(REPO, write=True)
        with pytest.raises(RepositoryNotFoundError):
            nobody.model_info(REPO)
        assert list(nobody.list_models()) == [] and len(list(owner.list_models())) == 1
        with pytest.raises(HfHubHTTPError) as error:
            release(nobody, **{"more.txt": b"x"})
        assert status(error) == 401
        with pytest.raises(HfHubHTTPError):
            stranger.whoami()
        path = hf_hub_download(
            REPO, "model.safetensors", endpoint=hub.endpoint, cache_dir=tmp_path, token="secret"
        )
        assert Path(path).read_bytes() == WEIGHTS


def test_survives_a_restart_and_a_second_server(api: HfApi, hub: RunningHub) -> None:
    oid = release(api)
    with serve(hub.folder) as second:
        other = HfApi(endpoint=second.endpoint, token=False)
        assert other.model_info(REPO).sha == oid
        other.upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id=REPO)
    assert api.file_exists(REPO, "x.txt")


def test_interceptor_loses_an_answer(tmp_path: Path) -> None:
    lost: list[Request] = []

    def lose_first_commit(request: Request) -> Response | None:
        if "commit" not in request.path or lost:
            return None
        lost.append(request)
        assert request.proceed().status == 200
        raise ConnectionAbortedError

    with serve(tmp_path / "hub", intercept=lose_first_commit) as hub:
        api = HfApi(endpoint=hub.endpoint, token=False)
        api.create_repo(REPO)
        with pytest.raises(Exception, match=r"disconnected|closed|reset"):
            release(api)
        assert len(api.list_repo_commits(REPO)) == 2 and len(lost) == 1
