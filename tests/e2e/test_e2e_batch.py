"""Many checkpoints in one call, through the real processes."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SMALL = {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 12, "vocab_size": 37}
REPO = "me/model"
SECONDS = 60
Cli = Callable[..., Any]
Write = Callable[..., Path]


@pytest.fixture
def runs(slo_checkpoint: Write, tmp_path: Path) -> Path:
    """Three checkpoints and a damaged one, each in a folder; the last is a copy of the first."""
    folder = tmp_path / "runs"
    for number, seed in enumerate((0, 1, None, 0)):
        path = folder / f"run{number}" / "ckpt.pt"
        path.parent.mkdir(parents=True)
        if seed is None:
            path.write_bytes(b"no checkpoint")
        else:
            shutil.copy(slo_checkpoint(**SMALL, seed=seed), path)
        os.utime(path, (number + 1, number + 1))
    return folder


def test_convert_many_and_again(cli: Cli, runs: Path, characters: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    outcome = cli("convert-model", characters, runs, output, "--jobs", 2)
    assert outcome.code == 3
    assert {path.name for path in output.iterdir()} == {"run0-ckpt", "run1-ckpt", "run3-ckpt"}
    assert "3 converted, 1 failed" in outcome.out
    assert f"error: {runs}/run2/ckpt.pt: is not a checkpoint" in outcome.err
    assert "verify:" in outcome.err  # the proof of another process is told of

    (output / "run1-ckpt" / "config.json").write_text("{}")
    again = cli("convert-model", characters, runs / "*/ckpt.pt", output, "-q", "--json")
    assert again.code == 3
    told = {Path(each["checkpoint"]).parent.name: each for each in again.json}
    assert list(told) == ["run0", "run1", "run2", "run3"]
    assert told["run0"]["record"]["parity"]["passed"]
    assert told["run0"]["output"] == str(output / "run0-ckpt")
    assert told["run1"]["exit_code"] == 2 and "exists already" in told["run1"]["error"]
    assert told["run2"]["record"] is None

    several = cli("convert-model", characters, runs / "run0/ckpt.pt", runs, output / "run0-ckpt")
    assert several.code == 2 and "no folder that several artefacts can go to" in several.err


def test_jobs_do_not_change_what_is_released(
    cli: Cli, runs: Path, characters: Path, tmp_path: Path
) -> None:
    def released(hub: str, *options: Any) -> list[tuple[Any, ...]]:
        where = ("--repo-id", REPO, "--hub", tmp_path / hub, "--dataset", characters)
        outcome = cli("release", runs, *where, *options, "--json", "-q")
        assert outcome.code == 3
        listed = json.loads(cli("releases", REPO, "--hub", tmp_path / hub, "--json").out)
        assert len(listed) == 2
        return [
            (
                Path(each["checkpoint"]).parent.name,
                each["tag"],
                each["released"],
                each["record"] and each["record"]["identity"],
                each.get("exit_code"),
            )
            for each in outcome.json
        ]

    one = released("one")
    assert [each[:3] for each in one] == [
        ("run0", "v1.0.0", True),
        ("run1", "v1.0.1", True),
        ("run2", None, None),
        ("run3", "v1.0.0", False),
    ]
    assert released("several", "--jobs", 3) == one


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    """Descriptors that can be read once a process of the batch has ended."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [os.pidfd_open(int(child)) for child in children]


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_what_ends_the_command_ends_every_process_and_leaves_nothing_half_written(
    slo_checkpoint: Write, characters: Path, tmp_path: Path, number: signal.Signals
) -> None:
    runs, output, temporary = tmp_path / "runs", tmp_path / "out", tmp_path / "temporary"
    temporary.mkdir()
    for number_of_run in range(6):
        (runs / str(number_of_run)).mkdir(parents=True)
        shutil.copy(slo_checkpoint(**SMALL), runs / str(number_of_run) / "ckpt.pt")
    command = [sys.executable, "-m", "slogpt_hf", "convert-model", characters, runs, output]
    process = subprocess.Popen(
        [*command, "--jobs", "2"],
        env={**os.environ, "TMPDIR": str(temporary)},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if ": convert:" in line:  # the artefact is there, its proof is not
            break
    workers = workers_of(process)
    assert len(workers) == 2
    process.send_signal(number)
    said = process.stderr.read()
    assert process.wait(SECONDS) == (-9 if number == signal.SIGKILL else 130)
    for worker in workers:
        assert select.select([worker], [], [], SECONDS)[0]
        os.close(worker)
    assert list(output.glob("*/.*")) == list(output.glob(".*")) == []
    assert not list(output.glob("*")) or all(
        (each / "release.json").is_file() for each in output.iterdir()
    )
    if number != signal.SIGKILL:
        assert "nothing half-written was left" in said
        assert list(temporary.iterdir()) == []
