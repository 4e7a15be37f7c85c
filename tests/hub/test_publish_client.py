"""Publishing against a hub that moves, refuses and loses answers."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slogpt_hf.card.ledger import NUMBERS
from slogpt_hf.card.record import SCHEMA
from slogpt_hf.errors import HubError, TagConflictError, UsageError
from slogpt_hf.files import sha256_of
from slogpt_hf.hub import embedded
from slogpt_hf.hub.client import Hub, open_hub, readable_errors
from slogpt_hf.hub.embedded import Request, Response
from slogpt_hf.hub.publish import Publication, create_tag, publish_artefact
from slogpt_hf.hub.rounds import BranchMovedError
from slogpt_hf.hub.state import read_state
from slogpt_hf.hub.uploads import Uploads

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
        "date": "2030-01-31",
        "version": "1.0.0",
        "tag": "v1.0.0",
        "checkpoint": {},
        "source": {},
        "model": {"spec": {}, "remote_code": False},
        "tokenizer": {},
        "parity": dict.fromkeys(NUMBERS, 0.0),
        "languages": [],
        "files": {"model.safetensors": "0", "sub/a.json": "0"},
        "previous": [],
    }
    content["release.json"] = json.dumps(record).encode()
    for name, data in content.items():
        (folder / name).write_bytes(data)
    return {name: folder / name for name in content}


def publish(hub: Hub, files: dict[str, Path], tag: str = "v1.0.0", **options: Any) -> str:
    state = options.pop("state", None) or read_state(hub, REPO, options.get("revision", "main"))
    branch = options.pop("revision", "main")
    digests = {name: sha256_of(path) for name, path in files.items()}
    publication = Publication(files, digests, tag, branch, "Release", **options)
    return publish_artefact(hub, publication, state, Uploads(hub, REPO, "auto"))


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
    assert not state.exists and state.head("main") is None and state.last is None
    assert (state.ledger, state.tags, state.branches) == ((), {}, {})


def test_one_commit_one_tag(tmp_path: Path, files: dict[str, Path]) -> None:
    with open_hub(tmp_path / "hub") as hub:
        commit = publish(hub, files)
        assert tags(hub) == {"v1.0.0": commit}
        assert len(commits(hub)) == 2 and commits(hub)[0] == commit
        assert set(files) <= set(hub.api.list_repo_files(REPO, revision="v1.0.0"))
        state = read_state(hub, REPO, "main")
        assert state.branches == {"main": commit} and state.tags == {"v1.0.0": commit}
        assert state.last is not None and state.last["version"] == "1.0.0"
        assert state.last["commit"] == commit
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
        assert state.head("nightly") == first and state.record("nightly") is not None
        commit = publish(hub, renewed(files), tag="n1", revision="nightly")
        assert commits(hub, "nightly") == [commit, *commits(hub)]
        assert read_state(hub, REPO, "nightly").head("nightly") == commit
        assert read_state(hub, REPO, "main").head("main") == first


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
    assert state.head("main") is not None and state.records == {} and state.last is None


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


def test_endpoint_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with open_hub() as hub:
        assert hub.endpoint == hub.api.endpoint == "http://127.0.0.1:9"
        assert hub.folder is None
        with pytest.raises(HubError, match="reading the repository failed") as caught:
            read_state(hub, REPO, "main")
    assert "the status of http://127.0.0.1:9;" in caught.value.hint


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("The hub's folder failed: No space left on device.", "The hub's disk is full."),
        ("[Errno 28] No space left on device", "The disk here is full"),
        ("The LFS content of model.safetensors is missing.", "has lost this file's content"),
        ("Connection reset by peer", "the status of the Hub;"),
    ],
)
def test_what_the_words_of_an_error_tell(words: str, hint: str) -> None:
    caught = pytest.raises(HubError, match="downloading failed")
    with caught as outcome, readable_errors("downloading", REPO):
        raise OSError(words)
    assert hint in outcome.value.hint


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
