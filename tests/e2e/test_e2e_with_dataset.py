"""``release --with-dataset``: the dataset first, then the model whose card names it."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from huggingface_hub import HfApi, hf_hub_download

from slogpt_hf.hub.embedded import serve

SMALL = {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 12}
CHARACTERS = "".join(chr(ord("A") + i) for i in range(36)) + "\n"


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "letters"
    folder.mkdir()
    stoi = {c: i for i, c in enumerate(CHARACTERS)}
    content = {"vocab_size": 37, "stoi": stoi, "itos": {i: c for c, i in stoi.items()}}
    (folder / "meta.pkl").write_bytes(pickle.dumps(content))
    ids = np.random.default_rng(0).integers(0, 37, 3000).astype("<u2")
    ids[:2700].tofile(folder / "train.bin")
    ids[2700:].tofile(folder / "val.bin")
    return folder


@pytest.fixture
def checkpoint(tmp_path: Path, slo_content: Callable[..., dict[str, Any]]) -> Path:
    """One that records no loss, which these ids would not have."""
    import torch

    content = slo_content(**SMALL)
    del content["best_val_loss"]
    torch.save(content, tmp_path / "ckpt.pt")
    return tmp_path / "ckpt.pt"


def test_both_in_one_go(
    cli: Callable[..., Any],
    checkpoint: Path,
    dataset: Path,
    tmp_path: Path,
) -> None:
    arguments = ["release", checkpoint, "--dataset", dataset, "--hub", "hub"]
    arguments += ["--repo-id", "me/model", "--tag", "step{step}", "-q"]
    outcome = cli(*arguments, "--with-dataset", "me/letters")
    assert outcome.code == 0, outcome.err
    with serve(Path("hub")) as running:
        api = HfApi(endpoint=running.endpoint, token=False)
        data = api.list_repo_refs("me/letters", repo_type="dataset")
        assert [tag.name for tag in data.tags] == ["v1.0.0"]
        assert [tag.name for tag in api.list_repo_refs("me/model").tags] == ["step250"]
        card = hf_hub_download(
            "me/model", "README.md", endpoint=running.endpoint, token=False, cache_dir=tmp_path
        )
        assert "dataset:me/letters" in (api.model_info("me/model").tags or [])
    metadata = yaml.safe_load(Path(card).read_text("utf-8").split("---")[1])
    assert metadata["datasets"] == ["me/letters"]
    again = cli(*arguments, "--with-dataset", "me/letters")
    assert again.code == 0
    assert "Nothing new" in again.out


@pytest.mark.parametrize(
    ("name", "code", "said"), [("letters", 2, "NAMESPACE/NAME"), ("me/letters", 2, "train.bin")]
)
def test_what_cannot_be_meant_is_found_at_once(
    name: str,
    code: int,
    said: str,
    cli: Callable[..., Any],
    checkpoint: Path,
    dataset: Path,
) -> None:
    (dataset / "train.bin").unlink()
    arguments = ["release", checkpoint, "--dataset", dataset, "--hub", "hub", "-q"]
    outcome = cli(*arguments, "--repo-id", "me/model", "--with-dataset", name)
    assert outcome.code == code
    assert said in outcome.err
    with serve(Path("hub")) as running:
        api = HfApi(endpoint=running.endpoint, token=False)
        assert not api.repo_exists("me/model")
        assert not api.repo_exists("me/letters", repo_type="dataset")
