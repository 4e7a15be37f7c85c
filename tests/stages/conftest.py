"""Jobs over a real repository and a real hub; what takes long, the proofs, is made once."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))

from stage_lab import HANDED_ON, TOKEN, Jobs, checkpoint, commit, git

from slogpt_hf.hub.embedded import RunningHub, serve


def repository_at(folder: Path, **files: bytes) -> Path:
    folder.mkdir(parents=True)
    git(folder, "init", "--quiet", "--initial-branch=main")
    commit(folder, **files)
    return folder


@pytest.fixture
def new_repository(tmp_path: Path) -> Callable[..., Path]:
    """Makes a training repository: ``(**files)``."""
    return lambda **files: repository_at(tmp_path / "repository", **files)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[RunningHub]:
    """An empty hub that asks for TOKEN."""
    with serve(tmp_path / "hub", token=TOKEN) as running:
        yield running


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, golden: Callable[[str], Path]) -> Path:
    """A repository with a good checkpoint, a better one, and half of one."""
    return repository_at(
        tmp_path_factory.mktemp("trained") / "repository",
        **checkpoint(golden("slo-classic"), "out__a"),
        **checkpoint(golden("slo-modern"), "out__b"),
        **checkpoint(golden("slo-modern"), "out__half", most=300_000),
    )


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory: pytest.TempPathFactory, trained: Path) -> Path:
    """What the proving jobs of ``trained`` left, one folder a checkpoint."""
    folder = tmp_path_factory.mktemp("fan-out")
    with serve(folder / "hub") as running:
        plan = Jobs(folder / "plan", trained, running.endpoint)
        plan.folder.mkdir()
        assert plan.ci("prepare", "--job", "plan").code == 0
        (line,) = [
            each
            for each in (plan.work / "outputs.env").read_text().splitlines()
            if "MATRIX" in each
        ]
        for job in json.loads(line.partition("=")[2])["include"]:
            proving = Jobs(folder / f"job-{job['key']}", trained, running.endpoint)
            prepared = proving.ci("prepare", "--job", "prove", "--candidate", job["key"])
            assert prepared.code == 0, prepared.err
            assert proving.ci("prove").code == (3 if "half" in job["name"] else 0)
            name = f"slogpt-hf-{job['key']}"
            shutil.copytree(proving.work, folder / "artifacts" / name, ignore=HANDED_ON)
    return folder / "artifacts"


@pytest.fixture(scope="session")
def proven(tmp_path_factory: pytest.TempPathFactory, trained: Path) -> Path:
    """The work folder of a single job for ``trained``, as far as the stage prove."""
    folder = tmp_path_factory.mktemp("proven")
    with serve(folder / "hub") as running:
        job = Jobs(folder, trained, running.endpoint)
        assert job.ci("prepare").code == 0
        assert job.ci("prove").code == 3
    return job.work


@pytest.fixture
def jobs(tmp_path: Path, trained: Path, hub: RunningHub) -> Jobs:
    """A job for ``trained`` that has done nothing yet, with the token of its hub."""
    return Jobs(tmp_path, trained, hub.endpoint, {"HF_TOKEN": TOKEN})


@pytest.fixture
def job(jobs: Jobs, proven: Path) -> Jobs:
    """A job for ``trained`` whose stage prove has ended."""
    jobs.copy_of(proven)
    return jobs


@pytest.fixture
def gathered(jobs: Jobs, artifacts: Path) -> Path:
    """A copy of the folder into which the publishing job has downloaded ``artifacts``."""
    return Path(shutil.copytree(artifacts, jobs.folder / "artifacts"))
