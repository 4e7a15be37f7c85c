"""``push``: an artefact, or DATASET and MODEL as the script of old took them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

Cli = Callable[..., Any]


@pytest.fixture(autouse=True)
def _by_lfs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)


@pytest.fixture
def trained(golden: Callable[[str], Path]) -> Path:
    """``datasets/chars`` and ``models/chars`` below the current folder; the latter."""
    for folder, name in (("datasets/chars", "meta.pkl"), ("models/chars", "ckpt.pt")):
        Path(folder).mkdir(parents=True)
        shutil.copy(golden("slo-classic") / name, folder)
    return Path("models/chars")


@pytest.mark.parametrize("name", ["model.pt", "checkpoint.pt", "pytorch_model.bin"])
def test_folder_that_holds_the_checkpoint(trained: Path, cli: Cli, name: str) -> None:
    (trained / "ckpt.pt").rename(trained / name)
    outcome = cli("convert-model", "chars", trained, "out", "--json", "-q")
    assert outcome.code == 0, outcome.err
    assert outcome.json["parity"]["verdict"] == "passed"
    assert outcome.json["model"]["spec"]["vocab_size"] == 65
    assert Path("out/model.safetensors").is_file()


def test_dataset_and_model_are_a_proven_release(
    trained: Path, cli: Cli, hub_client: Any, hub_view: Any
) -> None:
    (trained / "ckpt.pt").rename(trained / "model.pt")
    line = ("push", "chars", trained, "--repo_name", "my-model", "--private", "--hub", "hub", "-q")
    outcome = cli(*line)
    assert outcome.code == 0, outcome.err
    assert "Released local/my-model 1.0.0" in outcome.out and "proven equal to" in outcome.out
    before = hub_view(Path("hub"))
    again = cli(*line, "--json")
    assert again.code == 0 and again.json["released"] is False
    assert hub_view(Path("hub")) == before and [*before] == ["local/my-model"]
    with hub_client(Path("hub")) as client:
        assert client.model_info("local/my-model").private
    verified = cli("verify-release", "local/my-model@v1.0.0", "--hub", "hub", "-q")
    assert verified.code == 0, verified.out
    assert cli("convert-model", "chars", trained, "out", "-q").code == 0
    released = cli("push", "out", "--repo_name", "me/other", "--hub", "hub", "--json", "-q").json
    assert (released["repo_id"], released["released"]) == ("me/other", True)


def test_options_of_the_conversion(trained: Path, cli: Cli) -> None:
    line = ("push", "-", trained / "ckpt.pt", "--hub", "hub", "--json", "-q", "--repo-id", "me/m")
    assert cli(*line).code in (2, 3)  # there is no vocabulary
    assert cli(*line, "--dataset", "chars").code == 2  # DATASET says it
    line = (line[0], "chars", *line[2:])
    record = cli(*line, "--dtype", "float16", "--license", "mit").json["record"]
    assert (record["license"], record["model"]["dtype"]) == ("mit", "float16")


REFUSED = {
    "options of a conversion": (["out", "--dtype", "float16", "--repo-id", "a/b"], "--dtype"),
    "three paths": (["a", "b", "c", "--repo-id", "a/b"], "not 3 paths"),
    "no repository": (["chars", "models/chars/ckpt.pt"], "No repository"),
    "two names": (["out", "--repo-id", "a/b", "--repo_name", "b"], "both given"),
    "a name that is none": (["out", "--repo_name", "a b", "--hub", "hub"], "NAMESPACE/NAME"),
    "no such model": (["chars", "absent", "--repo_name", "a/b", "--hub", "hub"], "absent"),
    "no such dataset": (["no", "models/chars/ckpt.pt", "--repo_name", "a/b", "--hub", "hub"], "no"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_meant(trained: Path, cli: Cli, hub_view: Any, kind: str) -> None:
    arguments, words = REFUSED[kind]
    outcome = cli("push", *arguments)
    assert outcome.code == 2 and words in outcome.err, outcome.err
    assert hub_view(Path("hub")) == {}
