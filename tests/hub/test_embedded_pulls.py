"""Pull requests and discussions of the embedded hub, through the real client."""

from __future__ import annotations

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import CommitOperationAdd, HfApi, hf_hub_download
from huggingface_hub.errors import BadRequestError, HfHubHTTPError, RevisionNotFoundError

from slogpt_hf.hub.embedded import RunningHub

REPO = "me/model"
TOKEN = "hf_owner"


def put(api: HfApi, path: str, content: bytes, **options: object) -> str:
    add = [CommitOperationAdd(path, content)]
    info = api.create_commit(REPO, add, commit_message=f"Write {path}", **options)  # type: ignore[call-overload]
    return str(info.pr_revision or info.oid)


def titles(api: HfApi, revision: str = "main") -> list[str]:
    return [commit.title for commit in api.list_repo_commits(REPO, revision=revision)]


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_a_proposal_is_merged_as_one_commit(api: HfApi, tmp_path: Path, kind: str) -> None:
    repo_id = "me/other"
    api.create_repo(repo_id, repo_type=kind)
    info = api.upload_file(
        repo_id=repo_id, repo_type=kind, path_or_fileobj=b"large", path_in_repo="w.bin",
        create_pr=True, commit_message="Weights", commit_description="New ones.",
    )  # fmt: skip
    assert info.pr_revision == "refs/pr/1" and info.pr_url and info.pr_num == 1
    assert "w.bin" not in api.list_repo_files(repo_id, repo_type=kind)
    path = hf_hub_download(
        repo_id, "w.bin", repo_type=kind, revision="refs/pr/1", endpoint=api.endpoint,
        cache_dir=tmp_path, token=TOKEN,
    )  # fmt: skip
    assert Path(path).read_bytes() == b"large"
    told = api.get_discussion_details(repo_id, 1, repo_type=kind)
    assert (told.title, told.status, told.is_pull_request) == ("Weights", "open", True)
    assert [event.type for event in told.events] == ["comment", "commit"]
    assert told.events[0].content == "New ones."  # type: ignore[attr-defined]
    assert told.conflicting_files == [] and told.target_branch == "refs/heads/main"
    assert told.diff and "+oid sha256:" in told.diff
    refs = api.list_repo_refs(repo_id, repo_type=kind, include_pull_requests=True)
    assert [ref.ref for ref in refs.pull_requests or []] == ["refs/pr/1"]

    api.merge_pull_request(repo_id, 1, repo_type=kind, comment="Good.")
    told = api.get_discussion_details(repo_id, 1, repo_type=kind)
    head = api.repo_info(repo_id, repo_type=kind).sha
    assert told.status == "merged" and told.merge_commit_oid == head
    assert {event.type for event in told.events} == {"comment", "commit", "status-change"}
    assert told.diff and "+oid sha256:" in told.diff
    assert "w.bin" in api.list_repo_files(repo_id, repo_type=kind)
    with pytest.raises(BadRequestError, match="Only an open pull request"):
        api.merge_pull_request(repo_id, 1, repo_type=kind)
    with pytest.raises(BadRequestError, match="stays merged"):
        api.change_discussion_status(repo_id, 1, "closed", repo_type=kind)


def test_both_sides_of_a_merge_are_kept(api: HfApi) -> None:
    put(api, "a.txt", b"a")
    draft = api.create_pull_request(REPO, title="Draft")
    assert draft.status == "draft"
    put(api, "b.txt", b"b", revision="refs/pr/1")
    put(api, "deep/c.txt", b"c", revision="refs/pr/1")
    put(api, "a.txt", b"a2")
    with pytest.raises(BadRequestError):
        api.merge_pull_request(REPO, 1)
    api.change_discussion_status(REPO, 1, "open")
    before = titles(api)
    api.merge_pull_request(REPO, 1)
    assert titles(api) == ["Draft (#1)", *before]
    assert api.list_repo_files(REPO) == [".gitattributes", "a.txt", "b.txt", "deep/c.txt"]
    assert titles(api, "refs/pr/1")[:2] == ["Write deep/c.txt", "Write b.txt"]


def test_conflicts_are_named_and_merge_nothing(api: HfApi) -> None:
    put(api, "a.txt", b"base")
    put(api, "a.txt", b"theirs", create_pr=True)
    head = put(api, "a.txt", b"ours")
    assert api.get_discussion_details(REPO, 1).conflicting_files == ["a.txt"]
    with pytest.raises(HfHubHTTPError, match="has conflicts"):
        api.merge_pull_request(REPO, 1)
    assert api.model_info(REPO).sha == head
    assert api.get_discussion_details(REPO, 1).status == "open"
    api.super_squash_history(REPO)
    assert api.get_discussion_details(REPO, 1).conflicting_files is True


