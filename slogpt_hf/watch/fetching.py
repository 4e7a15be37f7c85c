"""From a candidate to files on disk: the checkpoint, and what its commit has beside it."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from slogpt_hf.errors import CheckpointError, UsageError
from slogpt_hf.files import require_file, staged_folder
from slogpt_hf.progress import SILENT, Progress
from slogpt_hf.recorded import recorded_names
from slogpt_hf.settings import Settings
from slogpt_hf.watch.candidate import Candidate
from slogpt_hf.watch.files import METADATA, checkpoint_digest
from slogpt_hf.watch.git import MOST_POINTER_BYTES, Content, sizes_of
from slogpt_hf.watch.lfs import fetch_objects
from slogpt_hf.watch.patterns import escaped, matches
from slogpt_hf.watch.tree import Repository, is_harmless, open_repository, weights_at

MOST_SMALL_BYTES = 16_000_000  # of files that are taken along from the commit
FILES = "files"
# Of the settings, those that may name a file of the training repository.
NAMED = ("dataset", "tokenizer", "base", "unquantised", "card_template")
DATASETS = "datasets/"  # where a dataset's name is looked for
VOCABULARY = "meta.pkl"


@dataclass(frozen=True)
class Fetched:
    """A checkpoint on disk.

    Attributes:
        path: of its file or folder, absolute.
        root: folder that relative paths of the settings are relative to, absolute.
        sha256: of the checkpoint, and of what it adapts, as a ledger has it.
    """

    path: Path
    root: Path
    sha256: str

    @property
    def shown(self) -> Path:
        """The path as messages shall name it: relative to the root, if it is below."""
        if self.path.is_relative_to(self.root):
            return self.path.relative_to(self.root)
        return self.path


def fetch(
    candidate: Candidate, folder: Path, settings: Settings, progress: Progress = SILENT
) -> Fetched:
    """Get a checkpoint, and the files of its commit that a release may need, onto the disk.

    A file on disk stays where it is. Of a git commit come the files of at most 16 MB, the
    checkpoint with its recorded logits, and what the settings name; Git LFS objects only of the
    latter two and of vocabularies (``meta.pkl``). The repository is not written to.

    Args:
        candidate: what ``find_candidates`` found.
        folder: to make for it; it appears only when whole. One that an earlier call made is kept
            if it is still right.
        settings: ``dataset``, ``tokenizer``, ``base`` and so on.
        progress: told what happens.

    Raises:
        UsageError: ``folder`` is something else, or git or Git LFS is not installed.
        CheckpointError: what came is not what was planned.
        HubError: what holds the checkpoint refused, or could not be reached.
    """
    if candidate.kind == "file":
        return _on_disk(candidate, settings)
    if candidate.kind == "store":
        return _from_store(candidate, folder, settings, progress)
    return _from_git(candidate, folder, settings, progress)


def _on_disk(candidate: Candidate, settings: Settings) -> Fetched:
    path = Path(candidate.place)
    if path.is_file() or not path.exists():
        require_file(path)
    return _checked(candidate, path, settings)


def _from_store(
    candidate: Candidate, folder: Path, settings: Settings, progress: Progress
) -> Fetched:
    from slogpt_hf.watch.stores import fetch_object

    name = candidate.name.rstrip("/").rpartition("/")[2].partition("?")[0] or "checkpoint"
    path = folder.absolute() / name
    if not path.is_file():
        with staged_folder(folder) as work:
            fetch_object(candidate, work / name, progress)
    return _checked(candidate, path, settings)


def _checked(candidate: Candidate, path: Path, settings: Settings) -> Fetched:
    """What lies in no commit: the current folder is what paths are relative to."""
    digest = checkpoint_digest(path, settings.base_path)
    _require(candidate, digest)
    return Fetched(path, Path.cwd(), digest)


def _from_git(
    candidate: Candidate, folder: Path, settings: Settings, progress: Progress
) -> Fetched:
    commit = candidate.provenance.commit
    if commit is None:
        raise UsageError(f"{candidate.name}: its commit is not known.", hint="Plan again.")
    place = Path(candidate.place)
    with open_repository(place) as repository:
        found = folder.absolute() / FILES
        root, path = found / repository.prefix, found / candidate.name
        base = _base(settings, root)
        if not path.exists():
            files = repository.files(commit)
            with staged_folder(folder) as work:
                _write(repository, candidate, commit, files, settings, work, progress)
        digest = checkpoint_digest(path, base if base and base.exists() else None)
        if base is None or base.exists():
            _require(candidate, digest)
        return Fetched(path, root, digest)


def _base(settings: Settings, root: Path) -> Path | None:
    return root / settings.base if settings.base else None


def _write(
    repository: Repository,
    candidate: Candidate,
    commit: str,
    files: dict[str, str],
    settings: Settings,
    work: Path,
    progress: Progress,
) -> None:
    """Write what is wanted of a commit below ``work``."""
    metadata = f"{candidate.name}/{METADATA}"
    start = candidate.name if candidate.name in files else metadata
    if start not in files or not is_harmless(candidate.name):
        raise CheckpointError(
            f"{candidate.name}: is not in the commit {commit[:12]}.", hint="Plan again."
        )
    own = {
        *weights_at(repository, commit, start, files[start]).files,
        *_recordings(candidate.name, is_folder=start == metadata),
    }
    globs = _named_globs(repository, settings)
    sizes = sizes_of(repository.folder, files.values())
    root, objects = work / FILES, dict[str, Content]()
    (root / repository.prefix).mkdir(parents=True)
    for name, blob in filter(lambda file: is_harmless(file[0]), files.items()):
        is_wanted = name in own or matches(globs, name)
        n_bytes = sizes.get(blob, 0 if is_wanted else MOST_SMALL_BYTES + 1)
        content = repository.content(blob) if n_bytes <= MOST_POINTER_BYTES else None
        if content and content.is_pointer and (is_wanted or _is_vocabulary(name, content)):
            objects[name] = content
        elif is_wanted or n_bytes <= MOST_SMALL_BYTES:
            _write_pieces(repository.read(blob), root / name)
    if objects:
        fetch_objects(repository, files, {root / n: c for n, c in objects.items()}, work, progress)


def _recordings(name: str, *, is_folder: bool) -> set[str]:
    """Where in the repository logits of a checkpoint may be recorded."""
    folder = name if is_folder else posixpath.dirname(name)
    return {posixpath.join(folder, each) for each in recorded_names(Path(name))}


def _named_globs(repository: Repository, settings: Settings) -> list[str]:
    """Globs of the files of the repository that the settings name, or that lie below those."""
    values = [value for name in NAMED if (value := getattr(settings, name))]
    file, is_file, _ = (settings.reference or "").rpartition(".py:")
    values += [f"{file}.py"] if is_file else []
    values += [DATASETS + settings.dataset] if settings.dataset else []
    paths = [repository.path_in(value) for value in values if not Path(value).is_absolute()]
    # The whole repository is no dataset.
    names = [
        escaped(path) for path in paths if path != posixpath.normpath(repository.prefix or ".")
    ]
    return [glob for name in names for glob in (name, f"{name}/**")]


def _is_vocabulary(name: str, content: Content) -> bool:
    return posixpath.basename(name) == VOCABULARY and content.n_bytes <= MOST_SMALL_BYTES


def _write_pieces(pieces: Iterable[bytes], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:
        for piece in pieces:
            file.write(piece)


def _require(candidate: Candidate, digest: str) -> None:
    if candidate.sha256 not in (None, digest):
        raise CheckpointError(
            f"{candidate.name}: its SHA-256 is {digest[:12]}..., not the planned "
            f"{(candidate.sha256 or '')[:12]}...: it changed meanwhile.",
            hint="Plan again.",
        )
