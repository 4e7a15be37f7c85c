"""Changes of history: one commit for many, and LFS files taken out of every commit.

New commits are written beside the old ones; the refs move last, all in one transaction that fails
if any of them has moved meanwhile.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from slogpt_hf.hub.embedded import commits, git, lfs, names
from slogpt_hf.hub.embedded.git import Repository

_SIGNATURE = re.compile(rb"^gpgsig(?:-sha256)? .*\n(?: .*\n)*", re.M)


@dataclass(frozen=True)
class LfsFile:
    """An LFS object that is on the disk; `path` and `ref` are of the first place it is met at."""

    sha256: str
    size: int
    path: str
    ref: str
    blobs: frozenset[str]


def squash(repo: Repository, ref: str, message: str) -> str:
    """Give a branch one commit with its present files and no parent; the commit's id.

    Raises:
        RefusalError: 412 if the branch moved meanwhile.
    """
    head = git.git(repo, "rev-parse", "--verify", ref).decode().strip()
    text = message.replace("\0", "").encode("utf-8", "replace")
    output = git.git(repo, "commit-tree", f"{head}^{{tree}}", "-F", "-", stdin=text)
    oid = output.decode().strip()
    _move(repo, {ref: (head, oid)})
    return oid


def lfs_files(repo: Repository) -> list[LfsFile]:
    """Every LFS object that a commit of any ref names and that is stored, `main` first."""
    found: dict[str, LfsFile] = {}
    refs = [ref for kind in ("heads", "pr", "tags") for ref in git.list_refs(repo, kind)]
    refs.sort(key=lambda ref: ref.ref != "refs/heads/main")
    for ref in refs:
        name = ref.name if ref.ref.startswith("refs/heads/") else ref.ref
        paths = _objects(repo, ref.commit)
        for oid, pointer in _pointers(repo, paths).items():
            known = found.get(pointer.sha256)
            blobs = known.blobs | {oid} if known else frozenset({oid})
            path, first = (known.path, known.ref) if known else (paths[oid], name)
            found[pointer.sha256] = LfsFile(pointer.sha256, pointer.size, path, first, blobs)
    return [file for file in found.values() if lfs.object_size(repo, file.sha256) is not None]


def drop_lfs(repo: Repository, shas: frozenset[str]) -> None:
    """Take every file that is one of these LFS objects out of every commit of every ref.

    Raises:
        RefusalError: 412 if a ref moved meanwhile.
    """
    blobs = frozenset(b for file in lfs_files(repo) if file.sha256 in shas for b in file.blobs)
    if not blobs:
        return
    output = git.git(repo, "rev-list", "--topo-order", "--reverse", "--all").decode()
    new: dict[str, str] = {}
    for oid in output.split():
        new[oid] = _rewritten(repo, oid, blobs, new)
    moves = {}
    for line in git.git(repo, "for-each-ref", "--format=%(objectname) %(refname)").splitlines():
        oid, _, ref = line.decode("utf-8", "surrogateescape").partition(" ")
        moves[ref] = (oid, new[oid] if oid in new else _retagged(repo, oid, new))
    _move(repo, {ref: pair for ref, pair in moves.items() if pair[0] != pair[1]})


def _rewritten(repo: Repository, commit: str, blobs: frozenset[str], new: Mapping[str, str]) -> str:
    """The commit without the blobs, on top of the new parents; itself if nothing changes."""
    raw = git.git(repo, "cat-file", "commit", commit)
    head, separator, message = raw.partition(b"\n\n")
    lines = head.split(b"\n")
    tree = lines[0].removeprefix(b"tree ").decode()
    records = git.git(repo, "ls-tree", "-rz", tree).split(b"\0")[:-1]
    kept = [record for record in records if record.split(b"\t")[0].split()[2].decode() not in blobs]
    if len(kept) < len(records):
        tree = _tree(repo, kept)
    changed = [b"tree " + tree.encode()]
    for line in lines[1:]:
        key, _, value = line.partition(b" ")
        parent = new.get(value.decode()) if key == b"parent" else None
        changed.append(b"parent " + parent.encode() if parent else line)
    if changed == lines:
        return commit
    text = _SIGNATURE.sub(b"", b"\n".join(changed) + b"\n").removesuffix(b"\n")
    return _write(repo, "commit", text + separator + message)


def _retagged(repo: Repository, tag: str, new: Mapping[str, str]) -> str:
    """An annotated tag on the new commit; itself if it is none or its commit stays."""
    kind = git.git(repo, "cat-file", "-t", tag).decode().strip()
    if kind != "tag":
        return tag
    raw = git.git(repo, "cat-file", "tag", tag)
    first, _, rest = raw.partition(b"\n")
    old = first.removeprefix(b"object ").decode()
    target = new.get(old) or _retagged(repo, old, new)
    return tag if target == old else _write(repo, "tag", f"object {target}\n".encode() + rest)


def _tree(repo: Repository, records: list[bytes]) -> str:
    with tempfile.TemporaryDirectory(dir=repo.incoming, prefix="index-") as folder:
        env = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        stdin = b"".join(record + b"\0" for record in records)
        git.git(repo, "update-index", "-z", "--index-info", stdin=stdin, env=env)
        return git.git(repo, "write-tree", env=env).decode().strip()


def _write(repo: Repository, kind: str, content: bytes) -> str:
    arguments = ("hash-object", "-t", kind, "-w", "--stdin")
    return git.git(repo, *arguments, stdin=content).decode().strip()


def _objects(repo: Repository, commit: str) -> dict[str, str]:
    """Blob id → path of every file of a commit and of those before it."""
    found = {}
    for line in git.git(repo, "rev-list", "--objects", commit).splitlines():
        oid, _, path = line.decode("utf-8", "surrogateescape").partition(" ")
        if path and names.is_commit_id(oid):  # not what follows a line break in a path
            found[oid] = path
    return found


def _pointers(repo: Repository, oids: Mapping[str, str]) -> dict[str, git.Pointer]:
    """Those of the objects that are git-lfs pointers."""
    stdin = "".join(f"{oid}\n" for oid in oids).encode()
    small = []
    for line in git.git(repo, "cat-file", "--batch-check", stdin=stdin).decode().splitlines():
        fields = line.split()
        if len(fields) == 3 and fields[1] == "blob" and int(fields[2]) in git.POINTER_SIZES:
            small.append(fields[0])
    pairs = zip(small, git.read_blobs(repo, small), strict=True)
    return {oid: pointer for oid, blob in pairs if (pointer := git.parse_pointer(blob))}


def _move(repo: Repository, moves: Mapping[str, tuple[str, str]]) -> None:
    """Move refs from the first id to the second, all or none."""
    lines = "".join(f"update {ref}\0{new}\0{old}\0" for ref, (old, new) in moves.items())
    try:
        git.git(
            repo, "update-ref", "--no-deref", "--stdin", "-z",
            stdin=lines.encode("utf-8", "surrogateescape"),
        )  # fmt: skip
    except git.GitError:
        if all(git.resolve(repo, ref) == old for ref, (old, _) in moves.items()):
            raise
        raise commits.conflict() from None
