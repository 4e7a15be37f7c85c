"""The libraries that compute and load an artefact, and which versions of them are admitted."""

from __future__ import annotations

from importlib import metadata

LIBRARIES = ("transformers", "torch", "huggingface_hub", "tokenizers")
# As pyproject.toml has it: the lowest and the newest of these run on every test run.
TRANSFORMERS = ">=5.18,<6"


def installed() -> dict[str, str]:
    """Library to its installed version; those that are not installed are left out."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
