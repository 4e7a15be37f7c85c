"""Which tokenizer a checkpoint gets: the vocabulary that fits it, found where training left it."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from slogpt_hf.checkpoints import Checkpoint
from slogpt_hf.datasets import Vocabulary, find_meta, find_text, read_ids, read_meta
from slogpt_hf.errors import CheckpointError, UsageError
from slogpt_hf.files import write_files
from slogpt_hf.tokenizers.characters import (
    character_files,
    require_entry,
    write_character_tokenizer,
)
from slogpt_hf.tokenizers.corpus import Corpus, corpus_in, id_files, require_known
from slogpt_hf.tokenizers.existing import (
    encoded,
    load_existing,
    n_ids,
    required_tokenizer,
    tokenizer_files,
)
from slogpt_hf.tokenizers.piece_encoding import PieceCodec
from slogpt_hf.tokenizers.piece_files import ROLES as PIECE_ROLES
from slogpt_hf.tokenizers.piece_files import piece_tokenizer_files
from slogpt_hf.tokenizers.pieces import PIECES_MODEL, Pieces, is_pieces_file, read_pieces
from slogpt_hf.tokenizers.special import (
    NO_SPECIAL,
    SpecialTokens,
    seldom,
    special_of,
    special_tokens,
    with_pad,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# What llama2.c calls its tokenizers; run.c's export knows less than what it was exported from.
PIECES_FILES = (PIECES_MODEL, "tokenizer.bin")
NO_TOKENIZER = "none"  # what --tokenizer says for a model whose ids stand for no text


@dataclass(frozen=True)
class TokenizerChoice:
    """A character vocabulary, scored pieces, an existing tokenizer, or none of the three.

    Attributes:
        vocabulary: the characters.
        pieces: those of a sentencepiece model or of llama2.c's export of one.
        source: file of the pieces, or folder or Hub repository of an existing tokenizer.
        files: the tokenizer's files for the artefact, name to content; none for characters.
        dataset: folder of the dataset, for real text and ids; None without one.
        unknown: what an unknown character does: ``error`` or the character it becomes.
        loaded: the existing tokenizer.
        special: ids of the characters' vocabulary, or beyond it, that play a role.
    """

    vocabulary: Vocabulary | None = None
    source: str | None = None
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    dataset: Path | None = None
    unknown: str = "error"
    pieces: Pieces | None = None
    loaded: PreTrainedTokenizerBase | None = field(default=None, repr=False, compare=False)
    special: SpecialTokens = NO_SPECIAL

    def write(self, folder: Path, checkpoint: Checkpoint) -> None:
        """Write the tokenizer's files into an artefact."""
        if self.vocabulary is not None:
            write_character_tokenizer(
                self.vocabulary,
                folder,
                model_max_length=checkpoint.spec.block_size,
                unknown=self.unknown,
                special_tokens=self.special.ids,
            )
        else:
            write_files(folder, with_pad(self.files))

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What of the choice shapes the artefact, JSON-ready: content, not where it lies."""
        if self.vocabulary is not None:
            content = {"entries": self.vocabulary.characters, "unknown": self.unknown}
            asked = self.special.asked_ids  # what it has anyway, earlier versions did not name
            return content | ({"special_tokens": asked} if asked else {})
        digests = {name: hashlib.sha256(data).hexdigest() for name, data in self.files.items()}
        return {"files": digests}

    def facts(self, folder: Path) -> dict[str, Any]:
        """What the release record says of the tokenizer written into ``folder``."""
        if self.kind == NO_TOKENIZER:
            return {"kind": NO_TOKENIZER, "sha256": None}
        digest = hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest()
        facts: dict[str, Any] = {"kind": self.kind, "sha256": digest}
        if self.vocabulary is not None:
            entries = {"entries": self.vocabulary.size, "unknown": self.unknown}
            return facts | entries | self._special | self._stand_in
        facts |= {"source": self.source} | self._special
        if self.pieces is None:
            return facts
        return facts | {"source_sha256": self.pieces.sha256, "entries": self.pieces.size}

    def interface(self, folder: Path) -> str | None:
        """SHA-256 of what of the tokenizer in ``folder`` its users depend on; None without one.

        It is that of ``tokenizer.json``, without the characters that stand in for roles: with them
        text has the same ids as with the files of earlier versions, which named none.
        """
        if self.vocabulary is None:
            found: str | None = self.facts(folder)["sha256"]
            return found
        files = character_files(
            self.vocabulary,
            model_max_length=0,  # which tokenizer.json does not have
            unknown=self.unknown,
            special_tokens=self.special.ids,
            stand_ins=False,
        )
        return hashlib.sha256(files["tokenizer.json"]).hexdigest()

    @property
    def _special(self) -> dict[str, Any]:
        return {"special_tokens": dict(self.special.ids)} if self.special.ids else {}

    @property
    def _stand_in(self) -> dict[str, Any]:
        """The character that the tokenizer names where no id plays a role."""
        assert self.vocabulary is not None
        name = None if self.special.ids else seldom(self.vocabulary)
        return {} if name is None else {"stand_in": name}

    def text_ids(self, limit: int) -> list[int]:
        """The first ``limit`` token ids of the dataset's text; empty without one.

        They are those of ``val.bin``, ``train.bin`` or ``input.txt``: the first that has any.

        Raises:
            CheckpointError: a file of ids is no such file.
        """
        if recorded := self.recorded_ids(limit):
            return recorded
        if (corpus := self.corpus) is None:
            return []
        return self.encode(next(corpus.texts(self.decode, self.size), ""))[:limit]

    def recorded_ids(self, limit: int) -> list[int]:
        """The first ``limit`` of the ids that the dataset holds as such."""
        if (path := next(iter(id_files(self.dataset)), None)) is None:
            return []
        ids: list[int] = read_ids(path, limit).tolist()
        return ids

    @cached_property
    def corpus(self) -> Corpus | None:
        """The dataset's text, as it is when it is first asked for; None if nothing encodes it."""
        if self.kind == NO_TOKENIZER:
            return None
        return corpus_in(self.dataset, self.vocabulary.ids.keys() if self.vocabulary else None)

    @property
    def kind(self) -> str:
        """What it is, for the record: characters, sentencepiece, existing or none."""
        if self.vocabulary is not None:
            return "characters"
        if self.pieces is not None:
            return "sentencepiece"
        return NO_TOKENIZER if self.loaded is None else "existing"

    @cached_property
    def size(self) -> int:
        """Number of ids; 0 without a tokenizer."""
        if self.vocabulary is not None:
            return self.vocabulary.size
        if self.pieces is not None:
            return self.pieces.size
        return 0 if self.loaded is None else n_ids(self.loaded)

    def encode(self, text: str) -> list[int]:
        """Ids of a text of the corpus, as the original gives them, without special ones.

        Of a text that an existing tokenizer refuses there are none.
        """
        if self.vocabulary is not None:
            return [self.vocabulary.ids[character] for character in text]
        if self.codec is not None:
            return self.codec.encode(text)
        assert self.loaded is not None
        return encoded(self.loaded, text, special=False) or []

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, as the original gives it; of characters without longer entries."""
        if self.vocabulary is not None:
            entries = (self.vocabulary.characters[i] for i in ids)
            return "".join(entry for entry in entries if len(entry) == 1)
        if self.codec is not None:
            return self.codec.decode(ids)
        assert self.loaded is not None
        text: str = self.loaded.decode(ids)
        return text

    @cached_property
    def codec(self) -> PieceCodec | None:
        """The original's encode and decode of pieces."""
        return PieceCodec(self.pieces) if self.pieces is not None else None


