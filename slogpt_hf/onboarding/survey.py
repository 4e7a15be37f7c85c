"""What a training repository holds: checkpoints, vocabularies, branches, the CI at hand.

Names decide what a checkpoint is; of a few that lie on disk the header is read. Nothing is
written, downloaded or run.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from slogpt_hf.errors import SloGPTError, UsageError
from slogpt_hf.watch.files import METADATA
from slogpt_hf.watch.git import MOST_POINTER_BYTES, git_bytes, git_text, pointer_in, remote_of
from slogpt_hf.watch.patterns import escaped

WEIGHTS = re.compile(r"\.(?:pt|pth|ckpt|sou)$", re.IGNORECASE)
SHARED_SUFFIXES = re.compile(r"\.(?:safetensors|bin)$", re.IGNORECASE)  # of other files as well
NAMES_OF_CHECKPOINTS = re.compile(
    r"(?:ckpt|checkpoint|model|step|epoch|best|last|latest|final|stories)", re.IGNORECASE
)
OTHER_STATE = re.compile(r"(?:optim|sched|scaler|rng|trainer_state|training_args)", re.IGNORECASE)
SKIPPED = frozenset(
    (".git", ".venv", "venv", "node_modules", "site-packages", "__pycache__", "test", "tests")
)
TRAINING = re.compile(r"(?:train|training|runs?|exp|experiments?|sweeps?)/.+")
BRANCH = re.compile(r"[\w./*@+=#-]+")  # what every CI's patterns can say
META = "meta.pkl"
TOKENIZERS = ("tokenizer.model", "tokenizer.bin")
MOST_BRANCHES = 50  # whose files are listed
MOST_HEADERS = 3
LEADING_LETTERS = re.compile(r"[A-Za-z]+")
DEFAULT_BRANCHES = ("train/**",)


@dataclass(frozen=True)
class Weights:
    """A file that is named like a checkpoint.

    Attributes:
        path: relative to the folder, with ``/``.
        n_bytes: on disk; None where it lies on another branch only.
        is_tracked: some branch or the index has it.
        is_lfs: a pointer of Git LFS, or meant to be one by ``.gitattributes``.
        is_ignored: by ``.gitignore``.
        dialect: what its header says; None if it was not read, or cannot be.
        dataset: the name that its trainer recorded.
        has_vocabulary: it holds its characters.
        problem: why a release would refuse it, as far as its header tells.
    """

    path: str
    n_bytes: int | None
    is_tracked: bool
    is_lfs: bool = False
    is_ignored: bool = False
    dialect: str | None = None
    dataset: str | None = None
    has_vocabulary: bool = False
    problem: str | None = None


@dataclass(frozen=True)
class Survey:
    """What a repository holds.

    Attributes:
        folder: top of the working tree.
        remote: URL of ``origin`` without credentials.
        checkpoints: by path.
        datasets: as ``dataset`` takes them: names below ``datasets/`` or ``data/``, else folders.
        tokenizers: paths of ``tokenizer.model`` and ``tokenizer.bin``.
        branches: local and remote ones, without the remote's name.
        globs: of the branches that training pushes to; empty where none looks like one.
        paths: of every file, tracked or not.
        untracked: those that no branch and not the index has, but for other projects' folders.
    """

    folder: Path
    remote: str | None
    checkpoints: tuple[Weights, ...]
    datasets: tuple[str, ...]
    tokenizers: tuple[str, ...]
    branches: tuple[str, ...]
    globs: tuple[str, ...]
    paths: frozenset[str] = frozenset()
    untracked: frozenset[str] = frozenset()

    @property
    def slug(self) -> str | None:
        """OWNER/NAME of the remote, as its host has it."""
        return _parts(self.remote)[1] if self.remote else None

    @property
    def host(self) -> str | None:
        """Host of the remote."""
        return _parts(self.remote)[0] if self.remote else None

    @property
    def page(self) -> str | None:
        """The repository's web page, which is also where git clones it from."""
        return f"https://{self.host}/{self.slug}" if self.host and self.slug else None


def look_at(folder: Path) -> Survey:
    """Look at the repository of which ``folder`` is the top.

    Raises:
        UsageError: it is in no git repository, or below the top of one.
    """
    top = git_text(folder, "rev-parse", "--show-toplevel")
    if top is None:
        raise UsageError(
            f"{folder.absolute()}: is in no git repository.",
            hint="Run init in the training repository; git init makes one.",
        )
    if Path(top).resolve() != folder.resolve():
        raise UsageError(
            f"{folder.absolute()}: is not the top of the repository, where a CI looks.",
            hint=f"Run: cd {top}",
        )
    branches = _branches(folder)
    on_branches = {
        name: frozenset(_listed(folder, "ls-tree", "-r", "-z", "--name-only", ref))
        for name, ref in list(branches.items())[:MOST_BRANCHES]
    }
    tracked = _listed(folder, "ls-files", "-z").union(*on_branches.values())
    others = _listed(folder, "ls-files", "-z", "--others")
    seen = _listed(folder, "ls-files", "-z", "--others", "--exclude-standard")
    paths = sorted(path for path in tracked | others if not SKIPPED.intersection(_folders(path)))
    named = [path for path in paths if is_named_like_one(path)]
    lfs = _with_lfs_filter(folder, named)
    weights = [
        Weights(
            path,
            n_bytes=_size(folder / path),
            is_tracked=path in tracked,
            is_lfs=path in lfs or _is_pointer(folder / path),
            is_ignored=path in others and path not in seen,
        )
        for path in named
    ]
    return Survey(
        folder=folder,
        remote=remote_of(folder),
        checkpoints=_with_headers(folder, weights),
        datasets=tuple(dict.fromkeys(_dataset(p) for p in paths if _name(p) == META)),
        tokenizers=tuple(p for p in paths if _name(p) in TOKENIZERS),
        branches=tuple(branches),
        globs=branch_globs(on_branches, _default_branch(folder)),
        paths=tracked | others,
        untracked=frozenset(path for path in paths if path not in tracked),
    )


