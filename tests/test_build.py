"""What makes two releases the same, and files that change while they are released."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slogpt_hf import build
from slogpt_hf.checkpoints import Checkpoint, read_checkpoint
from slogpt_hf.errors import CheckpointError
from slogpt_hf.progress import SILENT
from slogpt_hf.settings import Settings
from slogpt_hf.tokenizers import TokenizerChoice

Write = Callable[..., Path]

CHARACTERS = "\n " + "".join(map(chr, range(65, 65 + 35)))


def with_vocabulary(checkpoint: Path, size: int = 37) -> Path:
    """The checkpoint's file, with a vocabulary beside it."""
    characters = CHARACTERS[:size]
    meta = {
        "itos": dict(enumerate(characters)),
        "stoi": {c: i for i, c in enumerate(characters)},
    }
    (checkpoint.parent / "meta.pkl").write_bytes(pickle.dumps(meta))
    return checkpoint


def touch(path: Path) -> None:
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))


def identity(path: Path, **settings: Any) -> str:
    return build.identity_of(
        "0" * 64, read_checkpoint(path), TokenizerChoice(), Settings(**settings)
    )


def test_settings_that_give_the_same_bytes_give_the_same_identity(slo_checkpoint: Write) -> None:
    path = slo_checkpoint()
    same = identity(path)
    assert identity(path, dtype="float32") == same
    assert identity(path, max_shard_size="7GB") == same
    assert identity(path, license="mit", language="en") == same
    assert identity(path, max_shard_size="20KB") == identity(path, max_shard_size="20001B")


def test_settings_that_give_other_bytes_give_another_identity(slo_checkpoint: Write) -> None:
    path = slo_checkpoint()
    others = [
        identity(path),
        identity(path, dtype="float16"),
        identity(path, max_shard_size="20KB"),
        identity(path, max_shard_size="40KB"),
    ]
    assert len(set(others)) == len(others)


def test_file_that_changes_while_it_is_hashed(
    slo_checkpoint: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = read_checkpoint(slo_checkpoint())
    assert len(build.hash_checkpoint(checkpoint, SILENT)) == 64

    def hash_slowly(path: Path, advance: object) -> str:
        touch(path)
        return "0" * 64

    monkeypatch.setattr(build, "sha256_of", hash_slowly)
    with pytest.raises(CheckpointError, match="changed while it was being released"):
        build.hash_checkpoint(checkpoint, SILENT)


@pytest.mark.parametrize("stage", ["hash_checkpoint", "write_model"])
def test_file_that_changes_while_it_is_converted(
    slo_checkpoint: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    path = with_vocabulary(slo_checkpoint(n_layer=1))
    real = getattr(build, stage)

    def change_after(*args: Any, **options: Any) -> Any:
        result = real(*args, **options)
        touch(path)
        return result

    monkeypatch.setattr(build, stage, change_after)
    if stage == "hash_checkpoint":
        monkeypatch.setattr(build, "write_model", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(CheckpointError, match="changed while it was being released"):
        build.convert(path, tmp_path / "out", Settings())
    assert list(tmp_path.iterdir()) == []


def test_vocabulary_that_does_not_fit_stops_no_verification(
    slo_checkpoint: Write, convert: Callable[..., tuple[Checkpoint, Path]]
) -> None:
    path = with_vocabulary(slo_checkpoint(n_layer=1), size=30)
    _, artefact = convert(path)
    assert build.verify(path, artefact, Settings()).passed
    with pytest.raises(CheckpointError, match="has 30 entries"):
        build.verify(path, artefact, Settings(dataset=str(path.parent)))
