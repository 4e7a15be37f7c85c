"""Dataset repositories of the embedded hub, as the real `huggingface_hub` client sees them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, HfApi, constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from slogpt_hf.hub.embedded import RunningHub, serve

REPO = "me/both"
TOKEN = "secret"
CARD = b"---\nlicense: mit\ntask_categories: [text-generation]\nconfigs: []\n---\n# Data\n"
ROWS = random.Random(0).randbytes(200_000)


@pytest.fixture
def api(hub: RunningHub) -> HfApi:
    return HfApi(endpoint=hub.endpoint, token=TOKEN)


def fill(api: HfApi) -> str:
    files = {"README.md": CARD, "text/train-00000-of-00001.parquet": ROWS}
    operations = [CommitOperationAdd(path, data) for path, data in files.items()]
    commit = api.create_commit(REPO, operations, commit_message="data", repo_type="dataset")
    return str(commit.oid)


def test_a_dataset_s_life(hub: RunningHub, api: HfApi, tmp_path: Path) -> None:
    url = api.create_repo(REPO, repo_type="dataset")
    assert str(url) == f"{hub.endpoint}/datasets/{REPO}"
    assert (hub.folder / "datasets" / "me" / "both.git" / "HEAD").is_file()
    commit = fill(api)
    api.create_tag(REPO, tag="v1", revision=commit, repo_type="dataset")
    info = api.dataset_info(REPO, revision="v1")
    assert (info.sha, info.id) == (commit, REPO)
    assert "task_categories:text-generation" in (info.tags or [])
    refs = api.list_repo_refs(REPO, repo_type="dataset")
    assert [tag.target_commit for tag in refs.tags] == [commit]
    folder = Path(
        snapshot_download(
            REPO,
            repo_type="dataset",
            endpoint=hub.endpoint,
            token=TOKEN,
            local_dir=tmp_path / "got",
        )
    )
    assert (folder / "text" / "train-00000-of-00001.parquet").read_bytes() == ROWS
    api.delete_repo(REPO, repo_type="dataset")
    with pytest.raises(RepositoryNotFoundError):
        api.dataset_info(REPO)


def test_a_model_of_the_same_name_is_another_repository(hub: RunningHub, api: HfApi) -> None:
    api.create_repo(REPO, repo_type="dataset")
    with pytest.raises(RepositoryNotFoundError):
        api.model_info(REPO)
    api.create_repo(REPO)
    fill(api)
    assert not api.file_exists(REPO, "README.md")
    assert api.file_exists(REPO, "README.md", repo_type="dataset")
    assert [info.id for info in api.list_models()] == [REPO]
    assert [info.id for info in api.list_datasets()] == [REPO]
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo(REPO, repo_type="dataset")
    api.delete_repo(REPO)
    assert api.repo_exists(REPO, repo_type="dataset")


def test_a_private_dataset_is_hidden(hub: RunningHub, api: HfApi) -> None:
    api.create_repo(REPO, repo_type="dataset", private=True)
    stranger = HfApi(endpoint=hub.endpoint, token=False)
    with pytest.raises(RepositoryNotFoundError):
        stranger.dataset_info(REPO)
    assert list(stranger.list_datasets()) == []
    assert [info.id for info in api.list_datasets(author="me")] == [REPO]


def test_a_hub_of_datasets_alone_is_a_hub_again(tmp_path: Path) -> None:
    with serve(tmp_path / "hub") as running:
        HfApi(endpoint=running.endpoint, token=False).create_repo(REPO, repo_type="dataset")
    stale = tmp_path / "hub" / "datasets" / "me" / "both.git" / "refs" / "heads" / "main.lock"
    stale.touch()
    with serve(tmp_path / "hub") as running:
        api = HfApi(endpoint=running.endpoint, token=False)
        assert api.repo_exists(REPO, repo_type="dataset")
        assert not stale.exists()


def test_uploads_by_xet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("hf_xet")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    with serve(tmp_path / "hub") as running:
        api = HfApi(endpoint=running.endpoint, token="any")
        api.create_repo(REPO, repo_type="dataset")
        fill(api)
        (held,) = api.get_paths_info(REPO, "text/train-00000-of-00001.parquet", repo_type="dataset")
        assert held.size == len(ROWS)
