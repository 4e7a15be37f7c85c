"""``.sou`` files: the profile, the state dict behind it, and what lies beside them."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slogpt_hf.checkpoints.containers import sou
from slogpt_hf.errors import CheckpointError, SloGPTError, UsageError

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "sloughgpt-sou" / "model.sou"
PROFILE = {"name": "a", "epochs_trained": 1, "final_val_loss": None}


def archive() -> bytes:
    buffer = io.BytesIO()
    torch.save({"w": torch.arange(6.0).reshape(2, 3)}, buffer)
    return buffer.getvalue()


def written(
    path: Path,
    profile: bytes | dict[str, Any] = PROFILE,
    *,
    version: int = 2,
    length: int | None = None,
    content: bytes | None = None,
) -> Path:
    text = profile if isinstance(profile, bytes) else json.dumps(profile).encode()
    header = struct.pack("<4sII", b"SOUL", version, len(text) if length is None else length)
    path.write_bytes(header + text + (archive() if content is None else content))
    return path


def test_golden_file() -> None:
    contents = sou.read(GOLDEN)
    profile = json.loads(GOLDEN.with_name("model.sou.meta.json").read_bytes())
    assert contents.container == "SloughGPT .sou file"
    assert contents.value["profile"] == contents.value["meta"] == profile
    assert contents.files == (GOLDEN,)
    assert contents.notes == ()
    data = GOLDEN.read_bytes()
    start = 12 + struct.unpack_from("<I", data, 8)[0]
    expected = torch.load(io.BytesIO(data[start:]), weights_only=True)
    assert list(contents.value["model"]) == list(expected)
    for name, tensor in expected.items():
        assert torch.equal(contents.value["model"][name].read(), tensor)


def test_recognises() -> None:
    assert sou.recognises(GOLDEN.read_bytes()[:16])
    assert not sou.recognises(b"PK\x03\x04" + bytes(12))
    assert not sou.recognises(b"")


@pytest.mark.parametrize("name", ["abcdefgh"[:n] for n in range(9)])
def test_the_archive_may_begin_at_any_byte(tmp_path: Path, name: str) -> None:
    contents = sou.read(written(tmp_path / "a.sou", {"name": name}))
    assert contents.value["profile"] == {"name": name}
    assert "meta" not in contents.value
    assert contents.value["model"]["w"].read().tolist() == [[0, 1, 2], [3, 4, 5]]


def test_fields_beside_it_that_the_profile_lacks(tmp_path: Path) -> None:
    path = written(tmp_path / "a.sou")
    beside = tmp_path / "a.sou.meta.json"
    beside.write_text(json.dumps(PROFILE | {"n_head": 4}))
    contents = sou.read(path)
    assert contents.value["meta"]["n_head"] == 4
    assert contents.files == (path, beside)
    assert contents.notes == ()


def test_fields_beside_it_that_contradict_the_profile(tmp_path: Path) -> None:
    path = written(tmp_path / "a.sou")
    (tmp_path / "a.sou.meta.json").write_text(json.dumps(PROFILE | {"name": "b"}))
    contents = sou.read(path)
    assert contents.value["profile"]["name"] == "a"
    assert contents.files == (path, tmp_path / "a.sou.meta.json")
    (note,) = contents.notes
    assert "a.sou.meta.json contradicts the profile in 'name'" in note


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"[1]", "a list"),
        (b"{", "is not read"),
        (b"\xff", "is not read"),
        (b" " * 2**21, "more than 1048576 bytes"),
    ],
)
def test_what_lies_beside_it_may_be_anything(tmp_path: Path, text: bytes, reason: str) -> None:
    path = written(tmp_path / "a.sou")
    (tmp_path / "a.sou.meta.json").write_bytes(text)
    contents = sou.read(path)
    assert "meta" not in contents.value
    assert contents.files == (path,)
    (note,) = contents.notes
    assert note.startswith("a.sou.meta.json is not read")
    assert reason in note


def test_a_folder_beside_it(tmp_path: Path) -> None:
    (tmp_path / "a.sou.meta.json").mkdir()
    assert sou.read(written(tmp_path / "a.sou")).notes == ()


SPOILED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "version 1": (lambda path: written(path, version=1), "version 1; only version 2"),
    "version 2**31": (lambda path: written(path, version=2**31), "version 2147483648"),
    "profile beyond the file": (lambda path: written(path, length=2**20), "in its profile"),
    "profile beyond the cap": (lambda path: written(path, length=2**32 - 1), "4294967295 bytes"),
    "shorter profile": (lambda path: written(path, length=5), "not a JSON object"),
    "empty profile": (lambda path: written(path, b""), "not a JSON object"),
    "list": (lambda path: written(path, b"[1]"), "not a JSON object (a list)"),
    "not UTF-8": (lambda path: written(path, b'{"a": "\xff"}'), "not a JSON object"),
    "NaN": (lambda path: written(path, b'{"a": NaN}'), "the number NaN"),
    "infinity": (lambda path: written(path, b'{"a": -Infinity}'), "the number -Infinity"),
    "infinite float": (lambda path: written(path, b'{"a": 1e999}'), "the number 1e999"),
    "many digits": (lambda path: written(path, b'{"a": 1%s}' % (b"0" * 5000)), "not a JSON object"),
    "half a pair": (lambda path: written(path, b'{"a": "\\ud800"}'), "not a JSON object"),
    "deep": (lambda path: written(path, b'{"a":' + b"[" * 300_000 + b"]" * 300_000 + b"}"), "deep"),
    "rather deep": (lambda path: written(path, b'{"a":' + b"[" * 99 + b"]" * 99 + b"}"), "deep"),
    "no archive": (lambda path: written(path, content=b""), "is not a checkpoint that torch"),
    "legacy": (lambda path: written(path, content=b"\x80\x02N."), "before 1.6"),
    "half an archive": (
        lambda path: written(path, content=archive()[:-40]),
        "truncated or damaged",
    ),
}


@pytest.mark.parametrize("kind", SPOILED)
def test_spoiled_files(tmp_path: Path, kind: str) -> None:
    spoil, fragment = SPOILED[kind]
    path = spoil(tmp_path / "a.sou")
    with pytest.raises(CheckpointError) as caught:
        sou.read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert fragment in message
    assert caught.value.hint
    assert message.isprintable()


@pytest.mark.parametrize("length", range(12))
def test_truncated_header(tmp_path: Path, length: int) -> None:
    path = tmp_path / "a.sou"
    path.write_bytes(GOLDEN.read_bytes()[:length])
    with pytest.raises(CheckpointError, match=r"is truncated in its header|is empty"):
        sou.read(path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        sou.read(tmp_path / "a.sou")


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=3))
def test_changed_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]
) -> None:
    content = bytearray(GOLDEN.read_bytes())
    for place, byte in changes:
        content[place] = byte
    path = tmp_path_factory.getbasetemp() / "changed.sou"
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    try:
        sou.read(path)
    except SloGPTError as error:
        assert str(error).startswith(str(path))
        assert str(error).isprintable()
