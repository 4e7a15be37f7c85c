"""The process in which a release is loaded by its tag and continues a text. Started by smoke.py."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NEW_TOKENS = 8  # at most
TEXTS = ("The ", "\n", " ")
MOST_IDS = 2000  # of the vocabulary, whose texts are tried


def main(folder: Path) -> None:
    """Answer the request in a folder."""
    request = json.loads((folder / "request.json").read_text("utf-8"))
    sys.path[:0] = request["paths"]
    from slogpt_hf.shielded import leave_the_network

    leave_the_network()
    del sys.path[: len(request["paths"])]  # what is loaded finds what is installed, no more
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    options = {"revision": request["tag"], "trust_remote_code": request["code"]}
    tokenizer, model = loaded(request["repo_id"], options, request["tokenizer"])
    with torch.no_grad():
        answer = continued(model, tokenizer)
    answer |= {"class": type(model).__name__, "transformers": transformers.__version__}
    (folder / "answer.json").write_text(json.dumps(answer), encoding="utf-8")


def loaded(place: str, options: dict[str, Any], with_tokenizer: bool) -> tuple[Any, Any]:
    """Tokenizer (None where there is none) and model, whose tensors are exactly those stored."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(place, **options) if with_tokenizer else None
    model, info = AutoModelForCausalLM.from_pretrained(
        place, **options, dtype="auto", use_safetensors=True, output_loading_info=True
    )
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if names := sorted(map(str, info[kind])):
            raise ValueError(f"{kind.replace('_keys', ' tensors')}: {', '.join(names[:6])}")
    return tokenizer, model.eval()


def continued(model: Any, tokenizer: Any) -> dict[str, Any]:
    """A prompt of the vocabulary and what the model makes of it, always its likeliest token."""
    import torch

    vocab_size = model.config.vocab_size
    context = getattr(model.config, "max_position_embeddings", NEW_TOKENS)
    text, inputs = None, {"input_ids": torch.zeros(1, 1, dtype=torch.long)}
    if tokenizer is not None:
        text, inputs = prompt(tokenizer, vocab_size)
    given = inputs["input_ids"].shape[1]
    if given > context:
        raise ValueError(f"the prompt {text!a} takes {given} tokens, the context {context}")
    if not torch.isfinite(model(**inputs).logits).all():
        raise ValueError("its logits are no finite numbers")
    n_new = min(NEW_TOKENS, context - given + 1)
    ids = model.generate(**inputs, max_new_tokens=n_new, do_sample=False, num_beams=1)[0].tolist()
    new = ids[given:]
    if not new or not all(0 <= each < vocab_size for each in new):
        raise ValueError(f"it generates {new}, of a vocabulary of {vocab_size}")
    told = {"text": text, "ids": ids[:given], "new": new}
    return told if tokenizer is None else told | {"more": tokenizer.decode(new)}


def prompt(tokenizer: Any, vocab_size: int) -> tuple[str, dict[str, Any]]:
    """The first text that the tokenizer reads and gives back as it was, and its tensors."""
    import torch

    for text in texts(tokenizer, vocab_size):
        try:
            ids = tokenizer.encode(text, add_special_tokens=False)
        except Exception:  # the backend raises a bare one for an unknown character
            continue
        if not ids or not all(0 <= each < vocab_size for each in ids):
            continue
        if tokenizer.decode(ids).strip() == text.strip():
            inputs = dict(tokenizer(text, return_tensors="pt"))
            if (inputs["input_ids"] >= vocab_size).any():
                raise ValueError(f"the tokenizer gives ids beyond the vocabulary of {vocab_size}")
            return text, {name: torch.as_tensor(each) for name, each in inputs.items()}
    raise ValueError("its tokenizer gives back no text that it reads")


def texts(tokenizer: Any, vocab_size: int) -> Iterator[str]:
    """Texts that a vocabulary may have; then its own entries."""
    yield from TEXTS
    special = set(tokenizer.all_special_ids)
    for each in range(min(vocab_size, MOST_IDS)):
        if each not in special and (text := tokenizer.decode([each])):
            yield text


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except Exception as error:
        traceback.print_exc()
        sys.stderr.write(f"{type(error).__name__}: {' '.join(str(error).split())}\n")
        sys.stderr.flush()
        os._exit(1)
