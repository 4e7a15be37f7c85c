"""What the image promises: ``python bench/image.py``, or ``python bench/run.py image``.

``eval "$(bash .ci/engine image)"`` builds the image that is measured and names it. Times are of
processes in a container that ran them before, the best of the rounds: whatever else the machine
does adds to them. BENCH_DOCKER holds options of ``docker run``, and ``--cgroup-parent=/
--cpu-shares=262144`` gives the processor to the containers first. ``--variants`` builds the image
in other ways and prints what each is worth.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from publishing import GOLDEN, served
from run import Row

ROOT = Path(__file__).parent.parent
MB = 10**6
ENTRYPOINT = ("python", "/opt/slogpt-hf/bin/entrypoint")
HELP = (*ENTRYPOINT, "--help")
IMPORT = ("python", "-c", "import torch, transformers")
# What .ci/rootfs.py tells Python about garbage, taken back.
USUAL = "import atexit, gc; gc.set_threshold(700); atexit.unregister(gc.freeze); "
USUAL_IMPORT = ("python", "-c", USUAL + IMPORT[-1])
BARE = ("python", "-c", "pass")
HARDENED = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--tmpfs=/tmp")
FIRST = os.environ.get("BENCH_DOCKER", "").split()
# Runs commands in turn, and prints for each the seconds of its best run and of its processor.
CLOCK = """
import json, os, subprocess, sys, time
rounds, commands = int(sys.argv[1]), json.loads(sys.argv[2])
took = [[] for _ in commands]
for _ in range(rounds + 1):
    for command, found in zip(commands, took):
        before, began = os.times(), time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seconds, after = time.perf_counter() - began, os.times()
        used = sum(after[2:4]) - sum(before[2:4])
        found.append((seconds, used))
