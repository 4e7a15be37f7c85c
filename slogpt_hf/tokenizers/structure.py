"""What the files of a character tokenizer say, field by field, against what its vocabulary implies.

Comparing texts cannot see a rule for a text that no one compared: a normaliser that rewrites one
rare word, an unknown token, a template. The files of a character vocabulary are known to the last
field, since ``characters.py`` writes them, the same in every version of this package; so every
other value is a difference, and so is every further file that ``AutoTokenizer`` reads.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slogpt_hf.datasets.vocabulary import Vocabulary, describe
from slogpt_hf.errors import UsageError
from slogpt_hf.tokenizers.characters import character_files
from slogpt_hf.tokenizers.special import ENTRIES

BACKEND, CONFIG, VOCAB = "tokenizer.json", "tokenizer_config.json", "vocab.json"
MODEL_CONFIG, RECORD = "config.json", "release.json"
# The two names that transformers has had for the class that only loads tokenizer.json.
CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")
# How a machine loaded it, which transformers saves with it; and what only compares where expected.
NOT_COMPARED = frozenset(
    (
        "backend",
        "is_local",
        "local_files_only",
        "name_or_path",
        "_commit_hash",
        "tokenizer_file",
        "model_max_length",
    )
)
# What transformers saves where it read none: ids as they are.
_SEQUENCE_A, _SEQUENCE_B = ({"Sequence": {"id": n, "type_id": i}} for i, n in enumerate("AB"))
SAME_AS_NONE: Mapping[str, Any] = {
    "post_processor": {
        "type": "TemplateProcessing",
        "single": [_SEQUENCE_A],
        "pair": [_SEQUENCE_A, _SEQUENCE_B],
        "special_tokens": {},
    }
}
# Files beside ours that transformers reads, now or in an earlier version; an empty table is none.
TABLES_BESIDE = ("added_tokens.json", "special_tokens_map.json")
READ_BESIDE = (
    "tokenizer.model",
    "tokenizer.*.json",
    "tokeniz*.py",
    "sentencepiece*.model",
    "spiece.model",
    "vocab.txt",
    "vocab.bpe",
    "merges.txt",
    "chat_template*",
    "additional_chat_templates/*",
)


@dataclass(frozen=True)
class _Absent:
    """In place of a value that a file does not have."""


ABSENT = _Absent()


def structure_difference(
    folder: Path,
    vocabulary: Vocabulary,
    unknown: str,
    model_max_length: int | None = None,
    special_tokens: Mapping[str, int] | None = None,
) -> str | None:
    """The first field or file by which a folder's tokenizer is not the vocabulary's own.

    Args:
        folder: holds the tokenizer files.
        vocabulary: the original's.
        unknown: what an unknown character does: "error", or the entry that it becomes.
        model_max_length: the model's context length, in tokens; None where it is not compared.
        special_tokens: role to the id that plays it.
    """
    first = None
    for stand_ins in (True, False):  # earlier versions had none
        files = character_files(
            vocabulary,
            model_max_length=model_max_length or 0,
            unknown=unknown,
            special_tokens=special_tokens,
            stand_ins=stand_ins,
        )
        expected = {name: json.loads(data) for name, data in files.items()}
        if model_max_length is None:
            del expected[CONFIG]["model_max_length"]
        if (difference := next(_differences(folder, expected), None)) is None:
            return None
        first = first or difference
    return first


def recorded_unknown(folder: Path, vocabulary: Vocabulary) -> str:
    """What the record of an artefact says that an unknown character does; "error" without one."""
    tokenizer = _section(read_optional(folder / RECORD), "tokenizer")
    found = tokenizer.get("unknown", "error")
    return found if isinstance(found, str) and found in vocabulary.ids else "error"


def recorded_special(folder: Path, vocabulary: Vocabulary) -> Mapping[str, int]:
    """Role to id of the special tokens that the record of an artefact has; none without one.

    The record is the artefact's own word, so it is believed only where it says what
    ``special_tokens`` gives: no character of the vocabulary becomes the end of texts by it.
    """
    found = _section(_section(read_optional(folder / RECORD), "tokenizer"), "special_tokens")
    entries = [entry.lower() for entry in vocabulary.characters]
    for role, i in found.items():
        if type(i) is not int or i < 0:
            return {}
        if i < vocabulary.size and entries[i] not in ENTRIES.get(role, ()):
            return {}
    try:
        character_files(vocabulary, model_max_length=0, special_tokens=found)
    except UsageError:
        return {}
    return found


def _differences(folder: Path, expected: Mapping[str, Any]) -> Iterator[str]:
    for name in (BACKEND, CONFIG):
        found = _read(folder / name)
        if not isinstance(found, dict):
            what = (
                "is missing" if found is ABSENT else "is not a JSON object, or says something twice"
            )
            yield f"{name}: {what}"
            return
        yield from _fields(name, found, expected[name])
    if (vocab := _read(folder / VOCAB)) is not ABSENT and vocab != expected[VOCAB]:
        yield f"{VOCAB}: is not the original's vocabulary"
    model = read_optional(folder / MODEL_CONFIG)
    yield from _class(MODEL_CONFIG, model.get("tokenizer_class"))
    if "AutoTokenizer" in _section(model, "auto_map"):
        yield _said(MODEL_CONFIG, "auto_map.AutoTokenizer", model["auto_map"]["AutoTokenizer"])
    for name in TABLES_BESIDE:
        if _read(folder / name) not in (ABSENT, {}):
            yield f"{name}: the original implies no such file, but transformers would read it"
    for pattern in READ_BESIDE:
        for path in sorted(folder.glob(pattern)):
            name = path.relative_to(folder).as_posix()
            yield f"{name}: the original implies no such file, but transformers would read it"


def _fields(file: str, found: Mapping[str, Any], expected: Mapping[str, Any]) -> Iterator[str]:
    for key, value in found.items():
        if key in expected or (file == CONFIG and key in NOT_COMPARED):
            continue
        # A setting that is off is as good as none.
        if not (value is None or value is False or value in ({}, [])):
            yield _said(file, key, value)
    for key, value in expected.items():
        got = found.get(key, ABSENT)
        if isinstance(value, dict) and isinstance(got, dict) and key == "model":
            yield from _fields_of_model(file, got, value)
        elif file == CONFIG and key == "tokenizer_class":
            yield from _class(file, got)
        elif not _same(got, value) and got != SAME_AS_NONE.get(key, ABSENT):
            yield _said(file, key, got, value)


def _fields_of_model(
    file: str, found: Mapping[str, Any], expected: Mapping[str, Any]
) -> Iterator[str]:
    for key in (*expected, *(key for key in found if key not in expected)):
        got, value = found.get(key, ABSENT), expected.get(key, ABSENT)
        if key != "vocab" and not _same(got, value):
            yield _said(file, f"model.{key}", got, value)
    vocab, entries = found.get("vocab"), expected["vocab"]
    if not isinstance(vocab, dict):
        yield _said(file, "model.vocab", vocab)
        return
    for entry in (*entries, *(entry for entry in vocab if entry not in entries)):
        got, value = vocab.get(entry, ABSENT), entries.get(entry, ABSENT)
        if not _same(got, value):
            yield _said(file, f"model.vocab, the id of {describe(entry)},", got, value)


def _class(file: str, found: Any) -> Iterator[str]:
    allowed = CLASSES if file == CONFIG else (*CLASSES, None)
    if found not in allowed:
        yield _said(file, "tokenizer_class", found, CLASSES[0])


def _same(found: Any, expected: Any) -> bool:
    """Whether two values are one in JSON, where 1 is not true; None stands for an absent one."""
    if found is ABSENT or expected is ABSENT:
        return found in (ABSENT, None) and expected in (ABSENT, None)
    return json.dumps(found, sort_keys=True) == json.dumps(expected, sort_keys=True)


def _said(file: str, field: str, found: Any, expected: Any = None) -> str:
    return f"{file}: {field} is {_shown(found)}, the original implies {_shown(expected)}"


def _shown(value: Any) -> str:
    if value is None or value is ABSENT:
        return "none"
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 80 else f"{text[:80]}..."


def _section(holder: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    section = holder.get(key)
    return section if isinstance(section, dict) else {}


def read_optional(path: Path) -> Mapping[str, Any]:
    """The content of a JSON file; nothing of one that is missing or no JSON object."""
    found = _read(path)
    return found if isinstance(found, dict) else {}


def _read(path: Path) -> Any:
    """The value of a JSON file; ABSENT without one, None for what is no JSON or is said twice."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) != len(pairs):
            raise ValueError("a key stands there twice")
        return value

    try:
        return json.loads(path.read_text("utf-8"), object_pairs_hook=once)
    except FileNotFoundError:
        return ABSENT
    except (OSError, ValueError, RecursionError):
        return None
