from __future__ import annotations

import os
import pickle
import struct
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slogpt_hf.datasets import meta as meta_module
from slogpt_hf.datasets.meta import find_meta, read_ids, read_meta
from slogpt_hf.errors import CheckpointError, SloGPTError, UsageError
from slogpt_hf.pickles import NUMPY, load

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "slo-classic" / "meta.pkl"

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=("Cs",)))
    | st.binary(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner)
        | st.tuples(inner, inner)
        | st.tuples(inner, inner, inner, inner)
        | st.dictionaries(st.text(max_size=3) | st.integers(-9, 9), inner, max_size=4)
    ),
    max_leaves=12,
)


def load_plain(data: bytes, source: str) -> object:
    return load(data, source, globals=NUMPY)


def dump(tmp_path: Path, value: object, protocol: int = 4) -> Path:
    path = tmp_path / "meta.pkl"
    path.write_bytes(pickle.dumps(value, protocol))
    return path


def tables(characters: str) -> dict[str, object]:
    return {
        "vocab_size": len(characters),
        "itos": dict(enumerate(characters)),
        "stoi": {c: i for i, c in enumerate(characters)},
    }


def test_golden_vocabulary() -> None:
    vocabulary = read_meta(GOLDEN)
    assert vocabulary.size == 65
    assert vocabulary.characters[:4] == ("\n", " ", "!", "$")
    assert vocabulary.characters[-1] == "z"
    assert vocabulary.source == str(GOLDEN)


@given(PLAIN, st.integers(3, pickle.HIGHEST_PROTOCOL))
def test_plain_values_are_what_pickle_reads(value: object, protocol: int) -> None:
    assert load_plain(pickle.dumps(value, protocol), "x") == value


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=("Cs",)), max_size=3), st.integers(), max_size=5
    ),
    st.integers(0, 2),
)
def test_old_protocols(value: dict[str, int], protocol: int) -> None:
    assert load_plain(pickle.dumps([value, (1.5, True, None)], protocol), "x") == [
        value,
        (1.5, True, None),
    ]


def test_sets_are_lists() -> None:
    for value in ({"a"}, frozenset({"a"})):
        assert load_plain(pickle.dumps(value, 4), "x") == ["a"]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"])
def test_numpy_integers_are_values(tmp_path: Path, kind: str, protocol: int) -> None:
    number = np.dtype(kind).type
    value = {
        "vocab_size": number(2),
        "itos": {number(0): "a", number(1): "b"},
        "stoi": {"a": number(0), "b": number(1)},
    }
    vocabulary = read_meta(dump(tmp_path, value, protocol))
    assert vocabulary.characters == ("a", "b")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_other_numpy_numbers(protocol: int) -> None:
    for number in (np.float64(-0.1), np.float32(1.5), np.float16(2), np.bool_(True)):
        read = load_plain(pickle.dumps(number, protocol), "x")
        assert read == number.item()
        assert type(read) is type(number.item())


def test_negative_and_large_numpy_integers() -> None:
    for number in (np.int64(-5), np.uint64(2**64 - 1), np.int8(-1)):
        assert load_plain(pickle.dumps(number, 4), "x") == int(number)


def test_big_endian_numpy_integer() -> None:
    data = (
        b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(Vi4\nI00\nI01\ntR"
        b"(I3\nV>\nNNNI-1\nI-1\nI0\ntbC\x04\x00\x00\x01\x02tR."
    )
    assert load_plain(data, "x") == 258


class Runs:
    def __init__(self, function: object, *args: object) -> None:
        self.parts = function, args

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.parts


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_code_is_named_and_not_run(tmp_path: Path, protocol: int) -> None:
    victim = tmp_path / "made"
    path = dump(tmp_path, {"itos": Runs(os.mkdir, str(victim))}, protocol)
    with pytest.raises(CheckpointError) as caught:
        read_meta(path)
    assert "would run code: posix.mkdir; nothing was run" in caught.value.message
    assert str(path) in caught.value.message
    assert not victim.exists()


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"cos\nsystem\n(S'true'\ntR.", "os.system"),
        (b"(S'true'\nios\nsystem\n.", "os.system"),
        (b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.", "builtins.eval"),
        (pickle.dumps(OrderedDict(a=1)), "collections.OrderedDict"),
        (pickle.dumps(np.zeros(2), 4), "multiarray._reconstruct"),
        (pickle.dumps(GOLDEN), "pathlib"),
    ],
)
def test_any_other_global_is_named(data: bytes, name: str) -> None:
    with pytest.raises(CheckpointError, match="would run code") as caught:
        load_plain(data, "x")
    assert name in caught.value.message


