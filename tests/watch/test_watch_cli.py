"""``slogpt-hf watch`` in a process of its own, from a commit to a release on an embedded hub."""

from __future__ import annotations

import hashlib
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import slogpt_hf
from slogpt_hf.cli import run
from slogpt_hf.hub.embedded import Request, Response, serve

NewGit = Callable[..., Any]
DEADLINE = 180.0  # seconds, on a machine that does much else
OF_A_CI = ("SLOGPT_", "HF_", "GITHUB_", "CI", "GITLAB_", "TF_BUILD", "BUILD_", "XDG_", "GIT_")
REPO = ("--repo-id", "me/model")
FORBID = """
import sys
from importlib.machinery import ModuleSpec


class Forbidden:
    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self) if name in ("torch", "transformers") else None

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        sys.exit(f"imported {module.__name__}")


sys.meta_path.insert(0, Forbidden())
from slogpt_hf.cli import run
sys.exit(run(sys.argv[1:]))
"""


class Running:
    """A process whose standard error is read as it comes; lines are waited for, with a deadline."""

    def __init__(self, command: list[str], folder: Path, environment: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []
        self._coming: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._coming.put(line.rstrip("\n"))
        self._coming.put(None)

    def until(self, *texts: str) -> str:
        """The first line from now on that holds all the texts."""
        deadline = time.monotonic() + DEADLINE
        while (line := self._next(deadline)) is not None:
            if all(text in line for text in texts):
                return line
        raise AssertionError(f"no line has {texts}:\n" + "\n".join(self.lines))

    def end(self) -> int:
        """The exit code, once it has ended by itself."""
        deadline = time.monotonic() + DEADLINE
        while self._next(deadline) is not None:
            pass
        return self.process.wait(DEADLINE)

    def stop(self) -> int:
        """The exit code after a SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        return self.end()

    def kill(self) -> None:
        """End it whatever it does, if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()

    def _next(self, deadline: float) -> str | None:
        try:
            line = self._coming.get(timeout=max(deadline - time.monotonic(), 0))
        except queue.Empty:
            said = "\n".join(self.lines)
            raise AssertionError(f"nothing more came; what came before:\n{said}") from None
        if line is not None:
            self.lines.append(line)
        return line

    def told(self, text: str) -> list[str]:
        return [line for line in self.lines if text in line]


@pytest.fixture
def temporary(tmp_path: Path) -> Iterator[Path]:
    """The folder of temporary files, in which nothing may be left."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    yield folder
    left = [path.name for path in folder.iterdir() if "slogpt" in path.name]
    assert left == []


@pytest.fixture
def start(tmp_path: Path, temporary: Path) -> Iterator[Callable[..., Running]]:
    """Starts ``slogpt-hf watch ARGUMENT...`` in a folder, or other code with these arguments."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(OF_A_CI)}
    environment = inherited | {
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "HF_HOME": str(tmp_path / "hf"),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(slogpt_hf.__file__).parents[1]),
        "SLOGPT_SMOKE": "false",
        "TMPDIR": str(temporary),
        "TOKENIZERS_PARALLELISM": "false",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    started: list[Running] = []

    def begin(folder: Path, *arguments: object, code: str | None = None, **more: str) -> Running:
        program = ["-m", "slogpt_hf"] if code is None else ["-c", code]
        command = [sys.executable, *program, "watch", *map(str, arguments)]
        started.append(Running(command, folder, environment | more))
        return started[-1]

    yield begin
    for each in started:
        each.kill()


@pytest.fixture(scope="session")
def contents(golden: Callable[[str], Path]) -> list[bytes]:
    """What the trainer saved, and what it saved a step later."""
    import io

    import torch

    path = golden("slo-modern") / "ckpt.pt"
    content = torch.load(path, map_location="cpu", weights_only=True)
    content["iter_num"] += 1
    later = io.BytesIO()
    torch.save(content, later)
    return [path.read_bytes(), later.getvalue()]


@pytest.fixture
def training(new_git: NewGit, golden: Callable[[str], Path]) -> Any:
    """A training repository with a vocabulary, and no checkpoint yet."""
    git = new_git()
    git.commit({"datasets/x/meta.pkl": (golden("slo-modern") / "meta.pkl").read_bytes()})
    return git


def tags(hub: Path) -> list[str]:
    """The tags of me/model, of which each holds a whole release."""
    folder = hub / "me" / "model.git"
    if not folder.is_dir():
        return []

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    git("fsck", "--strict", "--no-dangling")
    found = git("tag").split()
    for tag in found:
        record = json.loads(git("show", f"{tag}:release.json"))
        names = set(git("ls-tree", "-r", "--name-only", tag).splitlines())
        assert record["tag"] == tag and record["parity"]["passed"]
        assert set(record["files"]) <= names
    return found


def test_once_and_again(
    training: Any, contents: list[bytes], tmp_path: Path, start: Callable[..., Running]
) -> None:
    hub = tmp_path / "hub"
    training.commit({"out/ckpt.pt": contents[0], "notes.txt": b""})
    options = (*REPO, "--hub", hub, "--dataset", "x")
    first = start(training.folder, *options)
    assert first.end() == 0, first.lines
    assert first.told("out/ckpt.pt on main: new; converting and proving it.")
    assert first.told("out/ckpt.pt on main: released as v1.0.0 (commit ")
    assert tags(hub) == ["v1.0.0"]
    again = start(training.folder, *options, code=FORBID)
    assert again.end() == 0
    (line,) = again.lines
    assert line.endswith("Z out/ckpt.pt on main: released as v1.0.0")
    assert tags(hub) == ["v1.0.0"]
    assert training.run("status", "--porcelain") == ""


def test_with_nothing_new_nothing_heavy_is_imported(
    new_git: NewGit,
    new_hub: Callable[..., Path],
    ledger_entry: Callable[..., dict[str, Any]],
    make_pointer: Callable[[bytes], bytes],
    golden: Callable[[str], Path],
    start: Callable[..., Running],
) -> None:
    """Git LFS pointers of branches, files on disk, and an object that the ledger knows."""
    git, content = new_git(), b"a checkpoint that is nowhere but in its pointer"
    git.commit({"notes.txt": b""})
    git.branch("train/a")
    git.commit({"ckpt.pt": make_pointer(content)})
    (git.folder / "other.pt").write_bytes(content)
    url, found = f"file://{git.folder}/other.pt", (git.folder / "other.pt").stat()
    entry = ledger_entry("1.0.0", sha256=hashlib.sha256(content).hexdigest())
    entry["source"] |= {"url": url, "etag": f"{found.st_size}-{found.st_mtime:.6f}"}
    hub = new_hub(entry)
    options = (".", "*.pt", url, "--branches", "train/**", *REPO, "--hub", hub)
    watched = start(git.folder, *options, code=FORBID)
    assert watched.end() == 0, watched.lines
    assert [line.partition("Z ")[2] for line in watched.lines] == [
        "ckpt.pt on train/a: released as v1.0.0",
        "ckpt.pt on train/a: released as v1.0.0",
        "other.pt on train/a: released as v1.0.0",
        f"{url}: released as v1.0.0",
    ]
    shutil.copyfile(golden("slo-modern") / "ckpt.pt", git.folder / "other.pt")
    dataset = golden("slo-modern") / "meta.pkl"
    control = start(git.folder, *options, "--dataset", dataset, code=FORBID)
    assert control.end() == 1
    assert control.told("imported t"), "or else this test shows nothing"


def test_a_daemon(
    training: Any, contents: list[bytes], tmp_path: Path, start: Callable[..., Running]
) -> None:
    hub, state = tmp_path / "hub", tmp_path / "state.json"
    options = (".", "--branches", "train/**", *REPO, "--hub", hub, "--dataset", "x")
    options = (*options, "--interval", "1s", "--state", state)
    training.branch("train/a")
    training.commit({"ckpt.pt": contents[0], "ckpt-broken.pt": b"broken"})
    daemon = start(training.folder, *options)
    daemon.until("watching for me/model, every 1 s.")
    daemon.until("ckpt-broken.pt on train/a: refused (exit code 3): ckpt-broken.pt: ")
    daemon.until("ckpt.pt on train/a: released as v1.0.0 (commit ")
    daemon.until("not everything could be released; looking again in 1 s.")
    training.branch("train/b")
    training.commit({"ckpt.pt": contents[1]})
    daemon.until("ckpt.pt on train/b: released as v1.0.1 (commit ")
    assert daemon.stop() == 0
    assert daemon.lines[-1].endswith("Z stopped.")
    assert tags(hub) == ["v1.0.0", "v1.0.1"]
    assert len(daemon.told("refused")) == 1
    assert len(daemon.told("converting and proving it.")) == 3
    (verdict,) = json.loads(state.read_text())["verdicts"].values()
    assert verdict["reason"].startswith("refused (exit code 3): ckpt-broken.pt: ")
    assert not list(tmp_path.glob("*.partial*")) and not list(tmp_path.glob(".*.partial*"))

    # What was refused is not fetched again with the state file, and again without: no harm.
    again = start(training.folder, *options, code=FORBID)
    again.until("ckpt.pt on train/b: released as v1.0.1")
    again.until("ckpt-broken.pt on train/a: refused")
    assert again.stop() == 0
    state.write_text('{"schema": 1, "verd')
    without = start(training.folder, *options)
    without.until(f"{state}: cannot be read as a state file; beginning without.")
    without.until("ckpt-broken.pt on train/a: new; converting and proving it.")
    without.until("ckpt-broken.pt on train/a: refused (exit code 3)")
    without.until("looking again in")
    assert without.stop() == 0
    assert len(json.loads(state.read_text())["verdicts"]) == 1
    assert tags(hub) == ["v1.0.0", "v1.0.1"]


@pytest.mark.parametrize(("signals", "code"), [(1, 0), (2, 130)])
def test_signals_during_a_release(
    training: Any,
    contents: list[bytes],
    tmp_path: Path,
    start: Callable[..., Running],
    signals: int,
    code: int,
) -> None:
    """The first lets it end; the second gives it up, and leaves nothing."""
    hub = tmp_path / "hub"
    training.commit({"ckpt-1.pt": contents[0], "ckpt-2.pt": contents[1]})
    daemon = start(training.folder, *REPO, "--hub", hub, "--dataset", "x", "--interval", "1h")
    daemon.until("ckpt-1.pt on main: new; converting and proving it.")
    daemon.until("plan: slo checkpoint")
    daemon.process.send_signal(signal.SIGTERM)
    if signals == 2:  # of one kind the second could be taken for the first
        daemon.process.send_signal(signal.SIGINT)
    assert daemon.end() == code
    assert len(daemon.told("converting")) == 1
    if code == 0:
        assert "released as v1.0.0" in daemon.lines[-2]
        assert daemon.lines[-1].endswith("stopped.")
    assert tags(hub) == (["v1.0.0"] if code == 0 else [])


def test_while_the_hub_is_away(
    training: Any, contents: list[bytes], tmp_path: Path, start: Callable[..., Running]
) -> None:
    is_away = threading.Event()
    is_away.set()

    def intercept(request: Request) -> Response | None:
        return Response(403) if is_away.is_set() else None

    training.commit({"ckpt.pt": contents[0]})
    with serve(tmp_path / "hub", intercept=intercept) as hub:
        daemon = start(
            training.folder,
            *REPO,
            *("--dataset", "x", "--interval", "1s", "--transfer", "lfs"),
            HF_ENDPOINT=hub.endpoint,
            HF_TOKEN="hf_canary",
        )
        daemon.until("looking again in")
        daemon.until("looking again in")
        assert not daemon.told("converting")
        is_away.clear()
        daemon.until("ckpt.pt on main: released as v1.0.0 (commit ")
        assert daemon.stop() == 0
    assert not daemon.told("canary")
    assert tags(tmp_path / "hub") == ["v1.0.0"]


class _Files(SimpleHTTPRequestHandler):
    """Serves a folder, and counts what is downloaded of it."""

    downloads: list[str]

    def do_GET(self) -> None:
        self.downloads.append(self.path)
        super().do_GET()

    def log_message(self, *arguments: Any) -> None:
        pass


def test_an_object_of_a_web_server(
    golden: Callable[[str], Path], tmp_path: Path, start: Callable[..., Running]
) -> None:
    files, hub, downloads = tmp_path / "files", tmp_path / "hub", list[str]()
    files.mkdir()
    shutil.copyfile(golden("slo-modern") / "ckpt.pt", files / "ckpt.pt")
    (files / "broken.pt").write_bytes(b"broken")
    handler = type("Files", (_Files,), {"downloads": downloads})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(files)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        address = f"127.0.0.1:{server.server_port}"
        urls = [
            f"http://me:hunter2hunter2@{address}/{n}.pt?sig=123456789" for n in ("ckpt", "broken")
        ]
        meta = golden("slo-modern") / "meta.pkl"
        options = (*urls, *REPO, "--hub", hub, "--dataset", meta, "--state", tmp_path / "state")
        first = start(tmp_path, *options)
        assert first.end() == 3
        assert first.told(f"http://{address}/ckpt.pt: released as v1.0.0 (commit ")
        assert first.told(f"http://{address}/broken.pt: refused (exit code 3)")
        assert sorted(downloads) == [f"/{n}.pt?sig=123456789" for n in ("broken", "ckpt")]
        again = start(tmp_path, *options, code=FORBID)
        assert again.end() == 0, again.lines
        assert len(downloads) == 2, "the state file and the ledger know what both are"
        assert again.told(f"http://{address}/ckpt.pt: released as v1.0.0")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert tags(hub) == ["v1.0.0"]
    git = ["git", "-C", str(hub / "me" / "model.git"), "show", "v1.0.0:release.json"]
    record = subprocess.run(git, capture_output=True, text=True, check=True).stdout
    assert json.loads(record)["source"]["url"] == f"http://{address}/ckpt.pt"
    shown = [record, (tmp_path / "state").read_text(), *first.lines, *again.lines]
    assert not any("hunter2" in text or "123456789" in text for text in shown)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["."], "No repository is named."),
        ([*REPO, "--interval", "0s"], "--interval '0s' is no interval"),
        ([*REPO, "--interval", "often"], "is no interval of 1 s to 30 d"),
        ([*REPO, "--token-file", "-"], "standard input: is read once"),
        ([*REPO, "--hub", "hub", "nowhere.pt"], "nowhere.pt: no such checkpoint"),
        ([*REPO, "--hub", "hub", "--interval", "1s", "s3://*/x"], "names no bucket"),
        ([*REPO, "--which", "some"], "is not one of"),
        ([*REPO, "--state", "."], "is a directory"),
    ],
)
def test_what_cannot_be_meant(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith(OF_A_CI) and name != "HF_HOME":
            monkeypatch.delenv(name)
    assert run(["watch", *arguments]) == 2
    assert message in capsys.readouterr().err
