"""A hub that fails where it is told to, releases against it, and what it holds afterwards."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

REPO = "me/model"
NOTES = "notes.txt"  # somebody else's file
CHARACTERS = "\n !',.:;?ABCDEabcdefghijklmnopqrstuvw"
POINTER = re.compile(rb"version https://git-lfs\S+\noid sha256:([0-9a-f]{64})\nsize \d+\n")
API, GIT, XET = r"api/models/[^/]+/[^/]+", r"[^/]+/[^/]+", r"xet/[^/]+/[^/]+/[^/]+"
# Name of a request, its method and path; paths of revisions are the last part.
ROUTES = [
    (name, re.compile(pattern))
    for name, pattern in {
        "refs": rf"GET {API}/refs",
        "whoami": r"GET api/whoami-v2",
        "access": rf"GET {API}/auth-check/write",
        "create": r"POST api/repos/create",
        "info": rf"GET {API}",
        "file": rf"GET {GIT}/resolve/.*",
        "tree": rf"GET {API}/tree/.*",
        "branch": rf"POST {API}/branch/.*",
        "xet-token": rf"GET {API}/xet-write-token/.*",
        "xorb": rf"POST {XET}/v1/xorbs/.*",
        "shard": rf"POST {XET}/v\d/shards",
        "preupload": rf"POST {API}/preupload/.*",
        "batch": rf"POST {GIT}\.git/info/lfs/objects/batch",
        "object": rf"PUT {GIT}/[0-9a-f]{{64}}",
        "verify": rf"POST {GIT}\.git/info/lfs/objects/verify",
        "card": r"POST api/validate-yaml",
        "commit": rf"POST {API}/commit/.*",
        "tag": rf"POST {API}/tag/.*",
    }.items()
]

OF_THE_CLIENT = ("GET api/agent-harnesses",)  # it asks in some surroundings, and keeps the answer

Step = tuple[str, int]
"""The name of a request and its number among those of this name, from 1."""
Fault = Callable[[Any], Any]
"""What answers a request in place of the hub: an interceptor."""


def route_of(request: Any) -> str:
    line = f"{request.method} {'/'.join(request.path)}"
    return next((name for name, pattern in ROUTES if pattern.fullmatch(line)), line)


@dataclass
class FaultyHub:
    """A served hub; ``steps`` are the requests that it got since ``reset``, in order."""

    endpoint: str
    folder: Path
    steps: list[Step] = field(default_factory=list)
    faults: list[tuple[str, int, bool, Fault]] = field(default_factory=list)
    numbered: dict[int, Fault] = field(default_factory=dict)
    played: int = 0
    running: int = 0
    lock: threading.Condition = field(default_factory=threading.Condition)

    def intercept(self, request: Any) -> Any:
        with self.lock:
            route = route_of(request)
            if route in OF_THE_CLIENT:
                return None
            number = 1 + sum(name == route for name, _ in self.steps)
            self.steps.append((route, number))
            fault = self._fault(route, number)
            self.running += 1
        try:
            return fault(request) if fault else request.proceed()
        finally:
            with self.lock:
                self.running -= 1
                self.lock.notify_all()

    def settle(self, own: int = 0) -> None:
        """Wait until no request is being handled: a client that is gone may have left some.

        ``own`` is 1 for whoever calls it while a request of its own is.
        """
        with self.lock:
            assert self.lock.wait_for(lambda: self.running <= own, 30)

    def is_next(self, method: str, path: str) -> bool:
        """Whether a fault is played at this request, if it comes now."""
        route = route_of(SimpleNamespace(method=method, path=path.strip("/").split("/")))
        with self.lock:
            number = 1 + sum(name == route for name, _ in self.steps)
            return any(name == route and number >= first for name, first, _, _ in self.faults)

    def _fault(self, route: str, number: int) -> Fault | None:
        if fault := self.numbered.pop(len(self.steps), None):
            return fault
        for entry in self.faults:
            name, first, is_always, fault = entry
            if name in (route, "*") and number >= first:
                self.played += 1
                if not is_always:
                    self.faults.remove(entry)
                return fault
        return None

    def reset(self, seed: Path | None) -> None:
        """Hold what the hub folder ``seed`` holds, without faults."""
        self.heal()
        shutil.rmtree(self.folder / "me", ignore_errors=True)
        if seed is not None:
            shutil.copytree(seed / "me", self.folder / "me")

    def heal(self) -> None:
        self.faults.clear()
        self.numbered.clear()
        self.steps.clear()
        self.played = 0

    def once(self, step: Step, *faults: Fault) -> None:
        """Play faults at this step and at as many requests of its name that follow."""
        self.faults += [(*step, False, fault) for fault in faults]

    def at(self, number: int, fault: Fault) -> None:
        """At the request of this number, whatever its name."""
        self.numbered[number] = fault

    def always(self, step: Step, fault: Fault) -> None:
        """From this step on, at every request of its name."""
        self.faults.append((*step, True, fault))

    def count(self) -> Counter[str]:
        return Counter(name for name, _ in self.steps)


@dataclass(frozen=True)
class View:
    """A repository as git sees it.

    Attributes:
        tags: name to commit.
        branches: name to commits, the newest first.
        parents: commit to its parents.
        digests: tag or branch to its files and their SHA-256.
        records: tag or branch to its ``release.json``.
    """

    tags: Mapping[str, str]
    branches: Mapping[str, tuple[str, ...]]
    parents: Mapping[str, tuple[str, ...]]
    digests: Mapping[str, Mapping[str, str]]
    records: Mapping[str, Mapping[str, Any] | None]

    def is_whole(self, ref: str) -> bool:
        """Whether the ref holds a release: every file that its record proves, and no other."""
        record, digests = self.records[ref], self.digests[ref]
        if record is None:
            return False
        others = {NOTES, ".gitattributes", "release.json"}
        return record["files"] == {n: d for n, d in digests.items() if n not in others}

    def require_whole_tags(self) -> None:
        assert all(self.is_whole(tag) for tag in self.tags)
        assert all(self.records[t]["tag"] == t for t in self.tags)  # type: ignore[index]

    def ledger(self, ref: str) -> list[tuple[str, str]]:
        """Version and identity of every release that a record knows."""
        record = self.records[ref]
        assert record is not None
        return [(e["version"], e["identity"]) for e in (record, *record["previous"])]


def view_of(folder: Path, repo_id: str = REPO) -> View | None:
    """What a hub's folder holds of a repository; None without it. LFS objects are hashed."""
    git_dir = folder / f"{repo_id}.git"
    if not git_dir.is_dir():
        return None

    def git(*arguments: str, stdin: bytes = b"") -> bytes:
        command = ["git", "-C", str(git_dir), *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, check=True).stdout

    form = "%(refname) %(objectname) %(*objectname)"
    refs = [line.split() for line in git("for-each-ref", f"--format={form}").decode().splitlines()]
    heads = {name.split("/", 2)[2]: (name.split("/")[1], found[-1]) for name, *found in refs}
    log = [line.split() for line in git("log", "--all", "--format=%H %P").decode().splitlines()]
    parents = {commit: tuple(of) for commit, *of in log}
    branches = {}
    for name, (kind, commit) in heads.items():
        if kind == "heads":
            line = [commit]
            while parents[line[-1]]:
                line.append(parents[line[-1]][0])
            branches[name] = tuple(line)
    digests, records = {}, {}
    for name, (_, commit) in heads.items():
        entries = [
            entry.split("\t") for entry in git("ls-tree", "-r", commit).decode().splitlines()
        ]
        oids = {path: facts.split()[2] for facts, path in entries}
        contents = _contents(
            git("cat-file", "--batch", stdin="\n".join(oids.values()).encode()), list(oids)
        )
        digests[name] = {path: _digest(git_dir, data) for path, data in contents.items()}
        raw = contents.get("release.json")
        records[name] = json.loads(raw) if raw else None
    tags = {name: commit for name, (kind, commit) in heads.items() if kind == "tags"}
    return View(tags, branches, parents, digests, records)


