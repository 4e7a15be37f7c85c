"""Which checkpoints the arguments of a command stand for."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from slogpt_hf.checkpoints.containers import distributed, folder
from slogpt_hf.errors import UsageError
from slogpt_hf.files import is_folder
from slogpt_hf.watch.files import paths_of
from slogpt_hf.watch.patterns import escaped, fixed_folder, is_glob


@dataclass(frozen=True)
class Chosen:
    """A checkpoint of several.

    Attributes:
        path: as it is to be opened.
        name: of its artefact among those of the others; a single part of a path.
    """

    path: Path
    name: str


def chosen(arguments: Sequence[str], globs: Sequence[str]) -> tuple[Chosen, ...] | None:
    """The checkpoints that the arguments stand for, each once; None if it is one plain path.

    A path is taken as it is, whatever lies there. What a glob or a folder stands for comes in the
    order in which it was written.

    Args:
        arguments: paths of checkpoints, folders in which checkpoints lie, globs.
        globs: what a checkpoint's path below such a folder is like.

    Raises:
        UsageError: a glob stands for nothing, or a folder cannot be read.
    """
    found: dict[Path, tuple[Path, Path | None]] = {}
    seen: set[Path] = set()
    several = len(arguments) > 1
    for argument in arguments:
        root, paths = _meant(argument, globs)
        several = several or root is not None
        for path in paths:
            # a/../a/ckpt.pt is a/ckpt.pt; a link to a checkpoint is another name that is meant.
            if (place := path.parent.resolve() / path.name) not in seen:
                seen.add(place)
                found[path.absolute()] = (path, root)
    if not several:
        return None
    plain = [path.parent for path, (_, root) in found.items() if root is None]
    common = Path(os.path.commonpath(plain)) if plain else Path()
    below = [(path, (root or common).absolute()) for path, (_, root) in found.items()]
    if len({os.path.relpath(*pair) for pair in below}) < len(below):
        # The same path below two folders: only what these are called tells them apart.
        shared = Path(os.path.commonpath([root for _, root in below]))
        below = [(path, shared) for path, _ in below]
    names = _names(below)
    pairs = zip(found.values(), names, strict=True)
    return tuple(Chosen(path, name) for (path, _), name in pairs)


def _meant(argument: str, globs: Sequence[str]) -> tuple[Path | None, list[Path]]:
    """What an argument stands for, and the folder that is left out of the names."""
    path = Path(argument)
    if is_glob(argument) and not os.path.lexists(path):
        if not (found := _by_time(paths_of(argument))):
            raise UsageError(f"{argument}: no file is like that.", hint="Check the glob.")
        return Path(fixed_folder(argument) or "."), found
    if is_folder(path) and not distributed.recognises(path) and not folder.recognises(path):
        below = [f"{escaped(argument)}/{glob}" for glob in globs if "://" not in glob]
        if found := _by_time(each for glob in below for each in paths_of(glob)):
            return path, found
    return None, [path]


def _by_time(paths: Iterator[Path]) -> list[Path]:
    return sorted(set(paths), key=lambda path: (path.stat().st_mtime, path.as_posix()))


def _names(found: Sequence[tuple[Path, Path]]) -> Iterator[str]:
    """A name for each path, from its parts below a folder: of two alike one keeps its suffix."""
    taken: set[str] = set()
    for path, root in found:
        parts = Path(os.path.relpath(path, root)).parts
        whole = "-".join(part for part in parts if part != "..") or "checkpoint"
        short = whole.removesuffix(path.suffix) if path.is_file() else whole
        numbered = (f"{whole}-{n}" for n in range(2, len(found) + 2))
        name = next(n for n in (short, whole, *numbered) if n not in ("", ".", *taken))
        taken.add(name)
        yield name
