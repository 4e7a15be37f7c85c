"""An existing tokenizer (GPT-2's BPE, a sentencepiece one) as part of the artefact."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slogpt_hf.errors import CheckpointError, UsageError, first_line
from slogpt_hf.progress import quiet_transformers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Vocabulary size of a checkpoint without meta.pkl to the tokenizer that it was trained with.
# 50304 is 50257 padded to a multiple of 64.
KNOWN_TOKENIZERS = {
    50257: ("GPT-2's BPE", "openai-community/gpt2"),
    50304: ("GPT-2's BPE", "openai-community/gpt2"),
    32000: ("Llama's sentencepiece", "the folder that holds its tokenizer.model"),
}

FILE_SUFFIXES = (".model", ".bin", ".json")  # of a tokenizer's file, not of a repository
# How and whence this machine loaded the tokenizer, which transformers saves with it.
LOADING_KEYS = {
    "is_local",
    "local_files_only",
    "name_or_path",
    "_commit_hash",
    "tokenizer_file",
    "vocab_file",
    "merges_file",
}


def tokenizer_files(
    tokenizer: PreTrainedTokenizerBase,
    source: str,
    *,
    vocab_size: int,
    model_max_length: int | None,
) -> dict[str, bytes]:
    """The files of a tokenizer that fits the model: name to content.

    Args:
        tokenizer: as ``load_existing`` gave it; its ``model_max_length`` is set.
        source: where it came from, for messages.
        vocab_size: number of ids of the model; it may have more than the tokenizer.
        model_max_length: the model's context length, in tokens; None keeps the tokenizer's.

    Raises:
        CheckpointError: it has more ids than the model, has no ``tokenizer.json`` form, or
            would need code of its own.
    """
    if not tokenizer.is_fast:
        raise CheckpointError(
            f"{source}: {type(tokenizer).__name__} has no tokenizer.json, which an artefact needs.",
            hint="Give a fast tokenizer: a folder or Hub repo id that holds a tokenizer.json.",
        )
    needed = n_ids(tokenizer)
    if needed > vocab_size:
        raise CheckpointError(
            f"the tokenizer {source} needs {needed} ids but the model has {vocab_size}.",
            hint="Give the tokenizer that the model was trained with.",
        )
    if model_max_length is not None:
        tokenizer.model_max_length = model_max_length
    with tempfile.TemporaryDirectory() as temporary:
        tokenizer.save_pretrained(temporary)
        paths = sorted(path for path in Path(temporary).iterdir() if path.is_file())
        files = {path.name: path.read_bytes() for path in paths}
    config = json.loads(files["tokenizer_config.json"])
    # By default, transformers 4 gives token_type_ids as well, which GPT-2 adds as tokens.
    inputs = {"model_input_names": list(tokenizer.model_input_names)}
    kept = inputs | {key: value for key, value in config.items() if key not in LOADING_KEYS}
    text = json.dumps(_for_every_version(kept), ensure_ascii=False, indent=2) + "\n"
    return files | {"tokenizer_config.json": text.encode()}


def _for_every_version(config: dict[str, Any]) -> dict[str, Any]:
    """A ``tokenizer_config.json`` in words that transformers 4 reads like the newer versions."""
    if config.get("tokenizer_class") == "TokenizersBackend":
        config = config | {"tokenizer_class": "PreTrainedTokenizerFast"}
    if not isinstance(extra := config.get("extra_special_tokens"), list):
        return config
    rest = {key: value for key, value in config.items() if key != "extra_special_tokens"}
    return rest | ({"additional_special_tokens": extra} if extra else {})


def n_ids(tokenizer: PreTrainedTokenizerBase) -> int:
    """The highest id and one: ids may have gaps."""
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    return max(len(tokenizer), *(i + 1 for i in vocabulary.values()))


def encoded(tokenizer: PreTrainedTokenizerBase, text: str, *, special: bool) -> list[int] | None:
    """Ids of a text; None where the tokenizer refuses it, as one without an unknown token does."""
    try:
        ids: list[int] = tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]
    except Exception:  # the backend raises bare Exception
        return None
    return ids


def required_tokenizer(vocab_size: int) -> str:
    """What to say when neither a vocabulary nor a tokenizer is given.

    Args:
        vocab_size: number of ids of the model.

    Returns:
        One message: what is missing and which options give it.
    """
    if vocab_size not in KNOWN_TOKENIZERS:
        return (
            f"The checkpoint has {vocab_size} ids and no vocabulary: give the dataset it was"
            " trained on with --dataset NAME_OR_PATH, or a tokenizer with --tokenizer"
            " PATH_OR_REPO; if its ids stand for no text, pass --tokenizer none."
        )
    name, example = KNOWN_TOKENIZERS[vocab_size]
    return (
        f"The checkpoint has {vocab_size} ids and no vocabulary, so it needs {name} tokenizer:"
        f" give --tokenizer PATH_OR_REPO (for example {example}), or, if it is a character"
        " model, the dataset it was trained on with --dataset NAME_OR_PATH."
    )


def load_existing(source: str) -> PreTrainedTokenizerBase:
    """The tokenizer at a folder, a ``tokenizer.json`` or a Hub repo id.

    Raises:
        UsageError: there is none.
        CheckpointError: it cannot be read, or would need code of its own.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    path = Path(source)
    if path.is_file() and (path.parent / "tokenizer_config.json").is_file():
        path = path.parent
    local = path.exists()
    if not local:
        try:
            if path.suffix in FILE_SUFFIXES:
                raise HFValidationError(source)
            validate_repo_id(source)
        except HFValidationError as error:
            raise UsageError(
                f"{source}: no such tokenizer; it is neither a file, a folder nor a repo id.",
                hint="Give a folder, a tokenizer.json or a Hub repo id.",
            ) from error
    try:
        with quiet_transformers():
            if path.is_file():
                tokenizer: PreTrainedTokenizerBase = PreTrainedTokenizerFast(
                    tokenizer_file=str(path)
                )
            else:
                tokenizer = AutoTokenizer.from_pretrained(
                    path if local else source, trust_remote_code=False, local_files_only=local
                )
    except Exception as error:  # the backend raises bare Exception
        kind, what = (CheckpointError, "be read") if local else (UsageError, "be loaded")
        raise kind(
            f"{source}: the tokenizer cannot {what}: {first_line(error)}",
            hint="Give a folder, a tokenizer.json or a Hub repo id that loads without remote code.",
        ) from error
    if "auto_map" in tokenizer.init_kwargs:
        raise CheckpointError(
            f"{source}: the tokenizer comes with code of its own, which is not run.",
            hint="Give one that the transformers library has a class for.",
        )
    # For a folder with only a config.json, transformers makes a tokenizer of special tokens alone.
    if set(tokenizer.get_vocab().values()) <= set(tokenizer.all_special_ids):
        raise CheckpointError(
            f"{source}: holds no tokenizer.", hint="Give a folder that holds a tokenizer.json."
        )
    return tokenizer
