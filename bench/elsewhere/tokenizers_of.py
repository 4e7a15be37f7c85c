"""What llama.cpp's converter and tokenizer do with the tokenizers of artefacts."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import artefacts
import sentencepiece
from answering import RefusedError
from programs import LlamaCpp
from transformers import AutoTokenizer

from slogpt_hf.checkpoints import read_checkpoint
from slogpt_hf.conversion import plan_conversion, write_model
from slogpt_hf.tokenizers import choose_tokenizer

CHARACTERS = Path(__file__).parents[2] / "tests" / "data" / "golden" / "slo-modern" / "ckpt.pt"
LLAMA = artefacts.Case("LlamaForCausalLM", "silu", bias=False)
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


def tokenizer_stops(kind: str, llama: LlamaCpp) -> str | None:
    """What llama.cpp says of a kind of tokenizer that it does not take; None if it does."""
    with tempfile.TemporaryDirectory(prefix="slogpt-hf-elsewhere-") as name:
        work = Path(name)
        if kind == "characters":
            model, path, tokenizer = work / "model", CHARACTERS, None
            model.mkdir()
            write_model(read_checkpoint(path), plan_conversion(read_checkpoint(path)), model)
        else:
            model, path = artefacts.write(LLAMA, work), work / "ckpt.pt"
            tokenizer = str(_pieces(work))
        checkpoint = read_checkpoint(path)
        choose_tokenizer(checkpoint, tokenizer=tokenizer).write(model, checkpoint)
        right = AutoTokenizer.from_pretrained(model)
        try:
            found = llama.tokens(model, list(TEXTS), work)
        except RefusedError as refused:
            return str(refused)
        for text, ids in zip(TEXTS, found, strict=True):
            if ids not in (right(text)["input_ids"], right(text)["input_ids"][1:]):
                return f"it encodes {text!r} otherwise"
        return None
