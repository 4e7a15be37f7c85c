"""Clone and push over HTTP, by git and git-lfs themselves."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import HfApi, hf_hub_download
from needs import program

from slogpt_hf.hub.embedded import RunningHub

REPO = "me/model"
TOKEN = "hf_owner"
WEIGHTS = b"weights" * 100_000

Git = Callable[..., str]


@pytest.fixture
def git(tmp_path: Path) -> Git:
    """Git as a user with a configuration of nobody's; `fails` expects and returns an error."""
    home = tmp_path / "home"
    home.mkdir()
    env = {key: os.environ[key] for key in ("PATH", "TMPDIR") if key in os.environ}
    env |= {"HOME": str(home), "GIT_TERMINAL_PROMPT": "0", "GIT_CONFIG_NOSYSTEM": "1"}
    env |= {f"GIT_{who}_NAME": "Me" for who in ("AUTHOR", "COMMITTER")}
    env |= {f"GIT_{who}_EMAIL": "me@localhost" for who in ("AUTHOR", "COMMITTER")}

    def run(*arguments: object, cwd: Path = home, fails: bool = False) -> str:
        done = subprocess.run(
            ["git", *map(str, arguments)], cwd=cwd, env=env, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert (done.returncode != 0) == fails, done.stderr
        return done.stderr if fails else done.stdout.strip()

    return run


def url(hub: RunningHub, token: str = TOKEN, repo: str = REPO) -> str:
    return hub.endpoint.replace("://", f"://user:{token}@") + f"/{repo}"


def commit(git: Git, clone: Path, path: str, content: bytes) -> None:
    (clone / path).parent.mkdir(parents=True, exist_ok=True)
    (clone / path).write_bytes(content)
    git("add", ".", cwd=clone)
    git("commit", "-qm", f"Write {path}", cwd=clone)


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_clone_and_push_with_large_files(
    hub: RunningHub, git: Git, tmp_path: Path, kind: str
) -> None:
    program("git-lfs")
    git("lfs", "install", "--skip-repo")
    api = HfApi(endpoint=hub.endpoint, token=TOKEN)
    api.create_repo(REPO, repo_type=kind, private=True)
    api.upload_file(
        repo_id=REPO, repo_type=kind, path_or_fileobj=WEIGHTS, path_in_repo="model.safetensors"
    )
    clone = tmp_path / "clone"
    where = REPO if kind == "model" else f"datasets/{REPO}"
    git("clone", "-q", url(hub, repo=where), clone)
    assert (clone / "model.safetensors").read_bytes() == WEIGHTS

    commit(git, clone, "sub/new.bin", WEIGHTS[::-1])
    commit(git, clone, "text.txt", b"text")
    git("tag", "-am", "Release", "v1", cwd=clone)
    git("push", "-q", "origin", "main", "v1", cwd=clone)
    for path, content in (("sub/new.bin", WEIGHTS[::-1]), ("text.txt", b"text")):
        got = hf_hub_download(
            REPO, path, repo_type=kind, revision="v1", endpoint=hub.endpoint, token=TOKEN,
            cache_dir=tmp_path / "cache",
        )  # fmt: skip
        assert Path(got).read_bytes() == content
    tree = {e.path: e for e in api.list_repo_tree(REPO, "sub", repo_type=kind)}
    lfs = tree["sub/new.bin"].lfs  # type: ignore[union-attr]
    assert lfs and lfs.sha256 == hashlib.sha256(WEIGHTS[::-1]).hexdigest()

    api.upload_file(repo_id=REPO, repo_type=kind, path_or_fileobj=b"x", path_in_repo="by_api.txt")
    git("pull", "-q", cwd=clone)
    assert (clone / "by_api.txt").read_bytes() == b"x"
    assert not list((hub.folder / ".slogpt-hf" / "incoming").iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_folder_of_another_account(hub: RunningHub, api: HfApi, git: Git, tmp_path: Path) -> None:
    clone, repo = tmp_path / "clone", hub.folder / f"{REPO}.git"
    for path in (repo, *repo.rglob("*")):
        os.chown(path, 65534, 65534)
    git("clone", "-q", url(hub), clone)
    commit(git, clone, "x.txt", b"x")
    git("push", "-q", "origin", "main", cwd=clone)
    assert "x.txt" in api.list_repo_files(REPO)


def test_who_may(hub: RunningHub, api: HfApi, git: Git, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    git("clone", "-q", f"{hub.endpoint}/{REPO}.git", clone)
    commit(git, clone, "x.txt", b"x")
    before = api.model_info(REPO).sha
    for address in (f"{hub.endpoint}/{REPO}", url(hub, "wrong")):
        git("push", "-q", address, "main", cwd=clone, fails=True)
    assert api.model_info(REPO).sha == before
    answer = httpx2.get(f"{hub.endpoint}/{REPO}/info/refs?service=git-receive-pack")
    assert answer.status_code == 401 and answer.headers["WWW-Authenticate"].startswith("Basic ")
    assert httpx2.post(f"{hub.endpoint}/{REPO}/git-receive-pack").status_code == 401
    api.update_repo_settings(REPO, private=True)
    git("clone", "-q", f"{hub.endpoint}/{REPO}", tmp_path / "private", fails=True)
    git("clone", "-q", url(hub, repo="me/none"), tmp_path / "none", fails=True)
    git("push", "-q", url(hub), "main", cwd=clone)
    assert "x.txt" in api.list_repo_files(REPO)


def test_nothing_of_the_repository_runs(
    hub: RunningHub, api: HfApi, git: Git, tmp_path: Path
) -> None:
    """Not even what somebody put into the hub's folder by hand; a pusher cannot put it there."""
    folder, clone = hub.folder / f"{REPO}.git", tmp_path / "clone"
    (folder / "hooks").mkdir()
    names = ("pre-receive", "update", "post-receive", "post-update", "reference-transaction",
             "proc-receive", "pre-auto-gc")  # fmt: skip
    for name in names:
        (folder / "hooks" / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/ran-{name}\n")
        (folder / "hooks" / name).chmod(0o755)
    git("clone", "-q", url(hub), clone)
    for path in ("hooks/pre-receive", "config", "objects/info/alternates"):
        commit(git, clone, path, b"#!/bin/sh\n")
    config = (folder / "config").read_bytes()
    git("push", "-q", "origin", "main", cwd=clone)
    api.upload_file(repo_id=REPO, path_or_fileobj=b"x", path_in_repo="x.txt")
    assert (folder / "config").read_bytes() == config
    assert not list(tmp_path.glob("ran-*"))


def test_what_may_be_pushed(hub: RunningHub, api: HfApi, git: Git, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    git("clone", "-q", url(hub), clone)
    commit(git, clone, "x.txt", b"x")
    for ref in ("refs/replace/" + "0" * 40, "refs/notes/commits", "refs/hidden/x"):
        assert "deny updating a hidden ref" in git(
            "push", "-q", "origin", f"HEAD:{ref}", cwd=clone, fails=True
        )
    assert "refusing to delete the current branch" in git(
        "push", "-q", "origin", ":main", cwd=clone, fails=True
    )
    # A tree that would write into .git where it is checked out.
    blob = git("hash-object", "-w", "x.txt", cwd=clone)
    inner = subprocess.run(
        ["git", "mktree"], cwd=clone, input=f"100644 blob {blob}\tconfig\n".encode(),
        capture_output=True, check=True,
    ).stdout.decode().strip()  # fmt: skip
    (clone / "raw").write_bytes(b"40000 .git\0" + bytes.fromhex(inner))
    tree = git("hash-object", "-t", "tree", "-w", "--literally", "raw", cwd=clone)
    bad = git("commit-tree", tree, "-m", "bad", cwd=clone)
    refused = git("push", "-q", "origin", f"{bad}:refs/heads/bad", cwd=clone, fails=True)
    assert "hasDotgit" in refused
    assert [ref.name for ref in api.list_repo_refs(REPO).branches] == ["main"]
    api.upload_file(repo_id=REPO, path_or_fileobj=b"y", path_in_repo="y.txt", create_pr=True)
    git("fetch", "-q", "origin", "refs/pr/1", cwd=clone)
    git("checkout", "-q", "FETCH_HEAD", cwd=clone)
    commit(git, clone, "z.txt", b"z")
    git("push", "-q", "origin", "HEAD:refs/pr/1", cwd=clone)
    told = api.get_discussion_details(REPO, 1)
    assert [e.summary for e in told.events if e.type == "commit"][-1] == "Write z.txt"  # type: ignore[attr-defined]


def test_names_that_a_push_may_not_take(
    hub: RunningHub, api: HfApi, git: Git, tmp_path: Path
) -> None:
    """A branch called like a commit would stand before the commit that somebody has pinned."""
    clone = tmp_path / "clone"
    git("clone", "-q", url(hub), clone)
    pinned = git("rev-parse", "HEAD", cwd=clone)
    commit(git, clone, "x.txt", b"x")
    for ref in (f"heads/{pinned}", f"tags/{pinned}", "heads/HEAD", "heads/refs/heads/main",
                "pr/1", "pr/99999999999", "pr/x", "pr/1/2"):  # fmt: skip
        told = git("push", "-q", "origin", f"HEAD:refs/{ref}", cwd=clone, fails=True)
        assert f"remote: 'refs/{ref}' cannot be pushed" in told
    assert [ref.name for ref in api.list_repo_refs(REPO).branches] == ["main"]
    assert api.create_discussion(REPO, "Still the first").num == 1
    # Nor where one has it from before, put there by hand.
    new = git("rev-parse", "HEAD", cwd=clone)
    git("push", "-q", "origin", "main", cwd=clone)
    git("--git-dir", hub.folder / f"{REPO}.git", "update-ref", f"refs/heads/{pinned}", new)
    assert api.model_info(REPO, revision=pinned).sha == pinned
    git("push", "-q", "origin", f":refs/heads/{pinned}", cwd=clone)


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"garbage", {}, 400),
        (b"", {}, 400),
        (b"000epush-cert\n0000", {}, 400),
        (b"0000", {"Content-Encoding": "gzip"}, 415),
    ],
)
def test_what_is_no_push(
    hub: RunningHub, api: HfApi, body: bytes, headers: dict[str, str], status: int
) -> None:
    where = f"{url(hub)}/git-receive-pack"
    assert httpx2.post(where, content=body, headers=headers).status_code == status
    assert httpx2.post(f"{url(hub)}/git-upload-pack", content=b"garbage").status_code == 400


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("info/refs", 403),
        ("info/refs?service=git-upload-archive", 403),
        ("info/refs?service=git-upload-pack", 200),
        ("info/refs?service=git-upload-pack&x=--help", 200),
        ("HEAD", 404),
        ("config", 404),
        ("objects/info/packs", 404),
        ("..%2Fother.git/info/refs?service=git-upload-pack", 404),
    ],
)
def test_only_three_requests(hub: RunningHub, api: HfApi, path: str, status: int) -> None:
    headers = {"Git-Protocol": "version=2; touch x", "Content-Encoding": "deflate"}
    got = httpx2.get(f"{hub.endpoint}/{REPO}.git/{path}", headers=headers)
    assert got.status_code == status
    assert status != 200 or got.content.startswith(b"001e# service=git-upload-pack\n")


def test_bodies_are_bounded(
    hub: RunningHub, api: HfApi, git: Git, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slogpt_hf.hub.embedded.git_http.PUSH_LIMIT", 10_000)
    clone = tmp_path / "clone"
    git("clone", "-q", url(hub), clone)
    commit(git, clone, "x.txt", os.urandom(50_000))
    assert "413" in git("push", "-q", "origin", "main", cwd=clone, fails=True)
    assert "x.txt" not in api.list_repo_files(REPO)
    assert not list((hub.folder / ".slogpt-hf" / "incoming").iterdir())
