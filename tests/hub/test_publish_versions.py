"""Versions mean compatibility, tags are names that git takes."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slogpt_hf.card import ledger
from slogpt_hf.checkpoints.dialects.slo import spec_from_model_args
from slogpt_hf.checkpoints.spec import Spec
from slogpt_hf.errors import UsageError
from slogpt_hf.hub.versions import filled, newest_tag, next_version, ref_from, require_ref

Facts = dict[str, Any]
SIZES = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 8, "vocab_size": 11, "bias": True}


def model(**changes: Any) -> Facts:
    """The ``model`` section of a ``release.json``; changes go to model_args or to the section."""
    args = SIZES | {name: changes.pop(name) for name in list(changes) if name not in SECTION}
    spec = spec_from_model_args(args)
    return SECTION | {"spec": spec.to_dict()} | changes


SECTION: Facts = {"target_class": "GPT2LMHeadModel", "tokenizer_sha256": "a", "dtype": "float32"}
CHANGES: dict[str, tuple[Facts, str]] = {
    "new weights": ({}, "2.3.5"),
    "dtype": ({"dtype": "float16"}, "2.3.5"),
    "layers": ({"n_layer": 3}, "2.4.0"),
    "heads": ({"n_head": 4}, "2.4.0"),
    "width": ({"n_embd": 32}, "2.4.0"),
    "context": ({"block_size": 16}, "2.4.0"),
    "vocabulary size": ({"vocab_size": 12}, "3.0.0"),
    "tokenizer": ({"tokenizer_sha256": "b"}, "3.0.0"),
    "class": ({"target_class": "LlamaForCausalLM"}, "3.0.0"),
    "biases": ({"bias": False}, "3.0.0"),
    "positions": ({"use_rope": True}, "3.0.0"),
    "MLP": ({"use_swiglu": True}, "3.0.0"),
    "norm": ({"use_rmsnorm": True}, "3.0.0"),
    "context and tokenizer": ({"block_size": 16, "tokenizer_sha256": "b"}, "3.0.0"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_next_version(change: str) -> None:
    changes, expected = CHANGES[change]
    last = {"version": "2.3.4", "model": model()}
    assert next_version(last, model(**changes)) == expected


def test_a_record_of_before_activations_were_facts_describes_the_same_model() -> None:
    """Else every first release of a newer version would be a major one."""
    spec = dict(model()["spec"])
    earlier = {"plain": "gelu", "gated": "swiglu"}[spec["mlp"]]
    kept = {name: value for name, value in spec.items() if "multiplier" not in name}
    old = model() | {"spec": kept | {"mlp": earlier}}
    del old["spec"]["activation"]
    assert next_version({"version": "2.3.4", "model": old}, model()) == "2.3.5"
    assert Spec.from_dict(old["spec"]) == Spec.from_dict(spec)


def test_first_version() -> None:
    assert next_version(None, model()) == "1.0.0"


def test_numbers_are_no_digits() -> None:
    assert next_version({"version": "9.9.9", "model": model()}, model()) == "9.9.10"
    assert next_version({"version": "9.9.9", "model": model()}, model(n_layer=3)) == "9.10.0"


@given(st.lists(st.tuples(*[st.integers(0, 12)] * 3), max_size=4), st.booleans())
def test_a_version_is_never_given_twice(tags: list[tuple[int, int, int]], known: bool) -> None:
    names = [f"v{a}.{b}.{c}" for a, b, c in tags]
    last = {"version": "1.2.3", "model": model()} if known else None
    version = next_version(last, model(), names)
    given_before = [*tags, *([(1, 2, 3)] if known else [])]
    assert all(tuple(map(int, version.split("."))) > numbers for numbers in given_before)


@pytest.mark.parametrize("last", [None, {"version": "1.2.3", "model": model()}])
@pytest.mark.parametrize(
    "tag", ["v20300131120000.0.0", "v1.20300131120000.0", "1.0.999999999", "v999999999.0.0"]
)
def test_a_tag_of_a_time_does_not_lift_the_version_out_of_the_ledger(
    tag: str, last: Facts | None
) -> None:
    for changes, after in [({}, "1.2.4"), ({"n_layer": 3}, "1.3.0"), ({"bias": False}, "2.0.0")]:
        expected = after if last else "1.0.0"
        assert next_version(last, model(**changes), [tag]) == expected
    assert newest_tag([tag, "v0.1.0"]) == "v0.1.0"


def test_the_highest_version_is_one_that_a_ledger_reads() -> None:
    most = "v999999998.999999998.999999998"
    last = {"version": most[1:], "model": model()}
    for changes in ({}, {"n_layer": 3}, {"bias": False}):
        assert ledger.VERSION.fullmatch(next_version(last, model(**changes), [most]))


@pytest.mark.parametrize(
    ("tags", "newest"),
    [
        ([], None),
        (["best", "v1", "release-2.0.0"], None),
        (["v1.9.0", "v1.10.0", "v1.2.30", "nightly"], "v1.10.0"),
        (["2.0.0", "v1.0.0"], "2.0.0"),
    ],
)
def test_newest_tag(tags: list[str], newest: str | None) -> None:
    assert newest_tag(tags) == newest


VALUES = {"version": "1.2.3", "step": 250, "branch": "runs/a b~c", "date": "2030-01-31"}
TAGS = {
    "v{version}": "v1.2.3",
    "{branch}-step{step}": "runs/a-b-c-step250",
    "{date}": "2030-01-31",
    "best": "best",
    "{version}+{step}": "1.2.3+250",
    "two words": "two-words",
}


@pytest.mark.parametrize("template", TAGS)
def test_tag(template: str) -> None:
    assert ref_from(template, VALUES) == TAGS[template]


@pytest.mark.parametrize("name", ["step", "branch"])
def test_value_that_is_not_known(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        ref_from(f"x-{{{name}}}", VALUES | {name: None})
    assert f"needs {{{name}}}" in str(caught.value)
    assert "Known are version" in str(caught.value)


def test_step_zero_is_a_step() -> None:
    assert ref_from("step{step}", VALUES | {"step": 0}) == "step0"


@pytest.mark.parametrize(
    "template",
    ["", "{", "}", "{}", "{0}", "{step", "{other}", "{step!r}", "{step.real}", "{step:>9}"],
)
def test_template_that_is_none(template: str) -> None:
    with pytest.raises(UsageError):
        ref_from(template, VALUES)


def test_bytes_that_are_no_text() -> None:
    with pytest.raises(UsageError, match=r"message 'a\\udcff' is not text"):
        filled("a\udcff", VALUES, "message")


@pytest.fixture(scope="session")
def git_takes() -> Callable[[str], bool]:
    def check(name: str) -> bool:
        command = ["git", "check-ref-format", f"refs/tags/{name}"]
        return subprocess.run(command, check=False, capture_output=True).returncode == 0

    return check


@settings(max_examples=60, deadline=None)
@given(template=st.text("aA0 ._-/~^:?*[\\@{é\x00.lock", max_size=10))
def test_every_tag_is_one_that_git_takes(git_takes: Callable[[str], bool], template: str) -> None:
    try:
        tag = ref_from(template, VALUES)
    except UsageError:
        return
    assert git_takes(tag)
    require_ref(tag, "tag")


@pytest.mark.parametrize(
    "name", ["", "-x", "/x", "x/", "x.", ".x", "a..b", "a//b", "a/.b", "x.lock", "a b", "a~b", "é"]
)
def test_names_that_git_does_not_take(name: str) -> None:
    with pytest.raises(UsageError, match="revision"):
        require_ref(name, "revision")
