"""The classes of a training repository that may be a checkpoint's: found without running any."""

from __future__ import annotations

import ast
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from slogpt_hf.checkpoints import Checkpoint
from slogpt_hf.errors import SloGPTError
from slogpt_hf.watch.git import git_text, sizes_of
from slogpt_hf.watch.provenance import provenance_of
from slogpt_hf.watch.tree import is_harmless, open_repository

MOST_FILES, MOST_FILE_BYTES, MOST_BYTES = 3000, 1 << 20, 64 << 20
NO_SOURCES = re.compile(r"\.|__pycache__$|node_modules$|site-packages$|dist-packages$|wandb$")
REGISTERING = ("add_module", "register_module", "register_parameter")
TESTS = re.compile(r"(?:^|[/_])tests?(?:[/_.]|$)")


@dataclass(frozen=True)
class Sources:
    """Where a training repository's files are.

    Attributes:
        root: the folder of them.
        where: which they are, for people.
    """

    root: Path
    where: str


@dataclass(frozen=True)
class Found:
    """A class that assigns every module at the top of a state dict's names.

    Attributes:
        path: of its file, relative to the root.
        name: of the class.
    """

    path: str
    name: str

    def __str__(self) -> str:
        return f"{self.path}:{self.name}"


@contextmanager
def sources_for(checkpoint: Checkpoint, reference: str) -> Iterator[Sources | None]:
    """The training repository's files, for the time of the block; None where there are none.

    Of a checkpoint that git tracks they are those of the commit that last changed it, else those
    of the working tree around it or of the current folder.

    Args:
        checkpoint: whose training it was.
        reference: ``auto``; with a folder behind a colon, that folder is it.
    """
    _, colon, named = reference.partition(":")
    if colon:
        yield Sources(Path(named).absolute(), "its commit") if named else None
        return
    path = checkpoint.path.resolve()
    folder = path if path.is_dir() else path.parent
    top = git_text(folder, "rev-parse", "--show-toplevel")
    if top is not None and provenance_of(path, checkpoint.files).tracked:
        commit = git_text(folder, "log", "-1", "--format=%H", "--", path.name or ".")
        if commit is not None:
            with tempfile.TemporaryDirectory(prefix="slogpt-hf-sources-") as temporary:
                if _write_commit(folder, commit, Path(temporary)):
                    yield Sources(Path(temporary), f"commit {commit[:12]}")
                    return
    here = Path.cwd()
    root = Path(top) if top else here if path.is_relative_to(here) else folder
    yield Sources(root.resolve(), "the working tree" if top else f"the folder {root.name or root}")


def _write_commit(folder: Path, commit: str, target: Path) -> bool:
    """Write the Python files of a commit below a folder; whether that could be done."""
    try:
        with open_repository(folder) as repository:
            files = {
                name: blob
                for name, blob in repository.files(commit).items()
                if name.endswith(".py") and is_harmless(name) and not _is_no_source(name)
            }
            sizes, total = sizes_of(repository.folder, files.values()), 0
            for name, blob in sorted(files.items())[:MOST_FILES]:
                size = sizes.get(blob, MOST_FILE_BYTES + 1)
                if size > MOST_FILE_BYTES or total + size > MOST_BYTES:
                    continue
                total += size
                path = target / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"".join(repository.read(blob)))
    except (SloGPTError, OSError):
        return False
    return True


def _is_no_source(name: str) -> bool:
    return any(NO_SOURCES.match(part) for part in name.split("/"))


def classes_for(root: Path, names: Iterable[str]) -> tuple[list[Found], int]:
    """The classes below a folder whose state dict may have these names, the likeliest first.

    Args:
        root: of the files.
        names: of a state dict.

    Returns:
        The classes, and how many files were looked at.
    """
    parts = {part for name in names for part in name.split(".") if not part.isdigit()}
    tops = {name.split(".")[0] for name in names}
    texts = dict(_texts(root))
    classes = [each for path, text in texts.items() for each in _classes_in(path, text)]
    by_name: dict[str, list[_Class]] = {}
    for each in classes:
        by_name.setdefault(each.name, []).append(each)
    fitting = [each for each in classes if tops <= _attributes(each, by_name, frozenset())]

    def rank(each: _Class) -> tuple[bool, int, int, str]:
        known = sum(part in texts[each.path] for part in parts)
        return bool(TESTS.search(each.path)), -known, each.path.count("/"), each.path

    return [Found(each.path, each.name) for each in sorted(fitting, key=rank)], len(texts)


@dataclass(frozen=True)
class _Class:
    path: str
    name: str
    bases: tuple[str, ...]
    attributes: frozenset[str]


def _attributes(each: _Class, by_name: dict[str, list[_Class]], seen: frozenset[str]) -> set[str]:
    """What a class and those that it is made from assign to ``self``."""
    found = set(each.attributes)
    for base in each.bases:
        if base not in seen and base != each.name:
            for other in by_name.get(base, []):
                found |= _attributes(other, by_name, seen | {each.name})
    return found


def _texts(root: Path) -> Iterator[tuple[str, str]]:
    n_files = 0
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(
            name
            for name in folders
            if not NO_SOURCES.match(name) and not (Path(folder) / name / "pyvenv.cfg").exists()
        )
        for name in sorted(files):
            path = Path(folder) / name
            if not name.endswith(".py") or path.is_symlink() or not path.is_file():
                continue
            n_files += 1
            if n_files > MOST_FILES:
                return
            if path.stat().st_size <= MOST_FILE_BYTES:
                text = path.read_text("utf-8", "replace")
                yield path.relative_to(root).as_posix(), text


def _classes_in(path: str, text: str) -> Iterator[_Class]:
    if "class " not in text:
        return
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.bases:
            bases = tuple(ast.unparse(base).rpartition(".")[2] for base in node.bases)
            yield _Class(path, node.name, bases, frozenset(_assigned(node)))


def _assigned(node: ast.ClassDef) -> Iterator[str]:
    """Names of attributes that the methods of a class assign to their first parameter."""
    for method in node.body:
        if not isinstance(method, ast.FunctionDef) or not method.args.args:
            continue
        own = method.args.args[0].arg
        for inner in ast.walk(method):
            if (
                isinstance(inner, ast.Attribute)
                and isinstance(inner.ctx, ast.Store)
                and isinstance(inner.value, ast.Name)
                and inner.value.id == own
            ):
                yield inner.attr
            elif isinstance(inner, ast.Call) and isinstance(inner.func, ast.Attribute):
                named = inner.args[0] if inner.args and inner.func.attr in REGISTERING else None
                if isinstance(named, ast.Constant) and isinstance(named.value, str):
                    yield named.value
