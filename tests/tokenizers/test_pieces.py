"""Reading scored pieces, and what the files written of them do."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from slogpt_hf.errors import CheckpointError, SloGPTError
from slogpt_hf.files import write_files
from slogpt_hf.tokenizers import piece_check
from slogpt_hf.tokenizers.check import TokenizerReport, load_tokenizer
from slogpt_hf.tokenizers.piece_check import check_pieces
from slogpt_hf.tokenizers.piece_encoding import PieceCodec
from slogpt_hf.tokenizers.piece_files import piece_tokenizer_files
from slogpt_hf.tokenizers.pieces import SPACE, is_pieces_file, read_pieces

DATA = Path(__file__).parents[1] / "data" / "tokenizers"
MODEL = (DATA / "tokenizer.model").read_bytes()
BIN = (DATA / "tokenizer.bin").read_bytes()
KEEP_SPACES = b"\x1a\x02\x20\x00"  # normalizer_spec { remove_extra_whitespaces: false }, merged in
# Texts, with their ids and what these decode to, from the sentencepiece package.
CASES: list[dict[str, Any]] = json.loads((DATA / "expected.json").read_text("utf-8"))["cases"]


def written(folder: Path, data: bytes) -> Any:
    """The tokenizer that AutoTokenizer makes of the files written for a file of pieces."""
    path = folder / "pieces"
    path.write_bytes(data)
    write_files(folder, piece_tokenizer_files(read_pieces(path), 64))
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize(("spec", "suffix"), [(b"", ""), (KEEP_SPACES, "_spaces_kept")])
def test_model_encodes_and_decodes_as_recorded(spec: bytes, suffix: str, tmp_path: Path) -> None:
    tokenizer = written(tmp_path, MODEL + spec)
    codec = PieceCodec(read_pieces(tmp_path / "pieces"))
    for case in CASES:
        text, ids, decoded = case["text"], case["ids" + suffix], case["decoded" + suffix]
        assert codec.encode(text) == ids
        assert codec.decode(ids) == decoded
        assert tokenizer.encode(text, add_special_tokens=False) == ids
        assert tokenizer.encode(text) == [1, *ids]
        assert tokenizer.decode(ids) == decoded
        assert tokenizer.decode([1, *ids, 2], skip_special_tokens=True) == decoded


def test_bin_encodes_as_recorded_for_kept_spaces(tmp_path: Path) -> None:
    tokenizer = written(tmp_path, BIN)
    cases = [case for case in CASES if SPACE not in case["text"]]
    assert len(cases) > 20
    for case in cases:
        ids = case["ids_spaces_kept"]
        assert tokenizer.encode(case["text"], add_special_tokens=False) == ids
        assert tokenizer.encode(case["text"]) == [1, *ids]
        assert tokenizer.decode(ids) == case["text"]


def test_run_c_knows_no_u2581(tmp_path: Path) -> None:
    tokenizer = written(tmp_path, BIN)
    assert tokenizer.tokenize(SPACE) == [" ", "<0xE2>", "<0x96>", "<0x81>"]
    assert tokenizer.decode(tokenizer.encode(SPACE), skip_special_tokens=True) == SPACE


@pytest.mark.parametrize("data", [MODEL, BIN])
def test_what_the_files_say(data: bytes, tmp_path: Path) -> None:
    tokenizer = written(tmp_path, data)
    assert tokenizer.is_fast
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<s>", "</s>")
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (1, 2, 0)
    assert tokenizer.pad_token is None
    assert tokenizer.model_max_length == 64
    assert len(tokenizer) == 512
    pair = tokenizer("a", "b")["input_ids"]
    assert pair == tokenizer.encode("a") + tokenizer.encode("b")
    assert tokenizer.encode("<s>", add_special_tokens=False) != [1]


def checked(folder: Path, tmp_path: Path, *texts: str) -> TokenizerReport:
    """The tokenizer of a folder against the pieces that ``written`` had."""
    return check_pieces(load_tokenizer(folder), PieceCodec(read_pieces(tmp_path / "pieces")), texts)


def test_saved_again_it_stays_equal(tmp_path: Path) -> None:
    written(tmp_path, MODEL).save_pretrained(tmp_path / "again")
    report = checked(tmp_path / "again", tmp_path)
    assert report.first_difference is None


@pytest.mark.parametrize("data", [MODEL, MODEL + KEEP_SPACES, BIN])
def test_check_passes(data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(piece_check, "N_MIXTURES", 50)
    written(tmp_path, data)
    text = (DATA / "text.txt").read_text("utf-8")
    report = checked(tmp_path, tmp_path, text)
    assert report.ok, report.first_difference
    assert report.unknown == "its UTF-8 bytes"
    assert report.code_points > len(text)


FAULTS: dict[str, tuple[str, tuple[str, ...], Any]] = {
    "no dummy prefix": ("tokenizer.json", ("normalizer",), None),
    "no merges": ("tokenizer.json", ("model", "merges"), []),
    "no bytes": ("tokenizer.json", ("model", "byte_fallback"), False),
    "no bos": ("tokenizer.json", ("post_processor",), None),
    "bytes shown": ("tokenizer.json", ("decoder",), {"type": "Fuse"}),
    "special pieces in texts": ("tokenizer_config.json", ("split_special_tokens",), False),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_check_finds_faults(fault: str, tmp_path: Path) -> None:
    written(tmp_path, MODEL)
    file, (*parents, key), value = FAULTS[fault]
    content = json.loads((tmp_path / file).read_text("utf-8"))
    inner = content
    for parent in parents:
        inner = inner[parent]
    assert inner[key] != value
    inner[key] = value
    (tmp_path / file).write_text(json.dumps(content), "utf-8")
    assert checked(tmp_path, tmp_path).first_difference is not None


def test_check_finds_swapped_merges(tmp_path: Path) -> None:
    written(tmp_path, MODEL)
    content = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))
    content["model"]["merges"].reverse()
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    assert not checked(tmp_path, tmp_path).ok


def piece(text: bytes, score: float = 0.0, kind: int = 1) -> bytes:
    body = b"\x0a" + bytes([len(text)]) + text + b"\x15" + struct.pack("<f", score)
    return b"\x0a" + bytes([len(body) + 2]) + body + bytes([0x18, kind])


BASE = piece(b"<unk>", kind=2) + piece(b"a", -9.0) + piece(b"b", -9.5)
BPE = b"\x12\x02\x18\x02"
REFUSED: dict[str, tuple[bytes, str]] = {
    "unigram": (BASE, "unigram model"),
    "word": (BASE + b"\x12\x02\x18\x03", "word model"),
    "normaliser": (BASE + BPE + b"\x1a\x03\x12\x01x", "normalises characters"),
    "spaces as they are": (BASE + BPE + b"\x1a\x02\x28\x00", "U\\+2581"),
    "space as suffix": (BASE + BPE + b"\x12\x03\xc0\x01\x01", "U\\+2581"),
    "no unknown": (piece(b"a") + BPE, "0 unknown pieces"),
    "two unknowns": (BASE + piece(b"?!", kind=2) + BPE, "2 unknown pieces"),
    "duplicate": (BASE + piece(b"a") + BPE, "pieces 1 and 3 are both 'a'"),
    "empty piece": (BASE + piece(b"") + BPE, "piece 3 is empty"),
    "nul": (BASE + piece(b"a\0") + BPE, "holds NUL"),
    "nan": (BASE + piece(b"ab", float("nan")) + BPE, "score of piece 3 is nan"),
    "not utf-8": (BASE + piece(b"\xff") + BPE, "piece 3 is not UTF-8"),
    "unknown type": (BASE + piece(b"ab", kind=9) + BPE, "unknown type 9"),
    "byte without fallback": (BASE + piece(b"<0x00>", kind=6) + BPE, "1 byte pieces"),
    "fallback without bytes": (BASE + BPE + b"\x12\x03\x98\x02\x01", "0 byte pieces"),
    "user-defined": (BASE + piece(b"ab", kind=4) + BPE, "user-defined piece 'ab'"),
    "unused": (BASE + piece(b"ab", kind=5) + BPE, "unused piece 'ab'"),
    "part is no piece": (BASE + piece(b"ax") + BPE, "merges 'x', which is no piece"),
    "control character": (BASE + piece(b"c", kind=3) + BPE, "'c' is a control piece"),
    "overlapping at one score": (
        BASE + piece(b"ab", -1.0) + piece(b"ba", -1.0) + BPE,
        "one score to pieces that overlap",
    ),
    "part as good as the whole": (
        BASE + b"".join(piece(t, -1.0) for t in (b"ab", b"aba", b"bb")) + BPE,
        "as high as a part of it",
    ),
    "group": (BASE + b"\x0b", "wire type 3"),
    "number without end": (BASE + b"\x12" + b"\xff" * 12, "does not end"),
    "longer than the file": (BASE + b"\x12\xff\xff\xff\xff\x0f", "longer than what holds it"),
    "field 0": (BASE + b"\x00\x00", "number 0"),
    "cut": (BASE[:-3], "longer than what holds it"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_model_is_refused(case: str, tmp_path: Path) -> None:
    data, message = REFUSED[case]
    path = tmp_path / "x"
    path.write_bytes(data)
    assert is_pieces_file(path)
    with pytest.raises(CheckpointError, match=message) as caught:
        piece_tokenizer_files(read_pieces(path), None)
    assert str(path) in caught.value.message and caught.value.hint


def patched(at: int, value: bytes) -> bytes:
    return BIN[:at] + value + BIN[at + len(value) :]


REFUSED_BINS: dict[str, tuple[bytes, str]] = {
    "negative length": (patched(8, struct.pack("<i", -1)), "length of -1"),
    "length that lies": (patched(8, struct.pack("<i", 1 << 30)), "length of 1073741824"),
    "cut in a piece": (BIN[:-1], "ends within piece 511"),
    "cut in a score": (BIN[: 4 + 8 + 5 + 3], "ends within piece 1"),
    "cut between pieces": (BIN[: 4 + 8 + 5], "not the byte pieces"),
    "nan": (patched(4, struct.pack("<f", float("nan"))), "score of piece 0 is nan"),
    "not utf-8": (patched(12, b"\xff"), "piece 0 is not UTF-8"),
    "old export": (BIN.replace(b"<0x41>", b"\x01\x02\x03\x04\x05\x06"), "not the byte pieces"),
    "byte within": (
        patched(0, b"\x40") + struct.pack("<fi", -1, 7) + b"<0x41>b",
        "with a byte in it",
    ),
    "no space": (BIN.replace(struct.pack("<i", 1) + b" ", struct.pack("<i", 1) + b"\x7f"), "space"),
}


@pytest.mark.parametrize("case", REFUSED_BINS)
def test_bin_is_refused(case: str, tmp_path: Path) -> None:
    data, message = REFUSED_BINS[case]
    path = tmp_path / "x"
    path.write_bytes(data)
    assert is_pieces_file(path)
    with pytest.raises(CheckpointError, match=message):
        piece_tokenizer_files(read_pieces(path), None)


def test_sizes_are_limited(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(BIN[:4] + bytes(6 << 20))
    with pytest.raises(CheckpointError, match="larger than 5 MiB"):
        read_pieces(path)
    path.write_bytes(BASE + BPE + b"\x0a\x00" * 300_000)
    with pytest.raises(CheckpointError, match="more than 300000 pieces"):
        read_pieces(path)


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b'\n{\n "version": "1.0"}', b"\x80\x02}q", b"PK\x03\x04" + bytes(12), b"\0" * 16],
)
def test_other_files_are_not_taken_for_pieces(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(data)
    assert not is_pieces_file(tmp_path / "tokenizer.model")
    with pytest.raises(SloGPTError):
        read_pieces(tmp_path / "tokenizer.model")


EDITS = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 3), st.binary(max_size=6)), min_size=1, max_size=4
)
SMALL_MODEL = (
    BASE
    + piece(b"ab", -1.0)
    + piece("\u2581a".encode(), -2.0)
    + piece(SPACE.encode(), -3.0)
    + BPE
    + KEEP_SPACES
)


def test_undamaged_is_read(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(SMALL_MODEL)
    pieces = read_pieces(tmp_path / "x")
    assert pieces.texts == ("<unk>", "a", "b", "ab", "\u2581a", SPACE)
    assert (pieces.bos, pieces.eos, pieces.remove_extra_whitespaces) == (None, None, False)
    assert PieceCodec(pieces).encode("ab a") == [5, 3, 4]


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.sampled_from([SMALL_MODEL, SMALL_MODEL, MODEL, BIN]), edits=EDITS)
def test_damage_is_one_error(
    data: bytes,
    edits: list[tuple[float, int, bytes]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Bytes overwritten, inserted or cut out anywhere: pieces, or a typed error."""
    for where, kind, value in edits:
        at = int(where * len(data))
        end = (at, at + len(value), at + 1, len(data))[kind]
        data = data[:at] + value + data[end:]
    path = tmp_path_factory.mktemp("damage") / "x"
    path.write_bytes(data)
    try:
        pieces = read_pieces(path)
        files = piece_tokenizer_files(pieces, None)
    except SloGPTError as error:
        assert "\n" not in str(error)
    else:
        assert len(json.loads(files["tokenizer.json"])["model"]["vocab"]) == pieces.size
