"""The overlapped file: order, and errors of its threads."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import NoReturn

import pytest

from slogpt_hf.conversion import overlapped
from slogpt_hf.conversion.overlapped import OverlappedFile


def test_pieces_lie_in_order(tmp_path: Path) -> None:
    pieces = [bytes([i]) * (i * 37 % 11) for i in range(100)]
    with OverlappedFile(tmp_path / "file") as file:
        for piece in pieces:
            file.write(piece)
    assert (tmp_path / "file").read_bytes() == b"".join(pieces)


def test_memory_may_change_after_drain(tmp_path: Path) -> None:
    memory = bytearray(b"aaaa")
    with OverlappedFile(tmp_path / "file") as file:
        for letter in b"abc":
            file.drain()
            memory[:] = bytes([letter]) * 4
            file.write(memoryview(memory))
    assert (tmp_path / "file").read_bytes() == b"aaaabbbbcccc"


def test_file_that_exists_is_kept(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError):
        OverlappedFile(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def full_disk(*arguments: object) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_error_of_the_writing_thread_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OverlappedFile, "_write", full_disk)
    with (
        pytest.raises(OSError, match="No space left"),
        OverlappedFile(tmp_path / "file") as file,
    ):
        file.write(b"x")


@pytest.mark.parametrize("n_writes", [1, 5])
def test_error_of_the_syncing_thread_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_writes: int
) -> None:
    """The kernel reports a failed write-back once, to whoever syncs first."""
    monkeypatch.setattr(overlapped, "SYNC_BYTES", 1)
    monkeypatch.setattr(os, "fdatasync", full_disk)
    with (
        pytest.raises(OSError, match="No space left"),
        OverlappedFile(tmp_path / "file") as file,
    ):
        for _ in range(n_writes):
            file.write(b"x")


def test_error_of_the_body_comes_through(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), OverlappedFile(tmp_path / "file") as file:
        file.write(b"x")
        raise ZeroDivisionError
