"""Archives that lie: one message each, no code run, nothing allocated for what they claim."""

from __future__ import annotations

import io
import os
import pickle
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slogpt_hf.checkpoints.containers import archive, zip_slice
from slogpt_hf.checkpoints.containers.archive import read_archive
from slogpt_hf.checkpoints.tensors import Stored
from slogpt_hf.errors import CheckpointError, SloGPTError

END = struct.Struct("<4s4H2IH")  # end of central directory


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def zip_of(entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def archive_of(pickled: bytes, storage: bytes = bytes(16), **entries: bytes) -> bytes:
    return zip_of({"a/data.pkl": pickled, "a/data/0": storage, "a/version": b"3\n", **entries})


@pytest.fixture
def refused(tmp_path: Path) -> Callable[..., None]:
    def check(content: bytes, *fragments: str) -> None:
        path = tmp_path / "ckpt.pt"
        path.write_bytes(content)
        with pytest.raises(CheckpointError) as caught:
            read_archive(path)
        message = str(caught.value)
        assert message.startswith(f"{path}: ")
        assert message.isprintable()
        assert len(message) < len(str(path)) + 400
        for fragment in fragments:
            assert fragment in message

    return check


def tensor(
    *,
    storage: bytes = b"ctorch\nFloatStorage\n",
    count: int = 4,
    offset: int = 0,
    shape: tuple[Any, ...] = (4,),
    stride: tuple[Any, ...] = (1,),
    key: object = "0",
    call: bytes = b"ctorch._utils\n_rebuild_tensor_v2\n",
) -> bytes:
    """The pickle of one tensor, as ``torch.save`` lays it out."""

    def inner(value: object) -> bytes:
        return pickle.dumps(value, 2)[2:-1]

    ident = b"(" + inner("storage") + storage + inner(key) + inner("cpu") + inner(count) + b"tQ"
    rest = inner(offset) + inner(shape) + inner(stride) + b"\x89}t"
    return b"\x80\x02" + call + b"(" + ident + rest + b"R."


def test_the_tensor_that_the_others_spoil(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(archive_of(tensor(), struct.pack("<4f", 1, 2, 3, 4)))
    assert read_archive(path).read().tolist() == [1, 2, 3, 4]
    assert torch.load(path, weights_only=True).tolist() == [1, 2, 3, 4]


TENSORS: dict[str, tuple[bytes, str]] = {
    "numel too large": (tensor(count=5), "storage 0 has 16 bytes, not 5 values of 4 bytes"),
    "numel too small": (tensor(count=3), "storage 0 has 16 bytes, not 3 values"),
    "numel negative": (tensor(count=-4), "of no possible size"),
    "numel that wraps": (tensor(count=2**62 + 4), "storage 0 has 16 bytes, not"),
    "numel huge": (tensor(count=2**4000), "of no possible size"),
    "numel a bool": (tensor(count=True), "of no possible size"),
    "shape too large": (tensor(shape=(5,)), "runs beyond its storage"),
    "shape huge": (tensor(shape=(2**62,)), "runs beyond its storage"),
    "shape that wraps": (tensor(shape=(2**32, 2**32), stride=(0, 0)), "no possible size"),
    "shape beyond 64 bits": (tensor(shape=(2**64,)), "an impossible number"),
    "shape negative": (tensor(shape=(-1,)), "an impossible number"),
    "shape of floats": (tensor(shape=(4.0,)), "an impossible number"),
    "shape of bools": (tensor(shape=(True,)), "an impossible number"),
    "empty but huge": (tensor(shape=(0, 2**40, 2**40), stride=(1, 1, 1)), "no possible size"),
    "stride too large": (tensor(shape=(2,), stride=(4,)), "runs beyond its storage"),
    "stride huge": (tensor(shape=(2,), stride=(2**63 - 1,)), "runs beyond its storage"),
    "stride that wraps": (tensor(shape=(3,), stride=(2**62,)), "runs beyond its storage"),
    "stride negative": (tensor(shape=(2,), stride=(-1,)), "an impossible number"),
    "stride 0": (tensor(shape=(2**40,), stride=(0,)), "is an expanded tensor"),
    "strides that overlap": (tensor(shape=(3, 3), stride=(0, 1)), "is an expanded tensor"),
    "fewer strides": (tensor(shape=(2, 2), stride=(1,)), "more dimensions than strides"),
    "offset too large": (tensor(offset=1), "runs beyond its storage"),
    "offset huge": (tensor(offset=2**63 - 1, shape=(1,)), "runs beyond its storage"),
    "offset negative": (tensor(offset=-1), "an impossible number"),
    "65 dimensions": (tensor(shape=(1,) * 65, stride=(1,) * 65), "not a few numbers"),
    "no such entry": (tensor(key="1"), "no entry 'a/data/1'"),
    "key that climbs": (tensor(key="../../etc/passwd"), "no entry"),
    "key of 4 MB": (tensor(key="k" * 2**22), "no entry 'a/data/kkkk"),
    "key a number": (tensor(key=0), "without type and key"),
    "storage type a text": (tensor(storage=b"X\x01\x00\x00\x00a"), "without type and key"),
    "storage type a function": (
        tensor(storage=b"ctorch._utils\n_rebuild_parameter\n"),
        "without type and key",
    ),
    "parameter of text": (
        b"ctorch._utils\n_rebuild_parameter\n(X\x01\x00\x00\x00aNNtR.",
        "a parameter that is no tensor",
    ),
    "too few arguments": (b"ctorch._utils\n_rebuild_tensor_v2\n(tR.", "do not fit together"),
    "tensor of text": (
        b"ctorch._utils\n_rebuild_tensor_v2\n(X\x01\x00\x00\x00aK\x00))\x89}tR.",
        "a tensor without a storage",
    ),
    "from a type by text": (
        b"ctorch._tensor\n_rebuild_from_type_v2\n(X\x01\x00\x00\x00aNNNtR.",
        "not built by a call",
    ),
    "call of a type": (b"ctorch\nTensor\n)R.", "only names"),
    "infinite device": (b"ctorch\ndevice\nX\x03\x00\x00\x00cpuF1e999\n\x86R.", "of another layout"),
    "persistent text": (b"X\x01\x00\x00\x00aQ.", "not a storage's"),
    "persistent number": (b"K\x00Q.", "not a storage's"),
    "persistent None": (b"NQ.", "not a storage's"),
    "persistent list": (b"](X\x07\x00\x00\x00storageNNNNeQ.", "not a storage's"),
    "persistent module": (b"(X\x06\x00\x00\x00moduleNNNNtQ.", "not a storage's"),
    "system": (b"cos\nsystem\nX\x04\x00\x00\x00true\x85R.", "(os.system); nothing of it was run"),
    "load": (b"ctorch\nload\nX\x01\x00\x00\x00a\x85R.", "(torch.load); nothing of it was run"),
    "storage from a file": (
        b"ctorch\nUntypedStorage.from_file\n(X\x01\x00\x00\x00atR.",
        "nothing of it was run",
    ),
    "deep": (b"]" * 10**6 + b"a" * (10**6 - 1) + b".", "cannot be read"),
    "empty pickle": (b"", "cannot be read as a checkpoint (it ends before"),
}


@pytest.mark.parametrize("kind", TENSORS)
def test_pickles_that_lie(refused: Callable[..., None], kind: str) -> None:
    pickled, fragment = TENSORS[kind]
    refused(archive_of(pickled), fragment)


def test_too_many_tensors(refused: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_TENSORS", 3)
    refused(saved([torch.ones(1)] * 2 + [torch.ones(1) for _ in range(3)]), "more than 3 tensors")


@pytest.mark.parametrize("dtype", ["torch.qint8", "torch.float3", "os.path"])
def test_dtype_of_an_untyped_storage(refused: Callable[..., None], dtype: str) -> None:
    pickled = tensor(
        storage=b"ctorch.storage\nUntypedStorage\n",
        count=16,
        call=b"ctorch._utils\n_rebuild_tensor_v3\n",
    )
    refused(archive_of(pickled.replace(b"}tR.", b"}X%c\0\0\0%btR." % (len(dtype), dtype.encode()))))


def patched(content: bytes, signature: bytes, field: int, layout: str, value: int) -> bytes:
    """The archive with a field of the first header of that signature overwritten."""
    data = bytearray(content)
    struct.pack_into(layout, data, content.index(signature) + field, value)
    return bytes(data)


def entry_patched(name: str, field: int, layout: str, value: int, content: bytes) -> bytes:
    """With a field of the directory's line of an entry overwritten."""
    data = bytearray(content)
    place = content.rindex(name.encode()) - 46
    assert content[place : place + 4] == b"PK\x01\x02"
    struct.pack_into(layout, data, place + field, value)
    return bytes(data)


GOOD = archive_of(tensor())
LOCAL = GOOD.index(b"a/data/0") - 30
ZIPS: dict[str, tuple[bytes, str]] = {
    "no byte of it": (b"PK\x03\x04", "truncated or damaged"),
    "magic only": (b"PK\x03\x04" + bytes(100), "truncated or damaged"),
    "other zip": (zip_of({"word/document.xml": b"<w/>"}), "without a data.pkl"),
    "two roots": (zip_of({"a/data.pkl": b"N.", "b/data.pkl": b"N."}), "two data.pkl"),
    "compressed": (zip_of({"a/data.pkl": b"N."}, zipfile.ZIP_DEFLATED), "is compressed"),
    "big-endian": (archive_of(tensor(), **{"a/byteorder": b"big"}), "another byte order"),
    "no byte order": (archive_of(tensor(), **{"a/byteorder": b"middle"}), "another byte order"),
    "bad CRC": (GOOD.replace(b"FloatStorage", b"Half\x00Storage"), "bad CRC-32 for 'a/data.pkl'"),
    "size in the directory": (entry_patched("a/data/0", 24, "<I", 20, GOOD), "is wrong"),
    "both sizes": (
        entry_patched(
            "a/data/0", 24, "<I", 2**31, entry_patched("a/data/0", 20, "<I", 2**31, GOOD)
        ),
        "runs into the next one",
    ),
    "both sizes of the pickle": (
        entry_patched(
            "a/data.pkl", 24, "<I", 2**31, entry_patched("a/data.pkl", 20, "<I", 2**31, GOOD)
        ),
        "runs into the next one",
    ),
    "method in the directory": (entry_patched("a/data/0", 10, "<H", 8, GOOD), "is compressed"),
    "offset": (entry_patched("a/data/0", 42, "<I", 7, GOOD), "truncated or damaged"),
    "offset beyond": (entry_patched("a/data/0", 42, "<I", 2**31, GOOD), "truncated or damaged"),
    "same place": (entry_patched("a/data/0", 42, "<I", 0, GOOD), "runs into the next one"),
    "encrypted": (entry_patched("a/data/0", 8, "<H", 1, GOOD), "is wrong"),
    "local name": (GOOD.replace(b"a/data/0", b"a/data/1", 1), "is not what the directory says"),
    "local size": (
        GOOD[: LOCAL + 18] + struct.pack("<I", 12) + GOOD[LOCAL + 22 :],
        "is not what the directory says",
    ),
    "local method": (
        GOOD[: LOCAL + 8] + struct.pack("<H", 8) + GOOD[LOCAL + 10 :],
        "is not what the directory says",
    ),
    "local extra": (
        GOOD[: LOCAL + 28] + struct.pack("<H", 8) + GOOD[LOCAL + 30 :],
        "runs into the next one",
    ),
    "directory's size": (patched(GOOD, b"PK\x05\x06", 12, "<I", 2**32 - 1), "damaged"),
    "directory's place": (patched(GOOD, b"PK\x05\x06", 16, "<I", 2**32 - 2), "damaged"),
}


@pytest.mark.parametrize("kind", ZIPS)
def test_zips_that_lie(refused: Callable[..., None], kind: str) -> None:
    content, fragment = ZIPS[kind]
    refused(content, fragment)


def test_one_name_twice(refused: Callable[..., None]) -> None:
    twice = archive_of(tensor(), **{"b/data/0": bytes(16)}).replace(b"b/data/0", b"a/data/0")
    refused(twice, "two entries have one name")


def test_claimed_pickle_in_a_sparse_file(tmp_path: Path) -> None:
    """1 GiB of data.pkl: refused by its size, not read."""
    path = tmp_path / "ckpt.pt"
    size = 2**30
    name = b"a/data.pkl"
    local = struct.pack("<4s5H3I2H", b"PK\x03\x04", 20, 0, 0, 0, 0, 0, size, size, len(name), 0)
    line = struct.pack(
        *("<4s6H3I5H2I", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, 0, size, size, len(name)),
        *(0, 0, 0, 0, 0, 0),
    )
    with path.open("wb") as file:
        file.write(local + name)
        file.seek(size, os.SEEK_CUR)
        place = file.tell()
        file.write(line + name)
        file.write(END.pack(b"PK\x05\x06", 0, 0, 1, 1, len(line + name), place, 0))
    with pytest.raises(CheckpointError, match=r"has 1073741824 bytes \(at most 16777216"):
        read_archive(path)


def test_directory_larger_than_is_read(
    refused: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zip_slice, "MAX_DIRECTORY", 70_000)
    refused(zip_of({f"a/data/{i}": b"" for i in range(1500)}), "a directory of more than 70000")


@pytest.fixture(scope="module")
def whole() -> bytes:
    model = {"w": torch.arange(6.0).reshape(2, 3), "b": torch.ones(3, dtype=torch.bfloat16)}
    return saved({"model": model, "n": 3, "itos": {0: "a"}, "f8": torch.ones(2).to(torch.uint16)})


def outcome(path: Path, content: bytes) -> bool:
    """Whether it can be read; then every tensor too, within its own memory."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    try:
        value = read_archive(path)
    except SloGPTError as error:
        assert str(error).startswith(str(path))
        assert str(error).isprintable()
        return False
    for stored in stored_in(value):
        assert tuple(stored.read().shape) == stored.shape
        stored.read().clone()
    return True


def stored_in(value: Any) -> list[Stored]:
    if isinstance(value, Stored):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return (
        [s for item in value for s in stored_in(item)] if isinstance(value, (list, tuple)) else []
    )


def test_truncated_anywhere(tmp_path: Path, whole: bytes) -> None:
    assert outcome(tmp_path / "a.pt", whole)
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        edges = [e.header_offset + d for e in archive.infolist() for d in (0, 4, 30, 64)]
    last = range(len(whole) - 900, len(whole))
    for length in [1, 3, 4, *edges, *last]:
        assert not outcome(tmp_path / "a.pt", whole[:length])


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 0.9999), st.integers(0, 255)), min_size=1, max_size=4))
def test_changed_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, whole: bytes, changes: list[tuple[float, int]]
) -> None:
    content = bytearray(whole)
    for where, byte in changes:
        content[int(where * len(content))] = byte
    outcome(tmp_path_factory.getbasetemp() / "changed.pt", bytes(content))


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 0.9999), st.integers(0, 255)), min_size=1, max_size=3))
def test_changed_pickles_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, whole: bytes, changes: list[tuple[float, int]]
) -> None:
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    pickled = bytearray(entries["archive/data.pkl"])
    for where, byte in changes:
        pickled[int(where * len(pickled))] = byte
    content = zip_of(entries | {"archive/data.pkl": bytes(pickled)})
    outcome(tmp_path_factory.getbasetemp() / "changed.pt", content)


@pytest.mark.parametrize(
    ("start", "n_bytes"), [(-1, None), (0, -1), (1, None), (10**9, None), (0, 10**9), (10**30, 1)]
)
def test_slices_that_cannot_be(
    tmp_path: Path, whole: bytes, start: int, n_bytes: int | None
) -> None:
    (tmp_path / "a.pt").write_bytes(whole)
    with pytest.raises(CheckpointError):
        read_archive(tmp_path / "a.pt", start, n_bytes)


COSTLY = {
    "integers": b"]" + (b"(" + b"J\x00\x10\x00\x00" * 1000 + b"e") * 2600 + b".",
    "keys": b"}" + b"".join(b"J%bNs" % struct.pack("<i", i << 10) for i in range(1_200_000)) + b".",
    "tensors": b"]" + tensor()[2:-1] + (b"a" + tensor()[2:-1]) * 100_000 + b".",
}
MEASURE = """
import sys, time
from pathlib import Path
from slogpt_hf.checkpoints.containers.archive import read_archive
from slogpt_hf.errors import CheckpointError
def status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))
before, started = status("VmRSS"), time.process_time()
try:
    read_archive(Path(sys.argv[1]))
except CheckpointError as error:
    print(error, file=sys.stderr)
print(status("VmHWM") - before, time.process_time() - started)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="measures as Linux does")
@pytest.mark.parametrize("kind", COSTLY)
def test_cost_of_the_worst(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "ckpt.pt"
    path.write_bytes(archive_of(COSTLY[kind][: archive.MAX_PICKLE_BYTES]))
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, path], capture_output=True, text=True, check=True
    )
    kilobytes, seconds = done.stdout.split()
    assert int(kilobytes) * 1024 < 256e6
    assert float(seconds) < 10
    assert "Traceback" not in done.stderr
    assert time.monotonic() - started < 60
