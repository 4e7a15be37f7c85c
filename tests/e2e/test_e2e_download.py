"""``slogpt-hf download`` and ``list`` of releases: checked as ``verify-release`` checks them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

REPO, TAG = "me/slo-classic", "v1.0.0"
Cli = Callable[..., Any]


@pytest.fixture(autouse=True)
def _by_lfs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)


@pytest.fixture
def hub(golden_hub: tuple[Path, Any], tmp_path: Path) -> Path:
    """A copy of the hub with the golden releases, to be tampered with."""
    return Path(shutil.copytree(golden_hub[0], tmp_path / "hub"))


def test_release_is_checked_listed_and_loaded(hub: Path, cli: Cli) -> None:
    outcome = cli("download", REPO, "--hub", hub, "--json", "-q")
    assert outcome.code == 0, outcome.err
    told = outcome.json
    assert (told["tag"], told["folder"], told["downloaded"]) == (TAG, "models/me_slo-classic", True)
    checks = {check["name"]: check["status"] for check in told["verification"]["checks"]}
    verified = cli("verify-release", f"{REPO}@{TAG}", "--hub", hub, "--json", "-q").json
    assert checks == {check["name"]: check["status"] for check in verified["checks"]}
    assert told["verification"]["level"] == verified["level"] == told["parity"]["level"]
    assert told["commit"] == verified["commit"] and told["notes"] == []
    again = cli("download", REPO, "--hub", hub, "--revision", TAG)
    assert again.code == 0 and again.out.startswith("Nothing new: ")
    (listed,) = cli("list", "--json").json
    assert listed["proof"] == "checked" and listed["revision"] == TAG
    assert listed["parity"]["fp64_error"] == told["parity"]["fp64_error"]

    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert AutoModelForCausalLM.from_pretrained(told["folder"]).num_parameters() > 0
    tokenizer = AutoTokenizer.from_pretrained(told["folder"])
    assert tokenizer.decode(tokenizer("ab")["input_ids"]) == "ab"


def test_text_says_what_was_found(hub: Path, cli: Cli) -> None:
    outcome = cli("download", REPO, "--hub", hub, "--local-name", "mine")
    assert outcome.out.splitlines()[0] == f"Downloaded {REPO}@main to models/mine"
    for words in ("record ok, files ok", f"tag     {TAG}", "proven equal to "):
        assert words in outcome.out


@pytest.mark.parametrize("name", ["config.json", "parity.json", "model.safetensors"])
def test_release_that_was_tampered_with_is_not_kept(
    hub: Path, cli: Cli, hub_client: Any, name: str
) -> None:
    with hub_client(hub) as client:
        client.upload_file(path_or_fileobj=b"{}", path_in_repo=name, repo_id=REPO)
    outcome = cli("download", REPO, "--hub", hub)
    assert outcome.code == 4 and "files" in outcome.err and name in outcome.err
    assert list(Path("models").iterdir()) == []
    assert cli("download", REPO, "--hub", hub, "--revision", TAG).code == 0


def test_release_in_another_repository_is_not_that_release(
    hub: Path, cli: Cli, hub_client: Any, snapshot: Callable[..., Path]
) -> None:
    copied = snapshot(hub, REPO)
    shutil.rmtree(copied / ".cache")
    with hub_client(hub) as client:
        client.create_repo("you/copy")
        client.upload_folder(folder_path=copied, repo_id="you/copy")
    outcome = cli("download", "you/copy", "--hub", hub)
    assert outcome.code == 4 and "a copied release" in outcome.err


def test_commit_beside_the_tag_is_told(hub: Path, cli: Cli, hub_client: Any) -> None:
    with hub_client(hub) as client:
        client.upload_file(path_or_fileobj=b"x", path_in_repo="notes.txt", repo_id=REPO)
    told = cli("download", REPO, "--hub", hub, "--json").json
    assert told["tag"] is None and "names another commit" in told["notes"][0]
    (listed,) = cli("list", "--json").json
    assert (listed["revision"], listed["proof"]) == ("main", "checked")
    with hub_client(hub) as client:
        client.delete_tag(REPO, tag=TAG)
    told = cli("download", REPO, "--hub", hub, "--json", "--local-name", "untagged").json
    assert told["tag"] is None and told["notes"] == [f"The hub has no tag {TAG}."]


def test_errors(hub: Path, cli: Cli, tmp_path: Path) -> None:
    for code, arguments in {
        2: ["datasets/me", "--hub", hub],
        6: ["me/absent", "--hub", hub],
    }.items():
        assert cli("download", *arguments).code == code
    assert cli("download", REPO, "--hub", tmp_path / "absent").code == 2
    assert cli("download", REPO, "--hub", hub, "--local-name", "../up").code == 2
    assert not Path("models").exists()
    assert json.loads(cli("list", "--json").out) == []
