"""Versions mean compatibility: what a user of the last release has to change.

Vocabulary, tokenizer or architecture class changed: major. Sizes or context changed: minor.
Same shape, new weights: patch.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from slogpt_hf.card.ledger import is_ref
from slogpt_hf.card.record import Record
from slogpt_hf.checkpoints.spec import todays_facts
from slogpt_hf.errors import UsageError

FIRST = "1.0.0"
# Python reads no number of thousands of digits.
VERSION = re.compile(r"v?(\d{1,99})\.(\d{1,99})\.(\d{1,99})", re.ASCII)
ARCHITECTURE = ("positions", "norm", "mlp", "activation", "linear_bias", "norm_bias", "vocab_size")
REF_CHARACTERS = re.compile(r"[^A-Za-z0-9._/+-]+")
DEFAULT_TEMPLATE = "v{version}"
LONGEST_SHOWN = 200  # characters
# A ledger reads nine digits, and the next version has one more. What is larger, such as the time
# in v20300131120000.0.0, is no version.
MOST = 999_999_998


def next_version(
    last: Mapping[str, Any] | None,
    model: Mapping[str, Any],
    tags: Iterable[str] = (),
    template: str = DEFAULT_TEMPLATE,
) -> str:
    """The version of a release whose ``release.json`` says ``model``, after ``last``.

    Args:
        last: the ``release.json`` of the newest release; None for the first.
        model: the ``model`` section of the new one.
        tags: of the repository: a version that one of them names is never given again.
        template: of the new release's tag, by which older ones tell their version too.
    """
    return _after(last, lambda old: _change(old, model), tags, template)


def next_dataset_version(
    last: Mapping[str, Any] | None, record: Mapping[str, Any], tags: Iterable[str], template: str
) -> str:
    """The version of a dataset's release after ``last``.

    Another vocabulary or width of ids: major. Another block size, or other files: minor. Other
    ids: patch.

    Args:
        last: of the newest release, what its ledger says; None for the first.
        record: of the new one.
        tags: of the repository.
        template: of the new release's tag.
    """
    return _after(last, lambda old: _dataset_change(old, record), tags, template)


def _dataset_change(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    before, now = old["data"], new["data"]
    tokenizers = [r["tokenizer"].get("sha256") for r in (old, new)]
    widths = [(data["dtype"], data.get("vocab_size")) for data in (before, now)]
    if tokenizers[0] != tokenizers[1] or widths[0] != widths[1]:
        return "major"
    shapes = [
        (data["block_size"], [(file["file"], file["split"]) for file in data["files"]])
        for data in (before, now)
    ]
    return "minor" if shapes[0] != shapes[1] else "patch"


def _after(
    last: Mapping[str, Any] | None,
    change: Callable[[Mapping[str, Any]], str],
    tags: Iterable[str],
    template: str,
) -> str:
    """The version that follows, by what ``change`` says of ``last``: major, minor or patch."""
    known = [parsed(tag) or version_in(tag, template) for tag in tags]
    if last is not None:
        known.append(parsed(str(last.get("version", ""))))
    numbers = max((version for version in known if version), default=None)
    if last is None or numbers is None:
        return FIRST if numbers is None else f"{numbers[0] + 1}.0.0"
    major, minor, patch = numbers
    versions = {
        "major": f"{major + 1}.0.0",
        "minor": f"{major}.{minor + 1}.0",
        "patch": f"{major}.{minor}.{patch + 1}",
    }
    return versions[change(last)]


def _change(last: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    before = last.get("model", {})
    old, new = (todays_facts(spec) for spec in (before.get("spec", {}), model["spec"]))
    if (
        before.get("target_class") != model["target_class"]
        or before.get("tokenizer_sha256") != model["tokenizer_sha256"]
        or any(old.get(fact) != new[fact] for fact in ARCHITECTURE)
    ):
        return "major"
    return "minor" if old != new else "patch"


def parsed(version: str) -> tuple[int, int, int] | None:
    """The numbers of ``1.2.3`` or ``v1.2.3``; None for anything else."""
    match = VERSION.fullmatch(version)
    if match is None:
        return None
    major, minor, patch = int(match[1]), int(match[2]), int(match[3])
    return (major, minor, patch) if max(major, minor, patch) <= MOST else None


def version_in(tag: str, template: str) -> tuple[int, int, int] | None:
    """The version in a tag that a template gave; None if it gave no such tag."""
    parts = re.split(r"\{(\w+)\}", template)
    if "version" not in parts[1::2]:
        return None
    literals = [re.escape(REF_CHARACTERS.sub("-", part)) for part in parts[::2]]
    values = [r"(\d+\.\d+\.\d+)" if name == "version" else ".+" for name in parts[1::2]]
    pattern = "".join(map("".join, itertools.zip_longest(literals, values, fillvalue="")))
    match = re.fullmatch(pattern, tag, re.ASCII)
    return parsed(match[1]) if match else None


def newest_tag(tags: Iterable[str]) -> str | None:
    """The tag with the highest version; None if none names one."""
    versions = {tag: version for tag in tags if (version := parsed(tag))}
    return max(versions, key=lambda tag: versions[tag], default=None)


def newest_first(entries: Iterable[Record]) -> tuple[Record, ...]:
    """The releases of a ledger, the highest version first."""
    return tuple(sorted(entries, key=lambda entry: parsed(entry["version"]) or (-1,), reverse=True))


def ref_from(template: str, values: Mapping[str, Any], what: str = "tag") -> str:
    """The name of a tag or branch from a template such as ``{branch}-step{step}``.

    Characters that git does not take in a name become ``-``.

    Raises:
        UsageError: the template names an unknown or unrecorded value, or gives no valid name.
    """
    name = REF_CHARACTERS.sub("-", filled(template, values, what))
    require_ref(name, what)
    return name


def filled(template: str, values: Mapping[str, Any], what: str) -> str:
    """A template with its values.

    Args:
        template: text with ``{name}`` for a value.
        values: by name; None for what is not known.
        what: the setting that the template is of.

    Raises:
        UsageError: the template names an unknown or unrecorded value, or is none.
    """
    try:
        used = set(re.findall(r"\{(\w+)\}", template))
        for name in used:
            if values.get(name) is None:
                raise UsageError(
                    f"{what} {template!r} needs {{{name}}}, which is not known here.",
                    hint=f"Known are {', '.join(k for k, v in values.items() if v is not None)}.",
                )
        text = template.format_map({name: values[name] for name in used})
        text.encode()
        return text
    except UnicodeEncodeError as error:
        raise UsageError(
            f"{what} {template!r} is not text in UTF-8.", hint="Check the terminal's encoding."
        ) from error
    except (ValueError, IndexError, KeyError, AttributeError) as error:
        raise UsageError(
            f"{what} {template!r} is not a template.", hint="Write e.g. 'v{version}'."
        ) from error


def require_ref(name: str, what: str) -> None:
    """Raise UsageError unless ``name`` can name a tag or branch and nothing else."""
    if not is_ref(name):
        raise UsageError(
            f"{what} {name[:LONGEST_SHOWN]!r} is not a name that git and the Hub take.",
            hint="Use letters, digits, '.', '_', '-' and single '/'.",
        )