def test_a_proposal_against_a_branch_only(api: HfApi) -> None:
    api.create_branch(REPO, branch="dev")
    head = api.model_info(REPO).sha
    assert put(api, "x.txt", b"x", revision="dev", create_pr=True) == "refs/pr/1"
    assert api.get_discussion_details(REPO, 1).target_branch == "refs/heads/dev"
    for revision in (head, "none", "refs/pr/9"):
        with pytest.raises(RevisionNotFoundError):
            put(api, "x.txt", b"x", revision=revision, create_pr=True)
    with pytest.raises(HfHubHTTPError, match="412"):
        put(api, "x.txt", b"x", parent_commit="0" * 40, create_pr=True)
    assert [talk.num for talk in api.get_repo_discussions(REPO)] == [1]


def test_a_discussion(api: HfApi) -> None:
    talk = api.create_discussion(REPO, " A question ", description="What?")
    assert (talk.num, talk.title, talk.author) == (1, "A question", "local")
    comment = api.comment_discussion(REPO, 1, "<b>First</b>")
    assert comment.rendered == "<p>&lt;b&gt;First&lt;/b&gt;</p>"  # type: ignore[attr-defined]
    edited = api.edit_discussion_comment(REPO, 1, comment.id, "Second")
    assert edited.number_of_edits == 1 and edited.content == "Second"
    with pytest.warns(UserWarning, match="irreversible"):
        hidden = api.hide_discussion_comment(REPO, 1, comment.id)
    assert hidden.hidden and not hidden.content
    renamed = api.rename_discussion(REPO, 1, "An answer")
    assert (renamed.old_title, renamed.new_title) == ("A question", "An answer")
    assert api.change_discussion_status(REPO, 1, "closed", comment="Done").new_status == "closed"
    assert api.get_discussion_details(REPO, 1).status == "closed"
    api.create_pull_request(REPO, "A pull request")

    def listed(**options: str) -> list[int]:
        return [talk.num for talk in api.get_repo_discussions(REPO, **options)]  # type: ignore[arg-type]

    assert listed() == [2, 1]
    assert listed(discussion_type="discussion") == [1]
    assert listed(discussion_status="open") == [2]
    assert listed(discussion_status="closed") == [1]
    assert listed(author="nobody") == []


def test_many_discussions_have_numbers_of_their_own(api: HfApi) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: api.create_discussion(REPO, f"Number {i}"), range(60)))
    assert [talk.num for talk in api.get_repo_discussions(REPO)] == list(range(60, 0, -1))


def test_what_is_refused(hub: RunningHub, api: HfApi) -> None:
    api.create_discussion(REPO, "A question")
    stranger = HfApi(endpoint=hub.endpoint, token=False)
    assert stranger.get_discussion_details(REPO, 1).title == "A question"
    for refused in (
        lambda: stranger.create_discussion(REPO, "Mine"),
        lambda: stranger.comment_discussion(REPO, 1, "Mine"),
        lambda: stranger.merge_pull_request(REPO, 1),
        lambda: put(stranger, "x.txt", b"x", create_pr=True),
        lambda: stranger.super_squash_history(REPO),
        lambda: stranger.move_repo(REPO, "me/mine"),
        lambda: list(stranger.list_user_repos()),
    ):
        with pytest.raises(HfHubHTTPError, match="401"):
            refused()
    with pytest.raises(BadRequestError, match="length"):
        api.create_discussion(REPO, "ab")
    with pytest.raises(BadRequestError, match="at most"):
        api.comment_discussion(REPO, 1, "x" * 70_000)
    for wrong in (lambda: api.get_discussion_details(REPO, 2),
                  lambda: api.edit_discussion_comment(REPO, 1, "nothing", "x")):  # fmt: skip
        with pytest.raises(HfHubHTTPError, match="404"):
            wrong()
    assert len(api.get_discussion_details(REPO, 1).events) == 1


@pytest.mark.parametrize("title", ["a\0bcd", "a\nb c", "  a ", "x" * 199 + " y"])
def test_odd_titles_are_one_line(hub: RunningHub, api: HfApi, title: str) -> None:
    header = {"key": "header", "value": {"summary": title, "description": ""}}
    file = {"key": "file", "value": {"path": "x.txt", "content": "x"}}
    answer = httpx2.post(
        f"{hub.endpoint}/api/models/me/model/commit/main?create_pr=1",
        content="\n".join(map(json.dumps, (header, file))),
        headers={"Authorization": f"Bearer {TOKEN}"},
    )
    assert answer.status_code == 200, answer.text
    api.merge_pull_request("me/model", 1)
    assert titles(api)[0].endswith("(#1)") and "x.txt" in api.list_repo_files("me/model")


def test_a_clone_can_fetch_a_proposal(hub: RunningHub, api: HfApi, tmp_path: Path) -> None:
    put(api, "x.txt", b"x", create_pr=True)
    source = f"{hub.folder}/{REPO}.git"
    subprocess.run(["git", "init", "-q", tmp_path / "c"], check=True)
    subprocess.run(["git", "fetch", "-q", source, "refs/pr/1"], cwd=tmp_path / "c", check=True)
    show = ["git", "show", "FETCH_HEAD:x.txt"]
    assert subprocess.check_output(show, cwd=tmp_path / "c") == b"x"
