"""The written tokenizer.json against the sentencepiece package, over vocabularies and texts."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from slogpt_hf.errors import CheckpointError
from slogpt_hf.files import write_files
from slogpt_hf.tokenizers.check import ADVERSARIAL
from slogpt_hf.tokenizers.piece_check import UNUSUAL
from slogpt_hf.tokenizers.piece_encoding import PieceCodec
from slogpt_hf.tokenizers.piece_files import piece_tokenizer_files
from slogpt_hf.tokenizers.pieces import SPACE, read_pieces

DATA = Path(__file__).parents[1] / "data" / "tokenizers"
KEEP_SPACES = b"\x1a\x02\x20\x00"  # normalizer_spec { remove_extra_whitespaces: false }, merged in
NO_PREFIX = b"\x1a\x02\x18\x00"  # normalizer_spec { add_dummy_prefix: false }
NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4
MIXED = [*"  \n\t\0abcdehtneo<>s/0xTh", "\u2581", "\u00f1", "\u4f60", "\U0001f44d", "\u0301"]
MIXED += ["\u200d", "\ufeff", "\U0001f3fd", "the ", "  ", "<s>", "</s>", "<0x0A>", "<unk>"]


def varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def message(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def model(pieces: list[tuple[str, float, int]], spec: bytes = b"") -> bytes:
    """A ModelProto of type BPE: pieces with scores and types, and more of it."""
    encoded = (
        message(
            1, message(1, text.encode()) + b"\x15" + struct.pack("<f", score) + bytes([24, kind])
        )
        for text, score, kind in pieces
    )
    return b"".join(encoded) + message(2, b"\x18\x02") + spec


def differences(data: bytes, folder: Path, texts: list[str]) -> int:
    """How many texts the files of a model encode or decode other than sentencepiece does."""
    path = folder / "tokenizer.model"
    path.write_bytes(data)
    original = sentencepiece.SentencePieceProcessor(model_proto=data)
    pieces = read_pieces(path)
    codec = PieceCodec(pieces)
    write_files(folder, piece_tokenizer_files(pieces, 64))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    count = 0
    for text in texts:
        ids = original.encode(text)
        count += codec.encode(text) != ids
        count += codec.decode(ids) != original.decode(ids)
        count += tokenizer.encode(text, add_special_tokens=False) != ids
        count += tokenizer.encode(text) != [original.bos_id(), *ids]
        count += tokenizer.decode(ids) != original.decode(ids)
        with_both = [original.bos_id(), *ids, original.eos_id()]
        count += tokenizer.decode(with_both, skip_special_tokens=True) != original.decode(ids)
    return count


def mixtures(n: int) -> list[str]:
    draw = random.Random(1)
    return ["".join(draw.choices(MIXED, k=draw.randrange(50))) for _ in range(n)]


@pytest.mark.parametrize("spec", [b"", KEEP_SPACES, NO_PREFIX, KEEP_SPACES + NO_PREFIX])
def test_fixture(spec: bytes, tmp_path: Path) -> None:
    data = (DATA / "tokenizer.model").read_bytes() + spec
    text = (DATA / "text.txt").read_text("utf-8")
    texts = [*ADVERSARIAL, *UNUSUAL, *mixtures(500), text]
    assert differences(data, tmp_path, texts) == 0


@pytest.mark.parametrize("byte_fallback", [True, False])
def test_trained(byte_fallback: bool, tmp_path: Path) -> None:
    """Other text, another alphabet, control symbols, a pad piece, characters left out."""
    corpus = tmp_path / "corpus.txt"
    draw = random.Random(2)
    words = ["na\u00efve", "\u4e16\u754c", "\u3053\u3093", "\U0001f44d", "aaaa", "banana", "\u00e9"]
    corpus.write_text("\n".join(" ".join(draw.choices(words, k=8)) for _ in range(400)), "utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus),
        model_prefix=str(tmp_path / "trained"),
        model_type="bpe",
        vocab_size=310 if byte_fallback else 45,
        byte_fallback=byte_fallback,
        character_coverage=0.98,
        normalization_rule_name="identity",
        control_symbols=["<sep>"],
        pad_id=3,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
    )
    texts = [*ADVERSARIAL, *UNUSUAL, *mixtures(300), *corpus.read_text("utf-8").split("\n")[:50]]
    texts += ["<sep>a<pad>", "\u00e9\u4e16 \U0001f44d\U0001f44dx", "aaaaa", "a" * 97]
    assert differences((tmp_path / "trained.model").read_bytes(), tmp_path, texts) == 0


SCORES = st.integers(-6, 0).map(float) | st.floats(-100, 0, width=32)
WORDS = st.text("ab" + SPACE, min_size=2, max_size=6)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    scores=st.dictionaries(WORDS, SCORES, min_size=1, max_size=30),
    texts=st.lists(st.text("ab ", max_size=40), min_size=5, max_size=20),
    frozen=st.booleans(),
    spec=st.sampled_from([b"", KEEP_SPACES]),
)
def test_any_vocabulary(
    scores: dict[str, float],
    texts: list[str],
    frozen: bool,
    spec: bytes,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Random pieces and scores, equal ones too: equal encodings, or a refusal."""
    pieces = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL)]
    pieces += [(text, score, NORMAL) for text, score in scores.items()]
    pieces += [("a", -200.0, NORMAL), (SPACE, -201.0, NORMAL)]
    pieces.append(("b", -202.0, USER_DEFINED if frozen else NORMAL))
    data = model(pieces, spec)
    path = tmp_path_factory.mktemp("any") / "tokenizer.model"
    path.write_bytes(data)
    try:
        files = piece_tokenizer_files(read_pieces(path), None)
    except CheckpointError as error:
        assert "score" in error.message
        assume(False)
    tokenizer = Tokenizer.from_str(files["tokenizer.json"].decode())
    original = sentencepiece.SentencePieceProcessor(model_proto=data)
    for text in [*texts, "ab" * 20, "aab" * 15, "a" * 30]:
        assert tokenizer.encode(text, add_special_tokens=False).ids == original.encode(text)


def test_export_is_the_original_where_spaces_are_kept(tmp_path: Path) -> None:
    """run.c and sentencepiece agree on what has neither U+2581 nor extra spaces to remove."""
    data = (DATA / "tokenizer.model").read_bytes() + KEEP_SPACES
    original = sentencepiece.SentencePieceProcessor(model_proto=data)
    codec = PieceCodec(read_pieces(DATA / "tokenizer.bin"))
    texts = [text for text in [*ADVERSARIAL, *UNUSUAL, *mixtures(500)] if SPACE not in text]
    assert len(texts) > 200
    for text in texts:
        assert codec.encode(text) == original.encode(text)
