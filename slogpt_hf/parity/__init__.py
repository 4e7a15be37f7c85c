"""The proof: the artefact, reloaded from disk, computes what the original computes."""

from __future__ import annotations

from slogpt_hf.parity.claims import claim, meets, short_claim
from slogpt_hf.parity.report import Behaviour, Comparison, ParityReport

__all__ = ["Behaviour", "Comparison", "ParityReport", "claim", "meets", "short_claim"]
