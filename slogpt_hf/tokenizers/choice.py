"""Which tokenizer a checkpoint gets: the vocabulary that fits it, found where training left it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slogpt_hf.checkpoints import Checkpoint
from slogpt_hf.datasets import Vocabulary, find_meta, read_ids, read_meta
from slogpt_hf.errors import CheckpointError, UsageError
from slogpt_hf.files import write_files
from slogpt_hf.tokenizers.characters import require_entry, write_character_tokenizer
from slogpt_hf.tokenizers.existing import required_tokenizer, tokenizer_files

TEXT_CHARACTERS = 1 << 20  # of the dataset's text, for the tokenizer's proof


@dataclass(frozen=True)
class TokenizerChoice:
    """A character vocabulary or an existing tokenizer; at most one of the two.

    Attributes:
        vocabulary: the characters.
        source: folder or Hub repository of an existing tokenizer.
        files: the existing tokenizer's files for the artefact, name to content.
        dataset: folder of the dataset, for real text; None without one.
        unknown: what an unknown character does: ``error`` or the character it becomes.
    """

    vocabulary: Vocabulary | None = None
    source: str | None = None
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    dataset: Path | None = None
    unknown: str = "error"

    def write(self, folder: Path, checkpoint: Checkpoint) -> None:
        """Write the tokenizer's files into an artefact."""
        if self.vocabulary is not None:
            write_character_tokenizer(
                self.vocabulary,
                folder,
                model_max_length=checkpoint.spec.block_size,
                unknown=self.unknown,
            )
        else:
            write_files(folder, self.files)

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What of the choice shapes the artefact, JSON-ready: content, not where it lies."""
        if self.vocabulary is not None:
            return {"entries": self.vocabulary.characters, "unknown": self.unknown}
        digests = {name: hashlib.sha256(data).hexdigest() for name, data in self.files.items()}
        return {"files": digests}

    def facts(self, folder: Path) -> dict[str, Any]:
        """What the release record says of the tokenizer written into ``folder``."""
        digest = hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest()
        if self.vocabulary is None:
            return {"kind": "existing", "source": self.source, "sha256": digest}
        return {
            "kind": "characters",
            "entries": self.vocabulary.size,
            "unknown": self.unknown,
            "sha256": digest,
        }

    def text_ids(self, limit: int) -> list[int]:
        """The first ``limit`` token ids of the dataset's text; empty without one.

        They are those of ``val.bin``, ``train.bin`` or ``input.txt``: the first that has any.

        Raises:
            CheckpointError: a file of ids is no such file.
        """
        if self.dataset is None:
            return []
        for name in ("val.bin", "train.bin"):
            path = self.dataset / name
            if path.is_file() and path.stat().st_size:
                ids: list[int] = read_ids(path, limit).tolist()
                return ids
        text = self.text()[:limit]
        return [self.vocabulary.ids[c] for c in text] if self.vocabulary else []

    def text(self) -> str:
        """Up to a million characters of the dataset's text; empty without it or its vocabulary.

        Lines end in ``\\n``, whatever they end in on the disk, as the prepare script reads them.
        """
        path = self.dataset / "input.txt" if self.dataset else None
        if path is None or self.vocabulary is None or not path.is_file():
            return ""
        with path.open(encoding="utf-8", errors="replace") as file:
            text = file.read(TEXT_CHARACTERS)
        # A text that the vocabulary does not cover is not the one that the model was trained on.
        return text if set(text) <= self.vocabulary.ids.keys() else ""


def choose_tokenizer(
    checkpoint: Checkpoint,
    *,
    dataset: str | None = None,
    tokenizer: str | None = None,
    unknown: str = "error",
    allow_spare_ids: bool = False,
    root: Path | None = None,
) -> TokenizerChoice:
    """Find the vocabulary of a checkpoint.

    In this order: ``tokenizer``; ``dataset``; the checkpoint itself; ``meta.pkl`` beside it; the
    dataset that the trainer recorded, below the current folder or a parent of the checkpoint's.

    Raises:
        UsageError: none is found, and the message names the option that gives one; or the
            vocabulary does not have ``unknown``.
        CheckpointError: it cannot be read or does not fit the model.
    """
    if tokenizer is not None:
        files = tokenizer_files(
            tokenizer,
            vocab_size=checkpoint.spec.vocab_size,
            model_max_length=checkpoint.spec.block_size,
        )
        return TokenizerChoice(source=tokenizer, files=files)
    if dataset is not None:
        meta: Path | None = find_meta(dataset, root or Path())
    elif checkpoint.vocabulary is not None:
        meta = None
    else:
        meta = next(_recorded(checkpoint, root or Path()), None)
        if meta is None:
            raise UsageError(f"{checkpoint.path}: {required_tokenizer(checkpoint.spec.vocab_size)}")
    vocabulary = read_meta(meta) if meta else checkpoint.vocabulary
    assert vocabulary is not None
    _require_fit(checkpoint, vocabulary, allow_spare_ids)
    require_entry(vocabulary, unknown)
    choice = TokenizerChoice(vocabulary, dataset=meta.parent if meta else None, unknown=unknown)
    _require_known_ids(choice, vocabulary, checkpoint.spec.block_size)
    return choice


def _recorded(checkpoint: Checkpoint, root: Path) -> Iterator[Path]:
    beside = checkpoint.path.parent / "meta.pkl"
    if beside.is_file():
        yield beside
    if name := checkpoint.facts.dataset:
        for folder in (root, *checkpoint.path.resolve().parents):
            try:
                yield find_meta(name, folder)
            except UsageError:
                continue


def _require_fit(checkpoint: Checkpoint, vocabulary: Vocabulary, allow_spare_ids: bool) -> None:
    rows = checkpoint.spec.vocab_size
    if vocabulary.size == rows or (allow_spare_ids and vocabulary.size < rows):
        return
    hint = "Name the dataset that the model was trained on with --dataset."
    if vocabulary.size < rows:
        hint += " If the model was padded on purpose, pass --allow-spare-ids."
    raise CheckpointError(
        f"{vocabulary.source}: has {vocabulary.size} entries, but {checkpoint.path} has "
        f"{rows} rows in its embedding.",
        hint=hint,
    )


def _require_known_ids(choice: TokenizerChoice, vocabulary: Vocabulary, limit: int) -> None:
    ids = choice.text_ids(limit)
    if ids and max(ids) >= vocabulary.size:
        raise CheckpointError(
            f"{choice.dataset}: its token ids go up to {max(ids)}, but {vocabulary.source} has "
            f"only {vocabulary.size} entries.",
            hint="Name the dataset that the model was trained on with --dataset.",
        )
