"""ctranslate2 as a process that answers: {model, out, ids} gives {logits} (a row a position).

The converter insists on a tokenizer with an unknown, a first and a last token; what is measured are
the weights, so the model gets one whose tokens are numbers.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
from answering import answer_all
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast


def computed(model: str, out: str, ids: list[int]) -> dict[str, Any]:
    """Convert and compute."""
    n_ids = json.loads(Path(model, "config.json").read_text())["vocab_size"]
    tokens = [f"t{i}" for i in range(n_ids)]
    backend = Tokenizer(models.WordLevel({name: i for i, name in enumerate(tokens)}, "t0"))
    roles = {f"{role}_token": "t0" for role in ("bos", "eos", "unk", "pad")}
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(model, folder, dirs_exist_ok=True)
        PreTrainedTokenizerFast(tokenizer_object=backend, **roles).save_pretrained(folder)
        converter = ctranslate2.converters.TransformersConverter(folder, trust_remote_code=True)
        converter.convert(out)
    generator = ctranslate2.Generator(out, compute_type="float32", intra_threads=1)
    logits = generator.forward_batch([[tokens[i] for i in ids]])
    return {"logits": np.array(logits)[0].tolist()}


answer_all(computed)
