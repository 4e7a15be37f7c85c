"""Values of a CI's variables and events, as far as they are what they should be; else None."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

LONGEST_NAME = 1024  # characters of a branch, tag, repository or URL
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}", re.IGNORECASE)
_REFUSED_IN_REF = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/$|^[-/]|\.lock$|\.$")
_URL = re.compile(r"https?://[^\s@<>\"'`\\]+")
_REPOSITORY = re.compile(r"[\w.-]+(?:/[\w.-]+)+", re.ASCII)


def text_or_none(value: Any) -> str | None:
    """Text that is text."""
    return value if isinstance(value, str) else None


def commit_id(value: Any) -> str | None:
    """An id of a commit in lower case; None for what is none, and for git's zeros."""
    text = text_or_none(value)
    if not text or not _COMMIT.fullmatch(text) or not text.strip("0"):
        return None
    return text.lower()


def ref_name(name: str | None) -> str | None:
    """The name of a branch or tag, if git would take it (git-check-ref-format)."""
    if not name or len(name) > LONGEST_NAME or _REFUSED_IN_REF.search(name):
        return None
    return name if name.isprintable() else None


def branch_and_tag(ref: str | None) -> tuple[str | None, str | None]:
    """Branch or tag of ``refs/...``, or of a branch's plain name."""
    name = ref or ""
    if name.startswith("refs/tags/"):
        return None, ref_name(name.removeprefix("refs/tags/"))
    branch = name.removeprefix("refs/heads/")
    is_other = branch.startswith("refs/") or branch in ("HEAD", "detached")
    return None if is_other else ref_name(branch), None


def request_number(text: str | None) -> int | None:
    """A number from 1, as it is or at the end of a URL."""
    last = (text or "").rpartition("/")[2]
    return int(last) if last.isascii() and last.isdigit() and len(last) < 12 and int(last) else None


def repository_name(name: str | None) -> str | None:
    """OWNER/NAME, also of groups within groups."""
    return name if name and len(name) <= LONGEST_NAME and _REPOSITORY.fullmatch(name) else None


def page_url(text: str | None) -> str | None:
    """A URL that can be shown; spaces, as in Azure's project names, are written out."""
    url = quote(text, safe=":/?#[]!$&()*+,;=%~@") if text and len(text) <= LONGEST_NAME else ""
    return url if _URL.fullmatch(url) else None


def is_true(value: str | None) -> bool:
    """Whether a variable says yes, or says anything but no."""
    return (value or "").strip().lower() not in ("", "0", "false", "no")
