"""Runs a slice of the tests with other versions than constraints.txt: ``versions.py NAME...``

lowest: of transformers, huggingface_hub and tokenizers the lowest that pyproject.toml admits.
newest: the newest that pip finds for it. Each in a fresh environment, side by side; torch is that
of constraints.txt. A failure says which versions differ from it.
elsewhere: artefacts that the calling environment makes are loaded by versions of transformers that
it need not admit; they lie in folders of their own, and torch is the calling environment's.
consumers: artefacts are used by other programs (peft, trl, lm-eval, CTranslate2, optimum), each
group in an environment of its own on top of the calling one; it runs every week.

``versions.py --constraints NAME`` prints the constraints alone, torch left open: .ci/setup takes
such a file as CONSTRAINTS.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import time
import tomllib
import venv
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VARIED = ("transformers", "huggingface_hub", "tokenizers")
ADMITTED = ("lowest", "newest")
NAMES = (*ADMITTED, "elsewhere", "consumers")
# The last of transformers 4, the oldest that runs our own modeling file, and the newest.
ELSEWHERE = ("transformers==4.57.*", "transformers==5.4.*", "transformers")
# Programs that use artefacts; optimum's exporter knows no newer transformers than that.
CONSUMERS = {
    "newest": ("accelerate", "ctranslate2", "datasets", "lm-eval", "peft", "trl"),
    "optimum": ("optimum-onnx[onnxruntime]", "transformers==4.57.*"),
}
CONSUMED = "tests/versions/test_consumers.py"
TOOLS = ("hypothesis", "pytest")  # of the tests; the rest of the extra "dev" is not needed
LOADED_ELSEWHERE = "tests/versions/test_elsewhere.py"
SLICE = (
    "tests/versions/test_versions.py",
    "tests/parity/test_compat.py",
    "tests/conversion/test_shipped.py",
    "tests/conversion/modeling/test_modeling_arguments.py",
)


def constraints(name: str, any_torch: bool = False) -> list[str]:
    """What pip has to keep to."""
    pinned = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    torch = [] if any_torch else [line for line in pinned if line.startswith("torch==")]
    return torch + (lowest() if name == "lowest" else [])


def lowest() -> list[str]:
    """The lowest versions that pyproject.toml admits, as constraints."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    bounds = {}
    for line in project["dependencies"]:
        if found := re.match(r"([\w-]+)>=([\w.]+)", line):
            bounds[found[1]] = found[2]
    return [f"{name}=={bounds[name]}" for name in VARIED]


def differences(installed: str, pinned: str) -> list[str]:
    """What is installed in another version than constraints.txt has, both as pip lists them."""
    here, there = _versions(installed), _versions(pinned)
    return [
        f"{name} {here[name]} (constraints.txt: {there[name]})"
        for name in sorted(here.keys() & there.keys())
        if here[name] != there[name]
    ]


def _versions(text: str) -> dict[str, str]:
    pairs = re.findall(r"^([\w.-]+)==([\w.]+)", text, re.MULTILINE)  # of 2.13.0+cpu the 2.13.0
    return {name.lower().replace("_", "-"): version for name, version in pairs}


