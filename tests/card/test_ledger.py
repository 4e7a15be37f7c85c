"""What a release.json of a hub may hold: anything, and none of it stops a release."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slogpt_hf.card.ledger import find_release, is_ref, ledger, merged_ledgers, published_record
from slogpt_hf.card.record import SCHEMA, dump_json
from slogpt_hf.hub.releases import branch_for
from slogpt_hf.hub.state import RepoState, commit_of
from slogpt_hf.hub.versions import ARCHITECTURE, newest_first, next_version

HEAD = "a" * 40
MODEL = {
    "spec": dict.fromkeys(ARCHITECTURE, 11) | {"n_layer": 2},
    "target_class": "GPT2LMHeadModel",
    "tokenizer_sha256": "t",
    "remote_code": False,
}
ENTRY: dict[str, Any] = {
    "version": "1.0.0",
    "tag": "v1.0.0",
    "identity": "i" * 64,
    "date": "2030-01-31",
    "source": {"commit": None, "branch": None},
    "model": MODEL,
    "parity": {
        "passed": True,
        "fp64_error": 1e-16,
        "fp64_bound": 1e-10,
        "fp32_error": 0,
        "fp32_bound": 1e-5,
    },
    "checkpoint": {"sha256": "c" * 64, "step": 250, "val_loss": 1.25},
    "commit": "b" * 40,
}
RECORD: dict[str, Any] = ENTRY | {
    "schema": SCHEMA,
    "version": "1.0.1",
    "tag": "v1.0.1",
    "identity": "j" * 64,
    "tokenizer": {},
    "languages": [],
    "files": {"model.safetensors": "d" * 64},
    "previous": [ENTRY],
}
STRANGE = [
    None, True, -1, 10**400, 1e999, float("nan"), "", "x", "\ud800", "1.0.0", "9" * 5000 + ".0.0",
    "main", "HEAD", "../..", "\x1b[31m", "v1\n::error::", [], [[]], [None], {}, {"a": None},
]  # fmt: skip


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in nested lists and objects."""
    children = value.items() if isinstance(value, dict) else enumerate(value)
    for key, child in children:
        yield (*path, key)
        if isinstance(child, dict | list):
            yield from paths(child, (*path, key))


PLACES = list(paths(RECORD))


def changed(path: tuple[Any, ...], value: Any, *, delete: bool = False) -> dict[str, Any]:
    record = copy.deepcopy(RECORD)
    place: Any = record
    for key in path[:-1]:
        place = place[key]
    if delete:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return record


def use(content: Any) -> None:
    """All that a release does with what it found."""
    record = published_record(content)
    if record is None:
        return
    tags = {record["tag"]: HEAD}
    entries = newest_first(merged_ledgers(ledger(record, commit_of(record, HEAD, tags))))
    assert entries and all(is_ref(entry["tag"]) for entry in entries)
    version = next_version(entries[0], MODEL, tags)
    assert version not in {entry["version"] for entry in entries}
    state = RepoState("me/m", True, "main", {"main": HEAD}, tags, {"main": record}, entries)
    for promote in ("latest", "best", "never"):
        assert branch_for(promote, RECORD, state) in ("main", "main-candidates")
    assert find_release(entries, record["identity"]) is not None
    dump_json(record).encode()


def test_a_record_of_ours_is_one() -> None:
    record = published_record(RECORD)
    assert record == RECORD
    assert [entry["version"] for entry in ledger(record)] == ["1.0.1", "1.0.0"]


@pytest.mark.parametrize("path", PLACES, ids=lambda path: ".".join(map(str, path)))
def test_nothing_in_it_stops_a_release(path: tuple[Any, ...]) -> None:
    for value in STRANGE:
        use(changed(path, value))
    use(changed(path, None, delete=True))


@given(
    st.sampled_from(PLACES),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
        max_leaves=5,
    ),
)
def test_whatever_stands_there(path: tuple[Any, ...], value: Any) -> None:
    use(changed(path, value))


@pytest.mark.parametrize("content", [None, [], "x", 1, {}, {"schema": 1}, ENTRY])
def test_what_is_no_record(content: Any) -> None:
    assert published_record(content) is None


@pytest.mark.parametrize("name", ["version", "tag"])
def test_an_artefact_that_was_never_released_is_none(name: str) -> None:
    assert published_record(RECORD | {name: None}) is None


def test_an_entry_that_is_none_is_left_out() -> None:
    previous = [ENTRY | {"version": None}, ENTRY, {"version": "1.0.0"}, 5]
    record = published_record(RECORD | {"previous": previous})
    assert record is not None and record["previous"] == [ENTRY]


def test_a_commit_becomes_known_by_another_ledger() -> None:
    unknown = ENTRY | {"commit": None}
    assert merged_ledgers([unknown], [ENTRY]) == (ENTRY,)
    assert merged_ledgers([ENTRY], [unknown]) == (ENTRY,)


def test_it_survives_json() -> None:
    assert published_record(json.loads(dump_json(RECORD))) == RECORD
