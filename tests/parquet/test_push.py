"""``slogpt-hf push-dataset``: versions, tags, exactly once, and what loads from the hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

from slogpt_hf.cli import run
from slogpt_hf.cli.release import program
from slogpt_hf.dataset_build import convert_dataset
from slogpt_hf.dataset_release import push_dataset
from slogpt_hf.errors import HubError, SloGPTError
from slogpt_hf.hub import attempts
from slogpt_hf.hub.embedded import Request, serve
from slogpt_hf.settings import Settings

REPO = "me/small"
TEXT = "One: two.\n\nThree — \N{GRINNING FACE}\nfour.\n\n\nFive.\n"
SETTINGS = Settings(repo_id=REPO, hub="hub")
LOADING = """
import json, sys
from datasets import load_dataset

def told(name):
    found = {}
    for config in ("text", "tokens"):
        for split, rows in load_dataset(name, config).items():
            found[f"{config}/{split}"] = rows[:][rows.column_names[0]]
    return found

print(json.dumps([told(name) for name in sys.argv[1:]]))
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("SLOGPT_") or name in ("HF_TOKEN", "HF_ENDPOINT"):
            monkeypatch.delenv(name)


def convert(output: str = "out", dataset: str = "small", **options: Any) -> Path:
    convert_dataset(dataset, Path(output), Settings(), **{"block_size": 64, **options})
    return Path(output)


def held() -> tuple[dict[str, str], list[str], set[str]]:
    """Tags and commits of the dataset, its own ones alone, and the files of main."""
    with serve(Path("hub")) as running:
        api = HfApi(endpoint=running.endpoint, token=False)
        refs = api.list_repo_refs(REPO, repo_type="dataset")
        commits = api.list_repo_commits(REPO, repo_type="dataset")
        files = set(api.list_repo_files(REPO, repo_type="dataset"))
    own = [commit.title for commit in commits if commit.title != "initial commit"]
    return {tag.name: tag.target_commit for tag in refs.tags}, own, files


