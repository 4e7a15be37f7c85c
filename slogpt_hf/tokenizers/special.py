"""Special tokens that were asked for: which id plays which role, and which of them are new."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from slogpt_hf.datasets.vocabulary import Vocabulary
from slogpt_hf.settings import SPECIAL_ROLES

# What trainers call an entry that plays a role, in lower case.
ENTRIES: Mapping[str, tuple[str, ...]] = {
    "pad": ("<pad>", "<|pad|>", "[pad]"),
    "eos": ("<eos>", "<|eos|>", "[eos]", "</s>", "<|endoftext|>", "<|end_of_text|>"),
    "bos": ("<bos>", "<|bos|>", "[bos]", "<s>", "<|startoftext|>", "<|begin_of_text|>"),
    "unk": ("<unk>", "<|unk|>", "[unk]"),
}


@dataclass(frozen=True)
class SpecialTokens:
    """Ids with a role.

    Attributes:
        ids: role to id: of an entry of the vocabulary, one that the model has to spare, or one
            that is appended.
        rows: of the original's embedding; ids from here on are appended.
    """

    ids: Mapping[str, int] = field(default_factory=dict)
    rows: int = 0

    @property
    def appended(self) -> tuple[int, ...]:
        """The ids that the original does not have, which the artefact never generates."""
        return tuple(sorted(i for i in self.ids.values() if i >= self.rows))


NO_SPECIAL = SpecialTokens()


def special_tokens(vocabulary: Vocabulary, roles: Collection[str], rows: int) -> SpecialTokens:
    """The ids of special tokens.

    An entry that is called so plays its role. The other roles get, in the order of
    ``SPECIAL_ROLES``, ids behind the vocabulary: what the model has to spare, then new ones.

    Args:
        vocabulary: the characters.
        roles: some of ``SPECIAL_ROLES``.
        rows: of the model's embedding.
    """
    entries = {entry.lower(): i for i, entry in enumerate(vocabulary.characters) if len(entry) > 1}
    ids: dict[str, int] = {}
    free = vocabulary.size
    for role in SPECIAL_ROLES:
        if role not in roles:
            continue
        known = next((entries[name] for name in ENTRIES[role] if name in entries), None)
        ids[role] = free if known is None else known
        free += known is None
    return SpecialTokens(ids, rows)