def choose_tokenizer(
    checkpoint: Checkpoint,
    *,
    dataset: str | None = None,
    tokenizer: str | None = None,
    unknown: str = "error",
    special: Collection[str] = (),
    allow_spare_ids: bool = False,
    root: Path | None = None,
) -> TokenizerChoice:
    """Find the vocabulary of a checkpoint, and name or append the ``special`` tokens.

    In this order: ``tokenizer`` (a ``dataset`` then gives real text alone; ``none`` is a model
    without a vocabulary, of which a dataset gives ids); ``dataset``; the checkpoint itself; for
    llama2.c, a ``tokenizer.model`` or ``tokenizer.bin`` beside it with as many pieces as the model
    has rows; ``meta.pkl`` beside it; the dataset that the trainer recorded, below the current
    folder or a parent of the checkpoint's.

    Raises:
        UsageError: none is found, and the message names the option that gives one; or the
            vocabulary does not have ``unknown``, or there is none and it is asked for;
            or ``special`` tokens are asked for where there are no characters.
        CheckpointError: it cannot be read or does not fit the model.
    """
    choice = _chosen(checkpoint, dataset, tokenizer, unknown, allow_spare_ids, root or Path())
    if not special and choice.vocabulary is None:
        return replace(choice, special=_own_special(choice, checkpoint))
    if choice.vocabulary is None:
        what = f"the tokenizer {choice.source}" if choice.source else "a model without a vocabulary"
        raise UsageError(
            f"--special-tokens {','.join(special)}: {what} takes none; only a character "
            "vocabulary does.",
            hint="Leave --special-tokens out; an existing tokenizer has its own.",
        )
    vocabulary = choice.vocabulary
    named = special_tokens(vocabulary, special, checkpoint.spec.vocab_size, unknown)
    # What does not fit together is said before anything takes long.
    character_files(vocabulary, model_max_length=0, unknown=unknown, special_tokens=named.ids)
    return replace(choice, special=named)


