"""Publishing against a hub that moves, refuses and loses answers."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slogpt_hf.card.record import SCHEMA
from slogpt_hf.errors import HubError, TagConflictError, UsageError
from slogpt_hf.hub import embedded
from slogpt_hf.hub.client import Hub, open_hub, read_token, readable_errors
from slogpt_hf.hub.embedded import Request, Response
from slogpt_hf.hub.publish import BranchMovedError, create_tag, publish_artefact, read_state

REPO = "me/model"
Intercept = Callable[[Request], Response | None]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A finished artefact: a record, a large file, a file in a folder."""
    folder = tmp_path / "artefact"
    (folder / "sub").mkdir(parents=True)
    content = {"release.json": b"", "model.safetensors": bytes(2000), "sub/a.json": b"{}"}
    record = {
        "schema": SCHEMA,
        "identity": "i",
        "version": "1.0.0",
        "checkpoint": {},
        "source": {},
        "model": {"spec": {}},
        "tokenizer": {},
        "parity": {},
        "files": {"model.safetensors": "0", "sub/a.json": "0"},
        "previous": [],
    }
    content["release.json"] = json.dumps(record).encode()
    for name, data in content.items():
        (folder / name).write_bytes(data)
    return {name: folder / name for name in content}


def publish(hub: Hub, files: dict[str, Path], tag: str = "v1.0.0", **options: Any) -> str:
    options = {"revision": "main", "message": "Release", **options}
    options.setdefault("state", read_state(hub, REPO, options["revision"]))
    return publish_artefact(hub, REPO, files, tag=tag, **options)


def renewed(files: dict[str, Path]) -> dict[str, Path]:
    """The next artefact; the client makes no commit where nothing changed."""
    path = files["model.safetensors"]
    path.write_bytes(path.read_bytes() + b"1")
    return files


def tags(hub: Hub) -> dict[str, str]:
    return {tag.name: tag.target_commit for tag in hub.api.list_repo_refs(REPO).tags}


def commits(hub: Hub, revision: str = "main") -> list[str]:
    return [c.commit_id for c in hub.api.list_repo_commits(REPO, revision=revision)]


def test_state_of_what_is_not_there(tmp_path: Path) -> None:
    with open_hub(tmp_path / "hub") as hub:
        state = read_state(hub, REPO, "main")
    assert (state.head, state.record, state.tags, state.branches) == (None, None, {}, ())


def test_one_commit_one_tag(tmp_path: Path, files: dict[str, Path]) -> None:
    with open_hub(tmp_path / "hub") as hub:
        commit = publish(hub, files)
        assert tags(hub) == {"v1.0.0": commit}
        assert len(commits(hub)) == 2 and commits(hub)[0] == commit
        assert set(files) <= set(hub.api.list_repo_files(REPO, revision="v1.0.0"))
        state = read_state(hub, REPO, "main")
        assert state.head == commit and state.branches == ("main",)
        assert state.record is not None and state.record["version"] == "1.0.0"
        assert hub.api.repo_info(REPO).private is False


def test_private_repository(tmp_path: Path, files: dict[str, Path]) -> None:
    with open_hub(tmp_path / "hub") as hub:
        publish(hub, files, private=True)
        assert hub.api.repo_info(REPO).private is True


def test_only_our_stale_files_are_deleted(tmp_path: Path, files: dict[str, Path]) -> None:
    with open_hub(tmp_path / "hub") as hub:
        publish(hub, files)
        hub.api.upload_file(path_or_fileobj=b"1", path_in_repo="theirs.txt", repo_id=REPO)
        fewer = {name: path for name, path in files.items() if name != "sub/a.json"}
        publish(hub, fewer, tag="v2")
        found = set(hub.api.list_repo_files(REPO))
        assert "theirs.txt" in found and "sub/a.json" not in found
        assert "sub/a.json" in hub.api.list_repo_files(REPO, revision="v1.0.0")


def test_branch_that_moved_meanwhile_is_refused(tmp_path: Path, files: dict[str, Path]) -> None:
    with open_hub(tmp_path / "hub") as hub:
        publish(hub, files)
        state = read_state(hub, REPO, "main")
        hub.api.upload_file(path_or_fileobj=b"1", path_in_repo="theirs.txt", repo_id=REPO)
        before = commits(hub)
        with pytest.raises(BranchMovedError, match="somebody committed to main"):
            publish(hub, renewed(files), tag="v2", state=state)
        assert commits(hub) == before and tags(hub).keys() == {"v1.0.0"}


def test_missing_branch_starts_at_main(tmp_path: Path, files: dict[str, Path]) -> None:
    with open_hub(tmp_path / "hub") as hub:
        first = publish(hub, files)
        state = read_state(hub, REPO, "nightly")
        assert state.head == first and state.record is not None
        commit = publish(hub, renewed(files), tag="n1", revision="nightly")
        assert commits(hub, "nightly") == [commit, *commits(hub)]
        assert read_state(hub, REPO, "nightly").head == commit
        assert read_state(hub, REPO, "main").head == first


