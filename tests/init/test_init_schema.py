"""The JSON Schema of the settings file: current, and of one mind with ``load_settings``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from slogpt_hf.errors import UsageError
from slogpt_hf.onboarding.schema import schema
from slogpt_hf.settings import CHOICES, NAMES, Settings, load_settings

FILE = Path(__file__).parents[2] / "docs" / "slogpt-hf.schema.json"
VALIDATOR = Draft202012Validator(schema())


def is_loaded(content: Any, folder: Path) -> bool:
    text = yaml.safe_dump(content, allow_unicode=True)
    (folder / ".slogpt-hf.yml").write_text(text, "utf-8")
    try:
        load_settings({}, {}, folder)
    except UsageError:
        return False
    return True


WORDS = st.sampled_from(
    [
        *("", "true", "False", "YES", "no", "1", "0", "2", "on", "mit", "me/my-model", "me/x\n"),
        *("me", "models/a", "a--b/c", "a/b.git", f"a/{'b' * 95}", "5GB", "2 GiB", "0.5KB", "0GB"),
        *("5XB", " 1b ", "n_head=8", "n_head=8, norm_eps=1e-5", "n_head", "n_head=", "n_head=x"),
        *("n_head = 8", "a=true,b=False", "8", "1e-6", ".5", "-3.", "1_0", "9" * 25, "x,y"),
        *(word for choices in CHOICES.values() for word in choices),
        *("float8", "BEST", "pad", " eos ,bos", "pad,,unk,", "pad eos", "mask", ","),
    ]
)
SCALARS = st.one_of(
    WORDS,
    st.none(),
    st.booleans(),
    st.integers(-2, 3),
    st.integers(0, 2**62),
    st.sampled_from([0.5, -1.25, 1e-05]),
    st.text(st.characters(codec="ascii", exclude_categories=("Cc",)), max_size=6),
)
VALUES = st.one_of(
    SCALARS,
    st.lists(SCALARS, max_size=3),
    st.dictionaries(st.sampled_from(["n_head", "norm_eps", "a b", "8", "n-head"]), SCALARS),
)
KEYS = st.one_of(
    st.sampled_from([*NAMES, *(name.replace("_", "-") for name in NAMES)]),
    st.sampled_from(["allow-spare_ids", "allow_spare-ids", "repo", "Repo-id", "repo-id\n", ""]),
)
# The values that a setting is most likely to be given, each with those that are nearly right.
LIKELY = st.dictionaries(KEYS, VALUES, max_size=2)


@given(LIKELY)
@example({"language": ["en", "de"]})
@example({"language": ["en", 1]})
@example({"checkpoints": ["a", "b"]})
@example({"max_shard_size": 0})
@example({"max-shard-size": 5_000_000_000})
@example({"set": {"n_head": 8, "bias": True, "norm_eps": "1e-6"}})
@example({"set": {"n_head": None}})
@example({"set": {"n_head": [8]}})
@example({"set": "n_head=8,bias=true"})
@example({"special-tokens": ["pad", "eos"]})
@example({"special-tokens": "pad, unk"})
@example({"special_tokens": "pad mask"})
@example({"private": 2})
@example({"private": "yes", "create": 0})
@example({"repo-id": None, "repo_id": "me/my-model"})
@example({"dataset": 2024})
def test_it_accepts_and_refuses_what_the_loader_does(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, Any]
) -> None:
    folder = tmp_path_factory.getbasetemp()
    assert VALIDATOR.is_valid(content) == is_loaded(content, folder), content


@pytest.mark.parametrize("content", [None, {}, [], ["repo-id"], "repo-id", 1])
def test_the_whole_file(tmp_path: Path, content: Any) -> None:
    assert VALIDATOR.is_valid(content) == is_loaded(content, tmp_path)


def test_it_is_a_schema_and_the_published_one_is_current() -> None:
    Draft202012Validator.check_schema(schema())
    assert json.loads(FILE.read_text("utf-8")) == schema(), (
        "Run: slogpt-hf init --schema > docs/slogpt-hf.schema.json"
    )


def test_every_setting_is_described_and_every_default_is_valid() -> None:
    defaults = {}
    for name in NAMES:
        shown = schema()["properties"][name.replace("_", "-")]
        assert shown["description"] == NAMES[name].metadata["help"]
        if "default" in shown:
            defaults[name] = shown["default"]
    assert VALIDATOR.is_valid(defaults)
    assert {"tag", "create", "branches", "set"} <= defaults.keys()


def test_defaults_are_those_of_the_settings(tmp_path: Path) -> None:
    properties = schema()["properties"]
    content = {key: shown["default"] for key, shown in properties.items() if "default" in shown}
    (tmp_path / ".slogpt-hf.yml").write_text(yaml.safe_dump(content))
    assert load_settings({}, {}, tmp_path) == Settings()
