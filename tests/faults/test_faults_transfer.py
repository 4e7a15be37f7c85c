"""How large files travel: by LFS or Xet as asked, nothing twice, over slow answers too."""

from __future__ import annotations

import functools
import io
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import pytest

from slogpt_hf.errors import HubError, ParityError
from slogpt_hf.hub import embedded, uploads
from slogpt_hf.hub.embedded import FileSlice, Request, Response, serve

REPO = "me/model"
LFS = {"batch", "object", "verify"}
XET = {"xet-token", "xorb", "shard"}
PAUSE_SECONDS = 0.012
PATIENT_SECONDS = 1.0
CLOSED = threading.Event()


@pytest.fixture
def commits(faulty_hub: Any) -> list[dict[str, str]]:
    """Of each commit that the faulty hub will get after its next reset: path to kind of line."""
    found: list[dict[str, str]] = []

    def read(request: Request) -> Response:
        content = request.body.read()
        io.BufferedReader.__init__(request.body, cast(io.RawIOBase, io.BytesIO(content)))
        lines = [json.loads(line) for line in content.splitlines()]
        found.append({line["value"]["path"]: line["key"] for line in lines[1:]})
        return request.proceed()

    faulty_hub.reset(None)
    faulty_hub.always(("commit", 1), read)
    return found


