"""The card's metadata, as YAML between the ``---`` lines."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from slogpt_hf.card.facts import CardFacts

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

LIBRARY = "transformers"
TASK = "text-generation"
DIALECT_TAGS = {"slo": ("nanogpt",)}
LOCAL_DATASET = "text"  # what `datasets` calls local text files; a dataset type is required
LARGEST_LOSS = 700.0  # exp of more is no float64


def metadata_yaml(facts: CardFacts) -> str:
    """The metadata as YAML, without the ``---`` lines.

    Format: https://github.com/huggingface/hub-docs/blob/main/modelcard.md
    """
    from huggingface_hub import ModelCardData

    results = eval_results(facts)
    data = ModelCardData(
        language=list(facts.language) or None,
        license=facts.license,
        library_name=LIBRARY,
        # Without a tokenizer the Hub's widget and pipelines would take text in vain.
        pipeline_tag=TASK if facts.tokenizer else None,
        tags=tags(facts),
        datasets=[facts.dataset_id] if facts.dataset_id else None,
        model_name=facts.name if results else None,
        eval_results=results or None,
    )
    text: str = data.to_yaml()
    return text


def tags(facts: CardFacts) -> list[str]:
    """What the Hub's search finds the model by."""
    dialect = facts.dialect
    characters = facts.tokenizer is not None and facts.tokenizer.kind == "characters"
    level = ("character-level",) if characters else ()
    return ["slogpt", "slogpt-hf", dialect, *DIALECT_TAGS.get(dialect, ()), *level]


def eval_results(facts: CardFacts) -> list[EvalResult]:
    """Validation loss and perplexity; empty where the checkpoint recorded no loss."""
    from huggingface_hub import EvalResult

    loss = facts.val_loss
    if loss is None or not math.isfinite(loss):
        return []
    metrics = [("loss", "Validation loss (nats per token)", loss)]
    if loss < LARGEST_LOSS:
        metrics.append(("perplexity", "Perplexity (exp of the validation loss)", math.exp(loss)))
    return [
        EvalResult(
            task_type=TASK,
            task_name="Text Generation",
            dataset_type=facts.dataset_id or LOCAL_DATASET,
            dataset_name=facts.dataset_name or "not recorded",
            dataset_split="validation",
            metric_type=kind,
            metric_name=name,
            metric_value=value,
        )
        for kind, name, value in metrics
    ]
