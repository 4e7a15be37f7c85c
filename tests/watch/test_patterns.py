from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slogpt_hf.watch.patterns import compiled, escaped, fixed_folder, matches

NAMES = st.text("ab./", max_size=8)
GLOBS = st.lists(st.sampled_from(["*", "**", "?", "[a]", "[!a]", "[a-b]", "a", "b", ".", "/"]))


def naive(glob: list[str], name: str) -> bool:
    """Whether the parts of a glob match a name, by trying everything."""
    if not glob:
        return not name
    part, rest = glob[0], glob[1:]
    if part == "**/":
        after = [i + 1 for i, character in enumerate(name) if character == "/"]
        folders = [i for i in after if all(name[:i].split("/")[:-1])]
        return any(naive(rest, name[i:]) for i in (0, *folders))
    if part == "**":
        return bool(name) and not rest
    if part == "*":
        longest = name.find("/") if "/" in name else len(name)
        return any(naive(rest, name[i:]) for i in range(longest + 1))
    one = {"?": "ab.", "[a]": "a", "[!a]": "b.", "[a-b]": "ab"}.get(part, part)
    return bool(name) and name[0] in one and naive(rest, name[1:])


def tokens(glob: str, parts: list[str]) -> list[str]:
    """The parts of a glob with ``**`` as such only where it is a whole folder."""
    segments: list[list[str]] = [[]]
    for part in parts:
        if part == "/":
            segments.append([])
        else:
            segments[-1] += ["*", "*"] if part == "**" else [part]
    absolute = glob.startswith("/")
    segments = [segment for segment in segments if "".join(segment) not in ("", ".")]
    result = ["/"] if absolute else []
    for i, segment in enumerate(segments):
        is_last = i == len(segments) - 1
        if segment == ["*", "*"]:
            result.append("**" if is_last else "**/")
        else:
            result += segment if is_last else [*segment, "/"]
    return result


@given(GLOBS, NAMES)
def test_like_a_matcher_that_tries_everything(parts: list[str], name: str) -> None:
    glob = "".join(parts)
    assert bool(compiled(glob).fullmatch(name)) == naive(tokens(glob, parts), name)


@given(st.text(), st.text())
def test_any_text_is_a_glob(glob: str, name: str) -> None:
    compiled(glob).fullmatch(name)


@given(
    st.text("ab*?[]!-^/", min_size=1).filter(lambda t: t == "/".join(filter(None, t.split("/"))))
)
def test_an_escaped_text_matches_itself_alone(text: str) -> None:
    assert matches([escaped(text)], text)
    assert not matches([escaped(text)], text + "a")


@pytest.mark.parametrize(
    ("glob", "yes", "no"),
    [
        ("out/**/ckpt*.pt", ["out/ckpt.pt", "out/a/b/ckpt-1.pt"], ["ckpt.pt", "out/ckpt.pt/x"]),
        ("**/ckpt*.pt", ["ckpt.pt", "a/ckpt.pt", ".a/ckpt.pt"], ["a/ckpt.bin", "Ckpt.pt"]),
        ("**/b", ["b", "a/b"], ["/b", "a//b"]),
        ("./ckpt.pt", ["ckpt.pt"], ["a/ckpt.pt"]),
        ("train/**", ["train/a", "train/a/b"], ["train", "trains/a"]),
        ("*.pt", ["a b.pt", "-x.pt", "é\n.pt", ".pt"], ["a/b.pt"]),
        ("[!0-9]*", ["a", "-"], ["1", "/"]),
        ("[]]", ["]"], ["["]),
        ("[a", ["[a"], ["a"]),
        ("[z-a]x", [], ["zx", "ax", "x"]),
        ("[.-0]x", [".x", "0x"], ["/x"]),
        ("a{b,c}", ["a{b,c}"], ["ab"]),
        ("[^a]", ["^", "a"], ["b"]),
        ("ckpt.pt", ["ckpt.pt"], ["ckptxpt"]),
    ],
)
def test_examples(glob: str, yes: list[str], no: list[str]) -> None:
    assert [name for name in (*yes, *no) if matches([glob], name)] == yes


@pytest.mark.parametrize(
    ("glob", "folder"),
    [("out/a/*.pt", "out/a"), ("*.pt", ""), ("out/**/x", "out"), ("/x/*", "/x"), ("/*", "/")],
)
def test_folder_that_a_glob_starts_from(glob: str, folder: str) -> None:
    assert fixed_folder(glob) == folder