@pytest.fixture(scope="module")
def retrained(
    artefacts: dict[str, Path],
    slo_content: Callable[..., dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The weights of ``single`` in a checkpoint of another step: another release."""
    import torch

    from slogpt_hf.build import convert
    from slogpt_hf.settings import Settings

    folder = tmp_path_factory.mktemp("retrained")
    torch.save(slo_content(seed=1) | {"iter_num": 500}, folder / "ckpt.pt")
    dataset = str(artefacts["single"].parent / "meta.pkl")
    convert(folder / "ckpt.pt", folder / "artefact", Settings(dataset=dataset))
    return folder / "artefact"


@pytest.fixture
def served(
    faulty_hub: Any, released: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[bool], Any]]:
    """Serves a new hub, with Xet or not, that the environment names; Xet's cache knows none."""
    with ExitStack() as stack:

        def start(xet: bool) -> Any:
            hub = type(faulty_hub)("", tmp_path / "served")
            running = stack.enter_context(serve(hub.folder, xet=xet, intercept=hub.intercept))
            monkeypatch.setenv("HF_ENDPOINT", running.endpoint)
            return hub

        yield start


def used(hub: Any) -> set[str]:
    """The requests of either way that a hub got."""
    return {name for name, _ in hub.steps} & (LFS | XET)


@pytest.mark.parametrize(("way", "expected"), [("lfs", LFS), ("xet", XET), ("auto", XET)])
def test_one_way_and_nothing_of_the_other(
    way: str, expected: set[str], released: Any, served: Any
) -> None:
    hub = served(True)
    assert released("sharded", transfer=way).released
    assert used(hub) == expected


def test_auto_takes_lfs_where_there_is_no_xet(released: Any, served: Any, view: Any) -> None:
    hub = served(False)
    assert released("single", transfer="auto").released
    assert used(hub) == {"xet-token", *LFS} and hub.count()["xet-token"] == 1
    view(hub.folder).require_whole_tags()


def test_auto_takes_lfs_into_a_folder(
    released: Any, faulty_hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, view: Any
) -> None:
    faulty_hub.reset(None)
    by_folder = functools.partial(serve, intercept=faulty_hub.intercept)
    monkeypatch.setattr(embedded, "serve", by_folder)
    assert released("single", transfer="auto", hub=str(tmp_path / "hub")).released
    assert used(faulty_hub) == LFS
    view(tmp_path / "hub").require_whole_tags()


@pytest.mark.parametrize("seed", ["missing", "released"])
def test_xet_from_a_hub_without_it(
    seed: str, released: Any, served: Any, seeds: Any, view: Any, waits: list[float]
) -> None:
    hub = served(False)
    hub.reset(seeds[seed])
    with pytest.raises(HubError) as raised:
        released("single", transfer="xet")
    assert "\n" not in str(raised.value) and REPO in str(raised.value) and raised.value.hint
    assert used(hub) <= {"xet-token"} and not waits
    assert len(view(hub.folder).tags) == (seed == "released")
    assert hub.count()["commit"] == hub.count()["tag"] == 0
    assert released("single", transfer="lfs").released
    view(hub.folder).require_whole_tags()


@pytest.mark.parametrize(("first", "second"), [("lfs", "lfs"), ("xet", "xet"), ("xet", "lfs")])
def test_the_same_weights_are_not_sent_again(
    first: str,
    second: str,
    artefacts: Any,
    retrained: Path,
    released: Any,
    faulty_hub: Any,
    commits: list[dict[str, str]],
    view: Any,
) -> None:
    released("single", transfer=first)
    faulty_hub.steps.clear()
    release = pushed_folder(retrained, second)
    after = view(faulty_hub.folder)
    after.require_whole_tags()
    assert release.tag == "v1.0.1" and not used(faulty_hub) & {"batch", "object", "xorb", "shard"}
    old, new = (after.digests[tag] for tag in ("v1.0.0", "v1.0.1"))
    changed = {name for name in new if new[name] != old.get(name)}
    assert old["model.safetensors"] == new["model.safetensors"]
    assert commits[1] == dict.fromkeys(changed, "file")
    assert {"release.json", "README.md"} <= changed < set(new) - {"config.json"}


def test_a_commit_has_the_kinds_of_its_files(
    released: Any, faulty_hub: Any, commits: list[dict[str, str]], view: Any
) -> None:
    """Shards of the last release are deleted by the commit that brings one file."""
    released("sharded")
    released("single")
    kinds = commits[1]
    old, new = (view(faulty_hub.folder).digests[tag] for tag in ("v1.0.0", "v1.0.1"))
    assert kinds["model.safetensors"] == "lfsFile" and kinds["release.json"] == "file"
    assert {n for n, kind in kinds.items() if kind == "deletedFile"} == old.keys() - new.keys()
    assert all(old.get(name) != new.get(name) for name in kinds)


def pushed_folder(artefact: Path, way: str) -> Any:
    from slogpt_hf.release import push
    from slogpt_hf.settings import Settings

    return push(artefact, Settings(repo_id=REPO, transfer=way, smoke=False))


class Trickle(io.BytesIO):
    """Gives one byte a time, the first ones after a pause each."""

    def read(self, size: int | None = -1) -> bytes:
        if self.tell() < 100:
            CLOSED.wait(PAUSE_SECONDS)
        return super().read(1)


class TrickledPath:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def open(self, mode: str) -> Trickle:
        return Trickle(self.content)


def trickled(request: Request) -> Response:
    """The hub's answer, byte by byte; in all it takes longer than a client waits for one byte."""
    answer = request.proceed()
    content = answer.body
    if isinstance(content, FileSlice):
        content = content.path.read_bytes()[content.offset :][: content.length]
    body = FileSlice(cast(Path, TrickledPath(content)), 0, len(content))
    return Response(answer.status, body, answer.headers)


@pytest.mark.parametrize("step", ["refs", "file", "tree", "preupload", "batch", "commit"])
def test_answers_that_trickle(
    step: str, impatient: Any, released: Any, faulty_hub: Any, seeds: Any, waits: list[float]
) -> None:
    faulty_hub.reset(seeds["released"])
    faulty_hub.once((step, 1), trickled)
    impatient(PATIENT_SECONDS)
    assert released("single").tag == "v1.0.1" and not waits
    assert faulty_hub.played == 1 and faulty_hub.count()["commit"] == 1


@pytest.mark.parametrize("step", ["object", "verify", "commit", "tag"])
def test_an_answer_that_takes_its_time(
    step: str, impatient: Any, released: Any, faulty_hub: Any, seeds: Any, waits: list[float]
) -> None:
    def slow(request: Request) -> Response:
        answer = request.proceed()
        CLOSED.wait(0.15)
        return answer

    faulty_hub.reset(seeds["released"])
    faulty_hub.once((step, 1), slow)
    impatient(PATIENT_SECONDS)
    assert released("single").tag == "v1.0.1" and not waits
    # The weights and two pictures are objects.
    assert faulty_hub.count()[step] == (3 if step in ("object", "verify") else 1)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize(("look", "tags"), [(2, {"v1.0.0"}), (3, {"v1.0.0", "v1.0.1"})])
def test_a_hub_that_holds_something_else(
    look: int, tags: set[str], name: str, released: Any, faulty_hub: Any, seeds: Any, view: Any
) -> None:
    """It is looked at before the tag, and what the tag names once more."""

    def other(request: Request) -> Response:
        answer = request.proceed()
        assert isinstance(answer.body, bytes)
        entries = json.loads(answer.body)
        (entry,) = (e for e in entries if e["path"] == name)
        held = entry.get("lfs", entry)
        held["oid"] = "0" * len(held["oid"])
        return Response(answer.status, json.dumps(entries).encode(), answer.headers)

    faulty_hub.reset(seeds["released"])
    faulty_hub.once(("tree", look), other)
    with pytest.raises(ParityError, match=f"does not hold what was proven: {name}") as raised:
        released("single")
    assert raised.value.exit_code == 4 and view(faulty_hub.folder).tags.keys() == tags
    again = released("single")
    assert again.tag == "v1.0.1" and again.released is (look == 2)


@pytest.mark.parametrize("way", ["lfs", "xet"])
def test_a_large_file_that_changes_before_it_is_sent(
    way: str,
    released: Any,
    artefacts: dict[str, Path],
    faulty_hub: Any,
    seeds: Any,
    view: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weights = shutil.copytree(artefacts["single"], tmp_path / "copy") / "model.safetensors"

    def change(request: Request) -> Response:
        content = weights.read_bytes()
        weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        return request.proceed()

    monkeypatch.setattr(uploads, "MOST_GIT_BYTES", 20_000)
    faulty_hub.reset(seeds["released"])
    faulty_hub.once(("tree", 1), change)
    with pytest.raises(ParityError, match=r"model\.safetensors changed since"):
        pushed_folder(weights.parent, way)
    assert view(faulty_hub.folder).tags.keys() == {"v1.0.0"}
    assert faulty_hub.count()["commit"] == 0
    assert released("single", transfer=way).tag == "v1.0.1"


@pytest.mark.parametrize("step", ["refs", "file", "tree", "preupload", "batch", "commit", "tag"])
def test_silence_is_not_waited_for(
    step: str, impatient: Any, released: Any, faulty_hub: Any, seeds: Any, waits: list[float]
) -> None:
    """The hub keeps silent until the release has ended, by a second request."""
    is_over = threading.Event()
    ended_before: list[bool] = []

    def silent(request: Request) -> Response:
        ended_before.append(is_over.wait(10))
        raise ConnectionResetError("the client went away")

    faulty_hub.reset(seeds["released"])
    faulty_hub.once((step, 1), silent)
    impatient(0.25)
    release = released("single")
    is_over.set()
    faulty_hub.settle()
    assert release.tag == "v1.0.1" and len(waits) == 1 and ended_before == [True]
