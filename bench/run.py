"""Every measurement that this project promises, as one table: ``python bench/run.py``.

Ratios are between runs of this very call, interleaved, medians; imports count on no side.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
MIB = 2**20
INSPECT_SECONDS = 0.5
# Blocks of DEEP: 1.3, 2.6 and 5.3 GB with the embedding and the head.
DEEP_LAYERS = (27, 57, 117)
MEMORY_LIMIT = 500 * 10**6  # bytes, of everything in the process
GROWTH_MIB = 16


@dataclass(frozen=True)
class Row:
    """One promise: what was measured, the figures behind it, and the bound."""

    what: str
    figures: str
    value: float
    bound: float
    at_least: bool = False

    @property
    def holds(self) -> bool:
        """Whether the value is on the right side of the bound."""
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def __str__(self) -> str:
        sign = ">=" if self.at_least else "<="
        verdict = "ok" if self.holds else "MISSED"
        judged = f"{self.value:>7.2f} {sign} {self.bound:<6.2f} {verdict:<6}"
        return f"{self.what:<58} {judged} {self.figures}"


@dataclass(frozen=True)
class Written:
    """A checkpoint and, as JSON, the fields that no file of it records."""

    path: Path
    given: str


def child(task: str, *arguments: object) -> dict[str, float]:
    """Run a task of ``tasks.py`` in a process of its own and return what it measured."""
    result: dict[str, float] = _child(task, *arguments)
    return result


def _child(task: str, *arguments: object) -> Any:
    command = [sys.executable, str(HERE / "tasks.py"), task, *map(str, arguments)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(output.splitlines()[-1])


Tasks = dict[str, Callable[[], dict[str, float]]]


def interleaved(
    rounds: int, tasks: Tasks, pick: Callable[[list[float]], float]
) -> dict[str, dict[str, float]]:
    """Run every task once a round, in turn, and pick one of each figure's values."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in tasks}
    for _ in range(rounds):
        for name, task in tasks.items():
            runs[name].append(task())
    return {
        name: {key: pick([run[key] for run in results]) for key in results[0]}
        for name, results in runs.items()
    }


def medians(rounds: int, tasks: Tasks) -> dict[str, dict[str, float]]:
    """The median of every figure, after one round that only warms the cache."""
    interleaved(1, tasks, min)
    return interleaved(rounds, tasks, statistics.median)


def conversion(folder: Path, size: str, rounds: int) -> Iterator[Row]:
    """Ours against the usual script and against ``cp`` of the output file."""
    variants = {"transposed": {"bias": 0}, "not transposed": {"bias": 0, "use_rmsnorm": 1}}
    for variant, switches in variants.items():
        checkpoint, ours, theirs = folder / "ckpt.pt", folder / "ours", folder / "theirs"
        child("make", checkpoint, size, json.dumps(switches))
        tasks = {
            "ours": lambda: child("convert", checkpoint, ours),  # noqa: B023
            "cp": lambda: child("copy", ours / "model.safetensors", folder / "copy"),  # noqa: B023
        }
        if variant == "transposed":
            tasks["usual"] = lambda: child("usual", checkpoint, theirs)  # noqa: B023
        result = medians(rounds, tasks)
        seconds = {name: figures["seconds"] for name, figures in result.items()}
        figures = ", ".join(f"{name} {value:.2f} s" for name, value in seconds.items())
        bound = 3.0 if variant == "transposed" else 2.0
        ratio = seconds["ours"] / seconds["cp"]
        yield Row(f"{size} conversion / cp of its output, {variant}", figures, ratio, bound)
        if "usual" in seconds:
            speedup = seconds["usual"] / seconds["ours"]
            yield Row(
                f"{size} torch.load + save_pretrained / conversion", figures, speedup, 10.0, True
            )
        memory = child("memory", checkpoint, ours)
        allowed = 64 + 2 * memory["largest"] / MIB
        yield Row(
            f"{size} conversion, MiB of anonymous memory, {variant}",
            f"64 MiB + 2 x the largest tensor ({memory['largest'] / MIB:.0f} MiB)",
            memory["anonymous"] / MIB,
            allowed,
        )


