"""The commented settings file says what was chosen, and shows everything else."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from slogpt_hf.onboarding.rendering import flow, quoted, scalar
from slogpt_hf.onboarding.schema import schema
from slogpt_hf.onboarding.settings_file import says_the_same, settings_file
from slogpt_hf.settings import CHOICES, NAMES, Settings, load_settings

# A value of each kind that means something, text of any kind where any may be meant.
TEXT = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=20)
ITEMS = TEXT.map(str.strip).filter(bool)
SPECIAL: dict[str, st.SearchStrategy[Any]] = {
    "repo_id": st.sampled_from(["me/my-model", "1/2", "no/yes"]),
    "special_tokens": st.sampled_from(["pad", "pad,eos,bos,unk", "unk, eos"]),
    "max_shard_size": st.sampled_from(["5GB", "500MB", "512"]),
    "set": st.lists(st.sampled_from(["n_head=8", "bias=true", "norm_eps=1e-5"]), max_size=2).map(
        tuple
    ),
    **{name: st.sampled_from(known) for name, known in CHOICES.items()},
}
KINDS = {bool: st.booleans(), tuple: st.lists(ITEMS, max_size=3).map(tuple)}
SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        field.name: SPECIAL[field.name]
        if field.name in SPECIAL
        else KINDS.get(type(field.default), TEXT)
        for field in fields(Settings)
    },
).map(lambda values: Settings(**values))


@given(SETTINGS)
def test_what_is_written_is_what_is_loaded(
    tmp_path_factory: pytest.TempPathFactory, settings: Settings
) -> None:
    folder = tmp_path_factory.getbasetemp()
    text = settings_file(settings)
    (folder / ".slogpt-hf.yml").write_text(text, "utf-8")
    assert says_the_same(load_settings({}, {}, folder), settings)
    assert Draft202012Validator(schema()).is_valid(yaml.safe_load(text))


@given(TEXT)
def test_text_is_read_as_that_text(text: str) -> None:
    assert yaml.safe_load(scalar(text)) == yaml.safe_load(quoted(text)) == text
    assert yaml.safe_load(flow([text, "b"])) == [text, "b"]
    assert "\n" not in scalar(text)


@pytest.mark.parametrize(
    "text", ["no", "1e3", "0o7", "null", "12:30", "y", "=", "~", "a: b", "a #"]
)
def test_text_that_a_reader_may_take_for_something_else_is_quoted(text: str) -> None:
    assert scalar(text).startswith('"')


def test_plain_text_stays_plain() -> None:
    for text in ("me/my-model", "out/**/ckpt*.pt", "train/**", "mit", "apache-2.0"):
        assert scalar(text) == text


def test_defaults_are_shown_as_comments(tmp_path: Path) -> None:
    lines = settings_file(Settings(license="mit")).splitlines()
    assert lines[0].startswith("# yaml-language-server: $schema=https://")
    keys = {name.replace("_", "-") for name in NAMES}
    shown = [line for line in lines if line.removeprefix("# ").partition(":")[0] in keys]
    assert [line for line in shown if not line.startswith("#")] == ["license: mit"]
    assert {line.removeprefix("# ").partition(":")[0] for line in shown} == keys
    uncommented = "\n".join(line.removeprefix("# ") for line in shown)
    (tmp_path / ".slogpt-hf.yml").write_text(uncommented)
    assert load_settings({}, {}, tmp_path) == Settings(license="mit")


def test_every_setting_is_explained() -> None:
    text = settings_file(Settings())
    comments = " ".join(re.sub(r"^# ?", "", line) for line in text.splitlines())
    for name in NAMES:
        assert NAMES[name].metadata["help"] in comments
    assert max(map(len, text.splitlines()[1:])) <= 100


def test_what_the_ci_says_again_is_named() -> None:
    text = settings_file(Settings(), ("repo_id", "checkpoints"), ".gitlab-ci.yml")
    assert "# .gitlab-ci.yml gives these again, for the CI: repo-id, checkpoints.\n" in text
