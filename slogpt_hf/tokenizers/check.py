"""Proof that written tokenizer files compute the original's encode and decode."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from slogpt_hf.datasets.vocabulary import Vocabulary, describe
from slogpt_hf.errors import CheckpointError
from slogpt_hf.progress import quiet_transformers
from slogpt_hf.settings import SPECIAL_ROLES
from slogpt_hf.tokenizers.corpus import PIECE, Corpus, Reading, other_vocabulary
from slogpt_hf.tokenizers.structure import (
    MODEL_CONFIG,
    read_optional,
    recorded_special,
    recorded_unknown,
    structure_difference,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from slogpt_hf.tokenizers.choice import TokenizerChoice

# Of real text, by what the original's encode costs: some minutes at most.
MOST_CHARACTERS = {"characters": 1 << 27, "existing": 1 << 25, "sentencepiece": 1 << 23}
NOT_COMPARED = "not compared, since no vocabulary or tokenizer was given"
NO_CORPUS = "the vocabulary; no text was given"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")

# Texts that tokenizers are known to change; of each, what the vocabulary has is checked.
ADVERSARIAL = (
    "",
    " ",
    "  a  b  ",
    " .,!? n't 'm 's 've 're ",
    "\n\n\t\r\n\r \x00\x0b\x0c\x1c\x85\u2028\u2029\ufeff",
    "\xa0\u2003\u3000\u200b\u200c\u200d\u2060\xad",
    "<s></s><pad><unk>[UNK][CLS][SEP][PAD][MASK]<|endoftext|><|im_start|><bos><eos>",
    "ĠaĊb▁c##d@@ e</w><0x0A>",
    "e\u0301\u00e9\u212b\u00c5A\u030a\ufb01\u1e9b\u0323\uac00\u1100\u1161",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467\U0001f44d\U0001f3fd\u2764\ufe0f\U0001f1eb\U0001f1f7",
    "\u05e9\u05dc\u05d5\u05dd \u202eabc\u202c \u0645\u0631\u062d\u0628\u0627",
    "\u0130\u0131\u017f\xdf\u1e9e\u03a3\u03c2aA",
)


@dataclass(frozen=True)
class TokenizerReport:
    """What was compared between the original's encode and decode and the tokenizer files.

    Attributes:
        characters: number of distinct characters that were encoded and decoded.
        code_points: length of all texts that were compared, in code points.
        unknown: what an unknown character does: "error", or the entry that stands for it.
        first_difference: the first text that differs and how; None if all are equal.
        corpus: how much of the dataset's text is among them, for people; empty if nothing.
    """

    characters: int
    code_points: int
    unknown: str
    first_difference: str | None
    corpus: str = ""

    @property
    def ok(self) -> bool:
        """Whether everything was equal."""
        return self.first_difference is None


def check_tokenizer(
    tokenizer: PreTrainedTokenizerBase,
    vocabulary: Vocabulary,
    texts: Iterable[str] = (),
    special: Collection[int] = (),
) -> TokenizerReport:
    """Compare a tokenizer, as ``load_tokenizer`` gives it, with a vocabulary.

    Compared are ``encode(text) == [stoi[c] for c in text]`` and ``decode`` of that, with and
    without ``skip_special_tokens``, alone and in a batch: over every entry of the vocabulary,
    pairs of neighbouring characters, adversarial strings and ``texts``.

    Args:
        tokenizer: the artefact's.
        vocabulary: the original's.
        texts: real ones over the vocabulary, each compared alone.
        special: ids that play a role, which ``skip_special_tokens`` drops; a character that only
            stands in for one is not among them, and must stay.
    """
    characters = [entry for entry in vocabulary.characters if len(entry) == 1]
    differences = _differences(tokenizer, vocabulary, characters, texts, set(special))
    compared = 0
    first = None
    for length, first in differences:
        compared += length
        if first is not None:
            break
    return TokenizerReport(
        characters=len(characters),
        code_points=compared,
        unknown=_unknown(tokenizer, vocabulary),
        first_difference=first,
    )


def check_choice(
    folder: Path,
    choice: TokenizerChoice,
    rows: int,
    *,
    model_max_length: int | None = None,
    trust_remote_code: bool = False,
    advance: Callable[[int], None] = lambda characters: None,
) -> TokenizerReport:
    """Compare the tokenizer files of a folder with what was chosen, over the whole corpus.

    The files of characters are compared field by field as well. A corpus of more than
    MOST_CHARACTERS is compared that far, and the report says so. Where nothing was chosen the
    files must load, and have no id that the model has not.

    Args:
        folder: holds the tokenizer files.
        choice: what they were made of.
        rows: of the artefact's embedding.
        model_max_length: the model's context length, in tokens; None where it is not compared.
        trust_remote_code: run code that the folder brings.
        advance: told the characters of the corpus that were compared since its last call.

    Raises:
        CheckpointError: the dataset's ids are not the tokenizer's.
    """
    different, special = _structure(folder, choice, model_max_length)
    if different:
        return TokenizerReport(0, 0, "", different)
    try:
        tokenizer = load_tokenizer(folder, trust_remote_code)
    except CheckpointError as error:
        return TokenizerReport(0, 0, "", str(error).partition(": ")[2])
    own = special
    if choice.vocabulary is None:
        own = {role: getattr(tokenizer, f"{role}_token_id") for role in SPECIAL_ROLES}
    wrong = _wrong_ids(tokenizer, choice, rows) or _other_roles(folder, own)
    if wrong or not choice.size:
        return TokenizerReport(0, 0, "", wrong, "" if wrong else NOT_COMPARED)
    corpus = choice.corpus
    texts = corpus.texts(choice.decode, choice.size) if corpus else iter(())
    reading = Reading(texts, MOST_CHARACTERS[choice.kind], advance)
    report = _compared(tokenizer, choice, reading, special.values())
    if not report.ok:
        return report
    return replace(report, corpus=_told(corpus, reading) if corpus else NO_CORPUS)


def _special(folder: Path, choice: TokenizerChoice) -> list[Mapping[str, int]]:
    """Role to id, as it may be: first as chosen, then as earlier versions had it.

    They named what was asked for; where nothing is now, what the artefact records.
    """
    assert choice.vocabulary is not None
    asked = choice.special.asked_ids
    return [choice.special.ids, asked or recorded_special(folder, choice.vocabulary), asked]


def _other_roles(folder: Path, own: Mapping[str, int | None]) -> str | None:
    """An id that the model's files name for a role and that does not play it.

    A character that only stands in for a role in the tokenizer does not: it would end texts.
    """
    for name in (MODEL_CONFIG, "generation_config.json"):
        said = read_optional(folder / name)
        for role in SPECIAL_ROLES:
            found = said.get(f"{role}_token_id")
            if found is not None and found not in (own.get(role), [own.get(role)]):
                its = own.get(role, "none")
                return f"{name} has {found} as {role}_token_id, the tokenizer has {its}"
    return None


def _structure(
    folder: Path, choice: TokenizerChoice, model_max_length: int | None
) -> tuple[str | None, Mapping[str, int]]:
    """A field or file that the vocabulary does not imply, if there is one; role to special id."""
    if choice.pieces is not None:
        from slogpt_hf.tokenizers.piece_check import model_difference

        return model_difference(folder, choice.pieces), {}
    if choice.vocabulary is None:
        return None, {}
    unknown = choice.unknown
    if unknown == "error":  # or what the artefact's own record says was asked for
        unknown = recorded_unknown(folder, choice.vocabulary)
    first = None
    for special in _special(folder, choice):
        found = structure_difference(folder, choice.vocabulary, unknown, model_max_length, special)
        if found is None:
            return None, special
        first = first or found
    return first, {}


def _compared(
    tokenizer: PreTrainedTokenizerBase,
    choice: TokenizerChoice,
    texts: Iterable[str],
    special: Collection[int],
) -> TokenizerReport:
    from slogpt_hf.tokenizers.existing_check import check_existing
    from slogpt_hf.tokenizers.piece_check import check_pieces

    if choice.vocabulary is not None:
        return check_tokenizer(tokenizer, choice.vocabulary, texts, special)
    if choice.codec is not None:
        return check_pieces(tokenizer, choice.codec, texts)
    assert choice.loaded is not None
    return check_existing(tokenizer, choice.loaded, texts)


def _wrong_ids(
    tokenizer: PreTrainedTokenizerBase, choice: TokenizerChoice, rows: int
) -> str | None:
    """Ids that the model has not, or a vocabulary that did not make the ids of its dataset."""
    from slogpt_hf.tokenizers.existing import n_ids

    if (size := n_ids(tokenizer)) > rows:
        return f"it has an id {size - 1}, but the model has {rows} rows"
    vocabulary = choice.vocabulary
    return None if vocabulary is None else other_vocabulary(choice.dataset, vocabulary.ids)


def _told(corpus: Corpus, reading: Reading) -> str:
    how = "the first" if reading.cut or corpus.foreign else "all"
    told = f"{how} {reading.characters:,} characters of {corpus.name}"
    if not corpus.foreign:
        return told
    return f"{told}, up to {describe(corpus.foreign)}, which the vocabulary does not have"


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a tokenizer at all."""
    return any((folder / name).is_file() for name in TOKENIZER_FILES)