def _own_special(choice: TokenizerChoice, checkpoint: Checkpoint) -> SpecialTokens:
    """The roles that the tokens of pieces or of an existing tokenizer play."""
    rows = checkpoint.spec.vocab_size
    if choice.loaded is not None:
        return special_of(choice.loaded, rows)
    if choice.pieces is None:
        return NO_SPECIAL
    ids = {role: getattr(choice.pieces, role) for role in PIECE_ROLES}
    return SpecialTokens({role: i for role, i in ids.items() if i is not None}, rows)


def _chosen(
    checkpoint: Checkpoint,
    dataset: str | None,
    tokenizer: str | None,
    unknown: str,
    allow_spare_ids: bool,
    root: Path,
) -> TokenizerChoice:
    if tokenizer is not None:
        folder = find_text(dataset, root) if dataset else None
        file = None if tokenizer == NO_TOKENIZER else _pieces_file(Path(tokenizer))
        if tokenizer == NO_TOKENIZER:
            _require_no_words(unknown)
            choice = TokenizerChoice(dataset=folder)
        elif file is not None:
            pieces = read_pieces(file)
            _require_fit(checkpoint, pieces.size, str(file), allow_spare_ids, "--tokenizer")
            choice = replace(_choice_of(pieces, checkpoint), dataset=folder)
        else:
            loaded = load_existing(tokenizer)
            files = tokenizer_files(
                loaded,
                tokenizer,
                vocab_size=checkpoint.spec.vocab_size,
                model_max_length=checkpoint.spec.block_size,
            )
            choice = TokenizerChoice(source=tokenizer, files=files, dataset=folder, loaded=loaded)
        return _with_known_ids(choice, checkpoint.spec.vocab_size, checkpoint)
    if dataset is not None:
        meta: Path | None = find_meta(dataset, root)
    elif checkpoint.vocabulary is not None:
        meta = None
    else:
        beside = list(_pieces_beside(checkpoint))
        for pieces in beside:
            if _fits(checkpoint, pieces.size, allow_spare_ids):
                return _choice_of(pieces, checkpoint)
        meta = next(_recorded(checkpoint, root), None)
        if meta is None:
            others = "".join(f" {p.source} has {p.size} pieces." for p in beside)
            need = required_tokenizer(checkpoint.spec.vocab_size)
            raise UsageError(f"{checkpoint.path}: {need}{others}")
    vocabulary = read_meta(meta) if meta else checkpoint.vocabulary
    assert vocabulary is not None
    _require_fit(checkpoint, vocabulary.size, vocabulary.source, allow_spare_ids, "--dataset")
    require_entry(vocabulary, unknown)
    choice = TokenizerChoice(vocabulary, dataset=meta.parent if meta else None, unknown=unknown)
    return _with_known_ids(choice, vocabulary.size, checkpoint)


