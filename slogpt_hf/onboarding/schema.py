"""JSON Schema of ``.slogpt-hf.yml``, made from the fields of Settings, for editors.

Draft 2020-12. It accepts whatever ``load_settings`` accepts, with two exceptions that JSON does
not know: names that are not ASCII in ``set``, and infinities. It refuses what ``load_settings``
refuses, but for sizes beyond the largest file, and ``1.0`` where ``1`` is meant.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from slogpt_hf.settings import (
    CHOICES,
    LARGEST_SIZE,
    LONGEST_NUMBER,
    NAMES,
    SETTINGS_FILE,
    SPECIAL_ROLES,
    TYPE_PREFIXES,
)
from slogpt_hf.version import __version__

DIALECT = "https://json-schema.org/draft/2020-12/schema"
ADDRESS = "https://raw.githubusercontent.com/slogpt/slogpt-hf/{}/docs/slogpt-hf.schema.json"
END = r"$(?!\n)"  # Python's $ also matches before a last line break
WORD = "[A-Za-z0-9_]"
NAME = rf"{WORD}(?:[A-Za-z0-9_.-]*{WORD})?"
REPO_ID = (
    r"^(?=.{1,96}$)(?!.*(?:--|\.\.|\.git(?:/|$)))"
    rf"(?!{'|'.join(TYPE_PREFIXES)}){NAME}/{NAME}{END}"
)
SIZE = rf"^\s*(?=[0-9.]*[1-9])[0-9]+(?:\.[0-9]+)?\s*[KMGTkmgt]?[Ii]?[Bb]?\s*{END}"
NUMBER = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
TRUE_OR_FALSE = ("true", "false")
ALSO_BOOLEAN = (*TRUE_OR_FALSE, "1", "yes", "0", "no")


def address(version: str = __version__) -> str:
    """Where the schema of a version is published."""
    return ADDRESS.format(f"v{version}")


def schema() -> dict[str, Any]:
    """The schema, JSON-ready. Keys may be written with ``-`` or ``_``."""
    properties = {name.replace("_", "-"): _property(name) for name in NAMES}
    return {
        "$schema": DIALECT,
        "$id": ADDRESS.format("main"),
        "title": f"Settings of slogpt-hf ({SETTINGS_FILE})",
        "type": ["object", "null"],
        "properties": properties,
        "patternProperties": {
            f"^{name.replace('_', '[-_]')}{END}": {"$ref": f"#/properties/{name.replace('_', '-')}"}
            for name in NAMES
            if "_" in name
        },
        "additionalProperties": False,
    }


def _property(name: str) -> dict[str, Any]:
    setting = NAMES[name]
    default: Any = setting.default
    shown = {} if default is None else {"default": list(default) if _is_list(name) else default}
    if name == "set":
        shown = {"default": {}}
    return {"description": setting.metadata["help"]} | shown | _accepted(name)


def _accepted(name: str) -> dict[str, Any]:
    if name == "set":
        return {"anyOf": [_fields(), {"type": "string", "pattern": _field_list()}, _null()]}
    if _is_list(name):
        return {"type": ["array", "string", "null"], "items": {"type": "string"}}
    if name in CHOICES:
        return {"enum": [*CHOICES[name], None]}
    if isinstance(NAMES[name].default, bool):
        words = "|".join(map(_any_case, ALSO_BOOLEAN))
        text = {"type": "string", "pattern": f"^(?:{words}){END}"}
        return {"anyOf": [{"type": "boolean"}, text, {"enum": [0, 1, None]}]}
    if name == "repo_id":
        return {"type": ["string", "null"], "pattern": REPO_ID}
    if name == "max_shard_size":
        whole = {"type": "integer", "minimum": 1, "exclusiveMaximum": LARGEST_SIZE}
        return {"anyOf": [{"type": "string", "pattern": SIZE}, whole, _null()]}
    if name == "special_tokens":
        roles = {"type": "string", "pattern": _listed(SPECIAL_ROLES)}
        return {"anyOf": [roles, {"type": "array", "items": roles}, _null()]}
    if NAMES[name].metadata.get("comma_separated"):
        return {"type": ["string", "array", "null"], "items": {"type": "string"}}
    return {"type": ["string", "null"]}


def _is_list(name: str) -> bool:
    return isinstance(NAMES[name].default, tuple)


def _fields() -> dict[str, Any]:
    """Of ``set``: names and what they are set to."""
    text = {"type": "string", "pattern": rf"^\s*{_value()}\s*{END}"}
    return {
        "type": "object",
        "propertyNames": {"pattern": rf"^\s*[A-Za-z_][A-Za-z0-9_]*\s*{END}"},
        "additionalProperties": {"anyOf": [{"type": ["boolean", "number"]}, text]},
    }


def _field_list() -> str:
    """Of ``set`` as text: ``NAME=VALUE`` separated by spaces or commas."""
    one = rf"[A-Za-z_][A-Za-z0-9_]*={_value()}"
    return rf"^[\s,]*(?:{one}(?:[\s,]+{one})*[\s,]*)?{END}"


def _listed(words: Sequence[str]) -> str:
    """Some of these words, separated by commas."""
    one = rf"(?:{'|'.join(words)})\s*"
    return rf"^[\s,]*(?:{one}(?:,[\s,]*{one})*[\s,]*)?{END}"


def _value() -> str:
    words = "|".join(map(_any_case, TRUE_OR_FALSE))
    return rf"(?=[^\s,]{{1,{LONGEST_NUMBER}}}(?:[\s,]|$))(?:{words}|{NUMBER})"


def _null() -> dict[str, Any]:
    return {"type": "null"}


def _any_case(word: str) -> str:
    return "".join(f"[{c.upper()}{c}]" if c.isalpha() else re.escape(c) for c in word)