HOSTILE = {
    "text": b"hello, this is not a pickle\n",
    "no stop": b"\x80\x04}",
    "stop at once": b".",
    "two values": b"NN.",
    "huge text": b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"a.",
    "huge bytes": b"\x80\x04\x8e" + struct.pack("<Q", 2**63 + 1) + b"a.",
    "huge bytes 4": b"\x80\x03B\xff\xff\xff\xffa.",
    "huge bytearray": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"a.",
    "huge long": b"\x80\x02\x8b\xff\xff\xff\x7fa.",
    "negative long": b"\x80\x02\x8b\xff\xff\xff\xffa.",
    "long in digits": b"L" + b"9" * 100_000 + b"L\n.",
    "huge frame": b"\x80\x04\x95" + struct.pack("<Q", 2**60) + b"N.",
    "huge memo index": b"}r\xff\xff\xff\x7f.",
    "unset memo": b"h\x05.",
    "deep lists": b"]" * 300_000 + b"a" * 299_999 + b".",
    "deep tuples as key": b"})" + b"\x85" * 500_000 + b"Ns.",
    "list as key": b"}]Ns.",
    "huge integer as key": b"}\x8b\x00\x01\x00\x00" + b"\x7f" * 256 + b"Ns.",
    "odd items": b"}(Nu.",
    "no mark": b"}u.",
    "items for text": b"\x8c\x01a(NNu.",
    "append to dict": b"}Na.",
    "call of text": b"\x8c\x01a)R.",
    "state for dict": b"}}b.",
    "persistent id": b"Psomething\n.",
    "extension": b"\x82\x01.",
    "python 2 bytes": b"U\x02\xc3\xa9.",
    "bad utf-8": b"X\x02\x00\x00\x00\xff\xff.",
    "text dtype": pickle.dumps(np.str_("a"), 4),
    "short scalar": pickle.dumps(np.int64(1), 4).replace(b"C\x08\x01", b"C\x07"),
    "other encoding": b"c_codecs\nencode\n(\x8c\x01a\x8c\x05utf-8tR.",
    "stack global of lists": b"]]\x93.",
    "too many opcodes": b"N" + b"\x94" * 4_100_000 + b".",
    "not a dict": b"].",
    "holds itself": b"]q\x00h\x00a.",
    "none": b"N.",
    "empty dict": b"}.",
    "no stoi": pickle.dumps({"itos": ["a"], "vocab_size": 1}),
    "self in itos": b"}(\x8c\x04itos]q\x00h\x00a\x8c\x04stoi}u.",
    "deep itos": b"}(\x8c\x04itos" + b"]" * 300_000 + b"a" * 299_999 + b"\x8c\x04stoi}u.",
    "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 703\n",
    "empty": b"",
    "zip": b"PK\x03\x04" + bytes(60),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_give_one_message(tmp_path: Path, name: str) -> None:
    path = tmp_path / "meta.pkl"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(CheckpointError) as caught:
        read_meta(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert len(message) < len(str(path)) + 400
    assert message.isprintable()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("too many opcodes", "more than 4000000 opcodes"),
        ("huge integer as key", "more than 64 bits as a key"),
        ("list as key", "a list as a key"),
        ("other encoding", "bytes in an unknown encoding"),
        ("huge bytearray", "only 2 remain"),
        ("text dtype", "type 'U1', which is not a number"),
        ("no stoi", "has no 'stoi'"),
        ("not a dict", "holds a list, not a dict"),
        ("holds itself", "a value that holds itself"),
        ("deep lists", "nested more than 64 deep"),
        ("empty", "is empty"),
    ],
)
def test_hostile_files_say_why(tmp_path: Path, name: str, words: str) -> None:
    path = tmp_path / "meta.pkl"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(CheckpointError, match=words):
        read_meta(path)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    whole = GOLDEN.read_bytes()
    path = tmp_path / "meta.pkl"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            read_meta(path)


@given(st.integers(0, GOLDEN.stat().st_size - 1), st.integers(0, 255))
def test_a_changed_byte_is_read_or_refused(at: int, byte: int) -> None:
    data = bytearray(GOLDEN.read_bytes())
    data[at] = byte
    try:
        load_plain(bytes(data), "x")
    except SloGPTError as error:
        assert error.exit_code == 3


