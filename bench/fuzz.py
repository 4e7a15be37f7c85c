"""Every reader against damaged and hostile inputs: ``python bench/fuzz.py``; docs/fuzzing.md.

Coverage-guided where atheris is installed (``pip install atheris``), else random mutations.
Each reader runs in a process of its own, so that a crash is a finding and not the end.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "fuzz")]
MIB = 1 << 20
GRACE_S = 120  # for imports, and for the last input
HEAD = ("reader", "inputs", "accepted", "refused", "messages", "worst s", "worst MiB", "failures")
LINE = "{:<16} {:>8} {:>9} {:>8} {:>9} {:>8} {:>10} {:>9}"


def main() -> int:
    """Run, print the table and return 1 if anything failed."""
    from fuzzing.seeds import READERS

    options = _options(READERS)
    if options.replay:
        return replay(options.replay)
    if options.worker:
        from fuzzing.engines import work

        folder = Path(options.folder)
        work(options.worker, options.engine, options.seconds, options.seed, folder)
        return 0
    folder = Path(tempfile.mkdtemp(prefix="slogpt-hf-fuzz-"))
    readers = options.reader or list(READERS)
    start = time.monotonic()
    with ThreadPoolExecutor(options.jobs) as pool:
        tallies = list(pool.map(lambda reader: fuzzed(reader, options, folder), readers))
    print(f"engine {options.engine}, {options.seconds:g} s a reader, seed {options.seed}\n")
    print(table(tallies))
    n_costly = 0 if options.no_worst else worst_cases()
    failures = [(t["reader"], kind, path) for t in tallies for kind, path in t["failures"].items()]
    for reader, kind, path in failures:
        print(f"\n{reader}: {kind}\n  replay: python bench/fuzz.py --replay {path}")
    print(f"\n{time.monotonic() - start:.0f} s; failing inputs are kept in {folder}")
    return 1 if failures or n_costly else 0


def _options(readers: tuple[str, ...]) -> argparse.Namespace:
    guided = importlib.util.find_spec("atheris") is not None
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30, help="for each reader")
    parser.add_argument(
        "--engine",
        choices=("hypothesis", "atheris", "random"),
        default="atheris" if guided else "random",
    )
    parser.add_argument("--reader", action="append", choices=readers, help="default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="readers at a time")
    parser.add_argument("--no-worst", action="store_true", help="leave the worst cases out")
    parser.add_argument("--replay", type=Path, help="an input that was kept")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    return parser.parse_args()


def replay(path: Path) -> int:
    """Read a kept input once more and print what becomes of it."""
    from fuzzing import oracle
    from fuzzing.cases import unpack

    oracle.prepare()
    outcome = oracle.judge(unpack(path.read_bytes()))
    print(f"{outcome.kind}: {outcome.seconds:.2f} s, {outcome.n_bytes / MIB:.1f} MiB")
    print(outcome.text)
    return int(outcome.kind == "failed")


def fuzzed(reader: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The tally of one reader, from a process of its own."""
    own = folder / reader.replace(" ", "-").strip(".-")
    own.mkdir()
    command = [sys.executable, __file__, f"--worker={reader}", "--engine", options.engine]
    command += ["--seconds", str(options.seconds), "--seed", str(options.seed)]
    died = ""
    with (own / "log").open("wb") as log:
        process = subprocess.Popen([*command, "--folder", str(own)], stdout=log, stderr=log)
        try:
            code = process.wait(options.seconds + GRACE_S)
            died = f"the process ended with {code}" if code else ""
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            died = "the process hung"
    tally_file, last = own / "tally.json", own / "current"
    tally: dict[str, Any] = {"reader": reader, "inputs": 0, "accepted": 0, "refused": 0}
    tally |= {"worst_s": 0.0, "worst_bytes": 0, "messages": [], "failures": {}}
    if tally_file.exists():
        tally = json.loads(tally_file.read_text())
    if died:
        tally["failures"][f"{died}; see {own / 'log'}"] = str(last)
    return tally


def table(tallies: list[dict[str, Any]]) -> str:
    """The tallies and their sum, a line each."""
    rows = [
        (
            t["reader"],
            *(f"{t[key]:,}" for key in ("inputs", "accepted", "refused")),
            len(t["messages"]),
            f"{t['worst_s']:.2f}",
            f"{t['worst_bytes'] / MIB:.1f}",
            len(t["failures"]),
        )
        for t in tallies
    ]
    sums = [f"{sum(t[key] for t in tallies):,}" for key in ("inputs", "accepted", "refused")]
    total = (
        "all",
        *sums,
        len({message for t in tallies for message in t["messages"]}),
        f"{max(t['worst_s'] for t in tallies):.2f}",
        f"{max(t['worst_bytes'] for t in tallies) / MIB:.1f}",
        sum(len(t["failures"]) for t in tallies),
    )
    return "\n".join(LINE.format(*row) for row in (HEAD, *rows, total))


def worst_cases() -> int:
    """Print what the worst cases cost; how many cost too much."""
    script = ROOT / "tests" / "fuzz" / "fuzzing" / "costs.py"
    command = [sys.executable, str(script)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    found = [json.loads(line) for line in process.stdout.splitlines()]
    print(f"\n{'worst case':<40} {'outcome':<9} {'s':>6} {'MiB':>6}")
    for cost in found:
        figures = f"{cost['seconds']:>6.2f} {cost['n_bytes'] / MIB:>6.0f}"
        print(f"{cost['name']:<40} {cost['kind']:<9} {figures}")
    if process.returncode:
        print(process.stderr)
    return abs(process.returncode) + sum(bool(cost["kind"] == "failed") for cost in found)


if __name__ == "__main__":
    sys.exit(main())
