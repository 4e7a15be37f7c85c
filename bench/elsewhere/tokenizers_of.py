"""What llama.cpp's converter and tokenizer do with the tokenizers of artefacts."""

from __future__ import annotations

import io
import pickle
import tempfile
from pathlib import Path

import artefacts
import sentencepiece
from answering import RefusedError
from programs import LlamaCpp
from transformers import AutoTokenizer

from slogpt_hf.checkpoints import read_checkpoint
from slogpt_hf.tokenizers import choose_tokenizer

LINES = [f"the king said {i} to the queen and {i * 7} words of a lord" for i in range(400)]
TEXTS = ("the king said", "a lord.\nAnd 19", "  two  spaces ", "é 你", "words")


def _pieces(work: Path) -> Path:
    """A ``tokenizer.model`` as llama2.c trains one."""
    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES),
        model_writer=made,
        model_type="bpe",
        vocab_size=artefacts.SIZES["vocab_size"],
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        num_threads=1,
        minloglevel=2,
    )
    path = work / "tokenizer.model"
    path.write_bytes(made.getvalue())
    return path


def _characters(work: Path) -> Path:
    """A ``meta.pkl`` of letters."""
    letters = [chr(code) for code in (10, *range(32, 127), *range(0x100, 0x400))]
    letters = letters[: artefacts.SIZES["vocab_size"]]
    ids = {letter: i for i, letter in enumerate(letters)}
    content = {"vocab_size": len(ids), "stoi": ids, "itos": dict(enumerate(letters))}
    path = work / "meta.pkl"
    path.write_bytes(pickle.dumps(content))
    return path


def tokenizer_stops(kind: str, case: artefacts.Case, llama: LlamaCpp) -> str | None:
    """What llama.cpp says of a kind of tokenizer in a class's artefact; None if it takes it."""
    with tempfile.TemporaryDirectory(prefix="slogpt-hf-elsewhere-") as name:
        work = Path(name)
        model = artefacts.write(case, work)
        checkpoint = read_checkpoint(work / "ckpt.pt", {"activation": case.activation})
        if kind == "characters":
            choice = choose_tokenizer(checkpoint, dataset=str(_characters(work)))
        else:
            choice = choose_tokenizer(checkpoint, tokenizer=str(_pieces(work)))
        choice.write(model, checkpoint)
        right = AutoTokenizer.from_pretrained(model)
        texts = TEXTS if kind == "sentencepiece" else TEXTS[:3]
        try:
            found = llama.tokens(model, list(texts), work)
        except RefusedError as refused:
            return str(refused)
        for text, ids in zip(texts, found, strict=True):
            if ids not in (right(text)["input_ids"], right(text)["input_ids"][1:]):
                return f"it encodes {text!r} otherwise"
        return None
