"""From a checkpoint to transformers format: a plan as data, executed by a streaming writer."""

from __future__ import annotations

from slogpt_hf.conversion.artefact import Artefact, Conversion, plan_conversion, write_model

__all__ = ["Artefact", "Conversion", "plan_conversion", "write_model"]