def _contents(batch: bytes, paths: list[str]) -> dict[str, bytes]:
    contents = {}
    for path in paths:
        head, _, batch = batch.partition(b"\n")
        n_bytes = int(head.split()[2])
        contents[path], batch = batch[:n_bytes], batch[n_bytes + 1 :]
    return contents


def _digest(git_dir: Path, content: bytes) -> str:
    if match := POINTER.fullmatch(content):
        oid = match[1].decode()
        content = (git_dir / "lfs" / "objects" / oid[:2] / oid[2:4] / oid).read_bytes()
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(scope="session")
def artefacts(
    tmp_path_factory: pytest.TempPathFactory, slo_content: Callable[..., dict[str, Any]]
) -> dict[str, Path]:
    """Proven artefacts of one shape and other weights: ``sharded``, ``single``, ``third``, …"""
    import torch

    from slogpt_hf.build import convert
    from slogpt_hf.settings import Settings

    folder = tmp_path_factory.mktemp("artefacts")
    ids = dict(enumerate(CHARACTERS))
    meta = {"vocab_size": len(ids), "itos": ids, "stoi": {c: i for i, c in ids.items()}}
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta))
    size = {"sharded": "80KB"}
    for seed, name in enumerate(("sharded", "single", "third", "fourth", "fifth")):
        torch.save(slo_content(seed=seed), folder / f"{name}.pt")
        settings = Settings(dataset=str(folder / "meta.pkl"), max_shard_size=size.get(name, "5GB"))
        convert(folder / f"{name}.pt", folder / name, settings)
    return {path.name: path for path in folder.iterdir() if path.is_dir()}


