"""Checkpoints in the commits of a git repository, whatever a CI says about the push.

For every branch head: the files of its commit, and what every commit brought since the last one
that was released from. Without such a commit, what the push brought counts; without that, the
head's files alone.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from slogpt_hf.progress import SILENT, Progress
from slogpt_hf.settings import Settings
from slogpt_hf.watch.candidate import Candidate
from slogpt_hf.watch.event import Event
from slogpt_hf.watch.git import git_bytes, git_text, require_utf8
from slogpt_hf.watch.patterns import matches
from slogpt_hf.watch.provenance import Provenance
from slogpt_hf.watch.tree import (
    REGULAR,
    Repository,
    checkpoint_at,
    is_checkpoint,
    open_repository,
    weights_at,
)

MOST_COMMITS = 10_000  # that are looked at for one branch
AT_ONCE = 500  # commits of one git command while their own commit is searched for files
MOST_PATHS = 200  # arguments of one git command
MOST_KNOWN = 1000  # commits that history is cut off at
COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
DELETION = "delete"  # of a branch or tag, an event without a commit
BRANCHES = ("refs/heads/", "refs/remotes/origin/")


@dataclass(frozen=True)
class Head:
    """A commit to look at, and the branch that it is the last of; None for a tag."""

    commit: str
    branch: str | None


@dataclass(frozen=True)
class Brought:
    """A file that a commit brought, new or changed: path in the repository, and blob."""

    commit: str
    path: str
    blob: str


def git_candidates(
    folder: Path,
    settings: Settings,
    event: Event | None = None,
    known_commits: Collection[str] = (),
    known_digests: Collection[str] = (),
    progress: Progress = SILENT,
) -> tuple[Candidate, ...]:
    """Checkpoints in the commits of a repository, the oldest first; nothing is downloaded.

    Each content of each path comes once, with the commit that brought it. Parents come before
    their children.

    Args:
        folder: the repository or a folder in it; globs are relative to it.
        settings: ``checkpoints``, ``branches`` and ``base`` count.
        event: of the CI at hand.
        known_commits: ids of commits that were released from.
        known_digests: of released checkpoints; the commit that brought one need not be found.
        progress: told where not the whole history is looked at.

    Raises:
        UsageError: git is not installed, or a commit or file is missing from the repository.
        CheckpointError: the name of a checkpoint is not UTF-8.
    """
    found = dict[tuple[str, str], Candidate]()
    with open_repository(folder) as repository:
        look = _Look(repository, settings, event, frozenset(known_digests), progress)
        known = _present(folder, known_commits)
        earlier: list[str] = []
        for head in heads_of(folder, settings, event):
            for file, time in _files_of(look, head, known, earlier):
                candidate = _candidate(look, file, head.branch, time)
                found.setdefault((candidate.name, candidate.sha256 or file.blob), candidate)
            earlier.append(head.commit)
    return tuple(found.values())


def heads_of(folder: Path, settings: Settings, event: Event | None) -> tuple[Head, ...]:
    """The commits whose history is looked at: the event's, then the branches, oldest first.

    Branches that the settings name are looked at whatever the event is about. Without any, it is
    the event's commit or branch, or else what is checked out.
    """
    if event is not None and event.name == DELETION:
        return ()
    own, globs = _own_head(folder, event), settings.branches
    if event is not None and event.is_pull_request:
        return (own,) if own else ()
    is_meant = event is not None and (
        event.tag is not None
        or (own is not None and event.branch == own.branch and matches(globs, event.branch or ""))
    )
    heads = {own.commit: own} if own and (is_meant or not globs) else {}
    for head in _branches(folder, globs) if globs else ():
        heads.setdefault(head.commit, head)
    return tuple(heads.values())


@dataclass(frozen=True)
class _Look:
    """What the search in one repository is told."""

    repository: Repository
    settings: Settings
    event: Event | None
    known_digests: frozenset[str]
    progress: Progress

    def is_meant(self, path: str) -> bool:
        base = self.settings.base
        is_base = base is not None and checkpoint_at(path) == self.repository.path_in(base)
        return not is_base and is_checkpoint(self.repository, self.settings.checkpoints, path)


def _candidate(look: _Look, file: Brought, branch: str | None, time: float) -> Candidate:
    repository = look.repository
    name = checkpoint_at(require_utf8(file.path))
    weights = weights_at(repository, file.commit, file.path, file.blob, look.settings.base)
    return Candidate(
        name=name,
        kind="git",
        place=str(repository.folder),
        provenance=Provenance(
            commit=file.commit,
            branch=branch,
            remote=repository.remote,
            tracked=True,
            dirty=False,
            run=look.event.run if look.event else None,
        ),
        time=time,
        sha256=weights.sha256,
        n_bytes=weights.n_bytes,
        is_pointer=weights.is_pointer,
    )


def _own_head(folder: Path, event: Event | None) -> Head | None:
    """The event's commit or, where it is not here, what is checked out."""
    here = resolve(folder, "HEAD")
    current = (git_text(folder, "symbolic-ref", "--quiet", "HEAD") or "").removeprefix(BRANCHES[0])
    commit = _event_commit(folder, event) if event else None
    if event is None or commit is None:
        branch = event.branch if event and event.is_pull_request else current or None
        return Head(here, branch) if here else None
    if event.branch is None and event.tag is None and commit == here:
        return Head(commit, current or None)
    return Head(commit, event.branch)


