from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
from needs import program

from slogpt_hf.errors import CheckpointError, HubError, UsageError
from slogpt_hf.settings import Settings
from slogpt_hf.watch import Candidate, lfs
from slogpt_hf.watch.event import Event
from slogpt_hf.watch.fetching import MOST_SMALL_BYTES, fetch
from slogpt_hf.watch.files import checkpoint_digest, file_candidates
from slogpt_hf.watch.repository import git_candidates

NewGit = Callable[..., Any]
Pointer = Callable[[bytes], bytes]
DISTRIBUTED = Path(__file__).parents[1] / "data" / "distributed" / "slo-two"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def files_below(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def only(git: Any, settings: Settings, event: Event | None = None) -> Candidate:
    (candidate,) = git_candidates(git.folder, settings, event)
    return candidate


def store(folder: Path, *contents: bytes) -> None:
    """Put objects into a store of Git LFS."""
    for content in contents:
        digest = sha256(content)
        path = folder / "lfs" / "objects" / digest[:2] / digest[2:4] / digest
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def test_the_files_are_those_of_the_commit(new_git: NewGit, tmp_path: Path) -> None:
    git = new_git()
    before = git.commit({"README.md": b"x"})
    git.commit({"out/ckpt.pt": b"1", "datasets/a/meta.pkl": b"old", "-x y/é\n.txt": b"odd"})
    head = git.commit({"out/ckpt.pt": b"2", "datasets/a/meta.pkl": b"new"})
    event = Event("push", head, "main", before=before)
    old, new = git_candidates(git.folder, Settings(), event)
    fetched = fetch(old, tmp_path / "old", Settings())
    assert fetched.path.read_bytes() == b"1"
    assert fetched.sha256 == old.sha256 == sha256(b"1")
    assert fetched.path.relative_to(fetched.root) == Path("out/ckpt.pt")
    assert files_below(fetched.root) == {
        "README.md": b"x",
        "out/ckpt.pt": b"1",
        "datasets/a/meta.pkl": b"old",
        "-x y/é\n.txt": b"odd",
    }
    again = fetch(new, tmp_path / "new", Settings())
    assert (again.root / "datasets/a/meta.pkl").read_bytes() == b"new"
    assert fetch(new, tmp_path / "new", Settings()) == again
    with pytest.raises(CheckpointError, match="not the planned"):
        fetch(old, tmp_path / "new", Settings())
    (tmp_path / "taken").mkdir()
    with pytest.raises(UsageError, match="exists already"):
        fetch(new, tmp_path / "taken", Settings())


def test_paths_are_relative_to_the_folder_of_the_source(new_git: NewGit, tmp_path: Path) -> None:
    git = new_git()
    git.commit({"models/a/ckpt.pt": b"1", "models/a/val.bin": b"2", "top": b"3"})
    (candidate,) = git_candidates(git.folder / "models" / "a", Settings())
    fetched = fetch(candidate, tmp_path / "work", Settings())
    assert (fetched.root / "val.bin").read_bytes() == b"2"
    assert fetched.path == fetched.root / "ckpt.pt"


def test_large_files_only_where_they_are_wanted(new_git: NewGit, tmp_path: Path) -> None:
    git = new_git()
    large = b"x" * (MOST_SMALL_BYTES + 1)
    git.commit({"ckpt.pt": large + b"1", "log": large, "datasets/mine/train.bin": large})
    candidate = only(git, Settings())
    assert "log" not in files_below(fetch(candidate, tmp_path / "a", Settings()).root)
    fetched = fetch(candidate, tmp_path / "b", Settings(dataset="mine"))
    assert set(files_below(fetched.root)) == {"ckpt.pt", "datasets/mine/train.bin"}
    assert fetched.sha256 == sha256(large + b"1")


def test_recorded_logits_and_the_reference_come_along(
    new_git: NewGit, make_pointer: Pointer, tmp_path: Path
) -> None:
    git = new_git()
    large = b"x" * (MOST_SMALL_BYTES + 1)
    git.commit(
        {
            "out/ckpt.pt": b"weights",
            "out/ckpt.parity.safetensors": large,
            "out/parity.safetensors": make_pointer(b"recorded"),
            "out/other.parity.safetensors": large,
            "parity.safetensors": large,
            "src/model.py": large,
            "src/more.py": b"small",
        }
    )
    store(git.folder / ".git", b"recorded")
    settings = Settings(reference="src/model.py:GPT:Config")
    fetched = fetch(only(git, settings), tmp_path / "work", settings)
    found = files_below(fetched.root)
    assert found.keys() == {
        "out/ckpt.pt",
        "out/ckpt.parity.safetensors",
        "out/parity.safetensors",
        "src/model.py",
        "src/more.py",
    }
    assert found["out/parity.safetensors"] == b"recorded"
    assert fetched.sha256 == sha256(b"weights")


@pytest.mark.parametrize("in_lfs", ["nothing", "*.distcp", "*"])
def test_a_distributed_checkpoint(
    new_git: NewGit, make_pointer: Pointer, tmp_path: Path, in_lfs: str
) -> None:
    git = new_git()
    files = files_below(DISTRIBUTED)
    pointers = {
        name: make_pointer(content) if fnmatch(name, in_lfs) else content
        for name, content in files.items()
    }
    store(git.folder / ".git", *files.values())
    git.commit({f"run/{name}": content for name, content in pointers.items()})
    candidate = only(git, Settings(checkpoints=("**/.metadata",)))
    fetched = fetch(candidate, tmp_path / "work", Settings())
    assert files_below(fetched.path) == files
    assert fetched.sha256 == checkpoint_digest(DISTRIBUTED)
    # Without .metadata only a download tells which files are the model's.
    assert candidate.sha256 == (None if in_lfs == "*" else fetched.sha256)


def test_a_partial_clone_that_has_what_is_wanted(new_git: NewGit, tmp_path: Path) -> None:
    git = new_git("upstream")
    git.run("config", "uploadpack.allowFilter", "true")
    git.commit({"out/ckpt.pt": b"1", "other/notes": b"2"})
    clone = new_git("clone", git, "--filter=blob:none", "--no-checkout")
    clone.run("checkout", "--quiet", "HEAD", "--", "out")
    fetched = fetch(only(clone, Settings()), tmp_path / "work", Settings())
    assert files_below(fetched.root) == {"out/ckpt.pt": b"1"}


def test_links_and_what_leads_out_of_the_folder_are_not_written(
    new_git: NewGit, tmp_path: Path
) -> None:
    git = new_git()
    (git.folder / "link").symlink_to("/etc")
    git.commit({"ckpt.pt": b"1"})
    blob = git.run("hash-object", "-w", "--stdin", stdin=b"harm")
    inner = git.run("mktree", stdin=f"100644 blob {blob}\tharm\n".encode())
    outer = git.run("ls-tree", "HEAD") + f"\n040000 tree {inner}\t..\n"
    commit = git.run("commit-tree", "-m", "Harm", git.run("mktree", stdin=outer.encode()))
    candidate = only(git, Settings(), Event("push", commit, "main"))
    fetched = fetch(candidate, tmp_path / "work", Settings())
    assert [path.name for path in fetched.root.iterdir()] == ["ckpt.pt"]
    assert not list(tmp_path.rglob("harm"))


def test_an_adapter_and_its_base(new_git: NewGit, tmp_path: Path) -> None:
    git = new_git()
    large = b"x" * (MOST_SMALL_BYTES + 1)
    git.commit({"base.pt": large, "ckpt.pt": b"lora"})
    settings = Settings(base="base.pt")
    candidate = only(git, settings)
    fetched = fetch(candidate, tmp_path / "work", settings)
    assert set(files_below(fetched.root)) == {"base.pt", "ckpt.pt"}
    assert fetched.sha256 == candidate.sha256 != sha256(b"lora")
    # A base that is not there is said by the conversion, which names it.
    settings = Settings(base="nowhere.pt")
    assert fetch(only(git, settings), tmp_path / "other", settings).sha256 == sha256(b"lora")


def test_a_file_on_disk_stays_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_pointer: Pointer
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "ckpt.pt"
    path.write_bytes(b"1")
    (candidate,) = file_candidates(["ckpt.pt"])
    fetched = fetch(candidate, tmp_path / "work", Settings())
    assert (fetched.path, fetched.root, fetched.sha256) == (path, tmp_path, sha256(b"1"))
    path.write_bytes(b"2")
    with pytest.raises(CheckpointError, match="changed meanwhile"):
        fetch(candidate, tmp_path / "work", Settings())
    path.write_bytes(make_pointer(b"1"))
    with pytest.raises(CheckpointError, match="is a Git LFS pointer"):
        fetch(candidate, tmp_path / "work", Settings())
    path.unlink()
    with pytest.raises(UsageError, match="no such checkpoint"):
        fetch(candidate, tmp_path / "work", Settings())


@pytest.fixture
def git_lfs() -> None:
    program("git-lfs")


@pytest.fixture
def lfs_server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """URL of a server of Git LFS, and the folder of the bare repository behind it."""
    from slogpt_hf.hub.client import open_hub

    with open_hub(tmp_path / "hub") as hub:
        hub.api.create_repo("me/model")
        yield f"{hub.endpoint}/me/model.git/info/lfs", tmp_path / "hub" / "me" / "model.git"


@pytest.mark.usefixtures("git_lfs")
@pytest.mark.parametrize("place", ["config", ".lfsconfig", "remote"])
def test_only_wanted_objects_of_git_lfs_are_downloaded(
    new_git: NewGit, make_pointer: Pointer, lfs_server: tuple[str, Path], tmp_path: Path, place: str
) -> None:
    url, bare = lfs_server
    git = new_git()
    files = {
        "a,b [1]*/ckpt.pt": b"weights",
        "b/ckpt.pt": b"other weights",
        "datasets/a/meta.pkl": b"vocabulary",
        "datasets/mine/train.bin": b"tokens",
        "big/meta.pkl": b"x" * (MOST_SMALL_BYTES + 1),
    }
    store(bare, *files.values())
    if place == "remote":
        git.run("remote", "add", "origin", url.removesuffix("/info/lfs"))
    elif place == "config":
        git.run("config", "lfs.url", url)
    pointers = {name: make_pointer(content) for name, content in files.items()}
    lfsconfig = {".lfsconfig": f"[lfs]\n\turl = {url}\n".encode()} if place == ".lfsconfig" else {}
    git.commit(pointers | {"copy.pkl": make_pointer(b"weights")} | lfsconfig)
    before = {path: path.stat().st_mtime_ns for path in git.folder.rglob("*")}
    (candidate,) = git_candidates(git.folder, Settings(checkpoints=("a*/ckpt.pt",)))
    settings = Settings(dataset="mine", tokenizer="copy.pkl")
    fetched = fetch(candidate, tmp_path / "work", settings)
    assert fetched.sha256 == sha256(b"weights")
    found = {name: c for name, c in files_below(fetched.root).items() if name != ".lfsconfig"}
    assert found == pointers | {
        name: files[name]
        for name in ("a,b [1]*/ckpt.pt", "datasets/a/meta.pkl", "datasets/mine/train.bin")
    } | {"copy.pkl": b"weights"}
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["files"]
    assert {path: path.stat().st_mtime_ns for path in git.folder.rglob("*")} == before


@pytest.mark.usefixtures("git_lfs")
def test_an_object_that_the_server_does_not_have(
    new_git: NewGit, make_pointer: Pointer, lfs_server: tuple[str, Path], tmp_path: Path
) -> None:
    git = new_git()
    git.commit({"ckpt.pt": make_pointer(b"weights")})
    candidate = only(git, Settings())
    with pytest.raises(UsageError, match="no remote tells where"):
        fetch(candidate, tmp_path / "work", Settings())
    git.run("config", "lfs.url", lfs_server[0])
    with pytest.raises(HubError, match="Git LFS objects cannot be fetched"):
        fetch(candidate, tmp_path / "work", Settings())
    git.run("config", "lfs.url", "http://me:hunter2hunter2@127.0.0.1:1/x")
    git.run("config", "lfs.transfer.maxretries", "1")
    with pytest.raises(HubError, match="Git LFS objects cannot be fetched") as caught:
        fetch(candidate, tmp_path / "work", Settings())
    assert "hunter2" not in str(caught.value)
    assert not (tmp_path / "work").exists()


def test_objects_of_the_own_store_need_no_server(
    new_git: NewGit, make_pointer: Pointer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git = new_git()
    git.commit({"ckpt.pt": make_pointer(b"weights")})
    store(git.folder / ".git", b"weights")
    monkeypatch.setattr(lfs, "_download", None)
    fetched = fetch(only(git, Settings()), tmp_path / "work", Settings())
    assert fetched.path.read_bytes() == b"weights"
    (damaged,) = (git.folder / ".git" / "lfs").rglob(sha256(b"weights"))
    damaged.write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="is not the object of its name"):
        fetch(only(git, Settings()), tmp_path / "other", Settings())


def test_without_git_lfs(
    new_git: NewGit, make_pointer: Pointer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git = new_git()
    git.commit({"ckpt.pt": make_pointer(b"weights")})
    candidate = only(git, Settings())
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "git").symlink_to(shutil.which("git") or "")
    monkeypatch.setenv("PATH", str(folder))
    with pytest.raises(UsageError, match="Git LFS is not installed") as caught:
        fetch(candidate, tmp_path / "work", Settings())
    assert "Install git-lfs" in caught.value.hint


@pytest.mark.usefixtures("git_lfs")
def test_the_token_of_the_ci_reaches_git_lfs_by_the_environment_alone(
    new_git: NewGit, make_pointer: Pointer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[tuple[str, ...], list[tuple[str, str]]]] = []
    real = lfs.git_bytes

    def record(folder: Path, *arguments: str, **options: Any) -> bytes:
        if arguments[0] == "lfs":
            seen.append((arguments, list(options["config"])))
            raise UsageError("stopped")
        return real(folder, *arguments, **options)

    monkeypatch.setattr(lfs, "git_bytes", record)
    monkeypatch.setenv("GITHUB_TOKEN", "ghs_0123456789abcdef")
    git = new_git()
    git.run("remote", "add", "origin", "https://github.com/me/model")
    git.commit({"ckpt.pt": make_pointer(b"weights")})

    def headers() -> list[str]:
        with pytest.raises(HubError):
            fetch(only(git, Settings()), tmp_path / "work", Settings())
        arguments, config = seen.pop()
        assert not any("ghs_" in word for word in arguments)
        return [value for name, value in config if name.lower().endswith("extraheader")]

    assert len(headers()) == 1
    # What the checkout left there is used as it is, and not sent twice.
    git.run("config", "http.https://github.com/.extraheader", "AUTHORIZATION: basic eA==")
    assert headers() == ["AUTHORIZATION: basic eA=="]


def test_a_commit_that_is_not_there_any_more(new_git: NewGit, tmp_path: Path) -> None:
    git = new_git()
    git.commit({"ckpt.pt": b"1"})
    candidate = only(git, Settings())
    other = new_git("other")
    other.commit({"x": b"1"})
    moved = Candidate(**{**vars(candidate), "place": str(other.folder)})
    with pytest.raises(UsageError, match="git ls-tree failed"):
        fetch(moved, tmp_path / "work", Settings())
    assert not (tmp_path / "work").exists()
