"""The vocabulary of a character model: which text each id stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from dataclasses import dataclass
from functools import cached_property

from slogpt_hf.errors import CheckpointError

MOST_ENTRIES = 2**18  # Unicode has 160,000 characters
_REWRITE = "Write the vocabulary again with the script that prepared the dataset."


def describe(value: object) -> str:
    """A short, safe name of any value for a message; never the repr of a container."""
    if isinstance(value, str):
        return f"{value[:40]!a}{'…' if len(value) > 40 else ''}"
    if value is None or isinstance(value, (bool, float)):
        return repr(value)
    if isinstance(value, int):
        return str(value) if value.bit_length() <= 64 else "an integer of more than 64 bits"
    return f"a {type(value).__name__}"


@dataclass(frozen=True)
class Vocabulary:
    """The entries of a vocabulary, indexed by id.

    An entry of one code point is a character that can be encoded. A longer entry (``<pad>``)
    can only be decoded: text is encoded one code point at a time.

    Attributes:
        characters: the entry of id i at index i; non-empty, unique, valid Unicode.
        source: where the vocabulary came from, for messages and the card.

    Raises:
        CheckpointError: an entry is empty, there twice, or holds a lone surrogate.
    """

    characters: tuple[str, ...]
    source: str

    def __post_init__(self) -> None:
        if not self.characters:
            raise CheckpointError(f"{self.source}: the vocabulary is empty.", hint=_REWRITE)
        _check_entries(self.characters, self.source)

    @property
    def size(self) -> int:
        """Number of ids."""
        return len(self.characters)

    @cached_property
    def ids(self) -> dict[str, int]:
        """The id of every entry: the original's ``stoi``."""
        return {character: i for i, character in enumerate(self.characters)}

    @classmethod
    def from_tables(cls, itos: object, stoi: object, vocab_size: object, source: str) -> Vocabulary:
        """Check the tables of a ``meta.pkl`` or a checkpoint and join them into one.

        Args:
            itos: ``dict[int, str]`` or a list: id to entry. None: taken from ``stoi``.
            stoi: ``dict[str, int]``, the inverse of ``itos``. None: not recorded.
            vocab_size: the number of ids. None: not recorded.
            source: where the tables came from; begins every message.

        Raises:
            CheckpointError: the tables are not what they should be or contradict each other.
        """
        for table in (itos, stoi):
            if isinstance(table, Sized) and len(table) > MOST_ENTRIES:
                raise CheckpointError(
                    f"{source}: a vocabulary of {len(table)} entries; at most {MOST_ENTRIES} are "
                    "read.",
                    hint=_REWRITE,
                )
        if itos is None:
            characters = _from_stoi(stoi, source)
        else:
            characters = _from_itos(itos, source)
            if stoi is not None:
                _check_inverse(characters, stoi, source)
        vocabulary = cls(characters=characters, source=source)
        if vocab_size is not None and (
            isinstance(vocab_size, bool)
            or not isinstance(vocab_size, int)
            or vocab_size != len(characters)
        ):
            raise CheckpointError(
                f"{source}: 'vocab_size' is {describe(vocab_size)}"
                f" but the tables have {len(characters)} ids.",
                hint=_REWRITE,
            )
        return vocabulary


def _from_itos(itos: object, source: str) -> tuple[str, ...]:
    if isinstance(itos, (list, tuple)):
        entries: dict[int, object] = dict(enumerate(itos))
    elif isinstance(itos, Mapping):
        entries = {}
        for key, entry in itos.items():
            if isinstance(key, bool) or not isinstance(key, int):
                raise CheckpointError(
                    f"{source}: 'itos' has the key {describe(key)}; its keys must be integer ids.",
                    hint=_REWRITE,
                )
            entries[key] = entry
    else:
        raise CheckpointError(
            f"{source}: 'itos' is {describe(itos)}, not a dict or list of characters by id.",
            hint=_REWRITE,
        )
    return _dense(entries, "itos", source)


def _from_stoi(stoi: object, source: str) -> tuple[str, ...]:
    entries: dict[int, object] = {}
    for character, i in _checked_stoi(stoi, source).items():
        if i in entries:
            raise CheckpointError(
                f"{source}: 'stoi' gives the id {describe(i)} to both {describe(entries[i])}"
                f" and {describe(character)}.",
                hint=_REWRITE,
            )
        entries[i] = character
    return _dense(entries, "stoi", source)


def _dense(entries: Mapping[int, object], field: str, source: str) -> tuple[str, ...]:
    missing = next((i for i in range(len(entries)) if i not in entries), None)
    if missing is not None:
        raise CheckpointError(
            f"{source}: '{field}' has {len(entries)} entries but none for id {missing};"
            f" ids must run from 0 to {len(entries) - 1}.",
            hint=_REWRITE,
        )
    characters = []
    for i in range(len(entries)):
        entry = entries[i]
        if not isinstance(entry, str):
            raise CheckpointError(
                f"{source}: '{field}' has {describe(entry)} for id {i}; an entry must be text.",
                hint=_REWRITE,
            )
        characters.append(entry)
    return tuple(characters)


def _checked_stoi(stoi: object, source: str) -> dict[str, int]:
    if not isinstance(stoi, Mapping):
        raise CheckpointError(
            f"{source}: 'stoi' is {describe(stoi)}, not a dict of ids by character.",
            hint=_REWRITE,
        )
    for character, i in stoi.items():
        if not isinstance(character, str) or isinstance(i, bool) or not isinstance(i, int):
            raise CheckpointError(
                f"{source}: 'stoi' maps {describe(character)} to {describe(i)};"
                " it must map text to integer ids.",
                hint=_REWRITE,
            )
    return dict(stoi)


def _check_inverse(characters: tuple[str, ...], stoi: object, source: str) -> None:
    ids = _checked_stoi(stoi, source)
    for i, character in enumerate(characters):
        if ids.get(character) != i:
            found = describe(ids[character]) if character in ids else "no id"
            raise CheckpointError(
                f"{source}: 'itos' gives id {i} to {describe(character)}"
                f" but 'stoi' gives that entry {found}.",
                hint=_REWRITE,
            )
    if len(ids) != len(characters):
        known = set(characters)
        extra = next(character for character in ids if character not in known)
        raise CheckpointError(
            f"{source}: 'stoi' has {describe(extra)}, which 'itos' does not have.", hint=_REWRITE
        )


def _check_entries(characters: tuple[str, ...], source: str) -> None:
    seen: dict[str, int] = {}
    for i, character in enumerate(characters):
        if not character:
            raise CheckpointError(f"{source}: the entry of id {i} is empty text.", hint=_REWRITE)
        if any("\ud800" <= c <= "\udfff" for c in character):
            raise CheckpointError(
                f"{source}: the entry of id {i}, {describe(character)}, holds a lone surrogate,"
                " which is not a character and cannot be written as UTF-8.",
                hint="Read the training text with errors='replace' and prepare it again.",
            )
        if character in seen:
            raise CheckpointError(
                f"{source}: the ids {seen[character]} and {i} both have {describe(character)}.",
                hint=_REWRITE,
            )
        seen[character] = i
