"""Pickles of plain values, read by an interpreter that can build nothing else."""

from __future__ import annotations

from slogpt_hf.pickles.interpreter import NUMPY, Unsupported, Wording, load
from slogpt_hf.pickles.machine import Global, Record, record

__all__ = ["NUMPY", "Global", "Record", "Unsupported", "Wording", "load", "record"]
