"""Special tokens: which id plays which role, which of them are new, and what stands in for others.

A vocabulary of characters often has no entry that means an end or a pad, and the tools of
transformers cannot pad, fine-tune or measure without. What stands in there is named by the
tokenizer alone, and stays a character like any other: docs/conversion.md tells why.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from slogpt_hf.datasets.vocabulary import Vocabulary
from slogpt_hf.settings import SPECIAL_ROLES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# What trainers call an entry that plays a role, in lower case.
ENTRIES: Mapping[str, tuple[str, ...]] = {
    "pad": ("<pad>", "<|pad|>", "[pad]"),
    "eos": ("<eos>", "<|eos|>", "[eos]", "</s>", "<|endoftext|>", "<|end_of_text|>"),
    "bos": ("<bos>", "<|bos|>", "[bos]", "<s>", "<|startoftext|>", "<|begin_of_text|>"),
    "unk": ("<unk>", "<|unk|>", "[unk]"),
}


CONFIG = "tokenizer_config.json"
# The role that stands in for one that nothing plays: text is least often encoded to the first.
STAND_INS = ("pad", "unk", "eos", "bos")
# Where no entry plays any role: characters that texts have seldom, the rarest first.
SELDOM = "`^~\\|@#{}%$&+<>=_*/[]XZQzqjx"


@dataclass(frozen=True)
class SpecialTokens:
    """Ids with a role.

    Attributes:
        ids: role to id: of an entry of the vocabulary, one that the model has to spare, or one
            that is appended.
        rows: of the original's embedding; ids from here on are appended.
        asked: the roles that were asked for; entries that are called so play theirs anyway.
    """

    ids: Mapping[str, int] = field(default_factory=dict)
    rows: int = 0
    asked: tuple[str, ...] = ()

    @property
    def appended(self) -> tuple[int, ...]:
        """The ids that the original does not have, which the artefact never generates."""
        return tuple(sorted(i for i in self.ids.values() if i >= self.rows))

    @property
    def asked_ids(self) -> dict[str, int]:
        """Of the ids those that were asked for."""
        return {role: i for role, i in self.ids.items() if role in self.asked}


NO_SPECIAL = SpecialTokens()


def special_tokens(
    vocabulary: Vocabulary, roles: Collection[str], rows: int, unknown: str = "error"
) -> SpecialTokens:
    """The ids of special tokens.

    An entry that is called so plays its role, asked for or not. The other roles that are asked
    for get, in the order of ``SPECIAL_ROLES``, ids behind the vocabulary: what the model has to
    spare, then new ones. A spare id that is left becomes the pad: no text is encoded to it.

    Args:
        vocabulary: the characters.
        roles: some of ``SPECIAL_ROLES``.
        rows: of the model's embedding.
        unknown: what an unknown character becomes; "error" leaves it to an entry that plays unk.
    """
    entries = {entry.lower(): i for i, entry in enumerate(vocabulary.characters) if len(entry) > 1}
    ids: dict[str, int] = {}
    free = vocabulary.size
    for role in SPECIAL_ROLES:
        known = next((entries[name] for name in ENTRIES[role] if name in entries), None)
        if role not in roles and (known is None or (role == "unk" and unknown != "error")):
            continue
        ids[role] = free if known is None else known
        free += known is None
    if "pad" not in ids and free < rows and "<|pad|>" not in vocabulary.ids:
        ids = {"pad": free, **ids}
    return SpecialTokens(ids, rows, tuple(role for role in SPECIAL_ROLES if role in roles))


def seldom(vocabulary: Vocabulary) -> str | None:
    """The character that stands in for roles where no entry plays any; None without a character.

    One that texts have seldom: the first of ``SELDOM`` that the vocabulary has, or its last.
    """
    single = [entry for entry in vocabulary.characters if len(entry) == 1]
    return next((each for each in SELDOM if each in vocabulary.ids), single[-1] if single else None)


def with_pad(files: Mapping[str, bytes]) -> Mapping[str, bytes]:
    """The files of an existing tokenizer, whose own token stands in for a pad that it lacks.

    Args:
        files: of the tokenizer, name to content.
    """
    if (data := files.get(CONFIG)) is None:
        return files
    config = json.loads(data)
    names = (config.get(f"{role}_token") for role in STAND_INS)
    if config.get("pad_token") or (name := next(filter(None, names), None)) is None:
        return files
    text = json.dumps(config | {"pad_token": name}, ensure_ascii=False, indent=2) + "\n"
    return {**files, CONFIG: text.encode()}


def special_of(tokenizer: PreTrainedTokenizerBase, rows: int) -> SpecialTokens:
    """The roles that an existing tokenizer's own special tokens play, as ids of the model.

    Args:
        tokenizer: the one that the artefact gets.
        rows: of the model's embedding.
    """
    names = {role: getattr(tokenizer, f"{role}_token") for role in SPECIAL_ROLES}
    ids = {role: getattr(tokenizer, f"{role}_token_id") for role, name in names.items() if name}
    return SpecialTokens({role: i for role, i in ids.items() if i is not None and i < rows}, rows)
