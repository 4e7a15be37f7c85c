"""Releases among what people and other releases do to the same repository meanwhile."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import slogpt_hf.hub.publish as publishing
import slogpt_hf.release as pipeline
from slogpt_hf.hub import attempts, embedded, uploads
from slogpt_hf.hub.embedded import Request, Response

REPO = "me/model"
BUSY = b'{"error": "Another commit operation is in progress for this repository. Try again later."}'
Release = Callable[..., Any]


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Waits that would have been, and uploads by hand go by LFS."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    waited: list[float] = []
    monkeypatch.setattr(attempts, "sleep", waited.append)
    return waited


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    return tmp_path / "hub"


@pytest.fixture
def release(
    hub: Path, slo_checkpoint: Callable[..., Path], characters: Path, cli: Callable[..., Any]
) -> Release:
    """Releases the checkpoint of a seed to the hub of the test."""

    def run(seed: int = 0, *options: object) -> Any:
        return cli(
            "release", slo_checkpoint(seed=seed), "--repo-id", REPO, "--hub", hub,
            "--dataset", characters, "-q", *options,
        )  # fmt: skip

    return run


@pytest.fixture
def verified(cli: Callable[..., Any], hub: Path) -> Callable[[str], bool]:
    """Whether verify-release finds nothing wrong with a tag."""
    return lambda tag: cli("verify-release", f"{REPO}@{tag}", "--hub", hub, "-q").code == 0


def intercepted(
    monkeypatch: pytest.MonkeyPatch, intercept: Callable[[Request], Response | None]
) -> None:
    serve = functools.partial(embedded.serve, intercept=intercept)
    monkeypatch.setattr(embedded, "serve", serve)


def stopped_before_the_tag(release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(request: Request) -> Response | None:
        return Response(403, b"{}") if request.method == "POST" and "tag" in request.path else None

    with monkeypatch.context() as patch:
        intercepted(patch, refuse)
        assert release(0).code == 6


def tags(api: Any) -> dict[str, str]:
    return {tag.name: tag.target_commit for tag in api.list_repo_refs(REPO).tags}


def put(api: Any, name: str, data: bytes) -> str:
    commit: str = api.upload_file(path_or_fileobj=data, path_in_repo=name, repo_id=REPO).oid
    return commit


def before_publishing(monkeypatch: pytest.MonkeyPatch, once: Callable[..., object]) -> None:
    """Have something happen after the hub was read and before the first commit."""
    real, pending = publishing.publish_artefact, [once]

    def publish(*arguments: Any) -> str:
        if pending:
            pending.pop()(arguments[0])
        return real(*arguments)

    monkeypatch.setattr(publishing, "publish_artefact", publish)


@pytest.mark.parametrize("name", ["adapter_config.json", "modeling_theirs.py", "README.md"])
def test_a_commit_by_hand_before_the_tag_gets_no_tag(
    name: str,
    release: Release,
    verified: Callable[[str], bool],
    hub_client: Any,
    hub: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stopped_before_the_tag(release, monkeypatch)
    with hub_client(hub) as api:
        ours = api.list_repo_refs(REPO).branches[0].target_commit
        put(api, name, b"{}")
    assert "Released" in release(0).out
    with hub_client(hub) as api:
        assert tags(api) == {"v1.0.0": ours}
    assert verified("v1.0.0")


def test_a_copy_with_something_loaded_beside_it_gets_no_tag(
    release: Release, hub_client: Any, hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped_before_the_tag(release, monkeypatch)
    with hub_client(hub) as api:
        copy = Path(api.snapshot_download(REPO, local_dir=tmp_path / "copy"))
        shutil.rmtree(copy / ".cache")
        (copy / "adapter_config.json").write_text("{}")
        api.delete_repo(REPO)
        api.create_repo(REPO)
        api.upload_folder(repo_id=REPO, folder_path=copy)
    outcome = release(0)
    assert outcome.code == 2 and "adapter_config.json" in outcome.err
    with hub_client(hub) as api:
        assert tags(api) == {}


def test_a_release_that_nobody_can_find_whole_is_made_anew(
    release: Release, hub_client: Any, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert release(0).code == 0 and release(1).code == 0
    with hub_client(hub) as api:
        path = api.hf_hub_download(REPO, "release.json", local_dir=hub.parent)
        record = json.loads(Path(path).read_text("utf-8"))
        record["previous"][0]["commit"] = "a" * 40
        put(api, "release.json", json.dumps(record).encode())
        api.delete_tag(REPO, tag="v1.0.0")
    outcome = release(0)
    assert outcome.code == 0 and " 1.0.2" in outcome.out


@pytest.mark.parametrize("tag", ["main", "a b", "..", "", None, 5])
def test_the_tag_of_a_forged_record_is_not_made(
    tag: object, release: Release, hub_client: Any, hub: Path
) -> None:
    assert release(0).code == 0
    with hub_client(hub) as api:
        path = api.hf_hub_download(REPO, "release.json", local_dir=hub.parent)
        record = json.loads(Path(path).read_text("utf-8")) | {"tag": tag}
        put(api, "release.json", json.dumps(record).encode())
    assert release(0).code == 0
    with hub_client(hub) as api:
        assert tags(api).keys() <= {"v1.0.0", "v1.0.1"}


def test_a_small_file_that_changes_on_the_way_is_published_as_proven(
    release: Release, verified: Callable[[str], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = uploads._preupload

    def change(hub: Any, repo_id: str, additions: list[Any], branch: str) -> None:
        real(hub, repo_id, additions, branch)
        for addition in additions:
            if isinstance(addition.path_or_fileobj, str):
                path = Path(addition.path_or_fileobj)
                if path.suffix == ".json":
                    path.write_text(path.read_text() + "\n")

    monkeypatch.setattr(uploads, "_preupload", change)
    assert release(0).code == 0
    assert verified("v1.0.0")


def test_private_is_asked_again_of_a_repository_that_appeared(
    release: Release, hub_client: Any, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before_publishing(monkeypatch, lambda opened: opened.api.create_repo(REPO, private=False))
    outcome = release(0, "--private")
    assert outcome.code == 2 and "is public" in outcome.err
    with hub_client(hub) as api:
        assert tags(api) == {} and "release.json" not in api.list_repo_files(REPO)


def test_what_the_hub_would_refuse_is_found_before_the_conversion(
    release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert release(0).code == 0
    monkeypatch.setattr(pipeline, "build_artefact", lambda *_: pytest.fail("converted"))
    assert release(1, "--private").code == 2
    assert release(1, "--tag", "main").code == 7
    assert release(1, "--message", "  ").code == 2


@pytest.mark.parametrize("what", ["commit", "tag", "branch"])
def test_a_busy_hub_is_waited_for(
    what: str,
    release: Release,
    verified: Callable[[str], bool],
    waits: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = [Response(409, BUSY)]

    def once(request: Request) -> Response | None:
        return (
            answers.pop() if answers and request.method == "POST" and what in request.path else None
        )

    intercepted(monkeypatch, once)
    outcome = release(0, "--promote", "never")
    assert outcome.code == 0, outcome.err
    assert not answers and len(waits) == 1 and verified("v1.0.0")


def test_two_branches_that_take_one_version(
    release: Release, hub_client: Any, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert release(5).code == 0
    before_publishing(monkeypatch, lambda _: release(1, "--promote", "never"))
    outcome = release(0)
    assert outcome.code == 0 and " 1.0.2" in outcome.out
    assert "Nothing new" in release(1, "--promote", "never").out
    assert "Nothing new" in release(0).out
    with hub_client(hub) as api:
        assert tags(api).keys() == {"v1.0.0", "v1.0.1", "v1.0.2"}


def test_rounds_wait_longer_each_time_and_send_nothing_twice(
    release: Release, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert release(0).code == 0
    answers = [Response(412, b"{}")] * 5
    batches = []

    def moved(request: Request) -> Response | None:
        batches.extend(["batch"] if "batch" in request.path else [])
        is_commit = request.method == "POST" and "commit" in request.path
        return answers.pop() if answers and is_commit else None

    intercepted(monkeypatch, moved)
    assert release(1).code == 0
    assert len(waits) == 5 and len(set(waits)) == 5 and max(waits) <= 15
    assert len(batches) == 1


def test_files_in_folders_are_nobodys_business(
    release: Release, hub_client: Any, hub: Path
) -> None:
    assert release(0).code == 0
    with hub_client(hub) as api:
        put(api, "scripts/train.py", b"1")
        put(api, "epochs/1/weights.safetensors", b"1")
    assert release(1).code == 0
    with hub_client(hub) as api:
        assert "scripts/train.py" in api.list_repo_files(REPO, revision="v1.0.1")
        put(api, "additional_chat_templates/x.jinja", b"1")
    assert release(2).code == 2


def test_a_branch_that_lost_its_record_beside_candidates(
    release: Release, hub_client: Any, hub: Path
) -> None:
    assert release(0, "--promote", "never").code == 0 and release(1).code == 0
    with hub_client(hub) as api:
        api.delete_file("release.json", REPO)
    assert "Nothing new" in release(1).out


def test_versions_in_the_tags_of_another_branch(release: Release) -> None:
    versions = []
    for seed, branch in enumerate(("main", "exp", "main", "exp", "exp", "main")):
        options = ("--tag", "release-{version}", "--revision", branch, "--json")
        outcome = release(seed, *options)
        assert outcome.code == 0, outcome.err
        versions.append(outcome.json[0]["version"])
    assert versions == [f"1.0.{patch}" for patch in range(6)]


def test_a_repository_that_vanishes_is_not_made_again(
    release: Release, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert release(0).code == 0

    def vanish(request: Request) -> Response | None:
        if request.method == "POST" and "commit" in request.path:
            shutil.rmtree(hub / "me" / "model.git")
            return Response(503, b"{}")
        return None

    intercepted(monkeypatch, vanish)
    outcome = release(1)
    assert outcome.code == 6 and "does not exist any more" in outcome.err
    assert not (hub / "me" / "model.git").exists()


def test_quota_of_large_files(release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(request: Request) -> Response | None:
        if "batch" not in request.path:
            return None
        error = {"error": {"code": 403, "message": "storage limit exceeded"}}
        objects = [{"oid": o["oid"], "size": o["size"]} | error for o in request.json()["objects"]]
        return Response(200, json.dumps({"objects": objects}).encode())

    intercepted(monkeypatch, full)
    outcome = release(0)
    assert outcome.code == 6 and "quota is reached" in outcome.err


def test_the_password_of_an_endpoint_is_not_shown(
    release: Release,
    cli: Callable[..., Any],
    slo_checkpoint: Callable[..., Path],
    characters: Path,
    hub: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert release(0).code == 0
    with embedded.serve(hub) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.endpoint.replace("//", "//user:canary-in-url@"))
        monkeypatch.setenv("HF_TOKEN", "hf_" + "a1" * 17)
        outcome = cli(
            "release", slo_checkpoint(seed=0), "--repo-id", REPO, "--dataset", characters, "--json"
        )
        shown = outcome.text + cli("verify-release", f"{REPO}@v1.0.0").text
    assert outcome.code == 0 and "canary-in-url" not in shown