def _require_no_words(unknown: str) -> None:
    if unknown != "error":
        raise UsageError(
            f"--tokenizer none: without a vocabulary no character can become {unknown[:40]!r}.",
            hint="Leave --unknown out; of a folder that is called none, write ./none.",
        )


def _recorded(checkpoint: Checkpoint, root: Path) -> Iterator[Path]:
    for folder in (checkpoint.path, checkpoint.path.parent):
        if (folder / "meta.pkl").is_file():
            yield folder / "meta.pkl"
    name = PurePath(checkpoint.facts.dataset or "")
    # A name from a file leads nowhere but below the folders that are looked at.
    if name.parts and not name.is_absolute() and ".." not in name.parts:
        for folder in (root, *checkpoint.path.resolve().parents):
            try:
                yield find_meta(str(name), folder)
            except UsageError:
                continue


def _pieces_file(path: Path) -> Path | None:
    """The file of pieces that a path names, or that lies in a folder without tokenizer.json."""
    if path.is_file():
        return path if is_pieces_file(path) else None
    if not path.is_dir() or (path / "tokenizer.json").exists():
        return None
    return next((path / name for name in PIECES_FILES if (path / name).is_file()), None)


def _pieces_beside(checkpoint: Checkpoint) -> Iterator[Pieces]:
    if checkpoint.dialect != "llama2c":
        return
    folders = [checkpoint.path] if checkpoint.path.is_dir() else []
    for folder in (*folders, checkpoint.path.parent):
        for name in PIECES_FILES:
            if (folder / name).is_file():
                yield read_pieces(folder / name)


def _choice_of(pieces: Pieces, checkpoint: Checkpoint) -> TokenizerChoice:
    files = piece_tokenizer_files(pieces, checkpoint.spec.block_size)
    if pieces.model is not None:
        files[PIECES_MODEL] = pieces.model  # converters read the scores in it
    return TokenizerChoice(source=pieces.source, files=files, pieces=pieces)


def _fits(checkpoint: Checkpoint, size: int, allow_spare_ids: bool) -> bool:
    rows = checkpoint.spec.vocab_size
    return size == rows or (allow_spare_ids and size < rows)


_FIT_HINTS = {
    "--dataset": "Name the dataset that the model was trained on with --dataset.",
    "--tokenizer": "Give the tokenizer that the model was trained with.",
}


def _require_fit(
    checkpoint: Checkpoint, size: int, source: str, allow_spare_ids: bool, option: str
) -> None:
    if _fits(checkpoint, size, allow_spare_ids):
        return
    rows, hint = checkpoint.spec.vocab_size, _FIT_HINTS[option]
    if size < rows:
        hint += " If the model was padded on purpose, pass --allow-spare-ids."
    raise CheckpointError(
        f"{source}: has {size} entries, but {checkpoint.path} has {rows} rows in its embedding.",
        hint=hint,
    )


def _with_known_ids(choice: TokenizerChoice, size: int, checkpoint: Checkpoint) -> TokenizerChoice:
    require_known(choice.recorded_ids(checkpoint.spec.block_size), size, choice.dataset or Path())
    return choice
