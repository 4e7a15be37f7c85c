"""ctranslate2: ``to_ctranslate2.py MODEL OUT``, ids as JSON on stdin, logits on stdout.

The converter insists on a tokenizer with an unknown, a first and a last token; what is measured are
the weights, so the model gets one whose tokens are numbers.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path


def main() -> None:
    """Convert and compute."""
    import ctranslate2
    import numpy as np
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    model, out = map(Path, sys.argv[1:])
    ids = json.load(sys.stdin)
    n_ids = json.loads((model / "config.json").read_text())["vocab_size"]
    tokens = [f"t{i}" for i in range(n_ids)]
    backend = Tokenizer(models.WordLevel({name: i for i, name in enumerate(tokens)}, "t0"))
    roles = {f"{role}_token": "t0" for role in ("bos", "eos", "unk", "pad")}
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(model, folder, dirs_exist_ok=True)
        PreTrainedTokenizerFast(tokenizer_object=backend, **roles).save_pretrained(folder)
        converter = ctranslate2.converters.TransformersConverter(folder)
        converter.convert(str(out))
    generator = ctranslate2.Generator(str(out), compute_type="float32", intra_threads=1)
    logits = generator.forward_batch([[tokens[i] for i in ids]])
    sys.stdout.write(json.dumps(np.array(logits)[0].tolist()))


main()
