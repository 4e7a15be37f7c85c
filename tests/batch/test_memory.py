"""How much memory there is, and how much a conversion is taken to need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from slogpt_hf.batch import memory
from slogpt_hf.checkpoints import read_checkpoint
from slogpt_hf.errors import UsageError
from slogpt_hf.settings import Settings

GB = 10**9


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets what the system says: kB that are free, and limit and use of the cgroup."""

    def say(free: str | None, limit: str | None = None, used: str = "0") -> None:
        paths = [tmp_path / name for name in ("meminfo", "max", "current")]
        texts = (free and f"MemTotal: 9 kB\nMemAvailable: {free} kB\n", limit, used)
        for path, text in zip(paths, texts, strict=True):
            path.unlink(missing_ok=True)
            if text is not None:
                path.write_text(text)
        monkeypatch.setattr(memory, "MEMINFO", paths[0])
        monkeypatch.setattr(memory, "CGROUPS", ((paths[1], paths[2]),))

    return say


def test_free_memory_is_that_of_the_machine_or_of_the_container(
    system: Callable[..., None],
) -> None:
    system("1000000")
    assert memory.free_memory() == int(1_024_000_000 * memory.SHARE)
    system("1000000", "max")
    assert memory.free_memory() == int(1_024_000_000 * memory.SHARE)
    system("1000000", "500000", "100000")
    assert memory.free_memory() == int(400_000 * memory.SHARE)
    system(None)
    with pytest.raises(UsageError, match="--memory 8GB"):
        memory.free_memory()


def test_a_need_grows_with_width_and_context_and_not_with_depth(
    slo_checkpoint: Callable[..., Path],
) -> None:
    checkpoint = read_checkpoint(slo_checkpoint())

    def need(settings: Settings | None = None, **changes: int) -> int:
        spec = replace(checkpoint.spec, **changes)
        return memory.need_of(replace(checkpoint, spec=spec), settings or Settings())

    usual = need()
    assert need(n_layer=90) == usual
    for changes in ({"n_embd": 4096}, {"block_size": 8192}, {"vocab_size": 200_000}):
        assert need(**changes) > usual
    assert need(Settings(reference="model.py:GPT")) > usual + memory.RESIDENT
    assert need(Settings(reference="none")) == usual
