"""What a release needs from the machine, and whether it is there."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from slogpt_hf.hub.credentials import LOGIN, NO_IDENTITY, NONE, source_of
from slogpt_hf.libraries import TO_PROVE, missing
from slogpt_hf.progress import human_bytes
from slogpt_hf.settings import load_settings

CORE = "slogpt-hf"
PYTHON = (3, 11)
GIT = (2, 31)  # the oldest that the embedded hub was written for
FREE_BYTES = 2 * 10**9


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: what.
        found: version, path or amount.
        ok: it will do.
        required: a release cannot do without it.
        advice: what to do if it is not ok.
    """

    name: str
    found: str
    ok: bool
    required: bool
    advice: str = ""


def examine() -> list[Finding]:
    """Look at Python, the packages, git, credentials, folders and disk."""
    return [_python(), *_packages(), _abilities(), _git(), _token(), _home(), _disk()]


def _python() -> Finding:
    ok = tuple(map(int, platform.python_version_tuple()[:2])) >= PYTHON
    return Finding("python", platform.python_version(), ok, True, "Install Python 3.11 or later.")


def _packages() -> list[Finding]:
    from packaging.requirements import Requirement

    try:
        findings = [Finding(CORE, metadata.version(CORE), True, True)]
    except metadata.PackageNotFoundError:
        return [Finding(CORE, "run from its source", False, True, "pip install . in its folder")]
    for line in metadata.requires(CORE) or []:
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        advice = f"pip install '{requirement.name}{requirement.specifier}'"
        try:
            found = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            findings.append(Finding(requirement.name, "not installed", False, True, advice))
            continue
        ok = requirement.specifier.contains(found, prereleases=True)
        findings.append(Finding(requirement.name, found, ok, True, advice))
    return findings


def _abilities() -> Finding:
    """What this install can do: all of it, or what takes no torch."""
    if not missing():
        return Finding("this install", "proves and releases", True, False)
    can = "inspects, plans, lists and checks releases, converts without a proof"
    advice = f"It cannot prove, nor release. {TO_PROVE}"
    return Finding("this install", can, False, False, advice)


def _git() -> Finding:
    advice = "Install git 2.31 or later; the embedded hub and provenance need it."
    path = shutil.which("git")
    if path is None:
        return Finding("git", "not found", False, True, advice)
    text = subprocess.run(
        [path, "--version"], capture_output=True, text=True, check=False
    ).stdout.strip()
    match = re.search(r"(\d+)\.(\d+)", text)
    ok = match is not None and (int(match[1]), int(match[2])) >= GIT
    return Finding("git", text.removeprefix("git version "), ok, True, advice)


def _token() -> Finding:
    """Which credentials a release from this folder would use; no value is looked at."""
    source = source_of(load_settings({}))
    if source == NO_IDENTITY:
        advice = "Give the job 'permissions: id-token: write', or set HF_OIDC_ID_TOKEN."
        return Finding("Hub token", source, False, False, advice)
    if source:
        return Finding("Hub token", f"from {source}", True, False)
    advice = "Set HF_TOKEN to release to the real Hub; the embedded hub needs none."
    stored = Path(os.environ.get("HF_TOKEN_PATH", _hf_home() / "token")).is_file()
    return Finding("Hub token", f"from {LOGIN}" if stored else NONE, stored, False, advice)


def _home() -> Finding:
    home = _hf_home()
    nearest = next(p for p in (home, *home.parents) if p.exists())
    ok = os.access(nearest, os.W_OK)
    advice = "Set HF_HOME to a folder that can be written, e.g. HF_HOME=/tmp/hf."
    return Finding("HF_HOME", str(home), ok, True, advice)


def _hf_home() -> Path:
    return Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))


def _disk() -> Finding:
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    advice = "Artefacts are built there; set TMPDIR to a folder with more room, or use --output."
    return Finding(
        "temporary folder", f"{folder}, {human_bytes(free)} free", free >= FREE_BYTES, False, advice
    )
