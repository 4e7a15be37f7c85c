"""Stands in for a process of a batch: does what the path of its task says."""

import json
import os
import signal
import sys
import time
from pathlib import Path


def say(**message: object) -> None:
    print(json.dumps(message), flush=True)


def interrupted(*_: object) -> None:
    Path(os.environ["NOTES"], f"interrupted-{os.getpid()}").touch()
    sys.exit(1)


signal.signal(signal.SIGTERM, interrupted)
for line in sys.stdin:
    task = json.loads(line)
    word, _, number = task["arguments"]["path"].partition(":")
    say(line=f"{word} in {os.getpid()}")
    if word == "need":
        say(need=int(number))
        assert json.loads(sys.stdin.readline()) == {}
        say(line="admitted")
        # Another process that is at work says so; this one ends when it has been seen or not.
        open_now = Path(os.environ["NOTES"], f"open-{os.getpid()}")
        open_now.touch()
        say(line=f"open {len(list(open_now.parent.glob('open-*')))}")
        time.sleep(0.05)
        open_now.unlink()
    if word == "die":
        print("out of luck", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "hang":
        time.sleep(600)
    if word == "fail":
        say(error="it failed", exit_code=int(number), resident=0)
    else:
        say(done={"word": word}, resident=0)
