"""A character vocabulary as the files that ``AutoTokenizer`` loads without remote code.

The backend is a BPE model without merges: it looks up one code point after the other, normalises
nothing, splits nothing, and never produces an entry of more than one code point. Its ``Fuse``
decoder joins entries without spaces.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from slogpt_hf.datasets.vocabulary import Vocabulary, describe
from slogpt_hf.errors import UsageError
from slogpt_hf.files import write_files
from slogpt_hf.settings import SPECIAL_ROLES
from slogpt_hf.tokenizers.special import STAND_INS, seldom

# The backend refuses a character by saying that its unk_token is not in the vocabulary:
# "Unk token `…` not found in the vocabulary". So the name of that token is the message.
_NO_UNKNOWN = "a character of the text that the model was not trained on"


def write_character_tokenizer(
    vocabulary: Vocabulary,
    folder: Path,
    *,
    model_max_length: int,
    unknown: str = "error",
    special_tokens: Mapping[str, int] | None = None,
) -> None:
    """Write ``tokenizer.json``, ``tokenizer_config.json`` and ``vocab.json`` into a folder.

    ``encode(text)`` is ``[stoi[c] for c in text]`` and ``decode`` gives the text back, for every
    text over the vocabulary; what looks like a special token is encoded by its characters.
    The same arguments give the same bytes.

    Args:
        vocabulary: the entries by id.
        folder: created if missing.
        model_max_length: the model's context length, in tokens.
        unknown: "error", and encoding a character that the vocabulary lacks raises; or an entry
            of the vocabulary that stands for such characters.
        special_tokens: role ("pad", "eos", "bos", "unk") to the id that plays it: an id of the
            vocabulary, or one from ``vocabulary.size`` on that the model has to spare. None by
            default: no id has a meaning but its character. ``skip_special_tokens`` drops these
            ids; "unk" also stands for unknown characters.

    Raises:
        UsageError: ``unknown`` or ``special_tokens`` do not fit the vocabulary, or the folder
            cannot be written.
    """
    files = character_files(
        vocabulary,
        model_max_length=model_max_length,
        unknown=unknown,
        special_tokens=special_tokens,
    )
    write_files(folder, files)


def character_files(
    vocabulary: Vocabulary,
    *,
    model_max_length: int,
    unknown: str = "error",
    special_tokens: Mapping[str, int] | None = None,
    stand_ins: bool = True,
) -> dict[str, bytes]:
    """The files that ``write_character_tokenizer`` writes, name to content. Raises as it does.

    Without ``stand_ins`` a role that nothing plays has no token, as in earlier versions.
    ``structure.py`` holds artefacts of every version against them: what changes here has to be
    known there.
    """
    names = _special_names(vocabulary, special_tokens or {})
    ids = vocabulary.ids | {name: (special_tokens or {})[role] for role, name in names.items()}
    roles = _roles(vocabulary, unknown, names) if stand_ins else names
    added = {name: name in names.values() for name in roles.values()}
    return {
        "tokenizer.json": _json(_backend(ids, _unknown_entry(vocabulary, unknown, names), added)),
        "tokenizer_config.json": _json(_config(model_max_length, roles) | _as_listed(added)),
        "vocab.json": _json(ids),
    }


def require_entry(vocabulary: Vocabulary, unknown: str) -> None:
    """Raise unless ``unknown`` is "error" or an entry of the vocabulary.

    Raises:
        UsageError: it is neither.
    """
    if unknown != "error" and unknown not in vocabulary.ids:
        raise UsageError(
            f"unknown characters cannot become {describe(unknown)}:"
            f" {vocabulary.source} does not have it.",
            hint="Give 'error' or one character of the vocabulary.",
        )


def _roles(vocabulary: Vocabulary, unknown: str, names: Mapping[str, str]) -> dict[str, str]:
    """The token of every role, also of those that a character stands in for."""
    said = dict(names) if unknown == "error" else {"unk": unknown, **names}
    other = next((names[role] for role in STAND_INS if role in names), seldom(vocabulary))
    return {role: other for role in SPECIAL_ROLES if other is not None} | said


def _as_listed(added: Mapping[str, bool]) -> dict[str, object]:
    """What keeps transformers from making special what ``tokenizer.json`` adds as not special."""
    return {} if all(added.values()) else {"added_tokens_decoder": {}}


def _backend(ids: Mapping[str, int], unknown: str, added: Mapping[str, bool]) -> dict[str, object]:
    """The ``tokenizer.json`` of the tokenizers library, version 1.0.

    A character that stands in for a role is added as well, but not as special: left out,
    transformers would add it as such, and drop it from what is decoded without special tokens.
    """
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": ids[name],
                "content": name,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": special,
            }
            for name, special in sorted(added.items(), key=lambda item: ids[item[0]])
        ],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Fuse"},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": unknown,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": dict(ids),
            "merges": [],
        },
    }


def _config(model_max_length: int, roles: Mapping[str, str]) -> dict[str, object]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": model_max_length,
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,
        **{f"{role}_token": roles[role] for role in SPECIAL_ROLES if role in roles},
    }


def _special_names(vocabulary: Vocabulary, special_tokens: Mapping[str, int]) -> dict[str, str]:
    """The token text of each role: the vocabulary's entry, or ``<|role|>`` for a spare id."""
    names: dict[str, str] = {}
    spare: dict[int, str] = {}
    for role, i in special_tokens.items():
        if role not in SPECIAL_ROLES:
            raise UsageError(
                f"there is no special token {describe(role)}.",
                hint=f"The roles are {', '.join(SPECIAL_ROLES)}.",
            )
        if i < 0:
            raise UsageError(f"the special token '{role}' has the id {i}; ids begin at 0.")
        if i < vocabulary.size:
            names[role] = vocabulary.characters[i]
            continue
        names[role] = spare.setdefault(i, f"<|{role}|>")
        if names[role] in vocabulary.ids:
            raise UsageError(
                f"the special token '{role}' would be called {names[role]}, which"
                f" {vocabulary.source} already has as id {vocabulary.ids[names[role]]}.",
                hint="Give that id to the role.",
            )
    return names


def _unknown_entry(vocabulary: Vocabulary, unknown: str, names: Mapping[str, str]) -> str:
    if "unk" in names:
        if unknown != "error":
            raise UsageError(
                f"unknown characters cannot become both {describe(unknown)}"
                " and the special token 'unk'.",
                hint="Choose one.",
            )
        return names["unk"]
    if unknown != "error":
        require_entry(vocabulary, unknown)
        return unknown
    entry = _NO_UNKNOWN
    while entry in vocabulary.ids:
        entry += " "
    return entry


def _json(value: object) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=2) + "\n").encode()
