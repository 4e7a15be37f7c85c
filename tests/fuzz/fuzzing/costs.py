"""What the worst inputs cost, each read in a process of its own: ``python costs.py NAME...``.

Prints one line of JSON for each: name, kind, text, seconds, n_bytes.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

LIMIT_S = 30
MORE_BYTES = 4 << 30  # of addresses, so that no input can take the machine's memory


def main(names: list[str]) -> None:
    """Measure the named cases."""
    from fuzzing import oracle, worst

    oracle.prepare()
    for name in names or worst.CASES:
        sys.stdout.write(json.dumps({"name": name, **measured(worst.CASES[name])}) + "\n")
        sys.stdout.flush()


def measured(build: Callable[[], Any]) -> dict[str, Any]:
    """The outcome of one case; it is built in a process of its own too."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-cost-", dir=_folder()))
    try:
        head = _apart(lambda: _written(build, folder))
        return head if "kind" in head else _apart(lambda: _judged(head, folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _folder() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _written(build: Callable[[], Any], folder: Path) -> dict[str, Any]:
    case = build()
    case.write(folder)
    return asdict(replace(case, files={}))


def _judged(head: dict[str, Any], folder: Path) -> dict[str, Any]:
    from fuzzing import oracle
    from fuzzing.cases import Case

    limit = oracle.status("VmSize") + MORE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    case = Case(head["reader"], {}, head["target"], tuple(head["given"]))
    outcome = oracle.judge_in(folder, case, limit_s=LIMIT_S)
    return asdict(replace(outcome, text=outcome.text[:4000]))


def _apart(task: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a task gives that runs in a fork of this process."""
    from fuzzing.oracle import Outcome

    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(out)
        resource.setrlimit(resource.RLIMIT_CPU, (3 * LIMIT_S, 3 * LIMIT_S))
        try:
            with os.fdopen(into, "wb") as stream:
                stream.write(json.dumps(task()).encode())
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        os._exit(0)
    os.close(into)
    start = time.monotonic()
    with os.fdopen(out, "rb") as stream:
        text = stream.read()
    os.waitpid(child, 0)
    seconds = time.monotonic() - start
    return json.loads(text) if text else asdict(Outcome("failed", "the process died", seconds, 0))


if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[depth]) for depth in (1, 3)]
    main(sys.argv[1:])
