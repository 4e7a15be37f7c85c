"""The ledger: which releases there are, as the ``release.json`` of a hub says it.

Whatever lies on a hub may have been written by hand, or by somebody who means harm: what is not
exactly what slogpt-hf writes is not a release.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from slogpt_hf.card.record import (
    LEDGER_CHECKPOINT,
    LEDGER_FIELDS,
    LEDGER_NOT_PARITY,
    Record,
    is_record,
)
from slogpt_hf.parity.claims import meets
from slogpt_hf.parity.stated import stated

VERSION = re.compile(r"\d{1,9}\.\d{1,9}\.\d{1,9}", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")
# A tag or branch that git and the Hub take, and that names nothing else besides.
REF = re.compile(
    r"(?!HEAD$|refs/|[0-9a-fA-F]{40}$|[-./])(?!.*(?://|\.\.|/\.|[./]$|\.lock$))"
    r"[A-Za-z0-9._/+-]{1,200}"
)
LARGEST = 2**63
NUMBERS = ("fp64_error", "fp64_bound", "fp32_error", "fp32_bound")


def published_record(content: Any) -> Record | None:
    """What a ``release.json`` of a hub says, without what its ledger has that is no release.

    Args:
        content: of the file, parsed.

    Returns:
        None if slogpt-hf did not write it, or not for a release.
    """
    if not is_record(content) or not is_entry(content):
        return None
    if not all(isinstance(content.get(name), list) for name in ("previous", "languages")):
        return None
    record: Record = content | {"previous": list(filter(is_entry, content["previous"]))}
    return record


def is_entry(content: Any) -> bool:
    """Whether ``content`` says of a release what a ledger needs to know."""
    if not isinstance(content, dict):
        return False
    sections = [content.get(name) for name in ("checkpoint", "source", "model", "parity")]
    return (
        all(isinstance(section, dict) for section in sections)
        and is_release(content)
        and isinstance(content["model"].get("spec"), dict)
        and isinstance(content["model"].get("remote_code"), bool)
        and all(is_number(content["parity"].get(name)) for name in NUMBERS)
        and all(
            content["checkpoint"].get(name) is None or is_number(content["checkpoint"][name])
            for name in ("val_loss", "step")
        )
    )


def is_release(content: Mapping[str, Any]) -> bool:
    """Whether ``content`` says of a release of anything which one it is."""
    return (
        _matches(VERSION, content.get("version"))
        and is_ref(content.get("tag"))
        and isinstance(content.get("identity"), str)
        and isinstance(content.get("date"), str)
        and (content.get("commit") is None or _matches(COMMIT, content["commit"]))
        and _is_text(content)
    )


def is_ref(name: Any) -> bool:
    """Whether ``name`` can name a tag or branch, and nothing else besides."""
    return _matches(REF, name)


def is_number(value: Any) -> bool:
    """Whether ``value`` is a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) if isinstance(value, float) else abs(value) < LARGEST


def ledger(record: Mapping[str, Any] | None, commit: str | None = None) -> list[Record]:
    """Every release that a record knows of: its own first, then the older ones.

    Args:
        record: content of a ``release.json``.
        commit: of the release that it is about; None if it is not known.
    """
    if record is None:
        return []
    known = record["checkpoint"]
    own = {name: record.get(name) for name in LEDGER_FIELDS} | {
        "checkpoint": {name: known.get(name) for name in LEDGER_CHECKPOINT},
        "parity": {n: v for n, v in record["parity"].items() if n not in LEDGER_NOT_PARITY},
        "commit": commit,
    }
    return [own, *record["previous"]]


def merged_ledgers(*ledgers: Iterable[Record]) -> tuple[Record, ...]:
    """The releases of several ledgers, each once; those of the first come first."""
    found: dict[tuple[str, str], Record] = {}
    for entry in itertools.chain(*ledgers):
        known = found.setdefault((entry["version"], entry["identity"]), entry)
        if known.get("commit") is None and entry.get("commit"):
            found[entry["version"], entry["identity"]] = known | {"commit": entry["commit"]}
    return tuple(found.values())


def find_release(
    entries: Iterable[Record], wanted: str, required: str | None = None
) -> Record | None:
    """The release with the identity ``wanted``, proven to the level ``required`` at least.

    None if there is none yet: what was released on assumptions can be released again with a
    witness.
    """
    same = (entry for entry in entries if entry["identity"] == wanted)
    return next(
        (entry for entry in same if meets(stated(entry.get("parity")).level, required)), None
    )


def _matches(pattern: re.Pattern[str], value: Any) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _is_text(content: Any) -> bool:
    """Whether it can be written as UTF-8 again; JSON can escape half of a character."""
    try:
        json.dumps(content, ensure_ascii=False).encode()
    except (UnicodeEncodeError, ValueError, RecursionError):
        return False
    return True