def is_named_like_one(path: str) -> bool:
    """Whether a path is named as trainers name checkpoints."""
    name = _name(path)
    if name == METADATA:  # of a folder that torch.distributed.checkpoint wrote
        return "/" in path
    if OTHER_STATE.match(name):
        return False
    if WEIGHTS.search(name):
        return True
    return bool(SHARED_SUFFIXES.search(name) and NAMES_OF_CHECKPOINTS.match(name))


def checkpoint_globs(paths: Iterable[str]) -> tuple[str, ...]:
    """Globs that find these paths and those that the next runs will leave beside them."""
    return tuple(dict.fromkeys(map(_glob, paths)))


def branch_globs(files: Mapping[str, Collection[str]], default: str | None) -> tuple[str, ...]:
    """Globs of the branches that training pushes to.

    Args:
        files: branch to the paths that it has.
        default: branch that the others start from; its files are no sign of training.
    """
    shared = set(files.get(default or "", ()))
    holds = {
        name: any(is_named_like_one(path) for path in set(paths) - shared)
        for name, paths in files.items()
        if BRANCH.fullmatch(name) and name != default
    }
    names = [name for name, has in holds.items() if has or TRAINING.fullmatch(name)]
    if not names and default and any(map(is_named_like_one, shared)):
        names = [default]
    first = [name.partition("/")[0] for name in names]
    return tuple(
        dict.fromkeys(
            f"{folder}/**"
            if "/" in name and (TRAINING.fullmatch(name) or first.count(folder) > 1)
            else name
            for name, folder in zip(names, first, strict=True)
        )
    )


def _glob(path: str) -> str:
    pure = PurePosixPath(path)
    stem = LEADING_LETTERS.match(pure.name)
    suffix = "".join(pure.suffixes[-1:])
    name = f"{stem[0] if stem else ''}*{suffix}" if pure.name != METADATA else METADATA
    below = f"{escaped(pure.parts[0])}/**/" if len(pure.parts) > 1 else ""
    return "".join(c if c.isprintable() and c != "," else "?" for c in below + name)


def _branches(folder: Path) -> dict[str, str]:
    """Branch to a ref that has it, local ones first."""
    refs = git_text(folder, "for-each-ref", "--format=%(refname)", "refs/heads", "refs/remotes")
    found = dict[str, str]()
    for ref in (refs or "").splitlines():
        _, kind, name = ref.split("/", 2)
        name = name if kind == "heads" else name.partition("/")[2]
        if name != "HEAD":
            found.setdefault(name, ref)
    return found


def _default_branch(folder: Path) -> str | None:
    head = git_text(folder, "symbolic-ref", "--quiet", "--short", "refs/remotes/origin/HEAD")
    if head:
        return head.partition("/")[2]
    names = _branches(folder)
    current = git_text(folder, "symbolic-ref", "--quiet", "--short", "HEAD")
    return next((name for name in ("main", "master") if name in names), current)


def _listed(folder: Path, *arguments: str) -> frozenset[str]:
    output = git_bytes(folder, *arguments).decode("utf-8", "replace")
    return frozenset(path for path in output.split("\0") if path)


def _with_lfs_filter(folder: Path, paths: list[str]) -> frozenset[str]:
    lines = "".join(f"{path}\0" for path in paths).encode()
    output = git_bytes(folder, "check-attr", "-z", "--stdin", "filter", stdin=lines)
    cells = output.decode("utf-8", "replace").split("\0")
    return frozenset(p for p, value in zip(cells[::3], cells[2::3], strict=False) if value == "lfs")


def _with_headers(folder: Path, weights: list[Weights]) -> tuple[Weights, ...]:
    readable = [each for each in weights if each.n_bytes and not _is_pointer(folder / each.path)]
    known = {each.path: _with_header(folder, each) for each in readable[:MOST_HEADERS]}
    return tuple(known.get(each.path, each) for each in weights)


def _with_header(folder: Path, weights: Weights) -> Weights:
    from slogpt_hf.checkpoints import read_checkpoint

    path = folder / weights.path
    try:
        checkpoint = read_checkpoint(path.parent if path.name == METADATA else path)
    except SloGPTError as error:
        return replace(weights, problem=str(error))
    return replace(
        weights,
        dialect=checkpoint.dialect,
        dataset=checkpoint.facts.dataset,
        has_vocabulary=checkpoint.vocabulary is not None,
    )


def _is_pointer(path: Path) -> bool:
    try:
        if path.stat().st_size > MOST_POINTER_BYTES:
            return False
        return pointer_in(path.read_bytes()) is not None
    except OSError:
        return False


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _dataset(path: str) -> str:
    folder = PurePosixPath(path).parent
    if len(folder.parts) == 2 and folder.parts[0] in ("datasets", "data"):
        return folder.name
    return str(folder)


def _folders(path: str) -> list[str]:
    return path.split("/")[:-1]


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _parts(remote: str) -> tuple[str | None, str | None]:
    """Host and OWNER/NAME of ``https://host/a/b.git``, ``git@host:a/b.git`` or ``ssh://...``."""
    match = re.fullmatch(
        r"(?:[a-z+]+://)?(?:[^@/]*@)?([\w.-]+)(?::\d+)?[:/]+([\w./~-]+?)(?:\.git)?/?", remote
    )
    return (match[1], match[2]) if match and "/" in match[2] else (None, None)
