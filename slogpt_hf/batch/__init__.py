"""Many checkpoints in one call: which they are, several at once, what became of each."""

from __future__ import annotations

from slogpt_hf.batch.choosing import Chosen, chosen
from slogpt_hf.batch.outcome import Outcome

__all__ = ["Chosen", "Outcome", "chosen"]