def test_first_release_on_another_branch(tmp_path: Path, files: dict[str, Path]) -> None:
    with open_hub(tmp_path / "hub") as hub:
        commit = publish(hub, files, revision="nightly")
        assert commits(hub, "nightly")[0] == commit and len(commits(hub)) == 1


def test_tag_that_is_taken_stops_before_anything(tmp_path: Path, files: dict[str, Path]) -> None:
    with open_hub(tmp_path / "hub") as hub:
        publish(hub, files)
        before = commits(hub)
        with pytest.raises(TagConflictError, match=r"v1\.0\.0 exists already"):
            publish(hub, files)
        assert commits(hub) == before


def test_tag_is_idempotent_on_its_commit_only(tmp_path: Path, files: dict[str, Path]) -> None:
    with open_hub(tmp_path / "hub") as hub:
        first = publish(hub, files)
        create_tag(hub, REPO, "v1.0.0", first, "again")
        second = publish(hub, renewed(files), tag="v2")
        with pytest.raises(TagConflictError, match="on another commit"):
            create_tag(hub, REPO, "v1.0.0", second, "again")
        assert tags(hub) == {"v1.0.0": first, "v2": second}


@pytest.mark.parametrize("content", [b"{", b"\xff", b"{}"])
def test_record_that_is_not_ours_is_none(
    tmp_path: Path, files: dict[str, Path], content: bytes
) -> None:
    files["release.json"].write_bytes(content)
    with open_hub(tmp_path / "hub") as hub:
        publish(hub, files)
        state = read_state(hub, REPO, "main")
    assert state.head is not None and state.record is None and state.last is None


def answering(status: int) -> Intercept:
    def intercept(request: Request) -> Response | None:
        return Response(status, b'{"error": "because of a reason"}') if writes(request) else None

    return intercept


def writes(request: Request) -> bool:
    return request.method == "POST" and "commit" in request.path


@pytest.mark.parametrize(
    ("status", "hint"),
    [(401, "HF_TOKEN"), (403, "write access"), (413, "quota"), (404, "name"), (400, "names")],
)
def test_what_the_hub_refuses_says_what_to_do(
    tmp_path: Path,
    files: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    hint: str,
) -> None:
    serve = functools.partial(embedded.serve, intercept=answering(status))
    monkeypatch.setattr(embedded, "serve", serve)
    with open_hub(tmp_path / "hub") as hub:
        with pytest.raises(HubError) as caught:
            publish(hub, files)
        assert tags(hub) == {}
    assert f"{REPO}: committing failed (status {status}" in str(caught.value)
    assert hint in caught.value.hint and "\n" not in str(caught.value)


def test_xet_is_off_for_the_embedded_hub_only(tmp_path: Path) -> None:
    from huggingface_hub import constants

    before = constants.HF_HUB_DISABLE_XET
    with open_hub(tmp_path / "hub"):
        assert constants.HF_HUB_DISABLE_XET is True
    assert constants.HF_HUB_DISABLE_XET is before


def test_endpoint_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with open_hub() as hub:
        assert hub.endpoint == hub.api.endpoint == "http://127.0.0.1:9"
        assert hub.folder is None
        with pytest.raises(HubError, match="reading the repository failed"):
            read_state(hub, REPO, "main")


def test_bugs_are_not_blamed_on_the_hub() -> None:
    with pytest.raises(ZeroDivisionError), readable_errors("committing", REPO):
        print(1 / 0)  # noqa: T201
    with pytest.raises(UsageError), readable_errors("committing", REPO):
        raise UsageError("mine")
    gone = pytest.raises(HubError, match=r"me/model: committing failed \(gone\)")
    with gone, readable_errors("committing", REPO):
        raise ConnectionResetError("gone")


def test_the_hubs_answer_counts_though_the_client_wrapped_it() -> None:
    class AnsweredError(Exception):
        response = type("Response", (), {"status_code": 413})

    caught = pytest.raises(HubError, match=r"status 413: too large")
    with caught as outcome, readable_errors("uploading", REPO):
        try:
            raise AnsweredError("too large")
        except AnsweredError as error:
            raise RuntimeError("Error while uploading 'model.safetensors'.") from error
    assert "quota" in outcome.value.hint


def test_token_file(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(" hf_abc\n")
    assert read_token(str(path)) == "hf_abc"
    assert read_token(None) is None
    for content in (b"", b"\n", b"\xff\xfe"):
        path.write_bytes(content)
        with pytest.raises(UsageError, match=str(path)):
            read_token(str(path))
    with pytest.raises(UsageError):
        read_token(str(tmp_path))
