"""Every measurement that this project promises, as one table: ``python bench/run.py``.

Ratios are between runs of this very call, interleaved, medians; imports count on no side.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
MIB = 2**20


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


def child(task: str, *arguments: object) -> dict[str, float]:
    """Run a task of ``tasks.py`` in a process of its own and return what it measured."""
    command = [sys.executable, str(HERE / "tasks.py"), task, *map(str, arguments)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    result: dict[str, float] = json.loads(output.splitlines()[-1])
    return result


def medians(
    rounds: int, tasks: dict[str, Callable[[], dict[str, float]]]
) -> dict[str, dict[str, float]]:
    """Run every task once a round, in turn, after one round that only warms the cache."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in tasks}
    for number in range(rounds + 1):
        for name, task in tasks.items():
            result = task()
            if number:
                runs[name].append(result)
    return {
        name: {key: statistics.median(run[key] for run in results) for key in results[0]}
        for name, results in runs.items()
    }


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


def gate(folder: Path, size: str, rounds: int) -> Iterator[Row]:
    """The gate over the forward passes that it needs."""
    checkpoint, artefact = folder / "gate.pt", folder / "gate"
    child("make", checkpoint, size, json.dumps({"bias": 1}))
    child("convert", checkpoint, artefact)
    result = medians(1, {"gate": lambda: child("verify", checkpoint, artefact)})["gate"]
    figures = f"gate {result['seconds']:.1f} s, forward passes {result['forward']:.1f} s"
    ratio = result["seconds"] / result["forward"]
    yield Row(f"{size} gate / its forward passes", figures, ratio, 1.3)


MEASUREMENTS = {
    "conversion": (conversion, "355M"),
    "start-up": (start_up, ""),
    "gate": (gate, "124M"),
}


def main() -> int:
    """Measure what is asked for; exit code 1 if a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "which", nargs="*", default=list(MEASUREMENTS), help=", ".join(MEASUREMENTS)
    )
    parser.add_argument("--size", help="124M or 10M for a quick look")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--folder", help="where the checkpoints go, 8 GB; a temporary one if left out"
    )
    arguments = parser.parse_args()
    missed = 0
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for name in arguments.which:
            measure, size = MEASUREMENTS[name]
            for row in measure(Path(folder), arguments.size or size, arguments.rounds):
                print(row, flush=True)
                missed += not row.holds
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
