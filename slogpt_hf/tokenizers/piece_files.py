"""Scored pieces as the files that ``AutoTokenizer`` loads without sentencepiece.

``encode(text)`` is the original's ids with ``bos`` in front, as Llama's tokenizers on the Hub
have it (``add_bos_token``) and as llama2.c trains and prompts; ``add_special_tokens=False`` gives
the original's ids alone. A control piece that is written out in a text is encoded by its
characters, as the originals do (``split_special_tokens``; with the tokenizers library alone that
is ``encode_special_tokens = True``).

The original of a ``tokenizer.model`` is sentencepiece, that of a ``tokenizer.bin`` is run.c. They
differ: for run.c U+2581 in a text is an unknown character, not a space; and run.c never removes
extra spaces, which sentencepiece does for a vocabulary of llama2.c's own ``train_vocab`` (though
not for Llama's). A model was trained on what sentencepiece gave.

Ids that ``encode`` cannot give may decode differently: of a run of byte pieces that is not UTF-8,
every byte becomes U+FFFD, where sentencepiece keeps the characters that are whole and run.c
prints the bytes.
"""

from __future__ import annotations

import json
import re
from typing import Any

from slogpt_hf.tokenizers.piece_encoding import PieceCodec
from slogpt_hf.tokenizers.piece_merges import Pair, merges_of
from slogpt_hf.tokenizers.pieces import Pieces, PieceType

ROLES = ("bos", "eos", "pad")


def piece_tokenizer_files(pieces: Pieces, model_max_length: int | None) -> dict[str, bytes]:
    """``tokenizer.json`` and ``tokenizer_config.json``: name to content.

    Args:
        pieces: the original's.
        model_max_length: the model's context length, in tokens.

    Raises:
        CheckpointError: no ``tokenizer.json`` encodes as these pieces do.
    """
    codec = PieceCodec(pieces)
    merges = merges_of(codec)
    names = piece_names(pieces, merges)
    return {
        "tokenizer.json": _json(_backend(pieces, names, merges)),
        "tokenizer_config.json": _json(_config(pieces, names, model_max_length)),
    }


def piece_names(pieces: Pieces, merges: list[Pair]) -> list[str]:
    """The token of each id: its piece, but ``<s>`` for the ``\\n<s>\\n`` that llama2.c exports."""
    names, merged = list(pieces.texts), {left + right for left, right in merges}
    for i in (pieces.bos, pieces.eos):
        if i is None:
            continue
        plain = names[i].strip("\n")
        if plain and plain not in names and names[i] not in merged:
            names[i] = plain
    return names


def _special_ids(pieces: Pieces) -> list[int]:
    """Ids that stand for no text. Only with bytes to fall back on is unknown one of them."""
    special = [i for i, kind in enumerate(pieces.types) if kind == PieceType.CONTROL]
    return sorted([*special, pieces.unk] if pieces.byte_fallback else special)


def _backend(pieces: Pieces, names: list[str], merges: list[Pair]) -> dict[str, Any]:
    """The ``tokenizer.json`` of the tokenizers library, version 1.0."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": i,
                "content": names[i],
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for i in _special_ids(pieces)
        ],
        "normalizer": _sequence("normalizers", _normalizers(pieces)),
        "pre_tokenizer": None,
        "post_processor": None if pieces.bos is None else _with_bos(names[pieces.bos], pieces.bos),
        "decoder": _sequence("decoders", _decoders(pieces, names[pieces.unk])),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": names[pieces.unk],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": pieces.byte_fallback,
            "ignore_merges": False,
            "vocab": {name: i for i, name in enumerate(names)},
            "merges": [list(pair) for pair in merges],
        },
    }


def _normalizers(pieces: Pieces) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = []
    if pieces.remove_extra_whitespaces:
        steps += [_replace("Regex", r"\A +", ""), _replace("Regex", " {2,}", " ")]
    if pieces.add_dummy_prefix:
        steps.append({"type": "Prepend", "prepend": pieces.space})
    if pieces.space != " ":
        steps.append(_replace("String", " ", pieces.space))
    if pieces.remove_extra_whitespaces:
        steps.append(_replace("Regex", pieces.space + r"+\z", ""))
    return steps


def _decoders(pieces: Pieces, unknown: str) -> list[dict[str, Any]]:
    # The unknown piece's surface may begin with a space that must stay, so it comes after Strip.
    # Until then NUL stands for it, which no piece holds; with bytes to fall back on, NUL may be
    # one of them, but then no text gets the unknown piece.
    early, late = (pieces.unk_surface, None) if pieces.byte_fallback else ("\0", "\0")
    steps: list[dict[str, Any]] = []
    if pieces.space != " ":
        steps.append(_replace("String", pieces.space, " "))
    if early != unknown:
        steps.append(_replace("Regex", rf"\A{re.escape(unknown)}\z", early))
    if pieces.byte_fallback:
        steps.append({"type": "ByteFallback"})
    steps.append({"type": "Fuse"})
    if pieces.add_dummy_prefix or pieces.remove_extra_whitespaces:
        # sentencepiece that removes extra spaces strips one of every piece until there is text.
        most = 1_000_000 if pieces.remove_extra_whitespaces else 1
        steps.append({"type": "Strip", "content": " ", "start": most, "stop": 0})
    if late is not None:
        steps.append(_replace("String", late, pieces.unk_surface))
    return steps


def _sequence(name: str, steps: list[dict[str, Any]]) -> dict[str, Any] | None:
    return {"type": "Sequence", name: steps} if steps else None


def _replace(kind: str, pattern: str, content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def _with_bos(name: str, i: int) -> dict[str, Any]:
    def part(kind: str, value: str, type_id: int) -> dict[str, Any]:
        return {kind: {"id": value, "type_id": type_id}}

    first = [part("SpecialToken", name, 0), part("Sequence", "A", 0)]
    second = [part("SpecialToken", name, 1), part("Sequence", "B", 1)]
    return {
        "type": "TemplateProcessing",
        "single": first,
        "pair": first + second,
        "special_tokens": {name: {"id": name, "ids": [i], "tokens": [name]}},
    }


def _config(pieces: Pieces, names: list[str], model_max_length: int | None) -> dict[str, Any]:
    roles = {f"{role}_token": getattr(pieces, role) for role in ROLES}
    if pieces.byte_fallback:
        roles["unk_token"] = pieces.unk
    named = {role: names[i] for role, i in roles.items() if i is not None}
    others = [names[i] for i in _special_ids(pieces) if names[i] not in named.values()]
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **({} if model_max_length is None else {"model_max_length": model_max_length}),
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,
        "add_bos_token": pieces.bos is not None,
        "add_eos_token": False,
        **named,
        # Its name in transformers 4; newer versions read both, 4 fails on a list by the new name.
        **({"additional_special_tokens": others} if others else {}),
    }


def _json(value: object) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=2) + "\n").encode()
