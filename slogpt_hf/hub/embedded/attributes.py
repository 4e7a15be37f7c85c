"""Which files become LFS objects: the repository's `.gitattributes`, then size, then content.

The rules are read by git itself (`git check-attr`, `git check-ignore`), so a clone agrees.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from slogpt_hf.hub.embedded import git
from slogpt_hf.hub.embedded.git import Repository

FILE = ".gitattributes"
REGULAR_LIMIT = 10 * 1024 * 1024
"""Bytes above which the Hub stores any file as an LFS object."""

_LFS_PATTERNS = (
    "*.7z *.arrow *.bin *.bz2 *.ckpt *.ftz *.gz *.h5 *.joblib *.lfs.* *.mlmodel *.model *.msgpack"
    " *.npy *.npz *.onnx *.ot *.parquet *.pb *.pickle *.pkl *.pt *.pth *.rar *.safetensors"
    " saved_model/**/* *.tar.* *.tar *.tflite *.tgz *.wasm *.xz *.zip *.zst *tfevents*"
)


def rule(pattern: str) -> str:
    """One line of `.gitattributes` that sends a pattern to LFS."""
    return f"{pattern} filter=lfs diff=lfs merge=lfs -text\n"


INITIAL = "".join(rule(pattern) for pattern in _LFS_PATTERNS.split())
"""`.gitattributes` of a new model repository on the Hub."""


def exact_rule(path: str) -> str:
    """The line that sends this one path to LFS."""
    escaped = "".join(
        f"\\{c}" if c in "*?[\\" else "[[:space:]]" if c.isspace() else c for c in path
    )
    return rule(f"/{escaped}")


def lfs_paths(
    repo: Repository,
    files: Iterable[tuple[str, str, str]],
    paths: Sequence[str],
    *,
    root: str | None = None,
) -> set[str]:
    """Those of `paths` that the `.gitattributes` among `files` (path, mode, oid) send to LFS.

    Args:
        repo: where the blobs are.
        files: of a commit.
        paths: to ask about; they need not be among `files`.
        root: text of a new `.gitattributes` at the root, in place of the one among `files`.
    """
    rule_files = {p: (mode, oid) for p, mode, oid in files if p.rpartition("/")[2] == FILE}
    if root is not None and paths:
        text = root.encode("utf-8", "replace")
        oid = git.git(repo, "hash-object", "-w", "--stdin", stdin=text).decode().strip()
        rule_files[FILE] = ("100644", oid)
    rules = "".join(f"{mode} {oid}\t{path}\0" for path, (mode, oid) in rule_files.items())
    if not rules or not paths:
        return set()
    with tempfile.TemporaryDirectory(dir=repo.incoming, prefix="attributes-") as folder:
        env = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        git.git(repo, "update-index", "-z", "--index-info", stdin=_bytes(rules), env=env)
        output = git.git(
            repo, "check-attr", "--cached", "--stdin", "-z", "filter",
            stdin=_bytes("".join(f"{path}\0" for path in paths)), env=env,
        )  # fmt: skip
    fields = output.split(b"\0")[:-1]
    return {
        path.decode("utf-8", "surrogateescape")
        for path, value in zip(fields[::3], fields[2::3], strict=True)
        if value == b"lfs"
    }


def ignored_paths(repo: Repository, gitignore: str, paths: Sequence[str]) -> set[str]:
    """Those of `paths` that the text of a `.gitignore` at the root excludes."""
    if not gitignore.strip() or not paths:
        return set()
    with tempfile.TemporaryDirectory(dir=repo.incoming, prefix="ignore-") as folder:
        (Path(folder) / ".gitignore").write_bytes(_bytes(gitignore))
        try:
            output = git.git(
                repo, "-c", "core.bare=false", "check-ignore", "--no-index", "--stdin", "-z",
                stdin=_bytes("".join(f"{path}\0" for path in paths)),
                env={"GIT_WORK_TREE": folder, "GIT_LITERAL_PATHSPECS": "0"}, cwd=Path(folder),
            )  # fmt: skip
        except git.GitError as error:
            if error.status != 1:
                raise
            return set()
    return {path.decode("utf-8", "surrogateescape") for path in output.split(b"\0")[:-1]}


def upload_mode(path: str, size: int, sample: bytes, tracked: set[str]) -> str:
    """`lfs` or `regular`, from the first bytes (at most 512) of a file of `size` bytes."""
    return "lfs" if path in tracked or size > REGULAR_LIMIT or _is_binary(sample) else "regular"


def _is_binary(sample: bytes) -> bool:
    if b"\0" in sample:
        return True
    try:
        sample.decode()
    except UnicodeDecodeError as error:
        return error.start < len(sample) - 3
    return False


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
