"""SimpleCharTokenizer computes what AutoTokenizer does with the same files, and needs nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

import slogpt_hf
from slogpt_hf import SimpleCharTokenizer
from slogpt_hf.datasets import Vocabulary
from slogpt_hf.errors import CheckpointError, UsageError
from slogpt_hf.tokenizers import write_character_tokenizer

FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json")
CHARACTERS = st.characters(exclude_categories=["Cs"])
LONGER = st.sampled_from(["<pad>", "<s>", "</s>", "<unk>", "ab", "##c"])


@st.composite
def made(draw: st.DrawFn) -> dict[str, Any]:
    """Arguments of a tokenizer."""
    entries = draw(st.lists(CHARACTERS, min_size=1, max_size=20, unique=True))
    longer = draw(st.lists(LONGER, max_size=3, unique=True))
    entries = draw(st.permutations(entries + longer))
    roles = draw(st.lists(st.sampled_from(["pad", "eos", "bos", "unk"]), max_size=4, unique=True))
    free, special = len(entries), {}
    for role in roles:
        if draw(st.booleans()):
            special[role] = draw(st.integers(0, len(entries) - 1))
        else:
            special[role], free = free, free + 1
    single = [entry for entry in entries if len(entry) == 1]
    unknown = "error" if "unk" in special else draw(st.sampled_from(["error", *single]))
    return {"entries": entries, "unknown": unknown, "special": special}


def saved(folder: Path, entries: list[str], unknown: str, special: Mapping[str, int]) -> Path:
    write_character_tokenizer(
        Vocabulary(tuple(entries), "test"),
        folder,
        model_max_length=64,
        unknown=unknown,
        special_tokens=special,
    )
    return folder


def answer(call: Any) -> Any:
    """What a call gives; None where it raises."""
    try:
        return call()
    except Exception:
        return None


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(arguments=made(), data=st.data())
def test_it_is_the_real_one(arguments: dict[str, Any], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = saved(Path(name), **arguments)
        ours, real = (
            SimpleCharTokenizer.from_pretrained(folder),
            AutoTokenizer.from_pretrained(name),
        )
        assert ours.get_vocab() == real.get_vocab()
        assert (ours.vocab_size, len(ours)) == (real.vocab_size, len(real))
        assert ours.model_max_length == real.model_max_length == 64
        assert ours.all_special_ids == sorted(set(real.all_special_ids))
        for role in ("pad", "eos", "bos", "unk"):
            token, i = (getattr(real, f"{role}_token{end}") for end in ("", "_id"))
            assert token is None or ours.convert_tokens_to_ids(token) == i
        text = data.draw(
            st.lists(st.one_of(st.sampled_from([*ours.get_vocab()]), CHARACTERS), max_size=24).map(
                "".join
            )
        )
        assert answer(lambda: ours.encode(text)) == answer(lambda: real.encode(text))
        assert answer(lambda: ours.tokenize(text)) == answer(lambda: real.tokenize(text))
        ids = data.draw(st.lists(st.integers(0, ours.vocab_size + 2), max_size=24))
        for skip in (False, True):
            assert ours.decode(ids, skip_special_tokens=skip) == real.decode(
                ids, skip_special_tokens=skip
            )
        tokens = data.draw(st.lists(st.sampled_from([*ours.get_vocab(), "no entry"]), max_size=8))
        assert ours.convert_tokens_to_ids(tokens) == real.convert_tokens_to_ids(tokens)
        known = [i for i in ids if i < ours.vocab_size]
        assert ours.convert_ids_to_tokens(known) == real.convert_ids_to_tokens(known)
        ours.save_pretrained(folder / "again")
        for file in FILES:
            assert (folder / "again" / file).read_bytes() == (folder / file).read_bytes()


def test_roles_with_ids_behind_the_entries_are_entries(tmp_path: Path) -> None:
    made = SimpleCharTokenizer("ab", special_tokens={"pad": 2, "unk": 3})
    made.save_pretrained(tmp_path)
    real = AutoTokenizer.from_pretrained(tmp_path)
    assert len(made) == len(real) == 4 and made.get_vocab() == real.get_vocab()
    assert made.tokenize("az") == real.tokenize("az") == ["a", "<|unk|>"]
    assert made.decode([0, 2]) == real.decode([0, 2]) == "a<|pad|>"
    assert made.convert_tokens_to_ids("<|pad|>") == 2


def test_a_lone_surrogate_is_refused_as_by_the_real_one(tmp_path: Path) -> None:
    made = SimpleCharTokenizer("ab", unknown="a")
    made.save_pretrained(tmp_path)
    with pytest.raises(TypeError):
        AutoTokenizer.from_pretrained(tmp_path).encode("\ud800")
    with pytest.raises(UsageError):
        made.encode("\ud800")


def test_what_transformers_saves_again_is_read(tmp_path: Path) -> None:
    saved(tmp_path, ["a", "b", "<pad>"], "error", {"pad": 2, "unk": 3})
    AutoTokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path / "again")
    again = SimpleCharTokenizer.from_pretrained(tmp_path / "again")
    assert again.encode("ab?") == [0, 1, 3]
    assert again.special_tokens == {"pad": 2, "unk": 3, "eos": 2, "bos": 2}  # the pad stands in


def test_a_vocab_json_alone(tmp_path: Path) -> None:
    saved(tmp_path / "whole", list("hélo🙂"), "error", {})
    (tmp_path / "vocab.json").write_bytes((tmp_path / "whole" / "vocab.json").read_bytes())
    for path in (tmp_path, tmp_path / "vocab.json"):
        assert SimpleCharTokenizer.from_pretrained(path).encode("🙂h") == [4, 0]


def test_an_unknown_character_is_named() -> None:
    with pytest.raises(UsageError, match=r"'\\u20ac', character 2 of the text"):
        SimpleCharTokenizer("abc").encode("ab€")
    assert SimpleCharTokenizer("abc", unknown="c").encode("ab€") == [0, 1, 2]


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "Lowercase"}},
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"decoder": {"type": "ByteLevel"}},
        {"model": {"merges": [["a", "b"]]}},
        {"model": {"type": "WordPiece"}},
        {"model": {"vocab": {"a": 0, "b": 2}}},
        {"model": {"vocab": {"a": 0, "b": True}}},
        {"model": []},
    ],
    ids=str,
)
def test_what_computes_something_else_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    path = saved(tmp_path, ["a", "b", "ab"], "error", {}) / "tokenizer.json"
    content = json.loads(path.read_text())
    for key, value in change.items():
        content[key] = content[key] | value if isinstance(value, dict) and content[key] else value
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError):
        SimpleCharTokenizer.from_pretrained(tmp_path)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        SimpleCharTokenizer.from_pretrained(tmp_path)
    (tmp_path / "vocab.json").write_text("[1")
    with pytest.raises(CheckpointError, match="cannot be read"):
        SimpleCharTokenizer.from_pretrained(tmp_path)


def test_the_standard_library_is_enough(tmp_path: Path) -> None:
    saved(tmp_path, ["\n", "a", "b"], "error", {})
    code = (
        "import sys; sys.path = [p for p in sys.path if 'site-packages' not in p]\n"
        f"sys.path.append({str(Path(slogpt_hf.__file__).parents[1])!r})\n"
        "from slogpt_hf import SimpleCharTokenizer as T\n"
        f"t = T.from_pretrained({str(tmp_path)!r})\n"
        f"t.save_pretrained({str(tmp_path / 'again')!r})\n"
        "print(t.encode('ba\\n'), t.decode([2, 1]), t.tokenize('ab'), t.convert_tokens_to_ids('b'))"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True)
    assert done.stdout == "[2, 1, 0] ba ['a', 'b'] 2\n", done.stderr
