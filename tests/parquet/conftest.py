"""Datasets as the trainers' prepare scripts write them."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

TEXT = (
    "First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\nSpeak, speak.\n\n"
    "Café: naïve — ∑ 😀\n\n\nOnce.\n"
)


@pytest.fixture
def character_dataset(tmp_path: Path) -> Callable[..., Path]:
    """Writes ``datasets/NAME`` as nanoGPT's character script does, and gives its folder."""

    def write(
        text: str = TEXT * 40,
        *,
        name: str = "small",
        characters: Sequence[str] | None = None,
        dtype: str = "<u2",
        meta: bool = True,
    ) -> Path:
        folder = tmp_path / "datasets" / name
        folder.mkdir(parents=True)
        characters = sorted(set(text)) if characters is None else characters
        stoi = {c: i for i, c in enumerate(characters)}
        itos = dict(enumerate(characters))
        if meta:
            content = {"vocab_size": len(stoi), "itos": itos, "stoi": stoi}
            (folder / "meta.pkl").write_bytes(pickle.dumps(content))
        ids = np.array([stoi[c] for c in text], dtype)
        cut = int(len(ids) * 0.9)
        ids[:cut].tofile(folder / "train.bin")
        ids[cut:].tofile(folder / "val.bin")
        return folder

    return write
