"""Datasets of the training repository: the vocabulary in ``meta.pkl`` and the ids in ``*.bin``."""

from slogpt_hf.datasets.meta import find_meta, find_text, read_ids, read_meta
from slogpt_hf.datasets.vocabulary import Vocabulary

__all__ = ["Vocabulary", "find_meta", "find_text", "read_ids", "read_meta"]
