"""A vocabulary, or an existing tokenizer, as the files that ``AutoTokenizer`` loads."""

from slogpt_hf.tokenizers.characters import write_character_tokenizer
from slogpt_hf.tokenizers.check import TokenizerReport, check_choice, check_tokenizer, has_tokenizer
from slogpt_hf.tokenizers.choice import TokenizerChoice, choose_tokenizer
from slogpt_hf.tokenizers.existing import required_tokenizer, tokenizer_files
from slogpt_hf.tokenizers.pieces import Pieces, read_pieces

__all__ = [
    "Pieces",
    "TokenizerChoice",
    "TokenizerReport",
    "check_choice",
    "check_tokenizer",
    "choose_tokenizer",
    "has_tokenizer",
    "read_pieces",
    "required_tokenizer",
    "tokenizer_files",
    "write_character_tokenizer",
]
