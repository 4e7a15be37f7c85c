"""Every modeling file that artefacts were ever shipped with, by its SHA-256.

Whoever edits ``modeling_slogpt.py`` adds the new digest (``sha256sum FILE``): without it ``verify``
would take this package's own file for foreign code, and without the old ones every older release.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from packaging.version import Version

from slogpt_hf.files import sha256_of
from slogpt_hf.libraries import installed


@dataclass(frozen=True)
class Fault:
    """What is known to be wrong with a shipped file.

    Attributes:
        since: version of transformers from which on it is wrong.
        effect: what is wrong, as what follows the file's name.
    """

    since: str
    effect: str

    def shows_in(self, version: str) -> bool:
        """Whether it is wrong under a version of transformers, e.g. ``5.24.1``."""
        return Version(version) >= Version(self.since)

    def text(self, name: str) -> str:
        """What is wrong with the file, and what to do, as sentences."""
        sentence = f"{name} {self.effect} with transformers {self.since} and later."
        version = installed().get("transformers", "0")
        if self.shows_in(version):
            sentence += f" Installed is {version}."
        return (
            f"{sentence} Release the checkpoint again with this version of slogpt-hf, or load this "
            f"release with 'transformers<{self.since}'."
        )


# transformers 5.24 renamed past_key_values to cache, an argument that this file swallows unseen.
FORGETS = Fault("5.24", "generates wrong tokens (it does not see its cache)")
# SHA-256 to what is known to be wrong with it; None where nothing is.
SHIPPED: dict[str, Fault | None] = {
    "f9452671554e5d3953270fce2f0de66e597be9647b856dd3fd3ac293910768f7": FORGETS,
    "1bfc012be2a12e6e3ad0ceca112739bda2777bc5dfc99d3bb60fc7fd2e1ad90f": None,
    "9eb37a72eaf8d5ba1769ee4f72d80b14d1c07ba8ba239c3d1b70103659673f04": None,
    "b6ac5ab88f550d8f4a2e8b407d521239af08f23fa402af9848eabd3d152e6a4f": None,
}


def faults_of(digests: Iterable[tuple[str, str]]) -> list[str]:
    """What is known to be wrong with shipped files, given as (name, SHA-256): a text each."""
    known = ((name, SHIPPED.get(digest)) for name, digest in digests)
    return [fault.text(name) for name, fault in known if fault]


def faults_in(folder: Path) -> list[str]:
    """What is known to be wrong with the code of an artefact, a text for each file."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    if not isinstance(config, dict) or not config.get("auto_map"):
        return []
    return faults_of((path.name, sha256_of(path)) for path in sorted(folder.glob("*.py")))
