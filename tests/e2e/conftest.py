"""The command line in process, and what a hub holds as the real client sees it."""

from __future__ import annotations

import io
import itertools
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

GOLDEN = ("slo-classic", "slo-modern", "slo-learned-rmsnorm-swiglu")
CHARACTERS = "\n !',.:;?ABCDEabcdefghijklmnopqrstuvw"


@dataclass(frozen=True)
class Outcome:
    """What a command line did: exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class Repo:
    """A repository of a hub: tag to commit, branch to commits (newest first), files of main."""

    tags: Mapping[str, str]
    commits: Mapping[str, tuple[str, ...]]
    files: frozenset[str]


@pytest.fixture(autouse=True)
def _clean_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting, token or hub of the user's, and a current folder of the test's own."""
    import slogpt_hf

    monkeypatch.setenv("PYTHONPATH", str(Path(slogpt_hf.__file__).parents[1]))
    for name in list(os.environ):
        if name.startswith("SLOGPT_") or name in ("HF_TOKEN", "HF_ENDPOINT"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SLOGPT_SMOKE", "false")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture(scope="session")
def cli() -> Callable[..., Outcome]:
    """Runs a command line in this process."""
    from slogpt_hf.cli import run

    def call(*arguments: Any) -> Outcome:
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = run([str(argument) for argument in arguments])
        assert "Traceback" not in out.getvalue() + err.getvalue()
        return Outcome(code, out.getvalue(), err.getvalue())

    return call


@contextmanager
def _client(folder: Path) -> Iterator[Any]:
    from huggingface_hub import HfApi

    from slogpt_hf.hub.embedded import serve

    with serve(folder) as running:
        yield HfApi(endpoint=running.endpoint, token=False)


@pytest.fixture(scope="session")
def hub_client() -> Callable[[Path], Any]:
    """The real client on the embedded hub over a folder, as a context."""
    return _client


@pytest.fixture(scope="session")
def hub_view() -> Callable[[Path], dict[str, Repo]]:
    """Everything that a hub shows: repo id to Repo; equal views are equal hubs."""

    def view(folder: Path) -> dict[str, Repo]:
        if not folder.exists():
            return {}
        repos = {}
        with _client(folder) as api:
            for model in api.list_models():
                refs = api.list_repo_refs(model.id)
                branches = [branch.name for branch in refs.branches]
                repos[model.id] = Repo(
                    {tag.name: tag.target_commit for tag in refs.tags},
                    {
                        name: tuple(
                            commit.commit_id
                            for commit in api.list_repo_commits(model.id, revision=name)
                        )
                        for name in branches
                    },
                    frozenset(api.list_repo_files(model.id)),
                )
        return repos

    return view


@pytest.fixture(scope="session")
def hub_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., bytes]:
    """Downloads a file: ``(hub folder, repo id, name, revision)`` to its bytes."""

    def download(folder: Path, repo_id: str, name: str, revision: str = "main") -> bytes:
        with _client(folder) as api:
            local = tmp_path_factory.mktemp("download")
            path = api.hf_hub_download(repo_id, name, revision=revision, local_dir=local)
            return Path(path).read_bytes()

    return download


@pytest.fixture(scope="session")
def sixteen() -> list[dict[str, bool]]:
    """The switches of every architecture."""
    names = ("use_rope", "use_swiglu", "use_rmsnorm", "bias")
    return [
        dict(zip(names, values, strict=True))
        for values in itertools.product((False, True), repeat=len(names))
    ]


@pytest.fixture(scope="session")
def write_meta() -> Callable[..., Path]:
    """Writes the meta.pkl of a character dataset: ``(folder, characters)`` to its path."""

    def write(folder: Path, characters: str) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        itos = dict(enumerate(characters))
        meta = {"vocab_size": len(itos), "itos": itos, "stoi": {c: i for i, c in itos.items()}}
        path = folder / "meta.pkl"
        path.write_bytes(pickle.dumps(meta))
        return path

    return write


@pytest.fixture(scope="session")
def characters(tmp_path_factory: pytest.TempPathFactory, write_meta: Callable[..., Path]) -> Path:
    """The dataset folder of ``slo_checkpoint``'s 37 ids."""
    return write_meta(tmp_path_factory.mktemp("characters"), CHARACTERS).parent


@pytest.fixture(scope="session")
def golden_hub(
    tmp_path_factory: pytest.TempPathFactory,
    golden: Callable[[str], Path],
    cli: Callable[..., Outcome],
) -> tuple[Path, dict[str, Outcome]]:
    """A hub with a release of three golden checkpoints, and what each release printed."""
    folder = tmp_path_factory.mktemp("golden") / "hub"
    outcomes = {
        name: cli("release", golden(name) / "ckpt.pt", "--repo-id", f"me/{name}", "--hub", folder)
        for name in GOLDEN
    }
    return folder, outcomes


@pytest.fixture(scope="session")
def character_dataset(
    tmp_path_factory: pytest.TempPathFactory, write_meta: Callable[..., Path]
) -> Callable[[int], Path]:
    """The folder of a dataset of so many characters, some beyond ASCII and one beyond the BMP."""

    def make(size: int) -> Path:
        characters = ["\n", *map(chr, range(32, 127)), *"éßΩ–€🙂"]
        folder = tmp_path_factory.mktemp("dataset")
        return write_meta(folder, "".join(characters[-size:])).parent

    return make


@pytest.fixture(scope="session")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Downloads a whole release: ``(hub folder, repo id, revision)`` to its folder."""

    def download(folder: Path, repo_id: str, revision: str = "v1.0.0") -> Path:
        with _client(folder) as api:
            local = tmp_path_factory.mktemp("snapshot")
            return Path(api.snapshot_download(repo_id, revision=revision, local_dir=local))

    return download


@pytest.fixture
def serving() -> Iterator[Callable[..., tuple[subprocess.Popen[str], str]]]:
    """Starts ``hub serve FOLDER --port 0`` in a process; gives it and its first line."""
    started = []

    def start(folder: Path, *options: str, **environment: str) -> tuple[Any, str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "slogpt_hf", "hub", "serve", folder, "--port", "0", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | environment,
        )
        started.append(process)
        assert process.stdout is not None
        return process, process.stdout.readline()

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
