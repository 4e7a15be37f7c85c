"""Globs over names with ``/``: paths in git, paths on disk, branches."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

SPECIAL = re.compile(r"[*?[]")
ANY_FOLDERS = "**"


@lru_cache(maxsize=256)
def compiled(glob: str) -> re.Pattern[str]:
    """A glob as a regular expression for ``fullmatch``.

    ``*`` is any text without ``/``, ``?`` one such character, ``[a-z]`` one of a set and ``[!a-z]``
    one of the others; ``**`` between slashes is zero or more folders, and at the end everything
    below. Upper and lower case differ, and a leading dot is a character like any other. A ``[``
    that nothing closes is itself.
    """
    parts = plain(glob).split("/")
    text = "".join(
        (".+" if i == len(parts) - 1 else "(?:[^/]+/)*")
        if part == ANY_FOLDERS
        else _segment(part) + ("/" if i < len(parts) - 1 else "")
        for i, part in enumerate(parts)
    )
    return re.compile(text, re.DOTALL)


def matches(globs: Iterable[str], name: str) -> bool:
    """Whether one of the globs matches the whole of ``name``."""
    return any(compiled(glob).fullmatch(name) for glob in globs)


def plain(glob: str) -> str:
    """A glob without ``./`` before it, and without empty parts."""
    start = "/" if glob.startswith("/") else ""
    return start + "/".join(part for part in glob.split("/") if part not in ("", "."))


def is_glob(text: str) -> bool:
    """Whether ``text`` has a character that globs give a meaning to."""
    return SPECIAL.search(text) is not None


def escaped(text: str) -> str:
    """A glob that matches ``text`` and nothing else."""
    return SPECIAL.sub(lambda match: f"[{match[0]}]", text)


def fixed_folder(glob: str) -> str:
    """The folders before the first part of a glob that has such a character, joined by ``/``."""
    folders: Sequence[str] = plain(glob).split("/")[:-1]
    count = next((i for i, part in enumerate(folders) if is_glob(part)), len(folders))
    return "/".join(folders[:count]) or ("/" if glob.startswith("/") else "")


def _segment(part: str) -> str:
    result, at = "", 0
    while at < len(part):
        character = part[at]
        at += 1
        if character == "[" and (end := part.find("]", at + 1 + (part[at : at + 1] == "!"))) > 0:
            result += _set(part[at:end])
            at = end + 1
        else:
            result += {"*": "[^/]*", "?": "[^/]"}.get(character) or re.escape(character)
    return result


def _set(inner: str) -> str:
    """A set of characters as a regular expression; a range that runs backwards holds none."""
    negated, inner = inner.startswith("!"), inner.removeprefix("!")
    items, at = "", 0
    while at < len(inner):
        first = last = inner[at]
        if inner[at + 1 : at + 2] == "-" and at + 2 < len(inner):
            last = inner[at + 2]
            at += 2
        at += 1
        if first <= last:
            items += f"{re.escape(first)}-{re.escape(last)}"
    if negated:
        return f"[^/{items}]"
    return f"(?!/)[{items}]" if items else "(?!)"
