"""Versions mean compatibility: what a user of the last release has to change.

Vocabulary, tokenizer or architecture class changed: major. Sizes or context changed: minor.
Same shape, new weights: patch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from slogpt_hf.errors import UsageError

FIRST = "1.0.0"
VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")
ARCHITECTURE = ("positions", "norm", "mlp", "linear_bias", "norm_bias", "vocab_size")
TAG_CHARACTERS = re.compile(r"[^A-Za-z0-9._/+-]+")
NOT_A_TAG = re.compile(r"^[-./]|//|\.\.|/\.|[./]$|\.lock$|@\{")


def next_version(last: Mapping[str, Any] | None, model: Mapping[str, Any]) -> str:
    """The version of a release whose ``release.json`` says ``model``, after ``last``.

    Args:
        last: the ``release.json`` of the newest release; None for the first.
        model: the ``model`` section of the new one.
    """
    if last is None:
        return FIRST
    match = VERSION.fullmatch(str(last.get("version", "")))
    if match is None:
        return FIRST
    major, minor, patch = (int(number) for number in match.groups())
    before = last.get("model", {})
    old, new = before.get("spec", {}), model["spec"]
    if (
        before.get("target_class") != model["target_class"]
        or before.get("tokenizer_sha256") != model["tokenizer_sha256"]
        or any(old.get(fact) != new[fact] for fact in ARCHITECTURE)
    ):
        return f"{major + 1}.0.0"
    return f"{major}.{minor + 1}.0" if old != new else f"{major}.{minor}.{patch + 1}"


def tag_from(template: str, values: Mapping[str, Any]) -> str:
    """A tag from a template such as ``{branch}-step{step}``.

    Characters that git does not take in a tag become ``-``.

    Raises:
        UsageError: the template names an unknown or unrecorded value, or gives no valid tag.
    """
    try:
        used = set(re.findall(r"\{(\w+)\}", template))
        for name in used:
            if values.get(name) is None:
                raise UsageError(
                    f"tag {template!r} needs {{{name}}}, which is not known here.",
                    hint=f"Known are {', '.join(k for k, v in values.items() if v is not None)}.",
                )
        tag = template.format_map({name: values[name] for name in used})
    except (ValueError, IndexError, KeyError) as error:
        raise UsageError(
            f"tag {template!r} is not a template.", hint="Write e.g. 'v{version}'."
        ) from error
    tag = TAG_CHARACTERS.sub("-", tag)
    if not tag or NOT_A_TAG.search(tag):
        raise UsageError(f"{tag!r} (from {template!r}) is not a valid tag.")
    return tag
