"""Releases onto hubs where others have been: moved, retracted, replaced, raced, forged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

REPO = "me/model"


@pytest.fixture(autouse=True)
def _uploads_by_lfs(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the uploads by hand; the release itself chooses LFS for the embedded hub."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)


@pytest.fixture
def release(
    tmp_path: Path, slo_checkpoint: Callable[..., Path], characters: Path, cli: Callable[..., Any]
) -> Callable[..., Any]:
    """Releases the checkpoint of a seed to the hub of the test."""

    def run(seed: int = 0, *options: str) -> Any:
        checkpoint = slo_checkpoint(seed=seed)
        return cli(
            "release", checkpoint, "--repo-id", REPO, "--hub", tmp_path / "hub",
            "--dataset", characters, "-q", *options,
        )  # fmt: skip

    return run


def record_at(api: Any, revision: str, folder: Path) -> dict[str, Any]:
    path = api.hf_hub_download(REPO, "release.json", revision=revision, local_dir=folder / revision)
    content: dict[str, Any] = json.loads(Path(path).read_text("utf-8"))
    return content


def put(api: Any, name: str, data: bytes) -> str:
    commit: str = api.upload_file(path_or_fileobj=data, path_in_repo=name, repo_id=REPO).oid
    return commit


def test_a_missing_tag_is_set_only_on_what_was_proven(
    release: Callable[..., Any], hub_client: Any, tmp_path: Path
) -> None:
    assert release().code == 0
    with hub_client(tmp_path / "hub") as api:
        api.delete_tag(REPO, tag="v1.0.0")
        garbage = put(api, "model.safetensors", b"garbage")
    outcome = release()
    assert outcome.code == 0
    with hub_client(tmp_path / "hub") as api:
        tags = {tag.name: tag.target_commit for tag in api.list_repo_refs(REPO).tags}
        assert garbage not in tags.values() and len(tags) == 1
        (tag,) = tags
        path = api.hf_hub_download(REPO, "model.safetensors", revision=tag, local_dir=tmp_path)
        assert Path(path).read_bytes() != b"garbage"


def test_a_copied_record_alone_is_no_release_that_lacks_its_tag(
    release: Callable[..., Any], hub_client: Any, tmp_path: Path
) -> None:
    assert release().code == 0
    with hub_client(tmp_path / "hub") as api:
        content = json.dumps(record_at(api, "v1.0.0", tmp_path)).encode()
        api.create_repo("me/copy")
        copied = api.upload_file(
            path_or_fileobj=content, path_in_repo="release.json", repo_id="me/copy"
        ).oid
    assert release(0, "--repo-id", "me/copy").code == 0
    with hub_client(tmp_path / "hub") as api:
        (tag,) = api.list_repo_refs("me/copy").tags
        assert tag.target_commit != copied
        assert "model.safetensors" in api.list_repo_files("me/copy", revision=tag.name)


def test_a_tag_that_names_something_else_is_not_this_release(
    release: Callable[..., Any], hub_client: Any, tmp_path: Path
) -> None:
    assert release(0).code == 0 and release(1).code == 0
    with hub_client(tmp_path / "hub") as api:
        second = api.list_repo_refs(REPO).tags
        target = {tag.name: tag.target_commit for tag in second}["v1.0.1"]
        api.delete_tag(REPO, tag="v1.0.0")
        api.create_tag(REPO, tag="v1.0.0", revision=target)
    outcome = release(0)
    assert outcome.code == 0 and "Released" in outcome.out and "1.0.2" in outcome.out


@pytest.mark.parametrize(
    "name", ["model-00001-of-00002.safetensors", "modeling_theirs.py", "adapter_config.json"]
)
def test_a_file_that_would_be_loaded_instead_is_refused(
    name: str, release: Callable[..., Any], hub_client: Any, tmp_path: Path
) -> None:
    assert release(0).code == 0
    with hub_client(tmp_path / "hub") as api:
        put(api, name, b"theirs")
    outcome = release(1)
    assert outcome.code == 2 and name in outcome.err
    with hub_client(tmp_path / "hub") as api:
        assert [tag.name for tag in api.list_repo_refs(REPO).tags] == ["v1.0.0"]


@pytest.mark.parametrize(
    "content",
    [b"not json", b"[]", b"{}", b'{"files": ["notes.txt"]}', b'{"version": "3.2.1"}', b"[" * 9999],
)
def test_a_release_json_of_another_tool_is_not_obeyed(
    content: bytes, release: Callable[..., Any], hub_client: Any, tmp_path: Path
) -> None:
    with hub_client(tmp_path / "hub") as api:
        api.create_repo(REPO)
        put(api, "notes.txt", b"theirs")
        put(api, "release.json", content)
    outcome = release()
    assert outcome.code == 0 and " 1.0.0" in outcome.out
    with hub_client(tmp_path / "hub") as api:
        assert "notes.txt" in api.list_repo_files(REPO)


def test_our_own_file_deleted_by_hand_does_not_block(
    release: Callable[..., Any], hub_client: Any, tmp_path: Path
) -> None:
    assert release(0, "--max-shard-size", "60kB").code == 0
    with hub_client(tmp_path / "hub") as api:
        shard = next(n for n in api.list_repo_files(REPO) if n.endswith(".safetensors"))
        api.delete_file(shard, REPO)
    assert release(1).code == 0
    with hub_client(tmp_path / "hub") as api:
        weights = [n for n in api.list_repo_files(REPO) if n.endswith(".safetensors")]
    assert weights == ["model.safetensors"]


def test_a_stale_shard_that_somebody_has_replaced_is_not_deleted(
    release: Callable[..., Any], hub_client: Any, tmp_path: Path
) -> None:
    assert release(0, "--max-shard-size", "60kB").code == 0
    with hub_client(tmp_path / "hub") as api:
        shard = next(n for n in api.list_repo_files(REPO) if n.endswith(".safetensors"))
        theirs = put(api, shard, b"theirs")
    outcome = release(1)
    assert outcome.code == 2 and shard in outcome.err
    with hub_client(tmp_path / "hub") as api:
        assert api.repo_info(REPO).sha == theirs and shard in api.list_repo_files(REPO)


@pytest.mark.parametrize("tag", ["HEAD", "main", "refs/tags/x", "a" * 40, "x" * 300, "-x", "a..b"])
def test_a_tag_that_means_something_else_is_refused_before_anything(
    tag: str, release: Callable[..., Any], hub_view: Any, tmp_path: Path
) -> None:
    before = hub_view(tmp_path / "hub")
    outcome = release(0, f"--tag={tag}")
    assert outcome.code in (2, 7)
    assert hub_view(tmp_path / "hub") == before


def test_tags_that_cannot_stand_beside_each_other(
    release: Callable[..., Any], hub_view: Any, tmp_path: Path
) -> None:
    assert release(0, "--tag", "rel").code == 0
    before = hub_view(tmp_path / "hub")
    assert release(1, "--tag", "rel/x").code == 7
    assert hub_view(tmp_path / "hub") == before
    assert release(1, "--tag", "other").code == 0


def test_private_is_not_ignored(release: Callable[..., Any], hub_view: Any, tmp_path: Path) -> None:
    assert release(0).code == 0
    before = hub_view(tmp_path / "hub")
    outcome = release(1, "--private")
    assert outcome.code == 2 and "public" in outcome.err
    assert hub_view(tmp_path / "hub") == before


def test_two_first_releases_race_and_both_are_published_in_order(
    release: Callable[..., Any],
    hub_client: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The other one is published when ours has read the hub and not yet committed."""
    import slogpt_hf.hub.publish as publishing

    real = publishing.publish_artefact
    others = iter([1])

    def after_another(*arguments: Any, **options: Any) -> str:
        for seed in others:
            assert release(seed).code == 0
        return real(*arguments, **options)

    monkeypatch.setattr(publishing, "publish_artefact", after_another)
    outcome = release(0)
    assert outcome.code == 0 and "1.0.1" in outcome.out
    with hub_client(tmp_path / "hub") as api:
        ours, theirs = (record_at(api, tag, tmp_path) for tag in ("v1.0.1", "v1.0.0"))
    assert ours["previous"][0]["identity"] == theirs["identity"] != ours["identity"]


