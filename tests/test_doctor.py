"""What is installed, what is missing, what to do."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from slogpt_hf import doctor
from slogpt_hf.doctor import Finding, examine
from slogpt_hf.hub.credentials import RESOURCE_VARIABLE, TOKEN_VARIABLES
from slogpt_hf.hub.oidc import ID_TOKEN_VARIABLE, MINT_URL_VARIABLE

REQUIRES = ["torch>=2.6", "click>=8.1", 'hypothesis>=6; extra == "dev"', 'old; python_version<"3"']

OIDC_VARIABLES = (RESOURCE_VARIABLE, ID_TOKEN_VARIABLE, MINT_URL_VARIABLE)


class Usage(NamedTuple):
    free: int


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., dict[str, Finding]]:
    """Findings by name on a machine with the given package versions and nothing of the user's."""
    for name in (*TOKEN_VARIABLES, *OIDC_VARIABLES, "HF_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))

    def look(**versions: str | None) -> dict[str, Finding]:
        installed = {"slogpt-hf": "0.1.0", "torch": "2.6.0", "click": "8.1.7"} | versions

        def version(name: str) -> str:
            if installed.get(name) is None:
                raise metadata.PackageNotFoundError(name)
            return str(installed[name])

        monkeypatch.setattr(metadata, "version", version)
        monkeypatch.setattr(metadata, "requires", lambda name: REQUIRES)
        return {finding.name: finding for finding in examine()}

    return look


def test_everything_is_there(found: Callable[..., Any]) -> None:
    findings = found()
    assert all(finding.ok for finding in findings.values() if finding.required)
    assert findings["torch"].found == "2.6.0" and findings["click"].found == "8.1.7"
    assert findings["python"].found == platform.python_version()
    assert "hypothesis" not in findings and "old" not in findings  # not needed for a release
    assert findings["git"].ok and findings["HF_HOME"].ok


def test_missing_package(found: Callable[..., Any]) -> None:
    finding = found(torch=None)["torch"]
    assert (finding.found, finding.ok, finding.required) == ("not installed", False, True)
    assert finding.advice == "pip install 'torch>=2.6'"


@pytest.mark.parametrize(
    ("version", "ok"), [("2.5.1", False), ("2.6.0+cpu", True), ("2.13.0", True), ("2.7.0rc1", True)]
)
def test_version_of_a_package(found: Callable[..., Any], version: str, ok: bool) -> None:
    finding = found(torch=version)["torch"]
    assert (finding.found, finding.ok) == (version, ok)


def test_old_python(found: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "python_version_tuple", lambda: ("3", "9", "18"))
    assert not found()["python"].ok


@pytest.mark.parametrize(
    ("text", "ok"),
    [
        ("git version 2.31.0", True),
        ("git version 3.0", True),
        ("git version 2.30.9", False),
        ("git version 1.99.0", False),
        ("git version unknown", False),
    ],
)
def test_version_of_git(
    found: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    text: str,
    ok: bool,
) -> None:
    program = tmp_path / "git"
    program.write_text(f"#!/bin/sh\necho '{text}'\n")
    program.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(program))
    finding = found()["git"]
    assert (finding.found, finding.ok) == (text.removeprefix("git version "), ok)


def test_no_git(found: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    finding = found()["git"]
    assert (finding.found, finding.ok, finding.required) == ("not found", False, True)


def test_token(found: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    none = found()["Hub token"]
    assert (none.found, none.ok, none.required) == ("none", False, False)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "token").write_text("hf_stored")
    assert found()["Hub token"].found == "from the login of huggingface_hub"
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    assert found()["Hub token"].found == "from HF_TOKEN"
    assert "canary" not in repr(found())
    monkeypatch.setenv("SLOGPT_OIDC", "true")
    finding = found()["Hub token"]
    assert (finding.found, finding.ok) == ("OIDC (no identity)", False)
    assert "id-token: write" in finding.advice
    monkeypatch.setenv("HF_OIDC_ID_TOKEN", "canary")
    assert found()["Hub token"].found == "from HF_OIDC_ID_TOKEN"


def test_home_that_cannot_be_written(
    found: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: False)
    finding = found()["HF_HOME"]
    assert not finding.ok and "HF_HOME" in finding.advice


@pytest.mark.parametrize(("free", "ok"), [(10**9, False), (3 * 10**9, True)])
def test_disk(
    found: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, free: int, ok: bool
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(free))
    finding = found()["temporary folder"]
    assert (finding.ok, finding.required) == (ok, False)
    assert "GB free" in finding.found
