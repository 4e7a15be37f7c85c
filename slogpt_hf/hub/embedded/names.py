"""Which repository ids, revisions and paths are accepted; nothing else reaches git or the disk.

Repository ids follow `huggingface_hub.utils.validate_repo_id`, with the namespace required;
ref names follow git-check-ref-format(1); paths follow git's own rule for tree entries.
"""

from __future__ import annotations

import re

from slogpt_hf.hub.embedded.wire import RefusalError

RESERVED_NAMESPACES = frozenset(
    {"api", "buckets", "datasets", "docs", "kernels", "models", "settings", "spaces"}
)

_ID_PART = re.compile(r"\w(?:[\w.-]{0,94}\w)?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_COMMIT_PREFIX = re.compile(r"[0-9a-f]{7,40}")
_PULL_REF = re.compile(r"refs/pr/[1-9][0-9]{0,8}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_REF_FORBIDDEN = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|\.lock(?:/|$)|(?:^|/)[.-]")


def is_repo_id(namespace: str, name: str) -> bool:
    """Whether `namespace/name` can name a repository (and so two folders below the hub's)."""
    full = f"{namespace}/{name}"
    return (
        all(_ID_PART.fullmatch(p) and not p.endswith(".git") for p in (namespace, name))
        and len(full) <= 96
        and ".." not in full
        and "--" not in full
        and namespace.lower() not in RESERVED_NAMESPACES
    )


def require_repo_id(namespace: str, name: str) -> None:
    """
    Raises:
        RefusalError: 400 for a name that the Hub would not take.
    """
    if not is_repo_id(namespace, name):
        raise RefusalError(
            400,
            f"Invalid repository id {namespace[:100]}/{name[:100]}: letters, digits, '-', '_'"
            " and '.' (not doubled, not at an end), at most 96 characters in all.",
        )


def is_ref_name(name: str) -> bool:
    """Whether `name` can follow `refs/heads/` or `refs/tags/`."""
    return (
        0 < len(name.encode("utf-8", "replace")) <= 200
        and _REF_FORBIDDEN.search(name) is None
        and not name.endswith(("/", "."))
        and not name.startswith(("/", "refs/"))
        and name not in ("@", "HEAD")
        and _is_text(name)
    )


def is_new_ref_name(name: str) -> bool:
    """Whether a new branch or tag may be called so; none is called like a commit."""
    return is_ref_name(name) and not is_commit_id(name)


def is_pull_ref(name: str) -> bool:
    return _PULL_REF.fullmatch(name) is not None


def is_commit_id(text: str) -> bool:
    return _COMMIT.fullmatch(text) is not None


def is_commit_prefix(text: str) -> bool:
    return _COMMIT_PREFIX.fullmatch(text) is not None


def is_sha256(text: str) -> bool:
    return _SHA256.fullmatch(text) is not None


def repo_path(path: str) -> str:
    """A path inside a repository, checked.

    Raises:
        RefusalError: 400 for an empty or absolute path, `.`, `..`, `.git` segments, NUL, no UTF-8;
            422 for a backslash, which separates folders where Windows users download.
    """
    if "\\" in path:
        raise RefusalError(422, f"A path cannot have a backslash: {path[:200]!r}.")
    parts = path.split("/")
    if (
        not path
        or "\x00" in path
        or not _is_text(path)
        or len(path) > 4096
        or any(part in ("", ".", "..") or part.lower() == ".git" for part in parts)
    ):
        raise RefusalError(400, f"Not a path inside a repository: {path[:200]!r}.")
    return path


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
