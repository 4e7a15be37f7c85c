"""What transformers calls by one name up to a version and by another from there on."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

# transformers 5.24 renamed the argument and the field. The old name still works with its classes,
# with a warning; code that ships with a model may know either.
CACHE_NAMES = ("cache", "past_key_values")


def with_cache(model: nn.Module, cache: Any) -> dict[str, Any]:
    """The arguments that give a model its cache, and ask for it back."""
    known = inspect.signature(model.forward).parameters
    name = next((name for name in CACHE_NAMES if name in known), CACHE_NAMES[-1])
    return {name: cache, "use_cache": True}


def cache_of(output: Any) -> Any:
    """The cache in a model's output; None if there is none."""
    name = next((name for name in CACHE_NAMES if hasattr(output, name)), None)
    return name and getattr(output, name)
