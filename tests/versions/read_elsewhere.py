"""What the installed transformers makes of artefacts: ``read_elsewhere.py FOLDER``, JSON on stdout.

Each folder in FOLDER is one. Nothing of slogpt_hf is imported: this runs where it cannot be.
"""

from __future__ import annotations

import json
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

TEXTS = (
    "",
    "the king said to the queen",
    "  Speak,  speak.\n\nYou are\tall resolved ",
    "<|im_start|>user<|im_end|><s></s><|endoftext|><|pad|>",
    "naïve 🎉 \u2581x",
)
ROLES = ("bos", "eos", "pad", "unk")


def read(folder: Path) -> dict[str, Any]:
    """Logits, a greedy continuation and what the tokenizer does with texts."""
    found: dict[str, Any] = _of_model(folder)
    if (folder / "tokenizer.json").exists():
        found["tokenizer"] = _of_tokenizer(folder)
    return found


def _of_model(folder: Path) -> dict[str, Any]:
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float64, trust_remote_code=True
    ).eval()
    ids = torch.arange(1, 21).reshape(2, 10)
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        longer = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=8,
            do_sample=False,
            pad_token_id=0,
        )
    settings = model.generation_config
    return {
        "class": type(model).__name__,
        "logits": logits.flatten().tolist(),
        "continued": longer.tolist(),
        "settings": {
            name: getattr(settings, name)
            for name in (*(f"{role}_token_id" for role in ROLES[:3]), "suppress_tokens")
        },
    }


def _of_tokenizer(folder: Path) -> dict[str, Any]:
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    return {
        "ids": [_encoded(tokenizer, text, special) for text in TEXTS for special in (True, False)],
        "texts": [
            tokenizer.decode(range(len(tokenizer)), skip_special_tokens=skip)
            for skip in (True, False)
        ],
        "tokens": tokenizer.convert_ids_to_tokens(range(len(tokenizer))),
        "special": sorted(set(tokenizer.all_special_ids)),
        "roles": {role: getattr(tokenizer, f"{role}_token_id") for role in ROLES},
        "model_max_length": tokenizer.model_max_length,
        "inputs": list(tokenizer.model_input_names),
    }


def _encoded(tokenizer: Any, text: str, special: bool) -> list[int] | None:
    try:
        return list(tokenizer(text, add_special_tokens=special)["input_ids"])
    except Exception:  # the backend raises bare Exception for a character without an id
        return None


def main(folder: Path) -> None:
    """Print what each artefact gives, or how it failed."""
    found: dict[str, Any] = {}
    for path in sorted(folder.iterdir()):
        try:
            found[path.name] = read(path)
        except Exception as error:
            found[path.name] = {"error": f"{type(error).__name__}: {error}"}
    json.dump({"version": metadata.version("transformers"), "artefacts": found}, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