def load_tokenizer(folder: Path, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer that ``AutoTokenizer`` makes of a folder, without network.

    Args:
        folder: holds the tokenizer files.
        trust_remote_code: run code that the folder brings.

    Raises:
        CheckpointError: it makes none.
    """
    from transformers import AutoTokenizer

    try:
        with quiet_transformers():
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                folder, trust_remote_code=trust_remote_code, local_files_only=True
            )
    except Exception as error:  # the backend raises bare Exception
        raise CheckpointError(
            f"{folder}: its tokenizer cannot be loaded: {type(error).__name__}: {error}",
            hint="Write the tokenizer files again.",
        ) from error
    return tokenizer


def _differences(
    tokenizer: PreTrainedTokenizerBase,
    vocabulary: Vocabulary,
    characters: list[str],
    texts: Iterable[str],
    special: set[int],
) -> Iterator[tuple[int, str | None]]:
    """Length of each compared piece and, where it differs, how."""
    for i, entry in enumerate(vocabulary.characters):
        yield len(entry), _decoded(tokenizer, [i], entry, special)
    known = set(characters)
    everything = "".join(characters)
    strings = [everything, everything[::-1], "".join(c + c for c in characters)]
    strings += ["".join(c for c in string if c in known) for string in ADVERSARIAL]
    for chunk in _chunks(strings):
        yield len(chunk), _text_difference(tokenizer, vocabulary, [chunk], special)
    batch = [string[:PIECE] for string in strings]
    yield sum(map(len, batch)), _text_difference(tokenizer, vocabulary, batch, special)
    for text in texts:
        unknown = next((i for i, c in enumerate(text) if c not in known), None)
        if unknown is not None:
            yield (
                unknown,
                f"the text holds {describe(text[unknown])}, which the vocabulary does not have",
            )
            return
        yield len(text), _text_difference(tokenizer, vocabulary, [text], special)


def _chunks(strings: Iterable[str]) -> Iterator[str]:
    for string in strings:
        for start in range(0, max(len(string), 1), PIECE):
            yield string[start : start + PIECE]


def _text_difference(
    tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary, batch: list[str], special: set[int]
) -> str | None:
    alone = len(batch) == 1
    try:
        encoded = tokenizer(batch[0] if alone else batch, verbose=False)["input_ids"]
    except Exception as error:  # the backend raises bare Exception
        return f"encoding {describe(batch[0])} raises {type(error).__name__}: {error}"
    rows: list[list[int]] = [encoded] if alone else encoded
    for string, got in zip(batch, rows, strict=True):
        expected = [vocabulary.ids[c] for c in string]
        if got != expected:
            at = next(
                (i for i, (a, b) in enumerate(zip(got, expected, strict=False)) if a != b),
                min(len(got), len(expected)),
            )
            return (
                f"{describe(string[at : at + 8])} is encoded as {got[at : at + 8]},"
                f" the original has {expected[at : at + 8]}"
            )
        difference = _decoded(tokenizer, expected, string, special)
        if difference is not None:
            return difference
    return None


def _decoded(
    tokenizer: PreTrainedTokenizerBase, ids: list[int], expected: str, special: set[int]
) -> str | None:
    got = tokenizer.decode(ids)
    if got != expected:
        return f"{ids[:8]} is decoded as {describe(got)}, the original has {describe(expected)}"
    if special and len(ids) == 1:
        expected = "" if ids[0] in special else expected
    elif special:
        expected = "".join(c for i, c in zip(ids, expected, strict=True) if i not in special)
    got = tokenizer.decode(ids, skip_special_tokens=True)
    if got != expected:
        return (
            f"{ids[:8]} is decoded without special tokens as {describe(got)},"
            f" expected {describe(expected)}"
        )
    return None


def _unknown(tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary) -> str:
    character = next(c for c in map(chr, range(0x100, 0xD800)) if c not in vocabulary.ids)
    try:
        (got,) = tokenizer(character)["input_ids"]
    except Exception:  # the backend raises bare Exception
        return "error"
    entry = tokenizer.convert_ids_to_tokens(got)
    return str(entry)