@pytest.fixture(scope="session")
def faulty_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyHub]:
    """One hub for all tests of this folder; each resets it."""
    from slogpt_hf.hub.embedded import serve

    folder = tmp_path_factory.mktemp("faulty")
    hub = FaultyHub("", folder)
    with serve(folder, intercept=hub.intercept) as running:
        hub.endpoint = running.endpoint
        yield hub


@pytest.fixture(scope="session")
def seeds(
    tmp_path_factory: pytest.TempPathFactory, artefacts: dict[str, Path]
) -> dict[str, Path | None]:
    """Hub folders: ``missing`` has no repository, ``released`` somebody's file and a release."""
    from huggingface_hub import HfApi

    from slogpt_hf.hub.embedded import serve
    from slogpt_hf.release import push
    from slogpt_hf.settings import Settings

    folder = tmp_path_factory.mktemp("seed")
    with serve(folder) as running:
        api = HfApi(endpoint=running.endpoint, token="any")
        api.create_repo(REPO)
        api.upload_file(path_or_fileobj=b"mine", path_in_repo=NOTES, repo_id=REPO)
    settings = Settings(repo_id=REPO, hub=str(folder), transfer="lfs", smoke=False)
    push(artefacts["sharded"], settings)
    again = tmp_path_factory.mktemp("again")
    shutil.copytree(folder, again, dirs_exist_ok=True)
    push(artefacts["single"], Settings(repo_id=REPO, hub=str(again), transfer="lfs", smoke=False))
    return {"missing": None, "released": folder, "twice": again}


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that were to be waited, by us or by the client; nobody waits."""
    from huggingface_hub.utils import _http

    from slogpt_hf.hub import attempts

    found: list[float] = []
    monkeypatch.setattr(attempts, "sleep", found.append)
    clock = SimpleNamespace(time=time.time, monotonic=time.monotonic, sleep=found.append)
    monkeypatch.setattr(_http, "time", clock)
    return found


@pytest.fixture
def released(
    monkeypatch: pytest.MonkeyPatch,
    artefacts: dict[str, Path],
    faulty_hub: FaultyHub,
    waits: list[float],
) -> Callable[..., Any]:
    """Releases an artefact to the faulty hub in this process: ``(name, **settings)``."""
    from slogpt_hf.release import push
    from slogpt_hf.settings import Settings

    monkeypatch.setenv("HF_ENDPOINT", faulty_hub.endpoint)
    monkeypatch.setenv("HF_TOKEN", "hf_canary")

    def release(name: str, **settings: Any) -> Any:
        given = {"repo_id": REPO, "transfer": "lfs", "smoke": False, **settings}
        return push(artefacts[name], Settings(**given))

    return release


@pytest.fixture(scope="session")
def view() -> Callable[..., View | None]:
    return view_of


@pytest.fixture
def impatient(faulty_hub: FaultyHub, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Has the client wait for a byte of an answer with a fault for so many seconds only.

    Other answers have all the time: on a busy machine one of them may take longer.
    """
    from slogpt_hf.hub import session

    limit_time = session._limit_time

    def limit(seconds: float) -> None:
        def limit_faults(request: Any) -> None:
            limit_time(request)
            if faulty_hub.is_next(request.method, request.url.path):
                request.extensions["timeout"]["read"] = seconds

        monkeypatch.setattr(session, "_limit_time", limit_faults)

    return limit
