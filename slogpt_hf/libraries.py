"""The libraries that compute and load an artefact, and which versions of them are admitted."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import metadata
from importlib.util import find_spec

from slogpt_hf.errors import UsageError

LIBRARIES = ("transformers", "torch", "huggingface_hub", "tokenizers")
# As pyproject.toml has it: the lowest and the newest of these run on every test run.
TRANSFORMERS = ">=5.18,<6"
# Where artefacts load: the tests do it in these versions of transformers and in the newest. The
# modeling file that ships with some needs the second; what proves admits less than what loads.
LOADED_IN = ("4.57", "5.4", "5.18")
# What a minimal install leaves out: module to the package that brings it.
PROVING = {"torch": "torch", "transformers": "transformers", "PIL": "pillow"}
LOADING = ("torch", "transformers")  # what loads an artefact
TO_PROVE = f"To prove it, install: pip install torch 'transformers{TRANSFORMERS}' pillow"


def loaded_in(remote_code: bool) -> tuple[str, ...]:
    """Versions of transformers in which the tests load such artefacts, beside the newest.

    Args:
        remote_code: the class ships with the artefact.
    """
    return LOADED_IN[1:] if remote_code else LOADED_IN


def loads(remote_code: bool) -> dict[str, str]:
    """Library to the versions that such artefacts are made for, as the record has it."""
    return {"transformers": f">={loaded_in(remote_code)[0]},<6"}


def missing(names: Iterable[str] = tuple(PROVING)) -> tuple[str, ...]:
    """Packages that are not installed, of those that bring modules; by default to prove."""
    return tuple(PROVING[name] for name in names if find_spec(name) is None)


def require_proving(what: str) -> None:
    """Raise UsageError where ``what`` needs a package to prove that is not installed."""
    require_installed(what, PROVING)


def require_installed(what: str, names: Iterable[str]) -> None:
    """Raise UsageError where ``what`` needs one of these modules, which is not installed."""
    if absent := missing(names):
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
