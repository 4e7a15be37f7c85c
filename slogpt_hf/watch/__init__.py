"""Where checkpoints come from: git, files, object stores; and which of them are to be released."""

from __future__ import annotations

from slogpt_hf.watch.candidate import Candidate
from slogpt_hf.watch.provenance import Provenance, provenance_of

__all__ = ["Candidate", "Provenance", "provenance_of"]
