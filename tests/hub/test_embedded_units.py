"""The embedded hub's small parts, by property."""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from huggingface_hub.utils import HFValidationError, validate_repo_id
from hypothesis import given, settings
from hypothesis import strategies as st

from slogpt_hf.hub.embedded import attributes, cards, commits, git, names
from slogpt_hf.hub.embedded.commits import Change
from slogpt_hf.hub.embedded.wire import ChunkedBody, FixedBody, RefusalError

SEGMENT = st.text("ab.-_é *[?!#\"'\\", min_size=1, max_size=6).filter(
    lambda s: s not in (".", "..") and s.strip() == s
)
PATH = st.lists(SEGMENT, min_size=1, max_size=3).map("/".join)
ID_PART = st.text("aB0-_.é /\n", max_size=8)


def run_git(folder: str, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["git", *arguments], cwd=folder, input=stdin, capture_output=True, check=False
    )


@settings(deadline=None)
@given(st.binary(min_size=32, max_size=32), st.integers(0, 2**50))
def test_pointer_inverse(digest: bytes, size: int) -> None:
    text = git.pointer_text(digest.hex(), size)
    assert git.parse_pointer(text) == git.Pointer(digest.hex(), size, len(text))
    assert git.parse_pointer(text + b"x") is None


@settings(deadline=None)
@given(ID_PART, ID_PART)
def test_repo_ids_are_the_clients(namespace: str, name: str) -> None:
    try:
        validate_repo_id(f"{namespace}/{name}")
        expected = not namespace.endswith(".git")
    except HFValidationError:
        expected = False
    assert names.is_repo_id(namespace, name) == expected or not name or not namespace


@settings(deadline=None, max_examples=40)
@given(st.text("ab/.-@{~^:?*[\\ \x01é", max_size=8))
def test_accepted_ref_names_are_gits(name: str) -> None:
    if names.is_ref_name(name):
        assert run_git(".", "check-ref-format", f"refs/heads/{name}").returncode == 0


@settings(deadline=None, max_examples=40)
@given(st.lists(PATH, min_size=1, max_size=4, unique=True))
def test_exact_rules_match_their_path_only(paths: list[str]) -> None:
    target, *others = paths
    with tempfile.TemporaryDirectory() as folder:
        run_git(folder, "init", "-q")
        Path(folder, ".gitattributes").write_text(attributes.exact_rule(target), "utf-8")
        stdin = "".join(f"{path}\0" for path in paths).encode()
        output = run_git(folder, "check-attr", "--stdin", "-z", "filter", stdin=stdin).stdout
    values = output.split(b"\0")[2::3]
    assert values == [b"lfs"] + [b"unspecified"] * len(others)


@settings(deadline=None)
@given(st.dictionaries(PATH, st.just(("100644", "old")), max_size=5), PATH)
def test_apply_adds_and_deletes(files: commits.Files, path: str) -> None:
    add, delete = Change("file", path, "new"), Change("deletedFile", path)
    try:
        added = commits.apply(files, (add,))
    except RefusalError as refusal:
        assert refusal.status == 400
        return
    assert added == {**files, path: ("100644", "new")}
    assert commits.apply(added, (delete,)) == {k: v for k, v in files.items() if k != path}
    folder = Change("deletedFolder", "zz")
    inside = {**added, "zz/1": ("100755", "x"), "zz/2/3": ("100644", "x"), "zzz": ("100644", "x")}
    assert commits.apply(inside, (folder,)) == {**added, "zzz": ("100644", "x")}
    with pytest.raises(RefusalError, match="doesn't exist"):
        commits.apply(added, (folder,))


@settings(deadline=None)
@given(st.binary(max_size=300), st.lists(st.integers(1, 50), min_size=1), st.integers(1, 64))
def test_bodies(data: bytes, sizes: list[int], buffer: int) -> None:
    wire, rest = b"", data
    for size in sizes * len(data):
        wire += b"%x;x=y\r\n%s\r\n" % (len(rest[:size]), rest[:size]) if rest else b""
        rest = rest[size:]
    chunked = io.BytesIO(wire + b"0\r\nTrailer: x\r\n\r\nnext")
    assert io.BufferedReader(ChunkedBody(chunked), buffer).read() == data
    assert chunked.read() == b"next"
    fixed = io.BytesIO(data + b"next")
    assert io.BufferedReader(FixedBody(fixed, len(data)), buffer).read() == data
    assert fixed.read() == b"next"


def test_upload_mode() -> None:
    limit = attributes.REGULAR_LIMIT
    text = "é".encode() * 256
    assert attributes.upload_mode("a", limit, text[:511], set()) == "regular"
    assert attributes.upload_mode("a", limit + 1, text, set()) == "lfs"
    assert attributes.upload_mode("a", 5, b"\xff\xfe\x00abc", set()) == "lfs"
    assert attributes.upload_mode("a", 5, b"\xffabcdef", set()) == "lfs"
    assert attributes.upload_mode("a", 5, b"text", {"a"}) == "lfs"


def test_card_metadata() -> None:
    assert cards.metadata("---\r\nlicense: mit\r\n---\r\ntext") == {"license": "mit"}
    assert cards.metadata("no head\n---\na: b\n---\n") == {}
    for bad in ("---\n- a\n---\n", "---\na: [\n---\n", "---\n" + "[" * 5000 + "\n---\n"):
        with pytest.raises(ValueError, match="metadata"):
            cards.metadata(bad)


def test_imports_stay_light() -> None:
    code = (
        "import sys; import slogpt_hf.hub.embedded;"
        "print({'huggingface_hub', 'torch', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.stdout.strip() == "set()"
