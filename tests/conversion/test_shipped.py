"""Modeling files that were shipped: known by their SHA-256, with what is wrong with them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import slogpt_hf.conversion
from slogpt_hf import libraries
from slogpt_hf.conversion.shipped import FORGETS, SHIPPED, faults_in, faults_of
from slogpt_hf.conversion.targets import SLOGPT
from slogpt_hf.files import sha256_of
from slogpt_hf.parity.loading import runs_code

NAME = "modeling_slogpt.py"
FIRST = Path(__file__).parents[1] / "data" / "modeling" / "f9452671.txt"


@pytest.mark.parametrize("name", sorted({str(target.modeling_file) for target in SLOGPT.values()}))
def test_the_file_that_is_shipped_is_known(name: str) -> None:
    digest = sha256_of(Path(slogpt_hf.conversion.__file__).with_name(name))
    assert digest in SHIPPED, f'add    "{digest}": None,    to SHIPPED in conversion/shipped.py'


def test_nothing_is_known_to_be_wrong_with_it() -> None:
    digest = sha256_of(Path(slogpt_hf.conversion.__file__).with_name(NAME))
    assert faults_of([(NAME, digest)]) == []


@pytest.fixture
def older(slo_checkpoint: Callable[..., Path], convert: Callable[..., Any], tmp_path: Path) -> Path:
    """An artefact as the first version made it."""
    _, made = convert(slo_checkpoint(use_rmsnorm=True))
    folder = Path(shutil.copytree(made, tmp_path / "older"))
    shutil.copyfile(FIRST, folder / NAME)
    return folder


def test_an_older_release_needs_no_trust(older: Path) -> None:
    assert runs_code(older, trusted=False)


@pytest.mark.parametrize(
    ("version", "shows"), [("5.18.0", False), ("5.23.9", False), ("5.24.0", True), ("5.100", True)]
)
def test_what_is_wrong_is_said_with_the_version_at_hand(
    version: str, shows: bool, older: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libraries.metadata, "version", lambda name: version)
    (text,) = faults_in(older)
    assert text.startswith(f"{NAME} generates wrong tokens") and "transformers 5.24 and" in text
    assert "'transformers<5.24'" in text and FORGETS.shows_in(version) == shows
    assert (f"Installed is {version}." in text) == shows


def test_a_class_of_transformers_has_no_faults_of_ours(
    slo_checkpoint: Callable[..., Path], convert: Callable[..., Any]
) -> None:
    _, folder = convert(slo_checkpoint())
    shutil.copyfile(FIRST, folder / NAME)  # which config.json does not name
    assert faults_in(folder) == []
    config = json.loads((folder / "config.json").read_text())
    assert config["transformers_version"] == libraries.installed()["transformers"]
