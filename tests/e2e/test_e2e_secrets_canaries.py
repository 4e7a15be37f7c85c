"""Canaries wherever a user may keep a secret, a whole release in a process, and a search for them.

Whatever the run ends in, each canary is found only where it was planted.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import torch
from huggingface_hub import HfApi

from slogpt_hf.hub.embedded import Request, Response, serve

REPO = "me/model"
SMALL = {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 12, "use_rope": True}
# Each with a beginning of its own, so that masking one does not mask another.
ENVIRONMENT = {
    "HF_TOKEN": "canary1-of-the-environment",
    "WANDB_API_KEY": "canary2-of-weights-and-biases",
    "SIGNING_KEY_PASSWORD": "canary3-opens-the-signing-key",
    "GITHUB_TOKEN": "canary4-of-the-job",
    "HTTPS_PROXY": "http://me:canary5-of-the-proxy@127.0.0.1:9",
}
FILED = "canary6-of-the-token-file"
PIPED = "canary7-of-standard-input"
MINTING = "canary8-mints-identities"
EXCHANGED = "canary9-the-exchanged-token"
REMOTE = "canary10-of-the-git-remote"
NETRC = "canary11-of-netrc"
SETTING = "canary12-of-the-trainer"
IDENTITY = ".".join(
    base64.urlsafe_b64encode(part).decode().rstrip("=")
    for part in (b'{"alg":"RS256"}', b"canary13-of-the-claims", b"canary14-signature")
)
SECRETS = (
    *(value.partition("me:")[2].partition("@")[0] or value for value in ENVIRONMENT.values()),
    *(FILED, PIPED, MINTING, EXCHANGED, REMOTE, NETRC, SETTING, IDENTITY),
)
MAIN = "from slogpt_hf.cli import main; main()"
UNEQUAL = (
    "from slogpt_hf.conversion.operations import PairsToHalves;"
    "PairsToHalves.forward = lambda self, tensor: tensor;"
)
HASTY = "from slogpt_hf.hub import attempts; attempts.sleep = lambda seconds: None;"


@dataclass
class Echo:
    """A hub that repeats what it was sent, and looks at the process that sent it.

    Attributes:
        refuse: last segment of the paths that are refused, to the status.
        processes: what the process list showed of the releasing process and its children.
    """

    refuse: dict[str, int] = field(default_factory=dict)
    pid: int = 0
    processes: list[bytes] = field(default_factory=list)

    def __call__(self, request: Request) -> Response | None:
        if request.path == ("mint",):
            return answer(200, {"value": IDENTITY})
        if self.pid:
            self.processes.extend(command_lines(self.pid))
        wanted = next((s for name, s in self.refuse.items() if name in request.path), None)
        if request.path == ("oauth", "token"):
            sent = request.json()["subject_token"]
            if wanted is None:
                return answer(200, {"access_token": EXCHANGED, "expires_in": 3600})
            return answer(wanted, {"error": "invalid_grant", "error_description": f"bad {sent}"})
        if wanted is None:
            return None
        sent = request.headers.get("authorization", "nothing")
        return answer(wanted, {"error": f"refused {sent} of {request.headers}"}, sent)


def answer(status: int, body: Any, message: str = "") -> Response:
    headers = {"Content-Type": "application/json", "X-Error-Message": f"refused {message}"}
    return Response(status, json.dumps(body).encode(), headers if message else {})


def command_lines(pid: int) -> Iterator[bytes]:
    """What the process list shows of a process and all that it started."""
    try:
        yield Path(f"/proc/{pid}/cmdline").read_bytes()
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = [child for task in tasks for child in (task / "children").read_text().split()]
    except OSError:  # it ended meanwhile
        return
    for child in children:
        yield from command_lines(int(child))


@dataclass(frozen=True)
class World:
    """A user's machine below one folder, with canaries."""

    root: Path
    echo: Echo
    environment: dict[str, str]

    @property
    def planted(self) -> set[Path]:
        """Where the canaries belong."""
        names = ("source/.git/config", "source/ckpt.pt", "home/.netrc", "token")
        return {self.root / name for name in names}

    def release(
        self, *options: str, plant: str = "", piped: str | None = None, **variables: str
    ) -> subprocess.CompletedProcess[bytes]:
        program = ["-c", plant + MAIN] if plant else ["-m", "slogpt_hf"]
        arguments = ["release", "../source/ckpt.pt", "--repo-id", REPO, "--debug", *options]
        process = subprocess.Popen(
            [sys.executable, *program, *arguments, "--output", "../artefact"],
            cwd=self.root / "here",
            env=self.environment | variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.echo.pid = process.pid
        try:
            out, err = process.communicate((piped or "").encode(), timeout=240)
        finally:
            process.kill()
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def leaks(self, outcome: subprocess.CompletedProcess[bytes]) -> list[tuple[str, str]]:
        """Every place but the planted ones where a canary is, and which."""
        texts = {"stdout": outcome.stdout, "stderr": outcome.stderr}
        texts["process list"] = b"\n".join(self.echo.processes)
        for path in self.root.rglob("*"):
            if path.is_file() and path not in self.planted:
                texts[str(path.relative_to(self.root))] = path.read_bytes()
        for repo in self.root.glob("hub/*/*.git"):
            git = ["git", "-C", str(repo), "cat-file", "--batch-all-objects", "--batch"]
            texts[f"objects of {repo.name}"] = subprocess.check_output(git)
        return [
            (where, secret)
            for where, text in texts.items()
            for secret in SECRETS
            for form in forms(secret)
            if form in text
        ]


def forms(secret: str) -> Iterator[bytes]:
    data = secret.encode()
    yield from (data, quote(secret, safe="").encode(), data[: len(data) * 2 // 3])
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + data)
        yield encoded[4:-4]


@pytest.fixture
def world(tmp_path: Path, slo_content: Callable[..., dict[str, Any]]) -> Iterator[World]:
    source = tmp_path / "source"
    for name in ("source", "home/hf", "temporary", "bin"):
        (tmp_path / name).mkdir(parents=True)
    content = slo_content(**SMALL)
    content["config"] |= {"wandb_api_key": SETTING, "notes": f"https://me:{SETTING}@example.org"}
    torch.save(content, source / "ckpt.pt")
    (tmp_path / "home/.netrc").write_text(f"machine 127.0.0.1 login me password {NETRC}\n")
    (tmp_path / "token").write_text(f"{FILED}\n")
    git = ["git", "-C", str(source), "-c", "user.name=me", "-c", "user.email=me@example.org"]
    for command in (
        ["init", "-q"],
        ["remote", "add", "origin", f"https://me:{REMOTE}@github.com/acme/training.git"],
        ["add", "ckpt.pt"],
        ["commit", "-q", "-m", "trained"],
    ):
        subprocess.run([*git, *command], check=True)
    logging_git = tmp_path / "bin" / "git"
    program, log = shutil.which("git"), tmp_path / "git.log"
    logging_git.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >> {log}\nexec {program} "$@"\n')
    logging_git.chmod(0o755)
    echo = Echo()
    with serve(tmp_path / "hub", intercept=echo) as running:
        kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
        environment = {
            **ENVIRONMENT,
            **kept,
            "PATH": f"{logging_git.parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(tmp_path / "home"),
            "HF_HOME": str(tmp_path / "home/hf"),
            "TMPDIR": str(tmp_path / "temporary"),
            "HF_ENDPOINT": running.endpoint,
            "NO_PROXY": "127.0.0.1",
            "ACTIONS_ID_TOKEN_REQUEST_URL": f"{running.endpoint}/mint?x=1",
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN": MINTING,
        }
        yield World(tmp_path, echo, environment)


def tags(world: World) -> Sequence[str]:
    (repo,) = world.root.glob("hub/*/*.git")
    return subprocess.check_output(["git", "-C", str(repo), "tag"], text=True).split()


def dataset(characters: Path) -> tuple[str, str]:
    return "--dataset", str(characters)


def test_a_release_leaves_no_secret(world: World, characters: Path) -> None:
    outcome = world.release(*dataset(characters), "--json")
    assert outcome.returncode == 0, outcome.stderr.decode()
    assert tags(world) == ["v1.0.0"]
    assert any(b"--repo-id" in line for line in world.echo.processes)
    record = json.loads((world.root / "artefact" / "release.json").read_text())
    assert record["source"]["remote"] == "https://github.com/acme/training"
    assert "remote" in (world.root / "git.log").read_text()
    assert world.leaks(outcome) == []


def test_a_model_that_is_not_equal(world: World, characters: Path) -> None:
    outcome = world.release(*dataset(characters), "--token-file", "../token", plant=UNEQUAL)
    assert outcome.returncode == 4, outcome.stderr.decode()
    assert (world.root / "here" / "parity.json").is_file()
    assert world.leaks(outcome) == []


def test_a_commit_that_is_refused_with_an_echo(world: World, characters: Path) -> None:
    world.echo.refuse = {"commit": 403}
    client = HfApi(endpoint=world.environment["HF_ENDPOINT"], token="any")
    client.create_repo(REPO)  # an OIDC token cannot
    outcome = world.release(*dataset(characters), "--oidc")
    assert outcome.returncode == 6, outcome.stderr.decode()
    assert b"Traceback" in outcome.stderr and b"status 403" in outcome.stderr
    assert b"refused Bearer ***" in outcome.stderr
    assert tags(world) == [] and world.leaks(outcome) == []


@pytest.mark.parametrize(
    ("refuse", "options", "piped", "said"),
    [
        ({"refs": 401, "whoami-v2": 401, "write": 401}, ("--token-file", "-"), PIPED, b"401"),
        ({"refs": 500}, ("--token-file", "../token"), None, b"status 500"),
        ({"token": 400}, ("--oidc",), None, b"invalid_grant: bad ***"),
    ],
)
def test_a_hub_that_refuses_with_an_echo(
    world: World,
    characters: Path,
    refuse: dict[str, int],
    options: tuple[str, ...],
    piped: str | None,
    said: bytes,
) -> None:
    world.echo.refuse = refuse
    identity = {"HF_OIDC_ID_TOKEN": IDENTITY} if "token" in refuse else {}
    outcome = world.release(*dataset(characters), *options, plant=HASTY, piped=piped, **identity)
    assert outcome.returncode == 6, outcome.stderr.decode()
    assert b"Traceback" in outcome.stderr and said in outcome.stderr
    assert world.leaks(outcome) == []


def test_the_search_finds_what_leaks(world: World) -> None:
    (world.root / "here" / "log").write_text(f"Authorization: Bearer {FILED}")
    encoded = base64.b64encode(f"me:{PIPED}".encode())
    outcome = subprocess.CompletedProcess([], 0, b"", b"Basic " + encoded)
    world.echo.processes.append(NETRC.encode())
    found = {place for place, _ in world.leaks(outcome)}
    assert found == {"here/log", "stderr", "process list"}
