"""Stands in for a process of a batch: does what the path of its task says."""

import json
import os
import signal
import sys
from pathlib import Path


def say(**message: object) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def interrupted(*_: object) -> None:
    Path(os.environ["NOTES"], f"interrupted-{os.getpid()}").touch()
    sys.exit(1)


signal.signal(signal.SIGTERM, interrupted)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
for line in sys.stdin:
    task = json.loads(line)
    word, _, number = task["arguments"]["path"].partition(":")
    say(line=f"{word} in {os.getpid()}")
    if word == "need":
        say(need=int(number))
        assert json.loads(sys.stdin.readline()) == {}
        say(line="admitted")
        signal.sigwait({signal.SIGUSR1})  # until the test has seen whether another goes on, too
    if word == "die":
        sys.stderr.write("out of luck\n")
        sys.stderr.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    while word == "hang":
        signal.pause()
    gate = Path(os.environ["NOTES"], "gate")
    publishes = task["do"] == "publish"
    if word == "late" and not publishes:
        gate.read_bytes()  # a FIFO, which "early" closes when it has said that it is done
    if word == "early" and not publishes:
        with gate.open("wb"):
            say(done={"release": None}, resident=0)
    elif publishes and word != "refuse":
        release = {"released": True, "repo_id": "me/x", "tag": word}
        say(done={"release": release}, resident=0)
    elif word == "fail" or publishes:
        say(error="it failed", exit_code=int(number), resident=0)
    else:
        say(done={"word": word}, resident=0)
