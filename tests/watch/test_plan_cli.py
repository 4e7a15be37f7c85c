from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from slogpt_hf import planning
from slogpt_hf.cli import cli
from slogpt_hf.watch.event import Event


@pytest.fixture
def plan(
    new_git: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Result]:
    """Runs ``slogpt-hf plan`` in a repository with three checkpoints of which two are equal."""
    git = new_git()
    git.commit({"a/ckpt.pt": b"1", "b/ckpt.pt": b"22", "c/ckpt.pt": b"1"})
    monkeypatch.chdir(git.folder)

    def run(*arguments: str, event: Event | None = None) -> Result:
        detect = ModuleType("detect")
        at_hand = SimpleNamespace(event=event) if event else None
        detect.detect = lambda environment: at_hand  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "slogpt_hf.ci.detect", detect)
        hub = ("--repo-id", "me/model", "--hub", str(tmp_path / "hub"))
        return CliRunner().invoke(cli, ["plan", *hub, *arguments])

    return run


def test_a_table(plan: Callable[..., Result]) -> None:
    result = plan()
    lines = result.stdout.splitlines()
    assert lines[0].split() == [
        "checkpoint",
        "branch",
        "commit",
        "size",
        "sha256",
        "release",
        "why",
    ]
    assert [line.split()[0] for line in lines[1:]] == ["a/ckpt.pt", "b/ckpt.pt", "c/ckpt.pt"]
    assert lines[1].split()[1] == "main"
    assert lines[1].endswith("yes      new")
    assert lines[3].endswith("no       the same as a/ckpt.pt")


def test_json_is_the_plan(plan: Callable[..., Result]) -> None:
    content = json.loads(plan("--json").stdout)
    assert planning.Plan.from_dict(content).to_dict() == content
    assert [each["wanted"] for each in content["decisions"]] == [True, True, False]


def test_a_matrix_is_one_line(plan: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    result = plan("--matrix")
    (line,) = result.stdout.splitlines()
    assert [job["name"] for job in json.loads(line)["include"]] == ["a/ckpt.pt", "b/ckpt.pt"]
    assert result.stderr == ""
    monkeypatch.setattr(planning, "MOST_JOBS", 1)
    result = plan("--matrix")
    assert len(json.loads(result.stdout)["include"]) == 1
    assert "1 more than a matrix holds" in result.stderr


def test_a_matrix_is_githubs_whatever_stands_behind_it(plan: Callable[..., Result]) -> None:
    (line,) = plan("--matrix", "b/ckpt.pt").stdout.splitlines()
    assert [job["name"] for job in json.loads(line)["include"]] == ["b/ckpt.pt"]
    assert plan("--matrix", "github", "b/ckpt.pt").stdout.splitlines() == [line]
    assert plan("--matrix=github", "--", "b/ckpt.pt").stdout.splitlines() == [line]
    assert plan("--matrix=jenkins").exit_code == 2
    folder = plan("b/*.pt", "--quiet", "--", "--matrix")
    assert "--matrix: no such checkpoint" in str(folder.exception)


def test_a_child_pipeline_of_gitlab(plan: Callable[..., Result]) -> None:
    result = plan("--matrix", "gitlab")
    assert "is not handed on" in result.stderr
    pipeline = yaml.safe_load(result.stdout)
    [matrix] = pipeline["slogpt-hf prove 1"]["parallel"]["matrix"]
    assert len(matrix["CANDIDATE"]) == 2
    assert "slogpt-hf publish" in pipeline
    assert "SLOGPT_HUB" not in pipeline["variables"]
    assert "not handed on" in str(plan("b/ckpt.pt", "--matrix", "gitlab").exception)
    event = Event("push", branch="topic", is_pull_request=True)
    assert "slogpt-hf publish" not in yaml.safe_load(plan("--matrix", "gitlab", event=event).stdout)


def test_an_indexed_job_of_kubernetes(plan: Callable[..., Result], tmp_path: Path) -> None:
    assert "a pod cannot see it" in str(plan("--matrix", "kubernetes").exception)
    url = tmp_path.as_uri().replace(str(tmp_path), str(Path.cwd()) + "/.git")
    result = plan("--matrix", "kubernetes", url)
    config, job = yaml.safe_load_all(result.stdout)
    assert job["spec"]["completions"] == len(config["data"]) == 2
    assert "&id" not in result.stdout


def test_nothing_is_found(plan: Callable[..., Result]) -> None:
    said = plan("--checkpoints", "*.nothing").stdout
    assert said.startswith("No checkpoints were found. One that git ignores")


def test_sources_options_and_the_event_count(plan: Callable[..., Result], tmp_path: Path) -> None:
    assert plan("b/*.pt", "--quiet").stdout.splitlines()[1].startswith("b/ckpt.pt")
    assert len(plan("--checkpoints", "b/*.pt").stdout.splitlines()) == 2
    event = Event("push", branch="topic", is_pull_request=True)
    assert plan(event=event).stdout.splitlines()[1].split()[1] == "topic"
    assert "latest" in plan("--which", "latest").stdout


def test_json_and_matrix_at_once(plan: Callable[..., Result]) -> None:
    result = plan("--json", "--matrix")
    assert result.exit_code != 0
    assert "Leave one of them out" in str(result.exception)