@given(st.binary(max_size=60))
def test_random_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        load_plain(data, "x")
    except SloGPTError as error:
        assert error.exit_code == 3


def test_pointer_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "meta.pkl"
    path.write_bytes(HOSTILE["pointer"])
    with pytest.raises(CheckpointError, match="git lfs pull"):
        read_meta(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such vocabulary"):
        read_meta(tmp_path / "meta.pkl")
    with pytest.raises(UsageError, match="is a folder, not a vocabulary") as caught:
        read_meta(tmp_path)
    assert caught.value.hint == "Name the meta.pkl in it."


def test_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "meta.pkl")
    with pytest.raises(UsageError, match="not a regular file") as caught:
        read_meta(tmp_path / "meta.pkl")
    assert "vocabulary" in caught.value.hint


def test_size_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meta_module, "MAX_META_BYTES", 100)
    with pytest.raises(CheckpointError, match="too large"):
        read_meta(dump(tmp_path, tables("abcdefghijklmnopqrstuvwxyz")))


def test_largest_vocabulary_with_numpy_integers(tmp_path: Path) -> None:
    characters = [chr(i) for i in range(0x10000, 0x20000)]
    value = {
        "vocab_size": 65_536,
        "itos": {np.int64(i): c for i, c in enumerate(characters)},
        "stoi": {c: np.int64(i) for i, c in enumerate(characters)},
    }
    assert read_meta(dump(tmp_path, value)).characters == tuple(characters)


@pytest.mark.parametrize(
    ("dataset", "place"),
    [
        ("poems", "datasets/poems/meta.pkl"),
        ("poems", "data/poems/meta.pkl"),
        ("some/poems", "some/poems/meta.pkl"),
        ("some/vocabulary.pkl", "some/vocabulary.pkl"),
        ("deep/poems", "datasets/deep/poems/meta.pkl"),
    ],
)
def test_find_meta(tmp_path: Path, dataset: str, place: str) -> None:
    path = tmp_path / place
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    assert find_meta(dataset, tmp_path) == path
    assert find_meta(str(path), tmp_path / "elsewhere") == path
    if path.name == "meta.pkl":
        assert find_meta(str(path.parent), tmp_path / "elsewhere") == path


def test_datasets_comes_first(tmp_path: Path) -> None:
    for place in ("datasets/poems", "data/poems", "poems"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "meta.pkl").write_bytes(b"x")
    assert find_meta("poems", tmp_path) == tmp_path / "datasets/poems/meta.pkl"


@pytest.mark.parametrize("dataset", ["poems", "", "a" * 5000, "a\0b", "/", ".."])
def test_find_meta_lists_what_was_tried(tmp_path: Path, dataset: str) -> None:
    (tmp_path / "root").mkdir()
    with pytest.raises(UsageError, match="for the dataset") as caught:
        find_meta(dataset, tmp_path / "root")
    if dataset == "poems":
        for place in ("datasets/poems/meta.pkl", "data/poems/meta.pkl", "poems/meta.pkl"):
            assert str(tmp_path / "root" / place) in caught.value.message


@given(st.lists(st.integers(0, 65_535), min_size=1, max_size=50), st.none() | st.integers(1, 60))
def test_read_ids(
    tmp_path_factory: pytest.TempPathFactory, ids: list[int], limit: int | None
) -> None:
    path = tmp_path_factory.mktemp("ids") / "train.bin"
    path.write_bytes(struct.pack(f"<{len(ids)}H", *ids))
    got = read_ids(path, limit)
    assert got.dtype == np.uint16
    assert got.tolist() == ids[:limit]
    assert isinstance(got, np.memmap)
    assert not got.flags.writeable


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"abc", "odd number"),
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "LFS pointer"),
    ],
)
def test_ids_that_are_not(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "train.bin"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=words):
        read_ids(path)
    with pytest.raises(UsageError):
        read_ids(tmp_path / "val.bin")
    with pytest.raises(UsageError, match="is a folder, not a file of token ids") as caught:
        read_ids(tmp_path)
    assert "train.bin" in caught.value.hint


@pytest.mark.parametrize("read", [read_meta, read_ids])
def test_empty_file_is_the_prepare_scripts(tmp_path: Path, read: Callable[[Path], object]) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(CheckpointError, match="is empty") as caught:
        read(tmp_path / "empty")
    assert "prepared the dataset" in caught.value.hint
    assert "training" not in caught.value.hint
