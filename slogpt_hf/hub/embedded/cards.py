"""A card's metadata as the Hub reads and checks it; the messages are the Hub's.

What refuses a card also refuses a commit that has it as README.md. A task outside the Hub's list
is a warning there, and so it is here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import yaml

_FRONT_MATTER = re.compile(r"\A(?:\ufeff)?---[ \t]*\r?\n(.*?)\r?\n?^---[ \t]*\r?$", re.S | re.M)
_LANGUAGE = re.compile(r"[a-z]{2,3}(?:-[A-Za-z0-9]{2,8})*|code|multilingual")
_REPO_ID = re.compile(r"[\w.-]{1,96}(?:/[\w.-]{1,96})?", re.ASCII)
_RESULT = {"task": dict, "dataset": dict, "metrics": list}
_METRIC = {"type": str, "value": object}
_JOI = {str: "a string", list: "an array", dict: "of type object", object: "given"}

FILE = "README.md"
LIMIT = 1024 * 1024
"""Bytes of a card that are looked at."""

Check = Callable[[str, Any], Iterator[str]]


class _Loader(yaml.SafeLoader):
    """Safe YAML without aliases, so that a small card cannot stand for a huge value."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed in card metadata")
        return super().compose_node(parent, index)


def metadata(text: str) -> dict[str, Any]:
    """The YAML mapping at the head of a card; empty where there is none.

    Raises:
        ValueError: the head is not YAML or not a mapping.
    """
    match = _FRONT_MATTER.match(text.lstrip("\r\n"))
    if not match:
        return {}
    try:
        data = _plain(yaml.load(match[1], Loader=_Loader))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ValueError(f"The card's metadata is not valid YAML: {error}") from None
    if data is not None and not isinstance(data, dict):
        raise ValueError("The card's metadata is not a mapping.")
    return data or {}


def _plain(value: Any) -> Any:
    """A value of YAML as JSON can have it: keys are texts, numbers finite and not endless."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(each) for each in value]
    if isinstance(value, int) and value.bit_length() > 4096:
        raise ValueError("a number is too long")
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def problems(text: str) -> tuple[list[str], list[str]]:
    """Errors, for which the Hub refuses a card, and warnings."""
    try:
        found = metadata(text)
    except ValueError as error:
        return [str(error)], []
    if not found:
        return [], ["empty or missing yaml metadata in repo card"]
    errors = [e for name, check in _CHECKS.items() for e in check(name, found.get(name))]
    return errors, list(_pipeline_warning(found.get("pipeline_tag")))


def _license(name: str, value: Any) -> Iterator[str]:
    # Imported here because the card's package is more than a server that nobody asks needs.
    from slogpt_hf.card.hub_values import LICENSES

    several = isinstance(value, list)
    for i, one in enumerate(value if several else [] if value is None else [value]):
        if not isinstance(one, str) or one not in LICENSES:
            where = f"{name}[{i}]" if several else name
            known = ", ".join([*sorted(LICENSES), *([] if several else ["array"])])
            yield f'"{where}" must be one of [{known}]'


def _pipeline_warning(value: Any) -> Iterator[str]:
    from slogpt_hf.card.hub_values import PIPELINE_TAGS

    if isinstance(value, str) and value not in PIPELINE_TAGS:
        known = ", ".join(sorted(PIPELINE_TAGS))
        yield f'The pipeline tag "{value}" is not in the official list: {known}'


def _string(name: str, value: Any) -> Iterator[str]:
    if value is not None and not isinstance(value, str):
        yield f'"{name}" must be a string'


def _strings(name: str, value: Any) -> Iterator[str]:
    if value is not None and not isinstance(value, list):
        yield f'"{name}" must be an array'
    for i, one in enumerate(value if isinstance(value, list) else []):
        yield from _string(f"{name}[{i}]", "" if one is None else one)


def _matching(pattern: re.Pattern[str], hint: str) -> Check:
    """A check of one text or a list of texts that match `pattern`."""

    def check(name: str, value: Any) -> Iterator[str]:
        several = isinstance(value, list)
        for i, one in enumerate(value if several else [] if value is None else [value]):
            where = f"{name}[{i}]" if several else name
            if not isinstance(one, str):
                yield f'"{where}" must be a string'
            elif not pattern.fullmatch(one):
                yield f'"{where}" with value "{one[:200]}" is not valid. {hint}'

    return check


def _model_index(name: str, value: Any) -> Iterator[str]:
    if value is None:
        return
    if not isinstance(value, list):
        yield f'"{name}" must be an array'
        return
    for i, model in enumerate(value):
        where = f"{name}[{i}]"
        yield from _members(where, model, {"name": str, "results": list})
        results = model.get("results") if isinstance(model, dict) else None
        for j, result in enumerate(results if isinstance(results, list) else []):
            yield from _result(f"{where}.results[{j}]", result)


def _result(where: str, result: Any) -> Iterator[str]:
    wrong = list(_members(where, result, _RESULT))
    yield from wrong
    if wrong:
        return
    yield from _members(f"{where}.task", result["task"], {"type": str})
    yield from _members(f"{where}.dataset", result["dataset"], {"type": str, "name": str})
    for i, metric in enumerate(result["metrics"]):
        yield from _members(f"{where}.metrics[{i}]", metric, _METRIC)


def _members(where: str, value: Any, members: Mapping[str, type]) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f'"{where}" must be of type object'
        return
    for name, kind in members.items():
        if value.get(name) is None:
            yield f'"{where}.{name}" is required'
        elif not isinstance(value[name], kind):
            yield f'"{where}.{name}" must be {_JOI[kind]}'


_CHECKS: Mapping[str, Check] = {
    "license": _license,
    "language": _matching(
        _LANGUAGE,
        "It must be an ISO 639-1, 639-2 or 639-3 code (two/three letters), or a special value"
        ' like "code", "multilingual".',
    ),
    "library_name": _string,
    "pipeline_tag": _string,
    "tags": _strings,
    "datasets": _matching(_REPO_ID, "If possible, use a dataset id from https://hf.co/datasets."),
    "base_model": _matching(_REPO_ID, "Use a model id from https://hf.co/models."),
    "model-index": _model_index,
}
