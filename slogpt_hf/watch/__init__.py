"""Where checkpoints come from: the git repository around them."""

from __future__ import annotations

from slogpt_hf.watch.provenance import Provenance, provenance_of

__all__ = ["Provenance", "provenance_of"]
