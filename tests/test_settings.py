"""Flags > environment > .slogpt-hf.yml > defaults."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slogpt_hf.errors import UsageError
from slogpt_hf.settings import Settings, load_settings, size_in_bytes


def written(folder: Path, text: str) -> Path:
    (folder / ".slogpt-hf.yml").write_text(text, "utf-8")
    return folder


def test_defaults(tmp_path: Path) -> None:
    assert load_settings({}, {}, tmp_path) == Settings()
    assert Settings().max_shard_bytes == 5_000_000_000
    assert Settings().tag == "v{version}" and Settings().revision == "main"


def test_precedence(tmp_path: Path) -> None:
    folder = written(tmp_path, "license: file\nlanguage: file\nrevision: file\n")
    environment = {"SLOGPT_LICENSE": "environment", "SLOGPT_LANGUAGE": "environment"}
    settings = load_settings({"license": "flag", "language": None}, environment, folder)
    assert (settings.license, settings.language) == ("flag", "environment")
    assert (settings.revision, settings.tag) == ("file", "v{version}")


def test_current_folder_and_process_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(written(tmp_path, "repo-id: me/model\n"))
    monkeypatch.setenv("SLOGPT_DTYPE", "float16")
    settings = load_settings({})
    assert (settings.repo_id, settings.dtype) == ("me/model", "float16")


VALUES: dict[str, Any] = {"allow_spare_ids": True, "private": True, "repo_id": "a/b"}
VALUES |= {
    "dtype": "bfloat16",
    "max_shard_size": "7MB",
    "create": False,
    "oidc": True,
    "smoke": False,
}
VALUES |= {"promote": "best", "transfer": "lfs", "sign": True, "which": "latest"}
VALUES |= {"require_witness": "corroborated", "special_tokens": "pad,eos"}
GLOBS = ("checkpoints", "branches")
SET = ("n_head=8", "norm_eps=1e-06", "use_rope=true")


@pytest.mark.parametrize("name", sorted({s.name for s in fields(Settings)} - {"set", *GLOBS}))
def test_every_setting_has_its_three_names(tmp_path: Path, name: str) -> None:
    value = VALUES.get(name, "some text")
    expected = Settings(**{name: value})
    assert load_settings({name: value}, {}, tmp_path) == expected
    assert load_settings({}, {f"SLOGPT_{name.upper()}": str(value)}, tmp_path) == expected
    for key in (name, name.replace("_", "-")):
        assert load_settings({}, {}, written(tmp_path, f"{key}: {value}\n")) == expected


@pytest.mark.parametrize("name", GLOBS)
@pytest.mark.parametrize("text", ["out/**/ckpt*.pt, runs/*.pt", "out/**/ckpt*.pt\n runs/*.pt\n"])
def test_globs_have_their_three_names(tmp_path: Path, name: str, text: str) -> None:
    expected = Settings(**{name: ("out/**/ckpt*.pt", "runs/*.pt")})
    assert load_settings({name: getattr(expected, name)}, {}, tmp_path) == expected
    assert load_settings({name: ()}, {}, tmp_path) == Settings()
    assert load_settings({}, {f"SLOGPT_{name.upper()}": text}, tmp_path) == expected
    for written_as in (json.dumps(list(getattr(expected, name))), json.dumps(text)):
        assert load_settings({}, {}, written(tmp_path, f"{name}: {written_as}\n")) == expected
    with pytest.raises(UsageError, match=rf"{name} is not a list of globs"):
        load_settings({}, {}, written(tmp_path, f"{name}: {{a: b}}\n"))


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n", "license:\n"])
def test_file_that_says_nothing(tmp_path: Path, text: str) -> None:
    assert load_settings({}, {}, written(tmp_path, text)) == Settings()


def test_empty_variable_is_not_set(tmp_path: Path) -> None:
    assert load_settings({}, {"SLOGPT_LICENSE": ""}, tmp_path) == Settings()


@pytest.mark.parametrize(("key", "nearest"), [("repo_idd", "repo-id"), ("licence", "license")])
def test_unknown_key_names_the_nearest(tmp_path: Path, key: str, nearest: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_settings({}, {}, written(tmp_path, f"{key}: x\n"))
    assert repr(key) in str(caught.value) and repr(nearest) in str(caught.value)
    assert ".slogpt-hf.yml" in str(caught.value)


def test_unknown_key_that_is_near_to_none_lists_all(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Known are repo-id, hub, dataset"):
        load_settings({}, {}, written(tmp_path, "zzzzzz: x\n"))


@pytest.mark.parametrize("text", ["[en, de]", "\n- en\n- de\n", "en,de", "'en, de'"])
def test_languages_as_a_list(tmp_path: Path, text: str) -> None:
    settings = load_settings({}, {}, written(tmp_path, f"language: {text}\n"))
    assert settings.languages == ("en", "de")


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("tag: 1.10", "tag is 1.1,"),
        ("tag: 7", "tag is 7,"),
        ("language: no", "language is False,"),
        ("language: [en, no]", "language is False,"),
        ("revision: 2024-01-02", "revision is a date,"),
        ("license: {mit: yes}", "license is a dict,"),
        ("tag: [a, b]", "tag is a list,"),
        ("max-shard-size: 1.5", "max-shard-size is 1.5,"),
        ("max-shard-size: true", "max-shard-size is True,"),
    ],
)
def test_text_that_yaml_reads_otherwise_must_be_quoted(
    tmp_path: Path, line: str, shown: str
) -> None:
    with pytest.raises(UsageError) as caught:
        load_settings({}, {}, written(tmp_path, f"{line}\n"))
    assert shown in caught.value.message and ".slogpt-hf.yml" in caught.value.message
    assert "quotes" in caught.value.hint


def test_size_may_be_a_plain_number(tmp_path: Path) -> None:
    folder = written(tmp_path, "max-shard-size: 1000000\n")
    assert load_settings({}, {}, folder).max_shard_bytes == 10**6


@pytest.mark.parametrize("text", ["[" * 20_000, "tag: " + "{a: " * 20_000, "tag: 2024-99-99"])
def test_file_that_yaml_cannot_take(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match=r"\.slogpt-hf\.yml"):
        load_settings({}, {}, written(tmp_path, text))


@pytest.mark.parametrize(
    ("variable", "nearest"),
    [
        ("SLOGPT_LICENCE", "SLOGPT_LICENSE"),
        ("SLOGPT_REPOID", "SLOGPT_REPO_ID"),
        ("SLOGPT_Tag", "SLOGPT_TAG"),
        ("SLOGPT_XYZZY_42", "Known are SLOGPT_REPO_ID"),
    ],
)
def test_misspelt_variable_names_the_nearest(tmp_path: Path, variable: str, nearest: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_settings({}, {variable: "x"}, tmp_path)
    assert variable in caught.value.message and nearest in caught.value.hint


@pytest.mark.parametrize("variable", ["_SLOGPT_HF_COMPLETE", "SLOGPTX", "MY_SLOGPT_TAG", "LICENSE"])
def test_variables_of_others_are_let_be(tmp_path: Path, variable: str) -> None:
    assert load_settings({}, {variable: "x"}, tmp_path) == Settings()


@pytest.mark.parametrize("text", ["- a\n- b\n", "just text", "a: [", "\x00", "a: b: c"])
def test_file_that_is_none(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match=r"\.slogpt-hf\.yml"):
        load_settings({}, {}, written(tmp_path, text))


def test_file_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / ".slogpt-hf.yml").write_bytes(b"license: \xff\xfe")
    with pytest.raises(UsageError, match=r"\.slogpt-hf\.yml"):
        load_settings({}, {}, tmp_path)


def test_yaml_does_not_run_code(tmp_path: Path) -> None:
    canary = tmp_path / "ran"
    with pytest.raises(UsageError):
        text = f"license: !!python/object/apply:os.system ['touch {canary}']\n"
        load_settings({}, {}, written(tmp_path, text))
    assert not canary.exists()


TRUE, FALSE = ("true", "True", "TRUE", "1", "yes", "Yes"), ("false", "False", "0", "no", "NO")


@pytest.mark.parametrize("text", [*TRUE, *FALSE])
def test_booleans(tmp_path: Path, text: str) -> None:
    expected = text in TRUE
    assert load_settings({}, {"SLOGPT_PRIVATE": text}, tmp_path).private is expected
    assert load_settings({}, {}, written(tmp_path, f"private: {text}\n")).private is expected


def test_flag_takes_back_what_the_file_says(tmp_path: Path) -> None:
    folder = written(tmp_path, "private: true\n")
    assert load_settings({"private": False}, {}, folder).private is False


@pytest.mark.parametrize("text", ["maybe", "2", "truthy"])
def test_boolean_that_is_none(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match=f"SLOGPT_PRIVATE.*{text}.*true or false"):
        load_settings({}, {"SLOGPT_PRIVATE": text}, tmp_path)


SIZES = {
    "1": 1,
    "1B": 1,
    "5GB": 5 * 10**9,
    "5 GB": 5 * 10**9,
    "5gb": 5 * 10**9,
    "500MB": 500 * 10**6,
    "1.5kB": 1500,
    "2GiB": 2 * 2**30,
    "64KiB": 2**16,
    "1T": 10**12,
}


@pytest.mark.parametrize("text", SIZES)
def test_size(text: str) -> None:
    assert size_in_bytes(text) == SIZES[text]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "GB",
        "0",
        "-1",
        "5XB",
        "5GBs",
        "five",
        "1e9",
        "0.1B",
        "٣",
        "9" * 300,
        "9" * 300 + "GB",
        "9" * 5000,
        "9" * 13 + "T",
    ],
)
def test_size_that_is_none(text: str) -> None:
    with pytest.raises(UsageError):
        print(size_in_bytes(text))  # noqa: T201
    with pytest.raises(UsageError):
        Settings(max_shard_size=text)


@given(st.integers(1, 10**15))
def test_plain_bytes_are_themselves(size: int) -> None:
    assert size_in_bytes(str(size)) == size
    assert size_in_bytes(f"{size}KiB") == size * 1024


GOOD_IDS = ("me/model", "m" * 90 + "/model", "Me-2/my.model_v1", "0/_", "a/b-c", "a.b/c")
BAD_IDS = (
    "",
    "model",
    "me/",
    "/model",
    "a/b/c",
    "me/my model",
    "me/m\n",
    "../x",
    "me/..",
    "me/.x",
    "me/x.",
    "me/x-",
    "-me/x",
    "me/x--y",
    "me/x..y",
    "me/x.git",
    "me/é",
    "me./x",
    "me.git/x",
    "me/" + "x" * 94,
    "https://example.org/me/x",
)


@pytest.mark.parametrize("repo_id", GOOD_IDS)
def test_repo_id(repo_id: str) -> None:
    assert Settings(repo_id=repo_id).repo_id == repo_id


@pytest.mark.parametrize("repo_id", BAD_IDS)
def test_repo_id_that_is_none(repo_id: str) -> None:
    with pytest.raises(UsageError, match="NAMESPACE/NAME"):
        Settings(repo_id=repo_id)


@pytest.mark.parametrize("kind", ["datasets", "models", "spaces"])
def test_type_of_repository_is_no_namespace(kind: str) -> None:
    with pytest.raises(UsageError, match="type of repository") as caught:
        Settings(repo_id=f"{kind}/mine")
    assert "Leave the type out" in caught.value.hint
    assert Settings(repo_id=f"{kind}x/mine").repo_id


@given(st.text("aB0-_./ é", max_size=12))
def test_a_repo_id_is_one_that_the_client_takes(text: str) -> None:
    from huggingface_hub.utils import validate_repo_id

    try:
        Settings(repo_id=text)
    except UsageError:
        return
    validate_repo_id(text)


def test_dtype_that_is_none() -> None:
    with pytest.raises(UsageError, match=r"float8.*float32, float16, bfloat16"):
        Settings(dtype="float8")


def test_languages() -> None:
    assert Settings(language=" en, de ,,").languages == ("en", "de")
    assert Settings().languages == ()


def test_settings_do_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        Settings().license = "mit"  # type: ignore[misc]


def test_fields_from_every_place(tmp_path: Path) -> None:
    given = {"n_head": 8, "norm_eps": 1e-6, "use_rope": True}
    assert load_settings({"set": SET}, {}, tmp_path).given == given
    for text in (" ".join(SET), ",".join(SET), "\n".join(SET)):
        assert load_settings({}, {"SLOGPT_SET": text}, tmp_path).given == given
    for text in ("set: {n_head: 8, norm_eps: 1.0e-6, use_rope: true}", f"set: '{' '.join(SET)}'"):
        assert load_settings({}, {}, written(tmp_path, text)).given == given


def test_fields_add_up_and_the_nearest_counts(tmp_path: Path) -> None:
    folder = written(tmp_path, "set: {n_head: 1, n_kv_head: 1, block_size: 1}\n")
    environment = {"SLOGPT_SET": "n_head=2 n_kv_head=2"}
    settings = load_settings({"set": ("n_head=3",)}, environment, folder)
    assert settings.given == {"n_head": 3, "n_kv_head": 2, "block_size": 1}


@pytest.mark.parametrize(
    "text",
    [
        "n_head",
        "=3",
        "n_head=",
        "n_head=x",
        "n_head=nan",
        "n_head=inf",
        "n head=3",
        "a-b=1",
        "n=" + "9" * 400,
        "n_head=None",
        "n_head=[1]",
        "n_head=4_8",
        "n_head=\N{FULLWIDTH DIGIT EIGHT}",
    ],
)
def test_fields_that_cannot_be_meant(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match="NAME=VALUE with a number, true or false") as caught:
        load_settings({"set": (text,)}, {}, tmp_path)
    assert len(caught.value.message) < 200


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("set: [n_head=8]", "set is a list, not names"),
        ("set: 8", "set is a int, not names"),
        ("set: {n_head: [8]}", "set: n_head is a list, not a number"),
        ("set: {n_head: {a: 1}}", "set: n_head is a dict, not a number"),
        ("set: {n_head: }", "set: n_head is nothing, not a number"),
        ("set: {n_head: 2024-01-01}", "set: n_head is a date, not a number"),
    ],
)
def test_fields_of_the_file_that_are_none(tmp_path: Path, line: str, problem: str) -> None:
    with pytest.raises(UsageError, match=rf"\.slogpt-hf\.yml: {problem}"):
        load_settings({}, {}, written(tmp_path, f"{line}\n"))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("a: &a 1\nb: *a\n", "references"),
        ("tag: 0x" + "f" * 5000 + "\n", "a number of 5002 digits"),
        ("language:\n" + "- en\n" * 100_000, "larger than"),
    ],
)
def test_file_that_would_cost_too_much(tmp_path: Path, content: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        load_settings({}, {}, written(tmp_path, content))


@pytest.mark.parametrize("text", ["n_head=2 n_head=4", "n_head=2,n_head=4", "n_head=2, n_head=4"])
def test_of_two_values_in_one_place_the_last_counts(tmp_path: Path, text: str) -> None:
    assert load_settings({}, {"SLOGPT_SET": text}, tmp_path).given == {"n_head": 4}
    assert load_settings({}, {}, written(tmp_path, f"set: {text}\n")).given == {"n_head": 4}
    flags = {"set": tuple(text.replace(",", " ").split())}
    assert load_settings(flags, {}, tmp_path).given == {"n_head": 4}


@pytest.mark.parametrize("text", ["n_head", "=3", "n_head=nan", "n_head=-inf", "n_head=4 x"])
def test_fields_of_the_environment_that_cannot_be_meant(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match="NAME=VALUE with a number, true or false"):
        load_settings({}, {"SLOGPT_SET": text}, tmp_path)
    with pytest.raises(UsageError, match="NAME=VALUE with a number, true or false"):
        load_settings({}, {}, written(tmp_path, f"set: {text!r}\n"))


@pytest.mark.parametrize("line", ["set: {n_head: x}", "set: {n_head: .nan}", "set: {n_head: }"])
def test_values_of_the_file_that_cannot_be_meant(tmp_path: Path, line: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_settings({}, {}, written(tmp_path, f"{line}\n"))
    assert "number" in caught.value.message and "n_head" in str(caught.value)


@pytest.mark.parametrize("number", ["1e-6", "1E-6", "'1e-6'", "1.0e-6", ".000001"])
def test_numbers_of_the_file_that_yaml_reads_as_text(tmp_path: Path, number: str) -> None:
    folder = written(tmp_path, f"set: {{norm_eps: {number}}}\n")
    assert load_settings({}, {}, folder).given == {"norm_eps": 1e-6}


@pytest.mark.parametrize(
    "text", ["a: [" + "x" * 5000, "? !!int " + "\x85" * 400 + "\n- b", "\x1b[2J"]
)
def test_what_yaml_says_is_quoted_briefly(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_settings({}, {}, written(tmp_path, text))
    problem = caught.value.message.removeprefix(f"{tmp_path}")
    assert "is not YAML" in problem and problem.isprintable() and len(problem) < 250
