"""Artefacts of every kind in other versions of transformers than the one that converted them.

``.ci/versions.py elsewhere`` sets LOADED_BY to folders that hold them, one a version; a process of
its own loads the artefacts there, and all it finds is compared with what is found here.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import kinds
import pytest
from packaging.version import Version
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, PreTrainedTokenizerFast

from slogpt_hf.checkpoints import read_checkpoint
from slogpt_hf.conversion import plan_conversion, write_model
from slogpt_hf.conversion.modeling_slogpt import NEEDS
from slogpt_hf.tokenizers import choose_tokenizer

Write = Callable[..., Path]
Found = Mapping[str, Any]
TEXT = "\n".join(f"the king said {i} to the queen and {i * 7} words of a lord" for i in range(400))
MARKERS = ["<|im_start|>", "<|im_end|>"]
ELSEWHERE = [path for path in os.environ.get("LOADED_BY", "").split(os.pathsep) if path]
LARGEST = 1e-12  # of the largest logit, in float64: another order of additions


def byte_pairs(folder: Path, name: str) -> str:
    """A tokenizer of byte pairs with markers, saved by transformers as one of class ``name``."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>", *MARKERS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([TEXT], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|endoftext|>", extra_special_tokens=MARKERS
    )
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer_class": name}))
    return str(folder)


def scored_pieces(folder: Path, **settings: Any) -> str:
    """A sentencepiece model as llama2.c trains one."""
    import sentencepiece

    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines()),
        model_writer=made,
        model_type="bpe",
        vocab_size=320,
        byte_fallback=True,
        normalization_rule_name="identity",
        split_digits=True,
        num_threads=1,
        minloglevel=2,
        **settings,
    )
    folder.mkdir()
    (folder / "tokenizer.model").write_bytes(made.getvalue())
    return str(folder / "tokenizer.model")


@pytest.fixture(scope="module")
def artefacts(
    slo_checkpoint: Write, golden: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder of artefacts: each class, each kind of tokenizer, what versions call differently."""
    folder, sources = (tmp_path_factory.mktemp(name) for name in ("artefacts", "sources"))

    def convert(name: str, path: Path, **choice: Any) -> None:
        checkpoint = read_checkpoint(path)
        chosen = choose_tokenizer(checkpoint, **choice) if choice else None
        (folder / name).mkdir()
        special = {"special": chosen.special} if chosen else {}
        write_model(checkpoint, plan_conversion(checkpoint, **special), folder / name)
        if chosen:
            chosen.write(folder / name, checkpoint)

    for name, arguments in kinds.arguments_of(slo_checkpoint).items():
        convert(name, slo_checkpoint(**arguments))
    llama = {"use_rope": True, "use_rmsnorm": True, "use_swiglu": True, "bias": False}
    convert("theta", slo_checkpoint(**llama, rope_theta=500_000.0))
    convert("tied head", slo_checkpoint(use_rope=True, use_swiglu=True, bias=False))  # a StableLM
    convert("bfloat16", slo_checkpoint(**llama, dtype="bfloat16"))
    characters = golden("slo-classic")
    for roles in ((), ("pad", "eos", "bos", "unk")):
        name = "characters" + "".join(f" {role}" for role in roles)
        convert(name, characters / "ckpt.pt", dataset=str(characters), special=roles)
    wide = slo_checkpoint(vocab_size=320)
    for name in ("TokenizersBackend", "PreTrainedTokenizerFast", "GPT2Tokenizer"):
        convert(name, wide, tokenizer=byte_pairs(sources / name, name))
    convert("pieces", wide, tokenizer=scored_pieces(sources / "pieces"))
    markers = scored_pieces(sources / "markers", control_symbols=MARKERS)
    convert("pieces with markers", wide, tokenizer=markers)
    return folder


def read(artefacts: Path, home: Path, *first: str) -> Found:
    """What a process of its own finds that imports from the folders ``first`` before others."""
    script = Path(__file__).with_name("read_elsewhere.py")
    path = os.pathsep.join(first)
    environment = os.environ | {"PYTHONPATH": path, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, script, artefacts], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    found: Found = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def here(artefacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Found:
    return read(artefacts, tmp_path_factory.mktemp("home"))


def test_they_are_all_loaded_here(artefacts: Path, here: Found) -> None:
    found = here["artefacts"]
    assert {found[name]["class"] for name in kinds.CLASSES} == set(kinds.CLASSES)
    assert AutoConfig.from_pretrained(artefacts / "theta").rope_parameters["rope_theta"] == 5e5
    assert found["pieces with markers"]["tokenizer"]["special"] == [0, 1, 2, 3, 4]
    assert [len(each["tokenizer"]["tokens"]) for each in found.values() if "tokenizer" in each]
    assert not [name for name, each in found.items() if "error" in each]


@pytest.mark.parametrize("folder", ELSEWHERE)
def test_they_are_the_same_elsewhere(
    folder: str, artefacts: Path, here: Found, tmp_path: Path
) -> None:
    elsewhere = read(artefacts, tmp_path, folder)
    version = elsewhere["version"]
    differing = {}
    for name, expected in here["artefacts"].items():
        found = elsewhere["artefacts"][name]
        if expected["class"] == "SloGPTForCausalLM" and Version(version) < Version(NEEDS):
            if f"needs transformers {NEEDS} or later, installed is {version}" not in str(found):
                differing[name] = found
        elif differs := difference(found, expected):
            differing[name] = differs
    assert not differing, f"transformers {version}: {json.dumps(differing, indent=1)[:4000]}"


def difference(found: Found, expected: Found) -> Found:
    """What is found otherwise: field to the two values; of logits the largest difference."""
    if "error" in found:
        return found
    largest = max(map(abs, expected["logits"]))
    off = max(abs(a - b) for a, b in zip(found["logits"], expected["logits"], strict=True))
    differing: dict[str, Any] = {} if off <= LARGEST * largest else {"logits": off / largest}
    for field in expected.keys() - {"logits", "tokenizer"}:
        if found[field] != expected[field]:
            differing[field] = (found[field], expected[field])
    for field, value in expected.get("tokenizer", {}).items():
        if found["tokenizer"][field] != value:
            differing[f"tokenizer {field}"] = (found["tokenizer"][field], value)
    return differing