def start_up(folder: Path, size: str, rounds: int) -> Iterator[Row]:
    """``slogpt-hf --help`` over a bare interpreter."""
    tasks = {
        "--help": lambda: child("start", "-m", "slogpt_hf", "--help"),
        "bare": lambda: child("start", "-c", "pass"),
    }
    result = medians(5 * rounds, tasks)
    seconds = {name: figures["seconds"] for name, figures in result.items()}
    figures = ", ".join(f"{name} {value * 1000:.0f} ms" for name, value in seconds.items())
    yield Row("--help over python -c pass, s", figures, seconds["--help"] - seconds["bare"], 0.15)
    heavy = child("imports")["heavy"]
    yield Row("torch, transformers, huggingface_hub in --help", "modules", heavy, 0)


def publishing(folder: Path, size: str, rounds: int) -> Iterator[Row]:
    """A rerun with nothing to do, and a release against the client's own upload of its weights."""
    from publishing import WEIGHTS, served

    found = child("rerun", folder / "rerun-hub")
    yield Row(
        "rerun with nothing to do, requests",
        f"{found['seconds']:.2f} s in all",
        found["requests"],
        3,
    )
    yield Row("torch, transformers in that rerun", "modules", found["heavy"], 0)
    artefact = folder / "artefact"
    gigabytes = child("make_artefact", artefact)["bytes"] / 1e9
    for transfer in ("lfs", "xet"):
        with served(folder / "hub") as endpoint, environment(HF_ENDPOINT=endpoint, HF_TOKEN="any"):
            tasks = {
                "release": lambda: child("publish", artefact, transfer),  # noqa: B023
                "plain upload": lambda: child("upload", artefact / WEIGHTS, transfer),  # noqa: B023
            }
            seconds = {name: f["seconds"] for name, f in medians(rounds, tasks).items()}
        figures = ", ".join(f"{task} {value:.2f} s" for task, value in seconds.items())
        ratio = seconds["release"] / seconds["plain upload"]
        yield Row(
            f"release / plain upload of {gigabytes:.1f} GB by {transfer}", figures, ratio, 1.2
        )


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Variables for the processes that are started in the block; a client's cache of its own."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory() as home:
        os.environ.update(variables | {"HF_HOME": home})
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def gate(folder: Path, size: str, rounds: int) -> Iterator[Row]:
    """The gate over four plain forward passes, and the memory that it needs."""
    from layouts import DEEP

    checkpoint, artefact = folder / "gate.pt", folder / "gate"
    child("make", checkpoint, size, json.dumps({"bias": 1}))
    child("convert", checkpoint, artefact)
    tasks = {
        "gate": lambda: child("verify", checkpoint, artefact),
        "passes": lambda: child("passes", checkpoint, artefact),
    }
    seconds = {name: figures["seconds"] for name, figures in medians(rounds, tasks).items()}
    figures = f"gate {seconds['gate']:.1f} s, passes {seconds['passes']:.1f} s"
    yield Row(
        f"{size} gate / four forward passes", figures, seconds["gate"] / seconds["passes"], 3.0
    )
    found = child("lockstep", checkpoint, artefact)
    figures = (
        f"{found['peak'] / MIB:.0f} MiB above the imports, block {found['block'] / MIB:.0f} MiB"
    )
    ratio = found["peak"] / found["block"]
    yield Row(f"{size} lockstep / its largest block in float64", figures, ratio, 4.0)
    for n_layer in DEEP_LAYERS[:2]:
        sizes = DEEP | {"n_layer": n_layer, "vocab_size": 1000, "block_size": 64}
        with written("SloughGPT .safetensors", sizes, folder, "full") as source:
            n_bytes = child("convert", source.path, folder / "deep", source.given)["written"]
            peak = child("verify", source.path, folder / "deep", source.given)["peak"]
        figures = f"{n_bytes / 1e9:.1f} GB of weights"
        yield Row(f"gate of {n_layer} layers, MiB of anonymous memory", figures, peak / MIB, 512)


@contextmanager
def written(name: str, sizes: Mapping[str, int], folder: Path, kind: str) -> Iterator[Written]:
    """A model in one of the layouts, for as long as the block lasts."""
    place = folder / "layout"
    try:
        made = _child("write_layout", name, json.dumps(sizes), kind, place)
        yield Written(Path(made["path"]), made["given"])
    finally:
        shutil.rmtree(place, ignore_errors=True)