def say(text: str) -> None:
    """A line on stderr, beside the tests' own output."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def run_slice(name: str, folder: Path) -> int:
    """Set up one environment in ``folder`` and run the slice in it; exit code."""
    started = time.monotonic()
    listed = folder / "constraints.txt"
    listed.write_text("".join(f"{line}\n" for line in constraints(name)), encoding="utf-8")
    environment = os.environ | {"CONSTRAINTS": str(listed)}
    made = subprocess.run(
        ["bash", ".ci/venv", str(folder / "venv"), "", *TOOLS],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    if made.returncode:
        say(f"versions: {name}: pip could not install {', '.join(constraints(name))}, see above.")
        return made.returncode
    python = made.stdout.split("\n")[-2]
    frozen = subprocess.run(
        [python, "-m", "pip", "list", "--format=freeze"], stdout=subprocess.PIPE, text=True
    ).stdout
    here = {key.replace("-", "_"): version for key, version in _versions(frozen).items()}
    say(f"versions: {name}: {', '.join(f'{each} {here[each]}' for each in ('torch', *VARIED))}")
    installed = time.monotonic()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    tests = [python, "-m", "pytest", "-p", "no:cacheprovider", *SLICE]
    code = subprocess.run(tests, cwd=ROOT, env=environment, stdout=sys.stderr).returncode
    seconds = f"{installed - started:.0f} s to install, {time.monotonic() - installed:.0f} s to run"
    if code:
        others = differences(frozen, (ROOT / "constraints.txt").read_text("utf-8"))
        say(f"versions: {name} FAILED ({seconds}) with {', '.join(others) or 'the same versions'}.")
    else:
        say(f"versions: {name}: passed ({seconds}).")
    return code


def overlay(folder: Path, *wanted: str) -> Path | None:
    """A folder with packages and what they need in other versions than here; None if pip fails.

    It is of an environment that sees the packages of the calling one, so that pip installs those
    alone that differ.
    """
    venv.create(folder, with_pip=False)
    (place,) = folder.glob("lib/python*/site-packages")
    (place / "calling.pth").write_text(sysconfig.get_paths()["purelib"], encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install"]
    pip += ["--quiet", "--upgrade", "--no-warn-conflicts"]  # with what it does not change here
    if subprocess.run([*pip, *wanted], stdout=sys.stderr).returncode:
        say(f"versions: pip could not install {', '.join(wanted)}, see above.")
        return None
    return place


def run_elsewhere(folder: Path) -> int:
    """Install each of ELSEWHERE into ``folder`` and have it load artefacts; exit code."""
    started = time.monotonic()
    places = []
    for i, wanted in enumerate(ELSEWHERE):
        place = overlay(folder / str(i), wanted)
        if place is None:
            return 1
        places.append(place)
        looked_in = [str(place), *sys.path]
        found = next(iter(metadata.distributions(name="transformers", path=looked_in)))
        say(f"versions: elsewhere: transformers {found.version}")
    variables = {"LOADED_BY": os.pathsep.join(map(str, places))}
    return run_here("elsewhere", LOADED_ELSEWHERE, variables, started)


def run_consumers(folder: Path) -> int:
    """Install each group of CONSUMERS and have it use artefacts; exit code."""
    started = time.monotonic()
    for name, wanted in CONSUMERS.items():
        if overlay(folder / name, *wanted) is None:
            return 1
    return run_here("consumers", CONSUMED, {"CONSUMERS": str(folder)}, started)


def run_here(name: str, tests: str, variables: dict[str, str], started: float) -> int:
    """Run tests of the calling environment that use others; exit code."""
    installed = time.monotonic()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    arguments = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", tests]
    code = subprocess.run(
        arguments, cwd=ROOT, env=environment | variables, stdout=sys.stderr
    ).returncode
    seconds = f"{installed - started:.0f} s to install, {time.monotonic() - installed:.0f} s to run"
    say(f"versions: {name} {'FAILED' if code else 'passed'} ({seconds}).")
    return code


def side_by_side(names: list[str]) -> int:
    """Every slice in a process of its own; what each says is shown when it has ended."""
    with tempfile.TemporaryDirectory(prefix="slogpt-hf-versions-") as folder:
        running = []
        for name in names:
            place = Path(folder, name)
            place.mkdir()
            log = (place / "log").open("w+b")
            command = [sys.executable, __file__, "--slice", name, str(place)]
            running.append((subprocess.Popen(command, stdout=log, stderr=log), log))
        worst = 0
        for process, log in running:
            worst = max(worst, process.wait())
            log.seek(0)
            sys.stderr.buffer.write(log.read())
            sys.stderr.flush()
            log.close()
    return worst


def main(arguments: list[str]) -> int:
    """The exit code."""
    match arguments:
        case ["--constraints", name] if name in ADMITTED:
            sys.stdout.write("".join(f"{line}\n" for line in constraints(name, any_torch=True)))
            return 0
        case ["--slice", "elsewhere", folder]:
            return run_elsewhere(Path(folder))
        case ["--slice", "consumers", folder]:
            return run_consumers(Path(folder))
        case ["--slice", name, folder] if name in ADMITTED:
            return run_slice(name, Path(folder))
        case names if names and set(names) <= set(NAMES):
            return side_by_side(names)
    say(f"usage: python3 .ci/versions.py {' '.join(NAMES)}, or --constraints lowest|newest")
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
