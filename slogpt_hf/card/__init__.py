"""The model card: README.md of an artefact, made from facts alone."""

from __future__ import annotations

from slogpt_hf.card.facts import CardFacts, Sample, TokenizerFacts, facts_from_record
from slogpt_hf.card.render import render_card, render_facts, require_card_options
from slogpt_hf.card.sample import generate_sample
from slogpt_hf.card.validate import validate_card

__all__ = [
    "CardFacts",
    "Sample",
    "TokenizerFacts",
    "facts_from_record",
    "generate_sample",
    "render_card",
    "render_facts",
    "require_card_options",
    "validate_card",
]