def dialects(folder: Path, size: str, rounds: int) -> Iterator[Row]:
    """The conversion of every layout against ``cp`` of what it writes: the best of the rounds."""
    from layouts import LAYOUTS, SIZES

    output = folder / "ours"
    for name, layout in LAYOUTS.items():
        with written(name, SIZES[size], folder, "full") as source:
            tasks = {
                "ours": lambda: child("convert", source.path, output, source.given),
                "cp": lambda: child("copy", output / "model.safetensors", folder / "copy"),
            }
            seconds = {n: f["seconds"] for n, f in interleaved(rounds, tasks, min).items()}
            figures = ", ".join(f"{task} {value:.2f} s" for task, value in seconds.items())
            what = f"{name}{', transposed' if layout.transposed else ''} / cp"
            yield Row(what, figures, seconds["ours"] / seconds["cp"], layout.bound)
            looked = child("inspect", source.path, source.given)
            resident = f"{looked['resident'] / MIB:.0f} MiB of memory touched"
            yield Row(f"{name}, inspect, s", resident, looked["seconds"], INSPECT_SECONDS)


def memory(folder: Path, size: str, rounds: int) -> Iterator[Row]:
    """Models of which the largest is ten times what the whole process may allocate."""
    from layouts import BOUNDED, DEEP

    for name in BOUNDED:
        peaks, n_bytes, refused = [], [], ""
        for n_layer in DEEP_LAYERS:
            sizes = DEEP | {"n_layer": n_layer}
            with written(name, sizes, folder, "hollow") as source:
                try:
                    found = child(
                        "memory", source.path, folder / "ours", source.given, MEMORY_LIMIT
                    )
                except subprocess.CalledProcessError as error:
                    refused = error.stderr.splitlines()[-1]
                    break
                peaks.append(found["anonymous"] / MIB)
                n_bytes.append(found["written"])
        shutil.rmtree(folder / "ours", ignore_errors=True)
        if refused:
            yield Row(f"{name}: model / memory allowed", refused, 0, 10, True)
            continue
        allowed = f"{n_bytes[-1] / 1e9:.2f} GB under RLIMIT_DATA {MEMORY_LIMIT / 1e6:.0f} MB"
        yield Row(f"{name}: model / memory allowed", allowed, n_bytes[-1] / MEMORY_LIMIT, 10, True)
        each = zip(peaks, n_bytes, strict=True)
        figures = ", ".join(f"{peak:.0f} MiB for {size / 1e9:.1f} GB" for peak, size in each)
        yield Row(
            f"{name}: more memory for 4 x the model, MiB", figures, peaks[-1] - peaks[0], GROWTH_MIB
        )


def datasets(folder: Path, size: str, rounds: int) -> Iterator[Row]:
    """A dataset of ``size`` and one of a quarter of it: speed, and memory that does not grow."""
    from data import dataset_rows

    yield from dataset_rows(folder, size, rounds)


def image(folder: Path, size: str, rounds: int) -> Iterator[Row]:
    """The container image that TESTS_IMAGE names."""
    from image import image_rows

    yield from image_rows(folder, size, rounds)


def batch(folder: Path, size: str, rounds: int) -> Iterator[Row]:
    """What many checkpoints at once count on."""
    from batch import batch_rows

    yield from batch_rows(folder, size, rounds)


@dataclass(frozen=True)
class Measurement:
    """A part of the table: what makes its rows, for which model, in how many rounds."""

    rows: Callable[[Path, str, int], Iterator[Row]]
    size: str = ""
    rounds: int = 5


MEASUREMENTS = {
    "conversion": Measurement(conversion, "355M"),
    "dialects": Measurement(dialects, "125M", 3),
    "memory": Measurement(memory),
    "start-up": Measurement(start_up),
    "gate": Measurement(gate, "124M", 3),
    "publishing": Measurement(publishing, rounds=3),
    "batch": Measurement(batch),
    "datasets": Measurement(datasets, "2GB", 1),
    "image": Measurement(image, rounds=10),
}


def main() -> int:
    """Measure what is asked for; exit code 1 if a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    usual = [name for name in MEASUREMENTS if name != "image" or "TESTS_IMAGE" in os.environ]
    parser.add_argument("which", nargs="*", default=usual, help=", ".join(MEASUREMENTS))
    parser.add_argument("--size", help="10M for a quick look")
    parser.add_argument("--rounds", type=int)
    parser.add_argument(
        "--folder", help="where the checkpoints go, 8 GB; a temporary one if left out"
    )
    arguments = parser.parse_args()
    missed = 0
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for name in arguments.which:
            measured = MEASUREMENTS[name]
            size, rounds = arguments.size or measured.size, arguments.rounds or measured.rounds
            for row in measured.rows(Path(folder), size, rounds):
                print(row, flush=True)
                missed += not row.holds
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
