"""A vocabulary, or an existing tokenizer, as the files that ``AutoTokenizer`` loads."""

from slogpt_hf.tokenizers.characters import write_character_tokenizer
from slogpt_hf.tokenizers.check import TokenizerReport, check_tokenizer
from slogpt_hf.tokenizers.choice import TokenizerChoice, choose_tokenizer
from slogpt_hf.tokenizers.existing import required_tokenizer, tokenizer_files

__all__ = [
    "TokenizerChoice",
    "TokenizerReport",
    "check_tokenizer",
    "choose_tokenizer",
    "required_tokenizer",
    "tokenizer_files",
    "write_character_tokenizer",
]