def _event_commit(folder: Path, event: Event) -> str | None:
    names = [event.commit] if event.commit and COMMIT.fullmatch(event.commit) else []
    if event.tag and not names:
        names.append(f"refs/tags/{event.tag}")
    if event.branch and not event.is_pull_request:
        names += [prefix + event.branch for prefix in reversed(BRANCHES)]
    return next(filter(None, (resolve(folder, name) for name in names)), None)


def _branches(folder: Path, globs: tuple[str, ...]) -> Iterator[Head]:
    """The branches that match, here and on ``origin`` as it was last fetched."""
    form = "--format=%(objectname) %(refname)"
    refs = git_bytes(folder, "for-each-ref", "--sort=committerdate", form, *BRANCHES)
    for line in refs.decode("utf-8", "replace").splitlines():
        commit, _, ref = line.partition(" ")
        prefix = next(prefix for prefix in BRANCHES if ref.startswith(prefix))
        branch = ref.removeprefix(prefix)
        if matches(globs, branch) and (prefix, branch) != (BRANCHES[1], "HEAD"):
            yield Head(commit, branch)


def resolve(folder: Path, name: str) -> str | None:
    """The commit that an id or the full name of a ref is; None if it is not here."""
    return git_text(folder, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")


def _present(folder: Path, commits: Collection[str]) -> list[str]:
    """Those of the commits that are in the repository."""
    lines = [f"{commit}^{{commit}}\n" for commit in commits if COMMIT.fullmatch(commit)]
    output = git_bytes(folder, "cat-file", "--batch-check", stdin="".join(lines).encode())
    fields = (line.split() for line in output.decode().splitlines())
    return [line[0] for line in fields if len(line) == 3 and line[1] == "commit"][:MOST_KNOWN]


def _files_of(
    look: _Look, head: Head, known: list[str], earlier: list[str]
) -> Iterator[tuple[Brought, float]]:
    """What a head's commit holds and its history brought, and when, the oldest first."""
    repository, is_pull_request = look.repository, bool(look.event and look.event.is_pull_request)
    stops = _stops(look, head, known)
    recent = {} if stops is None else _history(look, head, [*stops, *earlier], MOST_COMMITS)
    brought = [file for file in _brought(repository, recent) if look.is_meant(file.path)]
    if stops is None or not is_pull_request:
        new = {(file.path, file.blob) for file in brought}
        held = repository.files(head.commit).items()
        rest = [file for file in held if file not in new and look.is_meant(file[0])]
        yield from _attributed(look, head, [Brought(head.commit, *file) for file in rest])
    yield from ((file, recent[file.commit]) for file in brought)


def _stops(look: _Look, head: Head, known: list[str]) -> list[str] | None:
    """Commits before which nothing is looked at; None if there is nothing to go by."""
    folder, event = look.repository.folder, look.event
    if event is not None and event.is_pull_request:
        # What CIs check out is the merge of the pull request into its base.
        base = f"{head.commit}^1" if resolve(folder, f"{head.commit}^2") else None
        commit = event.before if event.before and COMMIT.fullmatch(event.before) else None
        found = [resolve(folder, name) for name in (commit, base) if name]
        return next(([name] for name in found if name), None)
    if known and git_text(folder, "merge-base", head.commit, *known):
        return known
    before = event.before if event and head == _own_head(folder, event) else None
    if before and COMMIT.fullmatch(before) and resolve(folder, before) == before:
        common = git_text(folder, "merge-base", before, head.commit)
        return [before] if common == before else None
    return None


def _history(look: _Look, head: Head, stops: list[str], most: int) -> dict[str, float]:
    """The commits from which ``stops`` cannot be reached, and their times, parents first."""
    names = [head.commit, *(f"^{stop}" for stop in stops)]
    output = git_bytes(
        look.repository.folder,
        "rev-list",
        "--topo-order",
        "--reverse",
        "--timestamp",
        f"--max-count={most}",
        "--stdin",
        stdin="".join(f"{name}\n" for name in names).encode(),
    )
    times = {line.split()[1]: float(line.split()[0]) for line in output.decode().splitlines()}
    if len(times) == MOST_COMMITS:
        where = head.branch or head.commit
        look.progress.line(f"   watch: {where}: only the last {most} commits are looked at.")
    return times


def _brought(
    repository: Repository, commits: Iterable[str], paths: Collection[str] = ()
) -> Iterator[Brought]:
    """The regular files that each commit changed; a merge, those that no parent has like this.

    Format: "Raw output format" and "diff format for merges" of
    https://git-scm.com/docs/git-diff-tree.
    """
    output = git_bytes(
        repository.folder,
        "diff-tree",
        "--stdin",
        "-r",
        "-c",
        "-z",
        "--root",
        "--raw",
        "--no-abbrev",
        "--no-renames",
        *(["--", *paths] if paths else []),
        stdin="".join(f"{commit}\n" for commit in commits).encode(),
    )
    commit, tokens = "", iter(output.split(b"\0")[:-1])
    for token in tokens:
        fields = token.lstrip(b":").split()
        n_parents = len(token) - len(token.lstrip(b":"))
        if not n_parents:
            commit = token.decode()
            continue
        path = next(tokens).decode("utf-8", "surrogateescape")
        if fields[n_parents].startswith(REGULAR):
            yield Brought(commit, path, fields[2 * n_parents + 1].decode())


def _attributed(look: _Look, head: Head, files: list[Brought]) -> Iterator[tuple[Brought, float]]:
    """Files of a head, each with the last commit that brought it, the oldest commit first.

    One that was released keeps the head's commit: nobody will ask.
    """
    if not files:
        return
    repository, base = look.repository, look.settings.base
    # Which is the latest of a branch is told by the order of all.
    known = look.known_digests if look.settings.which != "latest" else ()
    open_files = {
        file.path: file
        for file in files
        if weights_at(repository, head.commit, file.path, file.blob, base).sha256 not in known
    }
    times = _history(look, head, [], MOST_COMMITS if open_files else 1)
    order = {commit: place for place, commit in enumerate(times)}
    yield from ((file, times[head.commit]) for file in files if file.path not in open_files)
    found: dict[str, Brought] = {}
    newest_first = list(reversed(times))
    for start in range(0, len(newest_first), AT_ONCE):
        if not open_files:
            break
        paths = sorted(open_files) if len(open_files) <= MOST_PATHS else ()
        for each in _brought(repository, newest_first[start : start + AT_ONCE], paths):
            wanted = open_files.get(each.path)
            if wanted is not None and wanted.blob == each.blob:
                found[each.path] = each
                del open_files[each.path]
    found |= open_files  # brought before the commits that are looked at
    for file in sorted(found.values(), key=lambda file: (order[file.commit], file.path)):
        yield file, times[file.commit]