def test_a_commit_in_between_is_published_behind(
    release: Callable[..., Any],
    hub_client: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import slogpt_hf.hub.publish as publishing

    assert release(0).code == 0
    real = publishing.publish_artefact
    others = iter([b"by hand"])

    def after_an_upload(hub: Any, *arguments: Any, **options: Any) -> str:
        for data in others:
            put(hub.api, "notes.md", data)
        return real(hub, *arguments, **options)

    monkeypatch.setattr(publishing, "publish_artefact", after_an_upload)
    assert release(1).code == 0
    with hub_client(tmp_path / "hub") as api:
        assert "notes.md" in api.list_repo_files(REPO, revision="v1.0.1")


def test_json_tells_what_was_published_before_an_error(
    slo_checkpoint: Callable[..., Path], characters: Path, cli: Callable[..., Any], tmp_path: Path
) -> None:
    outcome = cli(
        "release", slo_checkpoint(), tmp_path / "missing.pt", "--repo-id", REPO, "--json", "-q",
        "--hub", tmp_path / "hub", "--dataset", characters,
    )  # fmt: skip
    assert outcome.code == 2
    assert [done["tag"] for done in outcome.json] == ["v1.0.0", None]
    assert outcome.json[1]["checkpoint"] == str(tmp_path / "missing.pt")
