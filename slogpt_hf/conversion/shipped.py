"""Every modeling file that artefacts were ever shipped with, by its SHA-256.

Whoever edits ``modeling_slogpt.py`` adds the new digest (``sha256sum FILE``): without it ``verify``
would take this package's own file for foreign code, and without the old ones every older release.
"""

from __future__ import annotations

# SHA-256 to what is known to be wrong with it; empty where nothing is.
SHIPPED = {
    "f9452671554e5d3953270fce2f0de66e597be9647b856dd3fd3ac293910768f7": (
        "generates wrong tokens with transformers 5.24 and later, which call past_key_values cache"
    ),
    "1bfc012be2a12e6e3ad0ceca112739bda2777bc5dfc99d3bb60fc7fd2e1ad90f": "",
}
