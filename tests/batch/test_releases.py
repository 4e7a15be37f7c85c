"""The order of many releases, and what becomes of those behind one that the hub refuses."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from slogpt_hf.batch import pool
from slogpt_hf.batch.choosing import Chosen
from slogpt_hf.batch.outcome import Outcome, worst
from slogpt_hf.batch.running import Batch, _nothing_partial
from slogpt_hf.errors import UsageError
from slogpt_hf.progress import Progress
from slogpt_hf.settings import Settings

Release = Callable[..., tuple[list[Outcome], str]]


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Release:
    """Releases by stubs: words of the stub to outcomes, and what was said meanwhile."""
    monkeypatch.setattr(pool, "WORKER", (sys.executable, str(Path(__file__).with_name("stub.py"))))
    os.mkfifo(tmp_path / "gate")

    def run(*words: str, jobs: int = 2) -> tuple[list[Outcome], str]:
        found = [Chosen(Path(word), f"n{index}") for index, word in enumerate(words)]
        stream = io.StringIO()
        batch = Batch(found, Settings(repo_id="me/x"), jobs, 1 << 50, Progress(stream))
        return list(batch.release({"NOTES": str(tmp_path)})), stream.getvalue()

    return run


def test_publication_keeps_the_order_whatever_is_proven_first(release: Release) -> None:
    done, log = release("late", "early", "ok")
    assert [(each.checkpoint, each.status) for each in done] == [
        ("late", "released"),
        ("early", "released"),
        ("ok", "released"),
    ]
    published = [line for line in log.splitlines() if line.endswith(": publish")]
    assert published == ["late: publish", "early: publish", "ok: publish"]
    assert [each.output for each in done] == ["me/x@late", "me/x@early", "me/x@ok"]


@pytest.mark.parametrize("jobs", [1, 3])
def test_one_that_fails_keeps_none_of_the_others(release: Release, jobs: int) -> None:
    done, log = release("ok", "fail:3", "die", "refuse:7", "ok", jobs=jobs)
    statuses = [(each.status, each.exit_code) for each in done]
    assert statuses == [
        ("released", 0),
        ("failed", 3),
        ("failed", 1),
        ("failed", 7),
        ("released", 0),
    ]
    assert worst(done) == 7
    assert "[5/5, 3 failed]" in log.splitlines()[-1]


@pytest.mark.parametrize("refused", ["fail:6", "refuse:6"])
def test_behind_one_that_the_hub_refuses_none_is_tried(release: Release, refused: str) -> None:
    done, log = release("ok", refused, "ok", "ok", "ok", "ok", "ok", "ok")
    assert [each.exit_code for each in done] == [0, *[6] * 7]
    assert f"since {refused} before it could not be published" in done[2].message
    assert log.count(": publish") == 1 + (refused == "refuse:6")


def test_reports_of_refusals_are_one_each_and_output_is_for_one() -> None:
    found = [Chosen(Path("a"), "a-ckpt"), Chosen(Path("b"), "b-ckpt")]
    batch = Batch(found, Settings(report="out/parity.json"), 1, None, Progress(quiet=True))
    reports = {batch._task(index, "convert", Path("x")).settings["report"] for index in (0, 1)}
    assert reports == {"out/parity-a-ckpt.json", "out/parity-b-ckpt.json"}
    with pytest.raises(UsageError, match="one checkpoint at a time"):
        Batch(found, Settings(output="x"), 1, None, Progress(quiet=True))


def test_what_a_killed_process_left_half_written_is_removed(tmp_path: Path) -> None:
    output = tmp_path / "out"
    folders = [output / "a", output / "b"]
    with pytest.raises(KeyboardInterrupt), _nothing_partial(output, folders):
        (output / ".a.partial-1").mkdir(parents=True)
        raise KeyboardInterrupt
    assert not output.exists()
    (output / ".b.partial-theirs").mkdir(parents=True)
    with _nothing_partial(output, folders):
        for name in ("a", ".a.partial-1", ".other.partial-1"):
            (output / name).mkdir()
    assert {path.name for path in output.iterdir()} == {
        "a",
        ".b.partial-theirs",
        ".other.partial-1",
    }
