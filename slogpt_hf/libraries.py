"""The libraries that compute and load an artefact, and which versions of them are admitted."""

from __future__ import annotations

from importlib import metadata
from importlib.util import find_spec

from slogpt_hf.errors import UsageError

LIBRARIES = ("transformers", "torch", "huggingface_hub", "tokenizers")
# As pyproject.toml has it: the lowest and the newest of these run on every test run.
TRANSFORMERS = ">=5.18,<6"
# What a minimal install leaves out: module to the package that brings it.
PROVING = {"torch": "torch", "transformers": "transformers", "PIL": "pillow"}
TO_PROVE = f"To prove it, install: pip install torch 'transformers{TRANSFORMERS}' pillow"


def missing() -> tuple[str, ...]:
    """Packages that are not installed, and without which nothing can be proven."""
    return tuple(package for name, package in PROVING.items() if find_spec(name) is None)


def require_proving(what: str) -> None:
    """Raise UsageError where ``what`` needs a package that is not installed."""
    if absent := missing():
        raise UsageError(f"{what} takes {', '.join(absent)}, not installed here.", hint=TO_PROVE)


def installed() -> dict[str, str]:
    """Library to its installed version; those that are not installed are left out."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
