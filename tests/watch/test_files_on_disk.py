from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slogpt_hf.build import hash_checkpoint
from slogpt_hf.checkpoints import read_checkpoint
from slogpt_hf.errors import UsageError
from slogpt_hf.progress import SILENT
from slogpt_hf.settings import Settings
from slogpt_hf.watch.files import checkpoint_digest, file_candidates
from slogpt_hf.watch.repository import git_candidates

DISTRIBUTED = Path(__file__).parents[1] / "data" / "distributed"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def write(*names: str) -> None:
    for i, name in enumerate(names):
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
        os.utime(path, (1000 + i, 1000 + i))


def names(*patterns: str) -> list[str]:
    return [each.name for each in file_candidates(patterns)]


def test_paths_and_globs_the_oldest_first(here: Path) -> None:
    write("out/b/ckpt.pt", "out/a/ckpt.pt", "ckpt.pt", ".git/ckpt.pt", "out/ckpt.bin")
    assert names("**/ckpt.pt") == ["out/b/ckpt.pt", "out/a/ckpt.pt", "ckpt.pt"]
    assert names("./out/*/ckpt*.pt", "out/a/ckpt.pt") == ["out/b/ckpt.pt", "out/a/ckpt.pt"]
    assert names("*.pt") == ["ckpt.pt"]
    assert names(f"{here}/out/**/*.bin") == [f"{here}/out/ckpt.bin"]
    assert names("../here/*.pt") == ["../here/ckpt.pt"]
    assert names("nowhere/*.pt", "*.nothing") == []
    (found,) = file_candidates(["ckpt.pt"])
    assert (found.kind, found.place, found.time) == ("file", str(here / "ckpt.pt"), 1002)
    assert (found.sha256, found.n_bytes) == (hashlib.sha256(b"ckpt.pt").hexdigest(), 7)


def test_a_glob_follows_no_links_a_path_does(here: Path) -> None:
    write("real/ckpt.pt")
    Path("latest.pt").symlink_to("real/ckpt.pt")
    Path("linked").symlink_to("real")
    assert names("**/*.pt") == ["real/ckpt.pt"]
    assert names("latest.pt") == ["latest.pt"]
    assert names("linked/*.pt") == ["linked/ckpt.pt"]


def test_a_path_with_the_characters_of_a_glob(here: Path) -> None:
    write("run[1]/ckpt.pt")
    assert names("run[1]/ckpt.pt") == ["run[1]/ckpt.pt"]


@pytest.mark.parametrize("name", ["nowhere.pt", "nowhere/ckpt.pt"])
def test_a_path_that_is_not_there(here: Path, name: str) -> None:
    with pytest.raises(UsageError, match="no such checkpoint"):
        file_candidates([name])


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_cannot_be_read(here: Path) -> None:
    write("ckpt.pt")
    Path("ckpt.pt").chmod(0)
    with pytest.raises(UsageError, match=r"ckpt.pt: cannot be read"):
        file_candidates(["*.pt"])


def test_a_file_that_cannot_be_read_even_by_root(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("ckpt.pt")

    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("slogpt_hf.watch.files.sha256_of", refuse)
    with pytest.raises(UsageError, match=r"ckpt.pt: cannot be read: Permission denied"):
        file_candidates(["*.pt"])


def test_a_pointer_of_git_lfs(here: Path, make_pointer: Callable[[bytes], bytes]) -> None:
    Path("ckpt.pt").write_bytes(make_pointer(b"weights"))
    (found,) = file_candidates(["ckpt.pt"])
    assert found.is_pointer and found.n_bytes == 7
    assert found.sha256 == hashlib.sha256(b"weights").hexdigest()


def distributed_folders() -> list[Path]:
    return sorted(path.parent for path in DISTRIBUTED.rglob(".metadata"))


@pytest.mark.parametrize("folder", distributed_folders(), ids=lambda path: path.name)
def test_a_distributed_checkpoint_has_the_digest_of_a_release(
    here: Path, folder: Path, new_git: Callable[..., Any]
) -> None:
    from slogpt_hf.checkpoints.reader import read_contents

    files = read_contents(folder).files
    digests = "".join(f"{hashlib.sha256(f.read_bytes()).hexdigest()}\n" for f in files)
    expected = hashlib.sha256(digests.encode()).hexdigest()
    assert checkpoint_digest(folder) == expected
    git = new_git()
    git.commit(
        {f"run/{f.relative_to(folder)}": f.read_bytes() for f in folder.rglob("*") if f.is_file()}
    )
    (found,) = git_candidates(git.folder, Settings(checkpoints=("**/.metadata", "**/*.distcp")))
    assert (found.name, found.sha256) == ("run", expected)
    (on_disk,) = file_candidates([f"{git.folder}/**/.metadata"])
    assert (on_disk.name, on_disk.sha256) == (str(git.folder / "run"), expected)


def test_digests_are_those_of_a_release(slo_checkpoint: Callable[..., Path], here: Path) -> None:
    path = slo_checkpoint()
    assert checkpoint_digest(path) == hash_checkpoint(read_checkpoint(path), SILENT)


def test_an_adapter_and_its_base_have_the_digest_of_a_release(
    here: Path, slo_content: Callable[..., dict[str, Any]], slo_checkpoint: Callable[..., Path]
) -> None:
    import torch

    base = slo_checkpoint()
    width = slo_content()["model_args"]["n_embd"]
    layer = "transformer.h.0.attn.c_proj"
    adapter = {f"{layer}.lora_A": torch.ones(2, width), f"{layer}.lora_B": torch.ones(width, 2)}
    torch.save({"model": adapter, "lora_alpha": 2.0, "lora_rank": 2}, "lora.pt")
    (found,) = file_candidates(["lora.pt"], base=base)
    checkpoint = read_checkpoint(Path("lora.pt"), {}, base)
    assert found.sha256 == hash_checkpoint(checkpoint, SILENT)
    (unknown,) = file_candidates(["lora.pt"], base=Path("nowhere.pt"))
    assert unknown.sha256 is None
