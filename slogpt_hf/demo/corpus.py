"""The text that ships with the package, and the dataset files that a trainer makes of it.

``shakespeare.txt`` holds 179,679 consecutive characters of Shakespeare's plays (public domain),
from the third part of Henry VI to The Winter's Tale, cut at paragraphs out of the "tiny
Shakespeare" file of char-rnn and nanoGPT. It holds all 65 characters of that file.
"""

from __future__ import annotations

import pickle
from importlib.resources import files
from pathlib import Path

import numpy as np

from slogpt_hf.files import staged_folder

DATASET = "shakespeare"
TRAIN_SHARE = 0.9


def corpus_text() -> str:
    """The text, with ``\\n`` line ends."""
    return files(__package__).joinpath(f"{DATASET}.txt").read_text(encoding="utf-8")


def dataset_files(text: str) -> dict[str, bytes]:
    """Name to content of a character dataset's files.

    The format is that of nanoGPT's ``data/shakespeare_char/prepare.py``: ids follow the sorted
    characters; ``train.bin`` is the first nine tenths of the text and ``val.bin`` the rest, as
    flat little-endian uint16 ids; ``meta.pkl`` holds ``vocab_size``, ``itos`` and ``stoi``.
    """
    characters = sorted(set(text))
    stoi = {character: i for i, character in enumerate(characters)}
    meta = {"vocab_size": len(stoi), "itos": dict(enumerate(characters)), "stoi": stoi}
    ids = np.array([stoi[character] for character in text], dtype="<u2")
    n_train = int(len(text) * TRAIN_SHARE)
    return {
        "input.txt": text.encode(),
        "meta.pkl": pickle.dumps(meta, protocol=4),
        "train.bin": ids[:n_train].tobytes(),
        "val.bin": ids[n_train:].tobytes(),
    }


def write_dataset(folder: Path, text: str) -> None:
    """Write a character dataset, or leave the one that is there if it is the same.

    Raises:
        UsageError: ``folder`` exists and holds something else, or cannot be written.
    """
    contents = dataset_files(text)
    paths = {folder / name: content for name, content in contents.items()}
    if all(path.is_file() and path.read_bytes() == content for path, content in paths.items()):
        return
    with staged_folder(folder) as work:
        for name, content in contents.items():
            (work / name).write_bytes(content)
