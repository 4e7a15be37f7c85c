"""Downloads by the real client from an embedded hub: resumed, checked, nowhere else."""

from __future__ import annotations

import errno
import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slogpt_hf import downloading
from slogpt_hf.downloading import Download, download_model, require_repo
from slogpt_hf.errors import HubError, UsageError
from slogpt_hf.hub.client import Hub, hub_of, open_hub
from slogpt_hf.hub.embedded import serve
from slogpt_hf.hub.embedded.wire import Response, json_response
from slogpt_hf.progress import Progress
from slogpt_hf.settings import Settings

REPO = "me/model"
FILES = {
    "README.md": b"# Model\n",
    "config.json": b"{}",
    "model.safetensors": bytes(range(256)) * 400,
    "deep/er/notes.txt": b"x",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hub with one model, of two commits; the second is tagged."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    folder = tmp_path_factory.mktemp("downloads") / "hub"
    with open_hub(folder) as hub:
        hub.api.create_repo(REPO)
        files = FILES | {"config.json": b"{ }", "old.txt": b"old"}
        first = [CommitOperationAdd(name, content) for name, content in files.items()]
        hub.api.create_commit(REPO, first, commit_message="first")
        second = [CommitOperationAdd("config.json", b"{}"), CommitOperationDelete("old.txt")]
        hub.api.create_commit(REPO, second, commit_message="second")
        hub.api.create_tag(REPO, tag="v1")
    return folder


@pytest.fixture
def hub(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.chdir(tmp_path)
    with open_hub(made) as hub:
        yield hub


@pytest.fixture
def intercepted(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[Any], Any]], Any]:
    """The hub with an interceptor, as the real one is reached."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("slogpt_hf.hub.attempts.sleep", lambda seconds: None)
    monkeypatch.delenv("HF_TOKEN", raising=False)

    def download(intercept: Callable[[Any], Any], **options: Any) -> Download:
        with serve(made, intercept=intercept) as running:
            monkeypatch.setenv("HF_ENDPOINT", running.endpoint)
            with hub_of(Settings(), REPO) as hub:
                return download_model(hub, REPO, **options)

    return download


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_folder_holds_what_the_hub_lists(hub: Hub) -> None:
    done = download_model(hub, REPO)
    assert done.folder == Path("models/me_model") and done.downloaded
    found = content(done.folder)
    metadata = json.loads(found.pop("hf_metadata.json"))
    assert found.pop(".gitattributes") and found == FILES
    assert sum(map(len, FILES.values())) < done.n_bytes < 110_000
    assert [*metadata][:4] == ["model_id", "local_name", "download_time", "repo_url"]
    assert metadata["model_id"] == REPO and metadata["commit"] == done.commit
    assert metadata["revision"] == "main" and metadata["checks"] is None
    assert hub.folder and metadata["repo_url"] == (hub.folder / "me/model.git").as_uri()
    assert done.verification is None and done.parity is None and done.tag is None
    assert [path.name for path in Path("models").iterdir()] == ["me_model"]


def test_revision_and_local_name(hub: Hub) -> None:
    first = hub.api.list_repo_commits(REPO)[1].commit_id
    done = download_model(hub, REPO, first, local_name="first", folder=Path("elsewhere"))
    assert done.commit == first
    found = content(Path("elsewhere/first"))
    assert found["config.json"] == b"{ }" and found["old.txt"] == b"old"
    assert download_model(hub, REPO, "v1").revision == "v1"
    with pytest.raises(HubError, match="absent"):
        download_model(hub, REPO, "absent", local_name="other")
    with pytest.raises(UsageError, match="revision"):
        download_model(hub, REPO, "-x", local_name="other")
    with pytest.raises(HubError, match="nobody/knows"):
        download_model(hub, "nobody/knows")
    assert sorted(path.name for path in Path("models").iterdir()) == ["me_model"]


def test_again_is_nothing_new_and_another_commit_is_refused(hub: Hub) -> None:
    done = download_model(hub, REPO)
    again = download_model(hub, REPO, "v1")
    assert not again.downloaded and again.commit == done.commit
    first = hub.api.list_repo_commits(REPO)[1].commit_id
    with pytest.raises(UsageError, match=f"exists already: {REPO}, commit {done.commit}"):
        download_model(hub, REPO, first)
    (done.folder / "config.json").write_bytes(b"[]")
    with pytest.raises(UsageError, match=r"config\.json changed since"):
        download_model(hub, REPO)
    (done.folder / "config.json").unlink()
    with pytest.raises(UsageError, match=r"config\.json changed since"):
        download_model(hub, REPO)
    (done.folder / "hf_metadata.json").unlink()
    with pytest.raises(UsageError, match="exists already"):
        download_model(hub, REPO)


NAMES = ["", ".", "..", "../up", "a/b", "/abs", "-x", ".hidden", "a\0b", "a\n", "x" * 201, "dot."]


@pytest.mark.parametrize("name", NAMES)
def test_local_name_that_is_no_name(hub: Hub, name: str) -> None:
    with pytest.raises(UsageError, match="local-name"):
        download_model(hub, REPO, local_name=name)
    assert not Path("models").exists()


@given(name=st.text(max_size=8))
def test_local_name_is_one_folder_or_refused(name: str) -> None:
    try:
        found = downloading._local_name(REPO, name)
    except UsageError:
        return
    assert (Path("models") / found).resolve().parent == Path("models").resolve()


@pytest.mark.parametrize(
    "repo", ["", "a/b/c", "../x", "datasets/x", "a b", "https://x/y/z", "a/.."]
)
def test_repo_that_is_none(repo: str) -> None:
    with pytest.raises(UsageError):
        require_repo(repo)


def test_repo_without_a_namespace_is_one() -> None:
    require_repo("gpt2")


PATHS = ["../evil", "/evil", "a/../../evil", ".git/config", ".slogpt-hf/of", "a\\b", "a\nb"]


@pytest.mark.parametrize("path", PATHS)
def test_path_of_a_repository_that_leads_elsewhere(
    intercepted: Any, path: str, tmp_path: Path
) -> None:
    def intercept(request: Any) -> Response | None:
        if "tree" not in request.path:
            return None
        return json_response([{"type": "file", "path": path, "oid": "0" * 40, "size": 1}])

    with pytest.raises(HubError, match="not written here"):
        intercepted(intercept)
    assert not (tmp_path / "models").exists() and not (tmp_path / "evil").exists()


@pytest.mark.parametrize("paths", [["a", "a/b"], ["x" * 300]])
def test_path_of_a_repository_that_cannot_be(
    intercepted: Any, paths: list[str], tmp_path: Path
) -> None:
    def intercept(request: Any) -> Response | None:
        if "resolve" in request.path:
            return Response(200, b"x")
        if "tree" not in request.path:
            return None
        file = {"type": "file", "oid": "0" * 40, "size": 1}
        return json_response([file | {"path": path} for path in paths])

    with pytest.raises(HubError, match=r"cannot be written|other bytes"):
        intercepted(intercept)
    assert not (tmp_path / "models/me_model").exists()


def test_commit_that_is_none(intercepted: Any, tmp_path: Path) -> None:
    def intercept(request: Any) -> Response | None:
        is_info = request.path[:2] == ("api", "models") and "tree" not in request.path
        return json_response({"id": REPO, "sha": "../../x"}) if is_info else None

    with pytest.raises(HubError, match="names no commit"):
        intercepted(intercept)
    assert not (tmp_path / "models").exists()


class Stop(BaseException):
    """As a process that is killed."""


def test_stopped_download_goes_on_where_it_was(
    intercepted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []
    got_bytes: list[int] = []

    def note(request: Any) -> Response | None:
        if request.method == "GET" and (request.server == "lfs" or "resolve" in request.path):
            asked.append((request.server, request.headers.get("range", "")))
        return None

    def stop(n_bytes: int) -> None:
        got_bytes.append(n_bytes)
        if sum(got_bytes) > 50_000:
            raise Stop

    got = downloading.fetch
    monkeypatch.setattr(downloading, "SMALL_BYTES", 10_000)
    monkeypatch.setattr(downloading, "fetch", lambda *values: got(*values[:-1], stop))
    with pytest.raises(Stop):
        intercepted(note)
    (partial,) = (tmp_path / "models").iterdir()
    assert partial.name == ".me_model.partial"
    (part,) = [p for p in (partial / ".slogpt-hf").iterdir() if p.name != "of"]
    arrived = part.stat().st_size
    assert 50_000 < arrived < len(FILES["model.safetensors"])
    monkeypatch.setattr(downloading, "fetch", got)
    asked.clear()
    stream = io.StringIO()
    intercepted(note, progress=Progress(stream))
    missing = (len(FILES["model.safetensors"]) - arrived) / 1000
    assert f"download: {missing:.1f} kB in" in stream.getvalue()
    # The hub's redirect to its storage, and the storage itself.
    assert asked == [("api", f"bytes={arrived}-"), ("lfs", f"bytes={arrived}-")]
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["me_model"]
    found = content(tmp_path / "models/me_model")
    del found["hf_metadata.json"], found[".gitattributes"]
    assert found == FILES


@pytest.mark.parametrize("honest", [True, False])
def test_connection_that_ends_early_is_taken_up(intercepted: Any, honest: bool) -> None:
    """Also where what gives the file knows no ranges."""
    ranges: list[str] = []

    def intercept(request: Any) -> Response | None:
        if request.server != "lfs":
            return None
        ranges.append(request.headers.get("range", ""))
        whole = FILES["model.safetensors"]
        if len(ranges) < 3:
            start = 30_000 * (len(ranges) - 1)
            return Response(206 if start else 200, whole[start : start + 30_000])
        return None if honest else Response(200, whole)

    done = intercepted(intercept)
    assert ranges == ["", "bytes=30000-", "bytes=60000-"]
    assert content(done.folder)["model.safetensors"] == FILES["model.safetensors"]


def test_file_longer_than_listed(intercepted: Any, tmp_path: Path) -> None:
    def intercept(request: Any) -> Response | None:
        return Response(200, bytes(200_000)) if request.server == "lfs" else None

    with pytest.raises(HubError, match=r"model\.safetensors is longer than the 102400 bytes"):
        intercepted(intercept)
    assert not (tmp_path / "models/me_model").exists()


def test_hub_that_sends_nothing_is_asked_a_few_times(intercepted: Any) -> None:
    asked = []

    def intercept(request: Any) -> Response | None:
        if request.server != "lfs":
            return None
        asked.append(1)
        return Response(200, b"")

    with pytest.raises(HubError, match="sent nothing"):
        intercepted(intercept)
    assert len(asked) == 6


def test_file_of_other_bytes_is_not_kept(intercepted: Any, tmp_path: Path) -> None:
    wrong = [True]

    def intercept(request: Any) -> Response | None:
        if not wrong or request.method != "GET" or request.path[-1] != "config.json":
            return None
        answer = request.proceed()
        return Response(answer.status, b"[]", answer.headers)

    with pytest.raises(HubError, match=r"config\.json arrived with other bytes"):
        intercepted(intercept)
    assert not (tmp_path / "models/me_model").exists()
    wrong.clear()
    done = intercepted(intercept)
    assert content(done.folder)["config.json"] == b"{}"


def test_files_of_an_earlier_attempt_at_another_commit_go(hub: Hub) -> None:
    partial = Path("models/.me_model.partial/old")
    partial.mkdir(parents=True)
    (partial / "weights.bin").write_bytes(b"x")
    (partial.parent / "config.json").write_bytes(b"{ }")
    found = content(download_model(hub, REPO).folder)
    assert found["config.json"] == b"{}" and "old/weights.bin" not in found
    assert not Path("models/me_model/old").exists()


def test_two_at_once(hub: Hub) -> None:
    from slogpt_hf.files import resumable_folder

    with (
        resumable_folder(Path("models/me_model").absolute()),
        pytest.raises(UsageError, match="another process"),
    ):
        download_model(hub, REPO)
    shutil.rmtree("models/me_model")
    assert download_model(hub, REPO).downloaded


def test_disk_that_is_too_small(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(".")._replace(free=50_000)
    monkeypatch.setattr(downloading.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UsageError, match=r"needs 10\d\.\d kB, and 50\.0 kB are free"):
        download_model(hub, REPO)
    assert not Path("models/me_model").exists()


def test_disk_that_gets_full(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("slogpt_hf.hub.download._go_on", full)
    with pytest.raises(UsageError, match="No space left"):
        download_model(hub, REPO)
    assert not Path("models/me_model").exists()


def test_metadata_of_a_repository_is_not_taken_for_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with open_hub(tmp_path / "hub") as hub:
        hub.api.create_repo(REPO)
        lie = json.dumps({"model_id": "famous/model", "checks": {}}).encode()
        hub.api.upload_file(
            path_or_fileobj=lie, path_in_repo="hf_metadata.json", repo_id=REPO
        )  # fmt: skip
        done = download_model(hub, REPO)
    metadata = json.loads((done.folder / "hf_metadata.json").read_text())
    assert metadata["model_id"] == REPO and metadata["checks"] is None
