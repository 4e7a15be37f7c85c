"""Run huggingface_hub's own tests against the embedded hub.

The tests come from the source distribution of the client that is installed; what they need beside
it is `hub_suite_conftest.py`. Exits with 1 when fewer than 95 % of the tests pass that the list
`hub_suite_left_out.txt` does not name, or when the tests of a file cannot be collected.

    python tests/weekly/hub_suite.py [--keep DIR] [PYTEST ARGUMENT]...
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from pathlib import Path

import huggingface_hub

from slogpt_hf.hub.embedded import serve

HERE = Path(__file__).parent
TOKEN = "hf_of_the_hub_suite"  # some tests tell tokens by their beginning
LEAST = 0.95
_KEPT = ("PATH", "LANG", "LC_ALL", "TMPDIR", "SSL_CERT_FILE", "SYSTEMROOT")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", type=Path, help="folder for the tests, kept for the next run")
    options, arguments = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        root = unpack(options.keep or Path(folder))
        with serve(Path(folder) / "hub", token=TOKEN) as hub:
            prepare(root / "tests", hub.endpoint)
            report = run(root, hub.endpoint, Path(folder), arguments)
        return 0 if summary(report) >= LEAST else 1


def unpack(folder: Path) -> Path:
    """The source distribution's folder, downloaded unless it is there."""
    version = huggingface_hub.__version__
    root = folder / f"huggingface_hub-{version}"
    if not root.is_dir():
        fetch = ("download", "--quiet", "--no-binary", ":all:", "--no-deps", "--dest", str(folder))
        command = [sys.executable, "-m", "pip", *fetch, f"huggingface_hub=={version}"]
        subprocess.run(command, check=True)
        with tarfile.open(f"{root}.tar.gz") as archive:
            archive.extractall(folder, filter="data")
    return root


def prepare(tests: Path, endpoint: str) -> None:
    """Tell the tests who they are and where their hub is, and give them their fixtures."""
    constants = tests / "testing_constants.py"
    text = constants.read_text("utf-8")
    values = {
        "USER": "local",
        "FULL_NAME": "slogpt-hf embedded hub",
        "TOKEN": TOKEN,
        "ENDPOINT_STAGING": endpoint,
    }
    for name, value in values.items():
        text, count = re.subn(rf"(?m)^{name} = .*$", f"{name} = {value!r}", text)
        if count != 1:
            raise SystemExit(f"testing_constants.py no longer has {name}.")
    constants.write_text(text, "utf-8")
    (tests / "__init__.py").touch()
    (tests / "conftest.py").write_text((HERE / "hub_suite_conftest.py").read_text("utf-8"), "utf-8")


def run(root: Path, endpoint: str, folder: Path, arguments: list[str]) -> Path:
    """Run pytest in a process with an empty home; the path of what the conftest reports."""
    report = folder / "report.json"
    home = folder / "home"
    home.mkdir()
    env = {key: value for key, value in os.environ.items() if key in _KEPT}
    env |= {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "NO_COLOR": "1",
        "HOME": str(home),
        "HUB_SUITE_REPORT": str(report),
        "HUB_SUITE_LEFT_OUT": str(HERE / "hub_suite_left_out.txt"),
    }
    # Without the plugin that sets the variables of their CI, which name a hub of its own.
    own = ["-p", "no:env", "-p", "no:cacheprovider", "-o", "addopts=", "-o", "log_cli=false"]
    own += ["-q", "--tb=short", "-rf", "--timeout=120", "--continue-on-collection-errors"]
    command = [sys.executable, "-m", "pytest", *own, *(arguments or ["tests"])]
    subprocess.run(command, cwd=root, env=env, check=False)
    return report


def summary(report: Path) -> float:
    """Print the figures; the part of the tests run that passed."""
    told = json.loads(report.read_text("utf-8"))
    counts = Counter(told["outcomes"].values())
    ran = counts["passed"] + counts["failed"]
    print(f"left out: {sum(told['left_out'].values())}")
    for reason, count in sorted(told["left_out"].items(), key=lambda pair: -pair[1]):
        print(f"  {count:5} {reason}")
    part = counts["passed"] / ran if ran else 0.0
    if told["unread"]:  # their tests would be missing in silence
        print(f"files that could not be read: {', '.join(told['unread'])}")
        part = 0.0
    print(f"skipped: {counts['skipped']}; passed: {counts['passed']} of {ran} ({part:.1%})")
    return part


if __name__ == "__main__":
    raise SystemExit(main())
