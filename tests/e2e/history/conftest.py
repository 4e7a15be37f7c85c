"""One history of four releases, copied for each test."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import CommitOperationAdd, CommitOperationDelete

from slogpt_hf.hub import attempts, embedded
from slogpt_hf.hub.embedded import Request, Response

REPO = "me/model"
SMALL = {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 12}
SHARDED = ("--max-shard-size", "4kB")
# Version, step, validation loss, architecture, options.
HISTORY: list[tuple[str, int, float, dict[str, Any], tuple[str, ...]]] = [
    ("1.0.0", 100, 1.5, {}, ()),
    ("1.0.1", 200, 1.25, {"seed": 1}, ("--promote", "best", *SHARDED)),
    ("1.0.2", 300, 1.375, {"seed": 2}, ("--promote", "best")),
    ("1.1.0", 400, 1.125, {"seed": 3, "n_layer": 2}, ("--promote", "never", *SHARDED)),
]
Cli = Callable[..., Any]


@pytest.fixture(scope="session")
def write(
    tmp_path_factory: pytest.TempPathFactory, slo_content: Callable[..., dict[str, Any]]
) -> Callable[..., Path]:
    """Writes a checkpoint: ``(step, loss, **model_args)`` to its path."""

    def make(step: int, loss: float, **arguments: Any) -> Path:
        content = slo_content(**SMALL | arguments)
        path = tmp_path_factory.mktemp("run") / f"step-{step}.pt"
        torch.save(content | {"iter_num": step, "best_val_loss": torch.tensor(loss)}, path)
        return path

    return make


@pytest.fixture(scope="session")
def release(cli: Cli, characters: Path) -> Cli:
    """Releases a checkpoint to REPO: ``(hub, checkpoint, *options)`` to what it did."""

    def call(hub: Path, path: Path, *options: str) -> Any:
        named = ("--dataset", characters, "--repo-id", REPO, "--hub", hub)
        outcome = cli("release", path, *named, *options, "--json", "-q")
        assert outcome.code == 0, outcome.err
        return outcome.json[0]

    return call


@pytest.fixture(scope="session")
def checkpoints(write: Callable[..., Path]) -> list[Path]:
    return [write(step, loss, **arguments) for _, step, loss, arguments, _ in HISTORY]


@pytest.fixture(scope="session")
def history(
    tmp_path_factory: pytest.TempPathFactory, release: Cli, checkpoints: list[Path]
) -> tuple[Path, list[Any]]:
    """A hub with the four releases, and what each release said."""
    hub = tmp_path_factory.mktemp("history") / "hub"
    options = [options for *_, options in HISTORY]
    said = [release(hub, p, *given) for p, given in zip(checkpoints, options, strict=True)]
    return hub, said


@pytest.fixture
def hub(history: tuple[Path, list[Any]], tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(history[0], tmp_path / "hub"))


@pytest.fixture
def view(hub: Path, hub_view: Callable[[Path], Any]) -> Callable[[], Any]:
    return lambda: hub_view(hub)[REPO]


@pytest.fixture
def releases(hub: Path, cli: Cli) -> Callable[[], dict[str, Any]]:
    """The releases that the command lists, by version, in its order."""

    def call() -> dict[str, Any]:
        outcome = cli("releases", REPO, "--hub", hub, "--json")
        assert outcome.code == 0, outcome.err
        return {each["version"]: each for each in outcome.json}

    return call


@pytest.fixture
def rollback(hub: Path, cli: Cli) -> Cli:
    return lambda *arguments: cli("rollback", REPO, *arguments, "--hub", hub)


@pytest.fixture
def change(hub: Path, hub_client: Callable[[Path], Any]) -> Callable[..., str]:
    """Commits files by the plain client: path to content, None deletes it."""

    def commit(files: dict[str, bytes | None], branch: str = "main") -> str:
        operations = [
            CommitOperationDelete(path) if content is None else CommitOperationAdd(path, content)
            for path, content in files.items()
        ]
        with hub_client(hub) as api:
            return str(
                api.create_commit(REPO, operations, commit_message="By hand", revision=branch).oid
            )

    return commit


@pytest.fixture
def tree(hub: Path, hub_client: Callable[[Path], Any]) -> Callable[..., dict[str, str]]:
    """Path to blob id, of a revision."""

    def read(revision: str = "main") -> dict[str, str]:
        with hub_client(hub) as api:
            files = api.list_repo_tree(REPO, recursive=True, revision=revision)
            return {file.path: file.blob_id for file in files if hasattr(file, "blob_id")}

    return read


@pytest.fixture
def record(hub: Path, hub_file: Callable[..., bytes]) -> Callable[..., Any]:
    """The ``release.json`` of a revision."""
    return lambda revision="main": json.loads(hub_file(hub, REPO, "release.json", revision))


@pytest.fixture
def intercepted(
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[Callable[[Request], Response | None]], None]:
    """Puts an interceptor before the embedded hub, and lets no retry wait."""

    def install(intercept: Callable[[Request], Response | None]) -> None:
        serve = functools.partial(embedded.serve, intercept=intercept)
        monkeypatch.setattr(embedded, "serve", serve)
        monkeypatch.setattr(attempts, "sleep", lambda seconds: None)

    return install


@pytest.fixture(scope="session")
def runs(checkpoints: list[Path]) -> list[tuple[Path, str, tuple[str, ...]]]:
    """Checkpoint, version and options of each release of the history."""
    return [
        (path, version, options)
        for path, (version, *_, options) in zip(checkpoints, HISTORY, strict=True)
    ]
