"""A process of a batch: does one task after another, as its parent says by lines of JSON.

Its parent is the only one that removes what it may leave: it can be killed at any time.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from slogpt_hf.errors import SloGPTError
from slogpt_hf.parity.memory import anonymous, give_back
from slogpt_hf.progress import Advance, Progress
from slogpt_hf.redaction import register_environment, without_secrets
from slogpt_hf.settings import NAMES, Settings
from slogpt_hf.smoke import SmokeError

PACE = 0.1  # seconds between two messages about a stage
Send = Callable[[dict[str, Any]], None]
Admit = Callable[[int], None]


class Told(Progress):
    """Progress that is told to the parent."""

    def __init__(self, send: Send) -> None:
        super().__init__(quiet=False)
        self.is_terminal = False
        self._send = send

    def line(self, text: str) -> None:
        """One plain line."""
        self._send({"line": without_secrets(text)})

    def advancing(self, name: str, total: int, advance: Advance) -> Advance:
        """Tell how far a stage is, now and then."""
        done, told = 0, -PACE

        def tell(units: int) -> None:
            nonlocal done, told
            done += units
            advance(units)
            if time.monotonic() - told >= PACE:
                told = time.monotonic()
                self._send({"stage": name, "total": total, "at": done})

        tell(0)
        return tell


def convert(arguments: dict[str, Any], settings: Settings, progress: Progress, admit: Admit) -> Any:
    """Convert into ``output``, unless that is there already and the same; its record."""
    from slogpt_hf.batch.before import made_before
    from slogpt_hf.batch.memory import need_of
    from slogpt_hf.build import convert, open_checkpoint
    from slogpt_hf.libraries import missing
    from slogpt_hf.unproven import convert_unproven

    path, output = Path(arguments["path"]), Path(arguments["output"])
    if missing():
        unproven = convert_unproven(path, output, settings, progress)
        return {"status": "not proven", "record": unproven.to_dict()}
    checkpoint = open_checkpoint(path, settings)
    if record := made_before(checkpoint, output, settings, progress):
        return {"status": "known", "record": record}
    admit(need_of(checkpoint, settings))
    record = convert(path, output, settings, progress, event=_event())
    return {"status": "converted", "record": record}


def prove(arguments: dict[str, Any], settings: Settings, progress: Progress, admit: Admit) -> Any:
    """Make the artefact of a checkpoint that is not released; else the release."""
    from slogpt_hf.batch.memory import need_of
    from slogpt_hf.release import build_unless_released

    release = build_unless_released(
        Path(arguments["path"]),
        Path(arguments["output"]),
        settings,
        progress,
        event=_event(),
        before=lambda checkpoint: admit(need_of(checkpoint, settings)),
    )
    return {"release": asdict(release) if release else None}


def publish(arguments: dict[str, Any], settings: Settings, progress: Progress, admit: Admit) -> Any:
    """Publish a proven artefact."""
    from slogpt_hf.release import push

    return {"release": asdict(push(Path(arguments["output"]), settings, progress))}


TASKS = {"convert": convert, "prove": prove, "publish": publish}


def main() -> None:
    """Do what comes on standard input until it ends; what ends it meanwhile is an interrupt."""
    signal.signal(signal.SIGTERM, _interrupted)
    signal.signal(signal.SIGINT, _interrupted)
    register_environment(os.environ)
    messages = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # what a library prints is no message
    requests: queue.Queue[dict[str, Any]] = queue.Queue()
    busy = threading.Event()
    threading.Thread(target=_listen, args=(requests, busy), daemon=True).start()
    lock = threading.Lock()

    def send(message: dict[str, Any]) -> None:
        with lock:
            messages.write(json.dumps(message) + "\n")
            messages.flush()

    try:
        while True:
            _do(requests.get(), requests, cast(Send, send), busy)
    except (KeyboardInterrupt, BrokenPipeError):
        # Without what an interpreter that imported torch does at its end: nothing is open.
        os._exit(1)


def _do(
    request: dict[str, Any],
    requests: queue.Queue[dict[str, Any]],
    send: Send,
    busy: threading.Event,
) -> None:
    def admit(need: int) -> None:
        send({"need": need})
        requests.get()

    busy.set()
    settings = settings_from(request["settings"])
    try:
        done = TASKS[request["do"]](request["arguments"], settings, Told(send), admit)
        answer: dict[str, Any] = {"done": done}
    except SloGPTError as error:
        answer = {"error": without_secrets(str(error)), "exit_code": error.exit_code}
        if isinstance(error, SmokeError):  # it is published all the same
            answer["release"] = asdict(error.release)
    except Exception as error:
        what = without_secrets(f"{type(error).__name__}: {error}")
        answer = {
            "error": f"{what} (a bug of slogpt-hf; run it alone with --debug)",
            "exit_code": 1,
        }
    give_back()
    busy.clear()
    send(answer | {"resident": anonymous()})


def settings_from(content: dict[str, Any]) -> Settings:
    """The settings that ``asdict`` and JSON gave."""
    tuples = {name for name, setting in NAMES.items() if isinstance(setting.default, tuple)}
    known: dict[str, Any] = {n: tuple(v) if n in tuples else v for n, v in content.items()}
    return Settings(**known)


def _listen(requests: queue.Queue[dict[str, Any]], busy: threading.Event) -> None:
    """Hand on what the parent says; once it is gone, end, at once where nothing is lost."""
    for line in sys.stdin:
        requests.put(json.loads(line))
    if not busy.is_set():
        os._exit(0)
    os.kill(os.getpid(), signal.SIGTERM)


def _interrupted(*_: object) -> None:
    """Raise KeyboardInterrupt once: a second one would end the cleaning up."""
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


def _event() -> Any:
    from slogpt_hf.ci.detect import detect

    ci = detect(os.environ)
    return ci.event if ci else None


if __name__ == "__main__":
    main()
