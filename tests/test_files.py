"""Outputs that appear whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from slogpt_hf.errors import CheckpointError, UsageError
from slogpt_hf.files import (
    FILE_HINTS,
    bytes_below,
    require_file,
    resumable_folder,
    staged_folder,
    stamp_of,
    write_atomically,
)


def test_folder_appears_whole(tmp_path: Path) -> None:
    final = tmp_path / "new" / "artefact"
    with staged_folder(final) as work:
        (work / "sub").mkdir()
        (work / "sub" / "a").write_text("1")
        assert not final.exists()
        assert work.parent == final.parent  # so that one rename does it
    assert (final / "sub" / "a").read_text() == "1"
    assert [path.name for path in final.parent.iterdir()] == ["artefact"]
    assert final.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("error", [CheckpointError("x"), KeyboardInterrupt(), ZeroDivisionError()])
def test_exception_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)), staged_folder(tmp_path / "artefact") as work:
        (work / "a").write_text("1")
        raise error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["folder", "empty folder", "file", "dangling link"])
def test_output_that_exists_is_refused_and_kept(tmp_path: Path, kind: str) -> None:
    final = tmp_path / "artefact"
    if kind == "file":
        final.write_text("mine")
    elif kind == "dangling link":
        final.symlink_to(tmp_path / "nowhere")
    else:
        final.mkdir()
        if kind == "folder":
            (final / "mine").write_text("mine")
    with pytest.raises(UsageError, match="artefact: exists already"), staged_folder(final):
        pytest.fail("the body ran")
    assert [path.name for path in tmp_path.iterdir()] == ["artefact"]


def test_output_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    final = tmp_path / "artefact"
    with pytest.raises(UsageError, match="artefact"), staged_folder(final) as work:
        (work / "a").write_text("ours")
        final.mkdir()
        (final / "a").write_text("theirs")
    assert (final / "a").read_text() == "theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["artefact"]


def test_file_in_place_of_the_parent(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    for final in (tmp_path / "out" / "artefact", tmp_path / "out" / "deeper" / "artefact"):
        with pytest.raises(UsageError, match="artefact: cannot be written"), staged_folder(final):
            pytest.fail("the body ran")
        with pytest.raises(UsageError, match="artefact: cannot be written"):
            write_atomically(final, "x")
    assert (tmp_path / "out").read_text() == "x"


def test_name_too_long(tmp_path: Path) -> None:
    with (
        pytest.raises(UsageError, match="cannot be written"),
        staged_folder(tmp_path / ("x" * 300)),
    ):
        pytest.fail("the body ran")
    with pytest.raises(UsageError, match="cannot be written"):
        write_atomically(tmp_path / ("x" * 300), "x")
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught, staged_folder(tmp_path / "artefact") as work:
        (work / "a").write_text("1")
        Path("/dev/full").write_bytes(b"x" * 100_000)
    assert "artefact: cannot be written" in str(caught.value)
    assert os.strerror(errno.ENOSPC) in str(caught.value)
    assert "free space" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_other_errors_of_the_body_are_its_own(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), staged_folder(tmp_path / "artefact"):
        (tmp_path / "nowhere").read_bytes()
    with pytest.raises(OSError, match="no vocabulary"), staged_folder(tmp_path / "artefact"):
        raise OSError("no vocabulary")  # as transformers says of a tokenizer
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", FILE_HINTS)
def test_hints_fit_the_file(tmp_path: Path, what: str) -> None:
    if_folder, if_empty = FILE_HINTS[what]
    with pytest.raises(UsageError, match=f"is a folder, not a {what}") as folder:
        require_file(tmp_path, what)
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="file: is empty") as empty:
        require_file(tmp_path / "file", what)
    assert (folder.value.hint, empty.value.hint) == (if_folder, if_empty)
    (tmp_path / "file").write_bytes(b"x")
    require_file(tmp_path / "file", what)


def test_stamp_tells_files_apart(tmp_path: Path) -> None:
    path, other = tmp_path / "ckpt.pt", tmp_path / "other.pt"
    assert stamp_of(path) is None
    path.write_bytes(b"one")
    os.utime(path, ns=(0, 10))
    stamp = stamp_of(path)
    assert stamp is not None and stamp == stamp_of(path)
    os.utime(path, ns=(0, 11))
    assert stamp_of(path) != stamp
    path.write_bytes(b"longer")
    os.utime(path, ns=(0, 10))
    assert stamp_of(path) != stamp
    other.write_bytes(b"one")
    os.utime(other, ns=(0, 10))
    other.replace(path)
    assert stamp_of(path) != stamp


def test_text_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.json"
    write_atomically(path, "{}")
    write_atomically(path, '{"é": 1}')
    assert path.read_bytes() == '{"é": 1}'.encode()
    assert [p.name for p in path.parent.iterdir()] == ["report.json"]


def test_text_that_cannot_be_written_leaves_the_old(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "\ud800")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def test_folder_in_place_of_the_text(tmp_path: Path) -> None:
    (tmp_path / "report.json").mkdir()
    with pytest.raises(UsageError, match=r"report\.json: cannot be written"):
        write_atomically(tmp_path / "report.json", "x")
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def test_resumable_folder_is_gone_on_with_and_appears_whole(tmp_path: Path) -> None:
    final = tmp_path / "models" / "mine"
    with pytest.raises(ZeroDivisionError), resumable_folder(final) as work:
        (work / "a").write_text("1")
        raise ZeroDivisionError
    assert not final.exists()
    with resumable_folder(final) as work:
        assert (work / "a").read_text() == "1"
        with pytest.raises(UsageError, match="another process"), resumable_folder(final):
            raise AssertionError
    assert [path.name for path in final.parent.iterdir()] == ["mine"]
    with pytest.raises(UsageError, match="exists already"), resumable_folder(final):
        raise AssertionError


def test_resumable_folder_is_no_link_and_no_file(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".mine.partial").symlink_to(tmp_path / "elsewhere")
    (tmp_path / ".file.partial").write_text("x")
    for name in ("mine", "file"):
        with (
            pytest.raises(UsageError, match="cannot be written"),
            resumable_folder(tmp_path / name),
        ):
            raise AssertionError
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_resumable_folder_on_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No space left"), resumable_folder(tmp_path / "a"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_bytes_below(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(bytes(70))
    (tmp_path / "c").write_bytes(bytes(7))
    (tmp_path / "loop").symlink_to(tmp_path)
    assert bytes_below(tmp_path) == 77
    assert bytes_below(tmp_path / "absent") == 0
