"""Character tokenizers with the standard library alone, exact against ``AutoTokenizer``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, overload

from slogpt_hf.datasets.vocabulary import Vocabulary, describe
from slogpt_hf.errors import CheckpointError, UsageError
from slogpt_hf.files import write_files
from slogpt_hf.settings import SPECIAL_ROLES
from slogpt_hf.tokenizers.characters import character_files
from slogpt_hf.tokenizers.structure import BACKEND, CONFIG, VOCAB, structure_difference

NO_LIMIT = 10**30  # what transformers says of a tokenizer without model_max_length
_REAL = "Load it with transformers' AutoTokenizer."


class SimpleCharTokenizer:
    """A tokenizer of one id per code point, without torch, transformers or anything to install.

    >>> tokenizer = SimpleCharTokenizer("\\n abc")
    >>> tokenizer.encode("cab")
    [4, 2, 3]
    >>> tokenizer.decode([4, 2, 3])
    'cab'

    Args:
        entries: by id; an entry of several characters can only be decoded.
        unknown: "error", and encoding a character that there is not raises; or the entry that
            it becomes.
        special_tokens: role ("pad", "eos", "bos", "unk") to id; "unk" also stands for characters
            that there are not.
        model_max_length: the model's context length, in tokens; encoding does not cut to it.

    Raises:
        CheckpointError: the entries are no vocabulary.
        UsageError: ``unknown`` or ``special_tokens`` do not fit them.
    """

    def __init__(
        self,
        entries: Iterable[str],
        *,
        unknown: str = "error",
        special_tokens: Mapping[str, int] | None = None,
        model_max_length: int = NO_LIMIT,
    ) -> None:
        self._vocabulary = Vocabulary(tuple(entries), "the vocabulary")
        self.special_tokens = dict(special_tokens or {})
        self.model_max_length = model_max_length
        self._unknown = unknown
        self._files = self._made()
        # Roles may have ids behind the entries: these are entries from here on.
        whole = json.loads(self._files[VOCAB])
        self._vocabulary = Vocabulary.from_tables(None, whole, None, "the vocabulary")
        unk = self.special_tokens.get("unk")
        self._unknown_id = self._vocabulary.ids.get(unknown) if unk is None else unk
        named = (
            (role, json.loads(self._files[CONFIG]).get(f"{role}_token")) for role in SPECIAL_ROLES
        )
        self._roles = {role: whole[name] for role, name in named if name in whole}

    @classmethod
    def from_pretrained(cls, path: str | PathLike[str]) -> SimpleCharTokenizer:
        """The tokenizer of an artefact: a folder, a ``tokenizer.json`` or a ``vocab.json``.

        A ``vocab.json`` alone says nothing of unknown characters and special tokens.

        Raises:
            UsageError: there is none.
            CheckpointError: it is damaged, or no character tokenizer that slogpt-hf writes.
        """
        path = Path(path)
        folder = path if path.is_dir() else path.parent
        if path.name == VOCAB or not (folder / BACKEND).is_file():
            return cls(_entries(_read(folder / VOCAB), folder / VOCAB))
        place = folder / BACKEND
        model, config = _section(_read(place), "model", place), _read(folder / CONFIG)
        vocab = _section(model, "vocab", place)
        entries = _entries(vocab, place)
        names = {role: config.get(f"{role}_token") for role in SPECIAL_ROLES}
        special = _special(_read(place))
        if names["unk"] != model.get("unk_token"):
            del names["unk"]  # another token stands in for it, and encoding knows nothing of it
        roles = {
            r: vocab[n]
            for r, n in names.items()
            if isinstance(n, str) and n in special & vocab.keys()
        }
        unk, limit = model.get("unk_token"), config.get("model_max_length")
        unknown = unk if isinstance(unk, str) and unk in vocab and "unk" not in roles else "error"
        # What is read is all that there is: no field of the files says anything else.
        vocabulary = Vocabulary(entries, str(place))
        if different := structure_difference(folder, vocabulary, unknown, None, roles):
            raise CheckpointError(
                f"{folder}: is not a character tokenizer of slogpt-hf's: {different}.", hint=_REAL
            )
        whole = limit if isinstance(limit, int) else NO_LIMIT
        return cls(entries, unknown=unknown, special_tokens=roles, model_max_length=whole)

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return self._vocabulary.size

    def __len__(self) -> int:
        return self.vocab_size

    @property
    def all_special_ids(self) -> list[int]:
        """Ids that play a role, or stand in for one; ``decode`` drops only the former."""
        return sorted(set(self._roles.values()))

    def get_vocab(self) -> dict[str, int]:
        """Entry to id."""
        return dict(self._vocabulary.ids)

    def encode(self, text: str) -> list[int]:
        """One id a code point.

        Raises:
            UsageError: a character has none, and nothing stands for it.
        """
        ids, found = self._vocabulary.ids, []
        for at, character in enumerate(text):
            i = ids.get(character, self._unknown_id)
            # A lone surrogate is no character, which the real one refuses, too.
            if i is None or "\ud800" <= character <= "\udfff":
                raise UsageError(
                    f"{describe(character)}, character {at} of the text, is one that the model "
                    "was not trained on.",
                    hint="Leave it out, or convert with --unknown to say what it becomes.",
                )
            found.append(i)
        return found

    def tokenize(self, text: str) -> list[str]:
        """The entries of a text. Raises as ``encode`` does."""
        return [self._vocabulary.characters[i] for i in self.encode(text)]

    def decode(self, ids: int | Iterable[int], skip_special_tokens: bool = False) -> str:
        """The text of ids; an id that there is not has none."""
        given = [ids] if isinstance(ids, int) else ids
        skipped = set(self.special_tokens.values()) if skip_special_tokens else set()
        entries = self._vocabulary.characters
        return "".join(entries[i] for i in given if 0 <= i < len(entries) and i not in skipped)

    @overload
    def convert_tokens_to_ids(self, tokens: str) -> int | None: ...
    @overload
    def convert_tokens_to_ids(self, tokens: list[str]) -> list[int | None]: ...
    def convert_tokens_to_ids(self, tokens: str | list[str]) -> Any:
        """The id of an entry, or of each; of what is no entry that of the token unk, or None."""
        if isinstance(tokens, str):
            return self._vocabulary.ids.get(tokens, self._roles.get("unk"))
        return [self.convert_tokens_to_ids(token) for token in tokens]

    @overload
    def convert_ids_to_tokens(self, ids: int) -> str | None: ...
    @overload
    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str | None]: ...
    def convert_ids_to_tokens(self, ids: int | Sequence[int]) -> Any:
        """The entry of an id, or of each; None for one that there is not."""
        if not isinstance(ids, int):
            return [self.convert_ids_to_tokens(i) for i in ids]
        return self._vocabulary.characters[ids] if 0 <= ids < self.vocab_size else None

    def convert_tokens_to_string(self, tokens: Iterable[str]) -> str:
        """Entries as text."""
        return "".join(tokens)

    def save_pretrained(self, folder: str | PathLike[str]) -> tuple[str, ...]:
        """Write the files that ``AutoTokenizer`` loads, those of an artefact, and name them.

        Raises:
            UsageError: the folder cannot be written.
        """
        write_files(Path(folder), self._files)
        return tuple(str(Path(folder) / name) for name in self._files)

    def _made(self) -> dict[str, bytes]:
        return character_files(
            self._vocabulary,
            model_max_length=self.model_max_length,
            unknown=self._unknown,
            special_tokens=self.special_tokens,
        )


def _special(backend: Mapping[str, Any]) -> set[str]:
    """Tokens that mean something; a character that only stands in for a role is not special."""
    added = backend.get("added_tokens")
    tokens = (
        [token for token in added if isinstance(token, dict)] if isinstance(added, list) else []
    )
    return {str(token.get("content")) for token in tokens if token.get("special") is True}


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise UsageError(
            f"{path}: there is no such file.", hint="Name the folder of an artefact."
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}).", hint=_REAL) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: is not a JSON object.", hint=_REAL)
    return content


def _section(content: Mapping[str, Any], name: str, path: Path) -> dict[str, Any]:
    found = content.get(name)
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: has no {name} with an id for each entry.", hint=_REAL)
    return found


def _entries(vocab: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    """The entries by id.

    Raises:
        CheckpointError: ids are no whole numbers from 0, each once.
    """
    return Vocabulary.from_tables(None, vocab, None, str(path)).characters
