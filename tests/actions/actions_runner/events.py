"""Events of real git repositories, with the payloads that GitHub sends."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NOTHING = "0" * 40
AUTHOR = {
    "GIT_AUTHOR_NAME": "Trainer",
    "GIT_AUTHOR_EMAIL": "trainer@example.org",
    "GIT_COMMITTER_NAME": "Trainer",
    "GIT_COMMITTER_EMAIL": "trainer@example.org",
}


@dataclass(frozen=True)
class Event:
    """Why a workflow runs.

    Attributes:
        name: e.g. `push`.
        sha: commit that is checked out.
        ref: e.g. `refs/heads/main`.
        payload: of the event, as the file that GITHUB_EVENT_PATH names has it.
        attempt: 2 and more for a rerun.
        head_ref: source branch of a pull request.
        base_ref: target branch of a pull request.
    """

    name: str
    sha: str
    ref: str
    payload: Mapping[str, Any]
    attempt: int = 1
    head_ref: str = ""
    base_ref: str = ""

    @property
    def ref_name(self) -> str:
        return self.ref.removeprefix("refs/heads/").removeprefix("refs/tags/").removeprefix("refs/")


def git(folder: Path, *arguments: str) -> str:
    """Standard output of a git command that must succeed, in surroundings of its own."""
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(folder), **AUTHOR}
    environment |= {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null"}
    command = ["git", "-c", "init.defaultBranch=main", "-c", "core.hooksPath=/dev/null"]
    done = subprocess.run(
        [*command, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"git {' '.join(arguments)}: {done.stderr}"
    return done.stdout.strip()


@dataclass(frozen=True)
class Origin:
    """A repository on the server (bare), and a clone in which someone works."""

    name: str
    server: Path
    clone: Path

    @classmethod
    def make(cls, folder: Path, name: str) -> Origin:
        """A repository without commits below an empty folder."""
        server, clone = folder / "server.git", folder / "clone"
        folder.mkdir(parents=True, exist_ok=True)
        git(folder, "init", "--quiet", "--bare", str(server))
        git(folder, "init", "--quiet", str(clone))
        git(clone, "remote", "add", "origin", str(server))
        return cls(name, server, clone)

    def commit(self, message: str = "train", **files: bytes) -> str:
        """Commit files (`/` as `__` in their names) and return the commit."""
        for name, content in files.items():
            path = self.clone / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        git(self.clone, "add", "--all")
        git(self.clone, "commit", "--quiet", "--allow-empty", "--message", message)
        return self.head

    @property
    def head(self) -> str:
        return git(self.clone, "rev-parse", "HEAD")

    def push(self, branch: str = "main", *, force: bool = False) -> Event:
        """Push what is checked out to a branch."""
        before = self._at(f"refs/heads/{branch}")
        git(
            self.clone,
            "push",
            "--quiet",
            *["--force"] * force,
            "origin",
            f"HEAD:refs/heads/{branch}",
        )
        return self._pushed(f"refs/heads/{branch}", before, forced=force)

    def push_tag(self, tag: str) -> Event:
        git(self.clone, "tag", tag)
        git(self.clone, "push", "--quiet", "origin", f"refs/tags/{tag}")
        return self._pushed(f"refs/tags/{tag}", NOTHING)

    def schedule(self, branch: str = "main") -> Event:
        sha = self._at(f"refs/heads/{branch}")
        return Event("schedule", sha, f"refs/heads/{branch}", {"schedule": "0 * * * *"})

    def dispatch(self, branch: str = "main") -> Event:
        sha = self._at(f"refs/heads/{branch}")
        payload = {"inputs": None, "ref": f"refs/heads/{branch}", "repository": self._repository()}
        return Event("workflow_dispatch", sha, f"refs/heads/{branch}", payload)

    def pull_request(self, fork: Origin, branch: str, base: str = "main") -> Event:
        """A pull request of a fork's branch; what is checked out is its merge with the base."""
        git(self.clone, "fetch", "--quiet", str(fork.server), f"refs/heads/{branch}")
        head = git(self.clone, "rev-parse", "FETCH_HEAD")
        git(self.clone, "checkout", "--quiet", "--detach", self._at(f"refs/heads/{base}"))
        git(self.clone, "merge", "--quiet", "--no-ff", "--message", "merge", head)
        sha = self.head
        git(self.clone, "push", "--quiet", "origin", f"{sha}:refs/pull/1/merge")
        git(self.clone, "push", "--quiet", "origin", f"{head}:refs/pull/1/head")
        payload = {
            "action": "opened",
            "number": 1,
            "pull_request": {
                "number": 1,
                "head": {"ref": branch, "sha": head, "repo": fork._repository()},
                "base": {
                    "ref": base,
                    "sha": self._at(f"refs/heads/{base}"),
                    "repo": self._repository(),
                },
                "merge_commit_sha": sha,
            },
            "repository": self._repository(),
        }
        return Event("pull_request", sha, "refs/pull/1/merge", payload, 1, branch, base)

    def _pushed(self, ref: str, before: str, *, forced: bool = False) -> Event:
        sha = self._at(ref)
        payload = {
            "ref": ref,
            "before": before,
            "after": sha,
            "created": before == NOTHING,
            "deleted": False,
            "forced": forced,
            "commits": [{"id": sha, "message": git(self.server, "log", "-1", "--format=%B", sha)}],
            "head_commit": {"id": sha},
            "repository": self._repository(),
        }
        return Event("push", sha, ref, payload)

    def _repository(self) -> dict[str, Any]:
        return {"full_name": self.name, "fork": self.name.startswith("someone/"), "private": False}

    def _at(self, ref: str) -> str:
        found = git(self.server, "for-each-ref", "--format=%(objectname)", ref)
        return found or NOTHING


def written(event: Event, path: Path) -> Path:
    """The event's payload as a file."""
    path.write_text(json.dumps(event.payload), "utf-8")
    return path
