"""What the Hub says about a repository: `model_info`, tree entries, and the tags of its card."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from slogpt_hf.hub.embedded import cards, git
from slogpt_hf.hub.embedded.git import Entry, Repository
from slogpt_hf.hub.embedded.store import read_settings

_TAG_PREFIXES = {
    "license": "license:",
    "datasets": "dataset:",
    "base_model": "base_model:",
    "task_categories": "task_categories:",
    "size_categories": "size_categories:",
}


def readme(repo: Repository, commit: str) -> str:
    """Text of README.md; empty where there is none or it is not a plain file of sensible size."""
    entry = git.tree(repo, commit).get(cards.FILE)
    if entry is None or entry.is_folder or entry.lfs or entry.size > cards.LIMIT:
        return ""
    return git.read_blobs(repo, [entry.oid])[0].decode("utf-8", "replace")


@lru_cache(maxsize=256)
def _card(repo: Repository, commit: str) -> Mapping[str, Any]:
    try:
        return cards.metadata(readme(repo, commit))
    except ValueError:
        return {}


@lru_cache(maxsize=256)
def _commit_date(repo: Repository, commit: str) -> datetime:
    return git.log(repo, commit, limit=1)[0].date


def timestamp(date: datetime) -> str:
    """The Hub's form of a date, in UTC with milliseconds."""
    return date.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def tags(card: Mapping[str, Any]) -> list[str]:
    """The tags by which the Hub's search knows a repository, from its card."""
    found = [*_strings(card.get("library_name")), *_strings(card.get("tags"))]
    found += [*_strings(card.get("pipeline_tag")), *_strings(card.get("language"))]
    found += [p + v for key, p in _TAG_PREFIXES.items() for v in _strings(card.get(key))]
    return list(dict.fromkeys(found))


def model_info(repo: Repository, commit: str, *, siblings: bool, blobs: bool) -> dict[str, Any]:
    """The Hub's description of a model or a dataset at a commit."""
    settings, card, date = read_settings(repo), _card(repo, commit), _commit_date(repo, commit)
    files = [entry for entry in git.tree(repo, commit).values() if not entry.is_folder]
    info: dict[str, Any] = {
        "_id": hashlib.sha256(repo.location.encode()).hexdigest()[:24],
        "id": repo.id,
        "author": repo.id.partition("/")[0],
        "sha": commit,
        "lastModified": timestamp(date),
        "createdAt": timestamp(_date(settings.get("createdAt")) or date),
        "private": bool(settings.get("private")),
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": tags(card),
        "cardData": dict(card),
        "usedStorage": sum(entry.size for entry in files),
    }
    if repo.kind == "model":
        own = ("library_name", "pipeline_tag")
        info |= {"modelId": repo.id} | {k: card[k] for k in own if isinstance(card.get(k), str)}
    if siblings:
        info["siblings"] = [_sibling(entry, blobs) for entry in files]
    return info


def tree_entry(entry: Entry) -> dict[str, Any]:
    """A path in the form of the tree and paths-info endpoints."""
    kind = "directory" if entry.is_folder else "file"
    item: dict[str, Any] = {
        "type": kind, "oid": entry.oid, "size": entry.size, "path": entry.path
    }  # fmt: skip
    if lfs := entry.lfs:
        item["lfs"] = {"oid": lfs.sha256, "size": lfs.size, "pointerSize": lfs.pointer_size}
    return item


def _sibling(entry: Entry, blobs: bool) -> dict[str, Any]:
    item: dict[str, Any] = {"rfilename": entry.path}
    if blobs:
        item |= {"blobId": entry.oid, "size": entry.size}
    if blobs and (lfs := entry.lfs):
        item["lfs"] = {"sha256": lfs.sha256, "size": lfs.size, "pointerSize": lfs.pointer_size}
    return item


def _strings(value: Any) -> list[str]:
    return [v for v in (value if isinstance(value, list) else [value]) if isinstance(v, str)]


def _date(text: Any) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