def test_once(character_dataset: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    character_dataset()
    convert()
    arguments = ["push-dataset", "out", "--repo-id", REPO, "--hub", "hub", "-q"]
    assert run([*arguments, "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert (first["released"], first["version"], first["tag"]) == (True, "1.0.0", "v1.0.0")
    assert run(arguments) == 0
    said = capsys.readouterr().out
    assert "Nothing new" in said
    # The program as it is called from here, which need not be on the PATH.
    assert f"in another terminal: {program()} hub serve hub" in said
    tags, commits, files = held()
    assert tags == {"v1.0.0": first["commit"]}
    assert commits == ["Release 1.0.0"]
    assert files == {
        ".gitattributes",
        "README.md",
        "release.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.json",
        *(f"{c}/{s}-00000-of-00001.parquet" for c in ("text", "tokens") for s in
          ("train", "validation")),
    }  # fmt: skip


def test_versions_mean_compatibility(character_dataset: Callable[..., Path]) -> None:
    character_dataset(TEXT * 40)
    known = sorted(set(TEXT))
    character_dataset(TEXT * 60, name="more", characters=known)
    character_dataset(TEXT * 40 + "ß", name="other")
    releases = [
        push_dataset(folder, SETTINGS)
        for folder in (
            convert("a"),
            convert("b", "more", most_shard_ids=2048),
            convert("c", "more", block_size=32),
            convert("d", "other"),
        )
    ]
    assert [release.version for release in releases] == ["1.0.0", "1.0.1", "1.1.0", "2.0.0"]
    # What went before is deleted, so that a glob of the card finds one dataset alone.
    _, _, files = held()
    assert not [name for name in files if "of-00003" in name]
    again = push_dataset(Path("a"), SETTINGS)
    assert (again.released, again.version) == (False, "1.0.0")
    assert again.url.endswith("/datasets/me/small/tree/v1.0.0")


@pytest.mark.parametrize("what", ["create", "commit/main", "tag"])
@pytest.mark.parametrize("after", [False, True])
def test_a_push_that_broke_off_is_finished(
    what: str, after: bool, character_dataset: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    character_dataset()
    folder, broken = convert(), False
    monkeypatch.setattr(attempts, "sleep", lambda seconds: None)

    def intercept(request: Request) -> Any:
        nonlocal broken
        path = "/".join(request.path)
        if request.method == "POST" and f"/{what}" in path:
            if after and not broken:
                request.proceed()
            broken = True
        if broken:
            raise ConnectionError
        return None

    with serve(Path("hub"), intercept=intercept) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.endpoint)
        with pytest.raises(HubError):
            push_dataset(folder, Settings(repo_id=REPO))
    assert broken
    monkeypatch.delenv("HF_ENDPOINT")
    assert push_dataset(folder, SETTINGS).version == "1.0.0"
    tags, commits, _ = held()
    assert (list(tags), commits) == (["v1.0.0"], ["Release 1.0.0"])


def test_a_lost_answer_is_recognised(
    character_dataset: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    character_dataset()
    folder, lost = convert(), []
    monkeypatch.setattr(attempts, "sleep", lambda seconds: None)

    def intercept(request: Request) -> Any:
        if "commit" in request.path and not lost:
            lost.append(request.proceed())
            raise ConnectionError
        return None

    with serve(Path("hub"), intercept=intercept) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.endpoint)
        assert push_dataset(folder, Settings(repo_id=REPO)).released
    tags, commits, _ = held()
    assert lost
    assert (list(tags), commits) == (["v1.0.0"], ["Release 1.0.0"])


def test_back_from_the_hub(
    character_dataset: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = character_dataset()
    push_dataset(convert(), SETTINGS)
    arguments = ["--back", "--hub", "hub", "-q"]
    assert run(["convert", f"{REPO}@v1.0.0", "back", *arguments]) == 0
    for name in ("train.bin", "val.bin"):
        assert (Path("back") / name).read_bytes() == (folder / name).read_bytes()
    assert sorted(p.name for p in Path().iterdir()) == ["back", "datasets", "hub", "out"]
    with serve(Path("hub")) as running:
        api = HfApi(endpoint=running.endpoint, token=False)
        api.create_repo("me/model")
        api.create_repo("me/empty", repo_type="dataset")
    capsys.readouterr()
    for repo_id, code, said in (
        ("me/model", 6, "is a model's repository"),
        ("me/empty", 3, "slogpt-hf did not make it"),
        ("me/nothing", 6, "404"),
        (f"{REPO}@nothing", 6, "404"),
    ):
        assert run(["convert", repo_id, "back2", *arguments]) == code
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
        assert not Path("back2").exists()
    assert run(["convert", REPO, "back", *arguments]) == 2
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize("harm", ["changed", "gone", "more", "unproven", "model", "none"])
def test_only_what_was_proven_is_published(
    harm: str, character_dataset: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    character_dataset()
    folder = convert()
    record = json.loads((folder / "release.json").read_text("utf-8"))
    if harm == "changed":
        (folder / "vocab.json").write_text("{}")
    elif harm == "gone":
        next(folder.glob("text/train*")).unlink()
    elif harm == "more":
        (folder / "tokens" / "train-extra.parquet").write_bytes(b"x")
    elif harm == "unproven":
        record["proof"]["passed"] = False
    elif harm == "model":
        record = {"schema": 1, "model": {}}
    (folder / "release.json").write_text(json.dumps(record))
    if harm == "none":
        (folder / "release.json").unlink()
    code = {"model": 3, "none": 2}.get(harm, 4)
    assert run(["push-dataset", "out", "--repo-id", REPO, "--hub", "hub", "-q"]) == code
    assert capsys.readouterr().err.count("\n") == 1
    assert not Path("hub").exists()


def test_files_that_would_be_loaded_beside_are_refused(
    character_dataset: Callable[..., Path],
) -> None:
    character_dataset()
    folder = convert()
    with serve(Path("hub")) as running:
        api = HfApi(endpoint=running.endpoint, token=False)
        api.create_repo(REPO, repo_type="dataset")
        foreign = CommitOperationAdd("text/train-mine.parquet", b"x")
        api.create_commit(REPO, [foreign], commit_message="mine", repo_type="dataset")
    with pytest.raises(SloGPTError, match="load_dataset would load beside"):
        push_dataset(folder, SETTINGS)
    with serve(Path("hub")) as running:
        api = HfApi(endpoint=running.endpoint, token=False)
        delete = CommitOperationDelete("text/train-mine.parquet")
        note = CommitOperationAdd("notes/mine.txt", b"x")
        api.create_commit(REPO, [delete, note], commit_message="mine", repo_type="dataset")
    assert push_dataset(folder, SETTINGS).released
    assert "notes/mine.txt" in held()[2]


@pytest.mark.parametrize("field", [{}, {"configs": {}}, {"configs": None}])
def test_a_record_that_the_card_cannot_tell_is_refused(
    field: dict[str, Any], character_dataset: Callable[..., Path]
) -> None:
    character_dataset()
    record = json.loads((convert() / "release.json").read_text("utf-8"))
    del record["data"]["configs"]
    record["data"] |= field
    Path("out/release.json").write_text(json.dumps(record), "utf-8")
    with pytest.raises(SloGPTError, match="not as this version writes it"):
        push_dataset(Path("out"), SETTINGS)


def test_a_dataset_is_no_model(
    character_dataset: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    character_dataset()
    convert()
    assert run(["push", "out", "--repo-id", REPO, "--hub", "hub"]) == 3
    assert "slogpt-hf push-dataset" in capsys.readouterr().err


def test_datasets_loads_it_locally_and_from_the_hub(
    character_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    character_dataset(TEXT * 150)
    folder = convert(most_shard_ids=4096)
    push_dataset(folder, SETTINGS)
    with serve(Path("hub")) as running:
        environment = os.environ | {
            "HF_ENDPOINT": running.endpoint,
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_DISABLE_XET": "1",
        }
        command = [sys.executable, "-c", LOADING, str(folder), REPO]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    local, loaded = json.loads(done.stdout.splitlines()[-1])
    assert local == loaded
    text = TEXT * 150
    cut = int(len(text) * 0.9)
    ids = {c: i for i, c in enumerate(sorted(set(text)))}
    for split, expected in (("train", text[:cut]), ("validation", text[cut:])):
        assert "".join(loaded[f"text/{split}"]) == expected
        rows = loaded[f"tokens/{split}"]
        assert [i for row in rows for i in row] == [ids[c] for c in expected]
