"""A Python process that can do no harm: no credentials, no network where the system allows that.

The trainer's own class and published models run in one: both bring what others wrote.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from slogpt_hf.errors import first_line
from slogpt_hf.redaction import without_secrets

KEPT = ("PATH", "LANG", "LC_ALL", "TMPDIR", "OMP_NUM_THREADS", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
GET_DUMPABLE, SET_DUMPABLE = 3, 4  # of prctl(2)
NEW_USER, NEW_NETWORK = 0x10000000, 0x40000000  # of unshare(2)
MOST_STDERR = 1 << 20  # bytes that are read of it
MOST_WORDS = 300  # characters of what it raised


def run_shielded(
    script: Path,
    folder: Path,
    seconds: float,
    place: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run a script with ``folder`` as its argument and its home; wait until it ends.

    Args:
        script: that is run; it calls ``leave_the_network`` first.
        folder: where it finds what it is asked, and leaves what it answers.
        seconds: after which it is ended, with all that it has started.
        place: its working folder; ``folder`` where none is given.
        environment: that it gets besides KEPT.

    Returns:
        What went wrong, one sentence; empty if nothing did.
    """
    given = {key: os.environ[key] for key in KEPT if key in os.environ}
    given |= {"HOME": str(folder), "HF_HUB_OFFLINE": "1", **(environment or {})}
    with _unreadable(), (folder / "stderr").open("w+b") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-I", "-B", str(script), str(folder)],
            cwd=place or folder,
            env=given,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,
        )
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            return f"did not end within {seconds / 60:.0f} minutes."
        finally:  # with whatever it has started
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        stderr.seek(0)
        words = stderr.read(MOST_STDERR)
    if code == 0:
        return ""
    if code < 0:
        return f"was ended by signal {-code}, as where memory runs out."
    lines = words.decode("utf-8", "replace").strip().splitlines() or ["it ended early"]
    return without_secrets(first_line(lines[-1], MOST_WORDS)) + "."


@contextmanager
def _unreadable() -> Iterator[None]:
    """For the time of the block no process of the same user reads this one's environment.

    Linux shows it below ``/proc`` only of a process that may be dumped: prctl(2).
    """
    try:
        prctl = ctypes.CDLL(None).prctl
    except (OSError, AttributeError, TypeError):
        yield
        return
    before = prctl(GET_DUMPABLE)
    prctl(SET_DUMPABLE, 0)
    try:
        yield
    finally:
        prctl(SET_DUMPABLE, max(before, 0))


def leave_the_network() -> None:
    """Go where there is no network, if the system lets everyone do that.

    A user namespace of its own besides keeps from this process what other processes of the same
    user have in memory, such as the environment of the one that started it. Only a process of one
    thread can go there: before torch is imported.
    """
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(NEW_USER | NEW_NETWORK) != 0:
            libc.unshare(NEW_NETWORK)
    except (OSError, AttributeError, TypeError):
        return
