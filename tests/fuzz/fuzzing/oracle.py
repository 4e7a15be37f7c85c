"""What must hold for any input: a value or one clear message, and nothing else happens.

``Watch`` is an audit hook: it sees what code of a file would do, whoever does it.
"""

from __future__ import annotations

import io
import json
import os
import resource
import shutil
import signal
import sys
import sysconfig
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from fuzzing.cases import Case

MAX_SECONDS = 10
MAX_BYTES = 256 << 20
MAX_MESSAGE = 2000
BUG = "a bug of slogpt-hf"
# What a message may name instead of the path, by reader: the option is what is wrong.
NAMED_INSTEAD = {
    ".slogpt-hf.yml": (
        ".slogpt-hf.yml",
        "--set",
        "--base",
        "dtype",
        "size",
        "repo-id",
        "tokenizer",
    ),
}
# Audit events that no reader of a file has a reason for.
FORBIDDEN = (
    *("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "os.remove"),
    *("os.rename", "os.mkdir", "os.rmdir", "os.chmod", "os.chown", "os.link", "os.symlink"),
    *("os.truncate", "os.putenv", "os.kill", "subprocess.Popen", "socket.connect", "socket.bind"),
    *("socket.getaddrinfo", "urllib.Request", "pickle.find_class", "shutil.rmtree", "shutil.move"),
    *("shutil.copyfile", "ctypes.dlopen", "marshal.loads", "code.__new__", "cpython.run_command"),
)
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
READABLE = tuple(
    os.path.realpath(path)
    for path in (
        sys.prefix,
        sys.base_prefix,
        sysconfig.get_path("stdlib"),
        "/proc",
        "/sys",
        "/dev/null",
    )
)
IMPORTABLE = frozenset(
    (
        *sys.stdlib_module_names,
        *("torch", "numpy", "safetensors", "slogpt_hf", "yaml", "click", "tokenizers", "tqdm"),
        *("transformers", "huggingface_hub", "packaging", "filelock", "sympy", "mpmath", "jinja2"),
    )
)
NEVER = ("antigravity", "this", "slogpt_fuzz_canary", "runpy", "idlelib")


class HangError(BaseException):
    """An input took too long; no reader can catch it."""


@dataclass
class Watch:
    """What happened while an input was read that must not."""

    armed: bool = False
    folder: str = ""
    seen: list[str] = field(default_factory=list)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """See one audit event."""
        if not self.armed:
            return
        if event in FORBIDDEN:
            # Importing a module unmarshals its own code.
            if event not in ("marshal.loads", "code.__new__") or not _importing():
                self.seen.append(f"{event} {arguments!r:.200}")
        elif event == "open":
            self._opened(*arguments)
        elif event == "import":
            name = str(arguments[0])
            if name.startswith(NEVER) or name.partition(".")[0] not in IMPORTABLE:
                self.seen.append(f"import {name:.200}")

    def _opened(self, path: Any, mode: Any, flags: Any) -> None:
        if not isinstance(path, str | bytes | os.PathLike):
            return
        writing = bool((flags or 0) & WRITING) or (
            isinstance(mode, str) and set(mode) & set("wax+")
        )
        real = os.path.realpath(os.fsdecode(path))
        inside = real.startswith((self.folder, *READABLE, *PROJECT))
        if writing or not inside:
            self.seen.append(f"open {os.fsdecode(path)!r:.200} {mode} {flags}")


PROJECT = (str(Path(__file__).parents[3]),)
WATCH = Watch()


def _importing() -> bool:
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        if "importlib" in frame.f_code.co_filename:
            return True
        frame = frame.f_back
    return False


@dataclass(frozen=True)
class Outcome:
    """What became of an input.

    Attributes:
        kind: ``accepted``, ``refused`` or ``failed``.
        text: the message, or what went wrong.
        seconds: time to read it.
        n_bytes: highest resident memory above that before.
    """

    kind: str
    text: str
    seconds: float
    n_bytes: int


def prepare() -> None:
    """Import what readers import and install the audit hook, once in a process."""
    if WATCH.folder:
        return
    WATCH.folder = "/nowhere"
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", PYTHONWARNINGS="default")
    import torch

    from fuzzing.seeds import READERS, seeds

    torch.set_num_threads(1)
    valid = [case for reader in READERS for case in seeds(reader)]
    for case in valid:  # whatever is imported late is imported now
        judge(case, watched=False)
    for case in valid:
        outcome = judge(case, watched=False)
        if outcome.kind != "accepted":
            raise AssertionError(f"the seed of {case.reader} is {outcome.kind}: {outcome.text}")
    sys.addaudithook(WATCH)


def judge(case: Case, *, watched: bool = True, limit_s: float = MAX_SECONDS) -> Outcome:
    """Read a case and say what became of it."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir=_memory()))
    try:
        case.write(folder)
        return judge_in(folder, case, watched=watched, limit_s=limit_s)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _memory() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def judge_in(
    folder: Path, case: Case, *, watched: bool = True, limit_s: float = MAX_SECONDS
) -> Outcome:
    """Read a case whose files were written into ``folder`` before."""
    path = folder / case.target
    WATCH.seen.clear()
    WATCH.folder = os.path.realpath(folder)
    before, start = reset_peak(), time.perf_counter()
    output = io.StringIO()
    kind, text = "failed", ""
    with _in_folder(folder), _alarm(limit_s), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        WATCH.armed = watched
        try:
            with redirect_stderr(output), redirect_stdout(output):
                kind, text = _read(case, path)
        except HangError:
            text = f"took more than {limit_s} s"
        except BaseException:
            text = "".join(traceback.format_exc().strip().splitlines(keepends=True)[-14:])
        finally:
            WATCH.armed = False
    seconds, n_bytes = time.perf_counter() - start, max(0, peak() - before)
    problems = [*WATCH.seen, *(f"warning: {w.message}" for w in warned)]
    problems += [f"printed {output.getvalue()[:300]!r}"] if output.getvalue() else []
    problems += [f"{n_bytes >> 20} MiB"] if n_bytes > MAX_BYTES else []
    problems += (
        [f"{seconds:.1f} s"] if seconds > MAX_SECONDS and not text.startswith("took") else []
    )
    if problems:
        kind, text = "failed", "; ".join(problems[:4]) + (f" ({kind}: {text})" if text else "")
    return Outcome(kind, text, seconds, n_bytes)


def _read(case: Case, path: Path) -> tuple[str, str]:
    from slogpt_hf.errors import SloGPTError

    try:
        ACTIONS.get(case.reader, _checkpoint)(path, case.given)
    except SloGPTError as error:
        message = str(error)
        names = (str(path.parent), *NAMED_INSTEAD.get(case.reader, ("--set",)))
        if not message.isprintable() or len(message) > MAX_MESSAGE:
            return (
                "failed",
                f"message is not one clear line ({len(message)} long): {message!r:.400}",
            )
        if not any(name in message for name in names):
            return "failed", f"message does not name the path: {message!r:.400}"
        return "refused", message
    return "accepted", ""


def _checkpoint(path: Path, given: tuple[str, ...]) -> None:
    from slogpt_hf.checkpoints import read_checkpoint
    from slogpt_hf.inspection import inspect_checkpoint
    from slogpt_hf.settings import Settings

    settings = Settings(set=given)
    checkpoint = read_checkpoint(path, settings.given)
    for tensor in checkpoint.tensors.values():
        tensor.double().sum().item()
    facts = inspect_checkpoint(path, settings)
    json.dumps(facts, ensure_ascii=False, allow_nan=False).encode()  # as --json prints them
    if not (notes := " ".join(checkpoint.notes)).isprintable():
        raise AssertionError(f"notes are not printable: {notes!r:.400}")


def _command(path: Path, given: tuple[str, ...]) -> None:
    from slogpt_hf.cli import run
    from slogpt_hf.errors import UsageError

    output, errors = io.StringIO(), io.StringIO()
    arguments = ["inspect", str(path), *(part for text in given for part in ("--set", text))]
    with redirect_stdout(output), redirect_stderr(errors):
        code = run(arguments)
    if BUG in errors.getvalue():
        with redirect_stdout(output), redirect_stderr(errors):
            run([*arguments, "--debug"])
        raise AssertionError(errors.getvalue()[-1500:])
    output.getvalue().encode()
    if code:
        raise UsageError(errors.getvalue().removesuffix("\n").removeprefix("error: "))


def _pieces(path: Path, _: tuple[str, ...]) -> None:
    from slogpt_hf.tokenizers import read_pieces

    read_pieces(path)


def _meta(path: Path, _: tuple[str, ...]) -> None:
    from slogpt_hf.datasets import read_meta

    read_meta(path)


ACTIONS: dict[str, Callable[[Path, tuple[str, ...]], None]] = {
    "meta.pkl": _meta,
    "tokenizer.model": _pieces,
    "tokenizer.bin": _pieces,
    ".slogpt-hf.yml": _command,
    "--set": _command,
}


@contextmanager
def _in_folder(folder: Path) -> Iterator[None]:
    old = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(old)


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    def ring(_number: int, _frame: FrameType | None) -> None:
        raise HangError

    old = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


def reset_peak() -> int:
    """Set the highest resident memory of this process to what it has now, in bytes; Linux."""
    try:
        Path("/proc/self/clear_refs").write_bytes(b"5")
    except OSError:
        return peak()
    return status("VmRSS")


def peak() -> int:
    """The highest resident memory since ``reset_peak``, in bytes."""
    try:
        return status("VmHWM")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def status(name: str) -> int:
    """A size in ``/proc/self/status``, e.g. ``VmRSS``, in bytes."""
    text = Path("/proc/self/status").read_text()
    return int(text.partition(f"{name}:")[2].split()[0]) * 1024
