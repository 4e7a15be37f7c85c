"""The fixtures of these tests; `ci_lab` is what they are made of."""

from __future__ import annotations

import json
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from slogpt_hf.hub.embedded import serve

sys.path.append(str(Path(__file__).parent))

from ci_lab import BRANCH, HERE, ROOT, TOKEN, Lab, git


def _program(source: Path, target: Path) -> None:
    text = source.read_text().replace("#!PYTHON", f"#!{sys.executable}", 1)
    target.write_text(text.replace('"ROOT"', json.dumps(str(ROOT))))
    target.chmod(target.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def lab(tmp_path: Path, golden: Callable[[str], Path]) -> Iterator[Lab]:
    """A training repository whose branch `train/a` holds a new checkpoint, and a hub."""
    work = tmp_path / "training"
    (work / "out").mkdir(parents=True)
    for name in ("ckpt.pt", "meta.pkl"):
        shutil.copy(golden("slo-rope-rmsnorm-gelu") / name, work / "out" / name)
    for example in ("docker/release.sh", "gitlab/.gitlab-ci.yml"):
        shutil.copy(ROOT / "examples" / example, work)
    shutil.copytree(ROOT / "examples/gitlab/templates", work / "templates")
    git(work, "init", "--quiet", "--initial-branch", "main")
    git(work, "add", "--all", "--", ":!out")
    git(work, "commit", "--quiet", "--message", "start")
    git(work, "checkout", "--quiet", "-b", BRANCH)
    git(work, "add", "--all")
    git(work, "commit", "--quiet", "--message", "$(touch evaluated) `touch evaluated`")
    git(work, "checkout", "--quiet", "main")
    git(tmp_path, "clone", "--quiet", "--bare", str(work), str(tmp_path / "origin.git"))
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("slogpt-hf", "stub.py"):
        _program(HERE / "seen.py", programs / name)
    _program(ROOT / "tests/actions/fake_docker.py", programs / "docker")
    with serve(tmp_path / "hub", token=TOKEN) as running:
        yield Lab(tmp_path, running)
