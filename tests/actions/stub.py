#!PYTHON
"""Stands for the command line: notes what a stage sees, and does what its test wrote beside it."""

import json
import os
import signal
import sys
import time
from pathlib import Path


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


here = Path(__file__).parent
*_, stage, work = sys.argv
told = json.loads((here / "told.json").read_text()).get(stage, {})
seen = {"arguments": sys.argv[1:], "environment": dict(os.environ), "folder": str(Path.cwd())}
with (here / "seen.jsonl").open("a") as notes:
    notes.write(json.dumps({"stage": stage, "work": work, **seen}) + "\n")
for name in ("plan.json", "checkpoints/k/ckpt.pt", "proof/outcomes/k.json"):
    if stage == "prepare":
        (Path(work) / name).parent.mkdir(parents=True, exist_ok=True)
        (Path(work) / name).write_text(os.environ.get("ACTION_CANDIDATE", ""))
if "GITHUB_OUTPUT" in os.environ:
    with Path(os.environ["GITHUB_OUTPUT"]).open("a") as outputs:
        outputs.writelines(f"{name}={value}\n" for name, value in told.get("outputs", {}).items())
if told.get("waits"):

    def end(*_: object) -> None:
        (here / "ended").touch()
        sys.exit(130)

    signal.signal(signal.SIGTERM, end)
    say("waiting to be cancelled")
    time.sleep(60)
say(told.get("says", f"{stage} done"))
sys.exit(told.get("code", 0))
