"""What lies below models/: downloads of today and of old, artefacts, folders that are neither."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slogpt_hf.cli import run
from slogpt_hf.errors import UsageError
from slogpt_hf.local_models import date_of, downloads_in, list_models, read_metadata

OLD = {
    "model_id": "openai-community/gpt2",
    "local_name": "my_gpt2",
    "download_time": "1769850000.25",
    "repo_url": "https://hub.example/gpt2",
}
SHA256_OF_EMPTY_OBJECT = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
RECORD: dict[str, Any] = {
    "schema": 1,
    "identity": "0" * 64,
    "date": "2026-11-29",
    "checkpoint": {"file": "ckpt.pt"},
    "source": {"commit": "a" * 40},
    "model": {"spec": {}},
    "tokenizer": {},
    "parity": {
        "verdict": "passed",
        "level": "witnessed",
        "fp64_error": 2.5e-16,
        "fp32_error": 1e-6,
    },
    "files": {"config.json": SHA256_OF_EMPTY_OBJECT},
    "previous": [],
}


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "models"


def folder(path: Path, **files: Any) -> Path:
    path.mkdir(parents=True)
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (path / f"{name}.json").write_text(text)
    return path


def test_download_of_the_old_script(models: Path) -> None:
    path = folder(models.parent / "hf_models" / "my_gpt2", hf_metadata=OLD)
    (path / "weights").write_bytes(bytes(1000))
    (found,) = list_models()
    assert found.to_dict() == {
        "name": "my_gpt2",
        "path": "hf_models/my_gpt2",
        "kind": "downloaded",
        "origin": "openai-community/gpt2",
        "revision": None,
        "commit": None,
        "date": "2026-01-31T09:00:00Z",
        "repo_url": "https://hub.example/gpt2",
        "parity": None,
        "proof": None,
        "bytes": 1000 + len(json.dumps(OLD)),
    }
    (metadata,) = downloads_in([Path("hf_models")])
    assert metadata.download_time == "1769850000.25"


def test_artefact_is_listed_with_its_parity(models: Path) -> None:
    folder(models / "mine", release=RECORD, config={})
    (found,) = list_models([models])
    assert (found.kind, found.origin, found.revision) == ("converted", "ckpt.pt", "a" * 40)
    assert found.parity == RECORD["parity"] and found.date == "2026-11-29"
    assert found.proof == "recorded" and found.repo_url is None


def test_release_that_was_checked_when_it_was_downloaded(models: Path) -> None:
    today = OLD | {
        "revision": "main",
        "commit": "b" * 40,
        "tag": "v1.0.0",
        "checks": {"files": "ok"},
    }
    folder(models / "a", release=RECORD, config={}, hf_metadata=today)
    folder(models / "b", release=RECORD, config={}, hf_metadata=OLD)
    checked, cloned = list_models()
    assert (checked.proof, checked.revision, checked.commit) == ("checked", "v1.0.0", "b" * 40)
    assert (cloned.proof, cloned.kind) == ("recorded", "downloaded")


@pytest.mark.parametrize("kind", ["other", "gone", "link", "outside", "absolute"])
def test_file_that_is_not_the_one_that_was_proven(models: Path, kind: str, tmp_path: Path) -> None:
    files = RECORD["files"]
    (tmp_path / "outside.json").write_text("{}")
    if kind == "outside":
        files = {"../../outside.json": SHA256_OF_EMPTY_OBJECT}
    if kind == "absolute":
        files = {str(tmp_path / "outside.json"): SHA256_OF_EMPTY_OBJECT}
    path = folder(models / "mine", release=RECORD | {"files": files}, config={})
    if kind == "other":
        (path / "config.json").write_text("[]")
    if kind in ("gone", "link"):
        (path / "config.json").unlink()
    if kind == "link":
        (path / "config.json").symlink_to(tmp_path / "outside.json")
    (found,) = list_models()
    assert found.proof == "changed"


def test_folders_that_are_no_models(models: Path) -> None:
    folder(models / "trained", config={})
    folder(models / ".partial", hf_metadata=OLD)
    folder(models / "others" / "inner", hf_metadata=OLD)
    folder(models / "fifo")
    os.mkfifo(models / "fifo" / "hf_metadata.json")
    (models / "file").write_text("")
    assert list_models() == []
    assert list_models([models / "others"])[0].name == "inner"
    with pytest.raises(UsageError, match="no such folder"):
        list_models([models / "absent"])


@given(content=st.binary(max_size=40) | st.sampled_from([b"[" * 100_000, b"1" * 70_000, b"null"]))
def test_metadata_that_is_damaged(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("damaged")
    (path / "hf_metadata.json").write_bytes(content)
    assert read_metadata(path) is None or content.strip().startswith(b"{")


VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=4,
)


@given(
    metadata=st.dictionaries(
        st.sampled_from([*OLD, "revision", "commit", "tag", "checks"]), VALUES
    ),
    record=st.dictionaries(st.sampled_from(["date", "checkpoint", "source", "parity"]), VALUES),
)
def test_anyones_values_are_listed_or_left_out(
    metadata: dict[str, Any], record: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("anyones")
    folder(path / "x", hf_metadata=metadata, release=RECORD | record, config={})
    (found,) = list_models([path])
    json.dumps(found.to_dict(), allow_nan=False)
    assert isinstance(found.origin, str | None) and isinstance(found.date, str | None)


def test_dates() -> None:
    assert date_of("0") == "1970-01-01T00:00:00Z"
    for text in (None, "2026-11-29T08:00:00Z", "", "nan", "1e300", "yesterday"):
        assert date_of(text) == text


def test_command(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["list"]) == 0 and capsys.readouterr().out == "No models found.\n"
    assert run(["list", "--json"]) == 0 and json.loads(capsys.readouterr().out) == []
    folder(models / "mine", release=RECORD, config={})
    folder(models / "theirs", hf_metadata=OLD | {"model_id": "a\x1b[31m/b"})
    assert run(["list"]) == 0
    heading, mine, theirs = capsys.readouterr().out.splitlines()
    assert heading.split() == ["name", "origin", "revision", "date", "size", "parity"]
    assert mine.split()[:4] == ["mine", "ckpt.pt", "a" * 12, "2026-11-29"]
    assert mine.endswith("2.5e-16 witnessed")
    assert theirs.split()[:4] == ["theirs", "a\\x1b[31m/b", "-", "2026-01-31"]
    assert run(["list", "models", "--json"]) == 0
    assert [each["name"] for each in json.loads(capsys.readouterr().out)] == ["mine", "theirs"]
    assert run(["list", "absent"]) == 2
