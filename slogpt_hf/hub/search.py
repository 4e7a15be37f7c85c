"""Models that a hub finds, as plain values."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from slogpt_hf.errors import UsageError
from slogpt_hf.hub.client import Hub, request

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

SORTS = ("downloads", "likes", "created_at", "last_modified", "trending_score")
TASK = "text-generation"
DEFAULT_LIMIT = 10
UNKNOWN = "Unknown"


def search_models(
    hub: Hub,
    query: str,
    limit: int = DEFAULT_LIMIT,
    sort: str = SORTS[0],
    author: str | None = None,
) -> list[dict[str, Any]]:
    """The models that generate text and match a query, the first by ``sort`` first.

    Args:
        hub: where to look.
        query: words of a name; empty for all.
        limit: the most that are found, at least 1.
        sort: one of SORTS.
        author: namespace that they have to be of; None for any.

    Returns:
        A dict each of id, modelId, author, downloads, likes, created_at (ISO 8601), tags,
        description (the Hub has no text of its own: what the model does) and library_name.

    Raises:
        UsageError: ``limit``, ``sort`` or a text cannot be meant.
        HubError: the hub refused or could not be reached.
    """
    if limit < 1:
        raise UsageError(f"limit {limit} is not a number of models.", hint="Give 1 or more.")
    if sort not in SORTS:
        raise UsageError(f"sort {sort[:40]!r} is not known.", hint=f"Known are {', '.join(SORTS)}.")
    for text in (query, author or ""):
        if any("\ud800" <= c <= "\udfff" for c in text):
            raise UsageError(f"{text[:40]!a} is no text of Unicode.", hint="Write it as UTF-8.")

    def found() -> list[dict[str, Any]]:
        models = hub.api.list_models(
            search=query or None, author=author, sort=sort, limit=limit, pipeline_tag=TASK
        )
        return [_told(model) for model in models]

    # The client tries a list's pages several times by itself, for half a minute.
    return request(hub, "searching", hub.shown_endpoint, found, attempts=1)


def _told(model: ModelInfo) -> dict[str, Any]:
    """What a hub says of a model; of another type than the Hub's it is as if it was not said."""
    name = _text(model.id)
    owner, slash, _ = name.partition("/")
    created = model.created_at
    return {
        "id": name,
        "modelId": name,
        "author": _text(model.author) or (owner if slash else UNKNOWN),
        "downloads": _count(model.downloads),
        "likes": _count(model.likes),
        "created_at": created.isoformat() if isinstance(created, datetime) else UNKNOWN,
        "tags": [t for t in model.tags if isinstance(t, str)] if model.tags else [],
        "description": _text(model.pipeline_tag) or "No description",
        "library_name": _text(model.library_name) or UNKNOWN,
    }


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