print(json.dumps([[min(figures) for figures in zip(*found[1:])] for found in took]))
"""
# What was tried to make the image smaller and quicker: the arguments of the build.
VARIANTS = {
    "as it is": (),
    "no byte code": ("COMPILE=none",),
    "all byte code": ("COMPILE=all",),
    "symbols left in": ("KEEP=symbols",),
    "headers, build tools left in": ("KEEP=headers,development",),
    "tests left in": ("KEEP=tests",),
    "all architectures left in": ("KEEP=models",),
    "all left in, all byte code": (
        "KEEP=headers,development,tests,pictures,models,symbols",
        "COMPILE=all",
    ),
    "without signing and Xet hub": ("EXTRAS=",),
}


@dataclass(frozen=True)
class Took:
    """Seconds of a process: by the clock, and of the processor."""

    seconds: float
    processor: float


def docker(*arguments: str) -> str:
    """What the docker client prints."""
    return subprocess.run(
        ["docker", *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


def raw_megabytes(image: str) -> float:
    """Size of the image as the engine tells it."""
    return int(docker("image", "inspect", "--format", "{{.Size}}", image)) / MB


def gzip_megabytes(image: str) -> float:
    """Size of the image as a registry keeps it, but for its layers being one stream here."""
    compressor, size = zlib.compressobj(6, wbits=31), 0
    with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        while piece := process.stdout.read(MB):
            size += len(compressor.compress(piece))
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, "docker save")
    return (size + len(compressor.flush())) / MB


def contained(image: str, *options: str, network: str = "none") -> tuple[str, ...]:
    """Arguments of docker that run the interpreter of the image as the action runs its command."""
    user = f"--user={os.getuid()}:{os.getgid()}"
    given = ("--rm", f"--network={network}", user, *HARDENED, *FIRST, *options)
    return ("run", *given, "--entrypoint=python", image)


def clocked(run: Sequence[str], rounds: int, *commands: Sequence[str]) -> list[Took]:
    """How long each command takes in one container, warm."""
    printed = docker(*run, "-c", CLOCK, str(rounds), json.dumps(commands))
    return [Took(*figures) for figures in json.loads(printed)]


@dataclass(frozen=True)
class Push:
    """A push with nothing new.

    Attributes:
        options: of docker, for a container that sees it.
        command: that looks for what is new.
        fetched: file in which that command says what it fetched.
    """

    options: tuple[str, ...]
    command: tuple[str, ...]
    fetched: Path

    @classmethod
    def make(cls, folder: Path, image: str, network: str, **hub: str) -> Push:
        """Commit a checkpoint, release it to the hub, then push a commit that changes another file.

        Args:
            folder: where the repository goes.
            image: releases.
            network: of the containers.
            hub: variables that name the hub.
        """
        repository, work = folder / "repository", folder / "work"
        (repository / "out").mkdir(parents=True)
        work.mkdir()
        for name in ("ckpt.pt", "meta.pkl"):
            shutil.copy(GOLDEN / name, repository / "out")
        git = partial(_git, repository)
        git("init", "--quiet", "--initial-branch", "train/a")
        commits = []
        for message in ("step 1", "notes"):
            (repository / "notes.txt").write_text(message)
            git("add", ".")
            git("commit", "--quiet", "--message", message)
            commits.append(git("rev-parse", "HEAD"))
        ref = "refs/heads/train/a"
        event = {"ref": ref, "before": commits[0], "after": commits[1]}
        (folder / "event.json").write_text(json.dumps(event))
        variables = hub | {
            "GITHUB_ACTIONS": "true",
            "GITHUB_EVENT_NAME": "push",
            "GITHUB_EVENT_PATH": str(folder / "event.json"),
            "GITHUB_OUTPUT": str(folder / "outputs"),
            "GITHUB_REF": ref,
            "GITHUB_SHA": commits[1],
            "GITHUB_STEP_SUMMARY": str(folder / "summary"),
            "GITHUB_WORKSPACE": str(repository),
            "SLOGPT_DATASET": "out",
            "SLOGPT_REPO_ID": "me/model",
        }
        options = [f"--volume={folder}:{folder}", f"--workdir={repository}"]
        options += [f"--env={name}={value}" for name, value in variables.items()]
        released = contained(image, *options, network=network)
        assert "Released" in docker(*released, *ENTRYPOINT[1:], "release", "out/ckpt.pt")
        command = (*ENTRYPOINT, "ci", "prepare", str(work))
        return cls(tuple(options), command, work / "fetched.json")

    def heavy(self, image: str, network: str) -> int:
        """How many of the heavy packages it imports."""
        profiled = contained(
            image, *self.options, "--env=PYTHONPROFILEIMPORTTIME=1", network=network
        )
        command = ["docker", *profiled, *self.command[1:]]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        assert json.loads(self.fetched.read_text()) == {}, done.stdout
        imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
        assert "slogpt_hf.cli" in imported
        return len(imported & {"torch", "transformers"})


def _git(repository: Path, *arguments: str) -> str:
    nobody = {
        f"GIT_{who}_{what}": "b@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    command = ["git", "-C", str(repository), *arguments]
    environment = {"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": os.devnull} | nobody
    return subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True
    ).stdout.strip()


def image_rows(folder: Path, size: str, rounds: int) -> Iterator[Row]:
    """Sizes, starts, and a push with nothing new."""
    image = os.environ.get("TESTS_IMAGE")
    if not image:
        raise SystemExit('No image: eval "$(bash .ci/engine image)" builds it and names it.')
    layers = docker("history", "--no-trunc", "--format", "{{.Size}} {{.CreatedBy}}", image)
    parts = [line.split() for line in layers.splitlines() if " COPY " in line]
    figures = ", ".join(f"{part[2]} {part[0]}" for part in parts)
    yield Row("image, raw, MB", figures, raw_megabytes(image), 760)
    yield Row("image, gzip -6, MB", "all layers as one stream", gzip_megabytes(image), 230)

    run = contained(image)
    help_, bare, imports = clocked(run, rounds, HELP, BARE, IMPORT)
    began = time.perf_counter()
    docker(*run, *BARE[1:])
    start = time.perf_counter() - began - bare.seconds
    figures = f"bare interpreter {bare.seconds:.2f} s; docker run adds {start:.1f} s to any command"
    yield Row("image, --help warm, s", figures, help_.seconds, 0.4)
    yield Row("image, import torch and transformers warm, s", said(imports), imports.seconds, 3)

    with served(folder / "served") as endpoint:
        loopback = {"HF_ENDPOINT": endpoint, "HF_TOKEN": "anonymous"}
        yield from push_rows(image, "a hub on loopback", rounds, folder / "a", "host", **loopback)
    in_folder = {"SLOGPT_HUB": str(folder / "b/hub")}
    yield from push_rows(image, "a folder as hub", rounds, folder / "b", "none", **in_folder)


def push_rows(
    image: str, what: str, rounds: int, folder: Path, network: str, **hub: str
) -> Iterator[Row]:
    """A push with nothing new: how long it takes, and what it imports."""
    push = Push.make(folder, image, network, **hub)
    (took,) = clocked(contained(image, *push.options, network=network), rounds, push.command)
    yield Row(f"image, nothing new, {what}, s", said(took), took.seconds, 1)
    heavy = push.heavy(image, network)
    yield Row(f"torch, transformers in that push, {what}", "modules", heavy, 0)


def said(took: Took) -> str:
    """What stands beside a time."""
    return f"{took.processor:.2f} s of the processor"


def print_variants(names: Sequence[str], rounds: int) -> None:
    """Build each variant, measure it, and forget it."""
    columns = ("raw MB", "gzip MB", "--help s", "import s", "usual gc s")
    print(f"{'variant':<30}", *(f"{column:>11}" for column in columns))
    tag = "slogpt-hf:variant"
    for name in names:
        command = ["bash", str(ROOT / ".ci/engine"), "image"]
        command += [part for each in VARIANTS[name] for part in ("--build-arg", each)]
        environment = os.environ | {"IMAGE_TAG": tag}
        subprocess.run(command, check=True, capture_output=True, env=environment)
        found = clocked(contained(tag), rounds, HELP, IMPORT, USUAL_IMPORT)
        sizes, times = (raw_megabytes(tag), gzip_megabytes(tag)), [each.seconds for each in found]
        print(
            f"{name:<30}",
            *(f"{value:>11.0f}" for value in sizes),
            *(f"{value:>11.2f}" for value in times),
            flush=True,
        )
        docker("image", "rm", tag)


def main() -> int:
    """Measure; exit code 1 if a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--variants", nargs="*", choices=VARIANTS, metavar="NAME", help=f"of {', '.join(VARIANTS)}"
    )
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    if arguments.variants is not None:
        print_variants(arguments.variants or list(VARIANTS), arguments.rounds)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for row in image_rows(Path(folder), "", arguments.rounds):
            print(row, flush=True)
            rows.append(row)
    return int(not all(row.holds for row in rows))


if __name__ == "__main__":
    sys.exit(main())
