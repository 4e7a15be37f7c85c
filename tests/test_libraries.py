"""Which versions are admitted: one truth in pyproject.toml, and what is made of it."""

from __future__ import annotations

import importlib.util
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from slogpt_hf.conversion.modeling_slogpt import NEEDS
from slogpt_hf.libraries import LIBRARIES, LOADED_IN, TRANSFORMERS, installed, loaded_in

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def versions() -> ModuleType:
    spec = importlib.util.spec_from_file_location("versions", ROOT / ".ci" / "versions.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_the_artefact_says_is_what_the_package_admits() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"transformers{TRANSFORMERS}" in project["dependencies"]


def test_where_artefacts_load_is_where_the_tests_load_them(versions: ModuleType) -> None:
    run = " ".join((*versions.ELSEWHERE, *versions.constraints("lowest"))).replace(".*", "")
    assert [f"transformers=={version}" in run for version in LOADED_IN] == [True] * 3
    assert loaded_in(remote_code=True)[0] == NEEDS and loaded_in(remote_code=False) == LOADED_IN


def test_what_is_not_installed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(installed()) == list(LIBRARIES)
    monkeypatch.setattr("slogpt_hf.libraries.LIBRARIES", ("transformers", "no-such-library"))
    assert list(installed()) == ["transformers"]


def test_the_lowest_are_those_of_the_metadata(versions: ModuleType) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = versions.constraints("lowest")
    assert lines[0].startswith("torch==") and len(lines) == 4
    for line in lines[1:]:
        name, version = line.split("==")
        assert any(d.startswith(f"{name}>={version}") for d in project["dependencies"]), line


def test_the_newest_are_held_by_torch_alone(versions: ModuleType) -> None:
    assert versions.constraints("newest") == versions.constraints("lowest")[:1]
    assert versions.constraints("newest", any_torch=True) == []
    assert len(versions.constraints("lowest", any_torch=True)) == 3


def test_a_failure_names_what_differs(versions: ModuleType) -> None:
    said = versions.differences(
        "torch==2.13.0+cpu\ntransformers==5.24.0\nTokenizers==0.23.3\nextra==1\n",
        "torch==2.13.0\n# a word\ntransformers==5.23.0\ntokenizers==0.23.3\nabsent==2\n",
    )
    assert said == ["transformers 5.24.0 (constraints.txt: 5.23.0)"]
