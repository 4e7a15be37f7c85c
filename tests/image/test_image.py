"""What the image promises about itself: how it starts and ends, what is in it and what is not."""

from __future__ import annotations

import json
import re
import subprocess
import tarfile
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

MB = 10**6
PYTHON = "/opt/slogpt-hf/bin/python"

Done = subprocess.CompletedProcess[str]
Docker = Callable[..., Done]
Run = Callable[..., Done]


@pytest.fixture(scope="module")
def facts(docker: Docker, image: str) -> dict[str, Any]:
    (found,) = json.loads(docker("image", "inspect", image).stdout)
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module")
def members(docker: Docker, image: str) -> Iterator[dict[str, tarfile.TarInfo]]:
    """Everything in the file system of a container that has not run."""
    container = docker("create", image).stdout.strip()
    try:
        export = ["docker", "export", container]
        with (
            subprocess.Popen(export, stdout=subprocess.PIPE) as process,
            tarfile.open(fileobj=process.stdout, mode="r|") as archive,
        ):
            yield {member.name.removeprefix("./"): member for member in archive}
    finally:
        docker("rm", container)


def test_a_bare_run_prints_the_help(run: Run) -> None:
    assert run().stdout.startswith("Usage: ")
    assert run().stdout == run("--help").stdout


def test_anything_else_is_the_command_line(run: Run) -> None:
    assert run("--version").stdout.startswith("slogpt-hf ")
    refused = run("inspect", "/missing.pt", check=False)
    assert (refused.returncode, "no such checkpoint" in refused.stderr) == (2, True)


def test_the_command_is_on_the_path_for_a_ci_that_brings_its_own_script(run: Run) -> None:
    assert run("--version", program="slogpt-hf").stdout.startswith("slogpt-hf ")


def test_a_shell_is_there_for_such_a_ci(docker: Docker, image: str) -> None:
    script = "set -eo pipefail; mkdir /tmp/x && cd /tmp/x && slogpt-hf --version | cat"
    done = docker("run", "--rm", "--network=none", "--entrypoint=sh", image, "-c", script)
    assert done.stdout.startswith("slogpt-hf ")


def test_not_root_unless_told(docker: Docker, image: str) -> None:
    code = "import os; print(os.getuid(), os.getgid())"
    done = docker("run", "--rm", "--network=none", f"--entrypoint={PYTHON}", image, "-c", code)
    assert done.stdout.split() == ["65532", "65532"]


def test_without_a_network_there_is_none(run: Run) -> None:
    code = "import socket; print([name for _, name in socket.if_nameindex()])"
    assert run("-c", code, program=PYTHON).stdout.strip() == "['lo']"


def test_labels(facts: dict[str, Any], run: Run) -> None:
    labels = facts["Config"]["Labels"]
    opened = "org.opencontainers.image."
    assert labels[f"{opened}source"].startswith("https://")
    assert labels[f"{opened}licenses"] == "Apache-2.0"
    assert re.fullmatch(r"[0-9a-f]{40}|unknown", labels[f"{opened}revision"])
    assert run("--version").stdout.split()[1] == labels[f"{opened}version"]


def test_the_history_and_environment_tell_nothing_of_where_it_was_built(
    facts: dict[str, Any], docker: Docker, image: str
) -> None:
    history = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", image).stdout
    assert not re.search(r"pip|token|password|secret|proxy|127\.0\.0\.1", history, re.IGNORECASE)
    assert {entry.partition("=")[0] for entry in facts["Config"]["Env"]} == {
        *("HF_HOME", "HOME", "LANG", "PATH", "SSL_CERT_FILE"),
        *("PYTHONDONTWRITEBYTECODE", "PYTHONNOUSERSITE"),
    }


def test_only_what_is_needed_is_in_it(members: dict[str, tarfile.TarInfo]) -> None:
    folders = {name.partition("/")[0] for name in members} - {".dockerenv", "dev", "proc", "sys"}
    assert folders == {"bin", "etc", "lib", "lib64", "opt", "sbin", "tmp", "usr", "var", "work"}
    unwanted = re.compile(
        r"(^|/)(pip|setuptools|perl|apt|bash|pip\.conf|\.netrc|\.git|golden)(/|$)|\.(whl|deb)$"
    )
    assert [name for name in members if unwanted.search(name)] == []


def test_nothing_in_it_gives_rights(members: dict[str, tarfile.TarInfo]) -> None:
    real = {name: member for name, member in members.items() if member.isfile() or member.isdir()}
    assert [name for name, member in real.items() if member.mode & 0o6000] == []
    assert [name for name, member in real.items() if member.mode & 0o002] == ["tmp", "work"]
    assert {member.uid for member in real.values()} == {0}


def test_scanners_find_the_packages(members: dict[str, tarfile.TarInfo]) -> None:
    recorded = "var/lib/dpkg/status.d/"
    packages = {name.removeprefix(recorded) for name in members if name.startswith(recorded)}
    assert {"git", "git-lfs", "libc6", "libssl3", "ca-certificates"} <= packages
    assert {f"usr/share/doc/{name}/copyright" for name in packages} <= members.keys()


def test_sizes(facts: dict[str, Any], image: str) -> None:
    compressor, compressed = zlib.compressobj(6, wbits=31), 0
    with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        while piece := process.stdout.read(MB):
            compressed += len(compressor.compress(piece))
    compressed += len(compressor.flush())
    assert facts["Size"] / MB < 760
    assert 100 < compressed / MB < 230


def test_the_application_is_a_layer_of_its_own(docker: Docker, image: str) -> None:
    history = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}\t{{.Size}}", image)
    copied = [line.split("\t") for line in history.stdout.splitlines() if "COPY" in line]
    assert [command.split()[1] for command, _ in copied] == ["/app", "/opt/slogpt-hf", "/rootfs"]
    assert copied[0][1].endswith("MB") and float(copied[0][1][:-2]) < 10


def test_sigterm_ends_it_with_130(
    hardened: Callable[..., tuple[str, ...]], docker: Docker, shared: Path
) -> None:
    name = f"slogpt-hf-{uuid.uuid4().hex}"
    command = hardened(
        *("demo", "--folder", "/shared/demo", "--variant", "modern", "--steps", "100000"),
        mounts={shared: "/shared"},
        options=("--name", name),
    )
    with subprocess.Popen(["docker", *command], stderr=subprocess.PIPE, text=True) as process:
        try:
            deadline = time.monotonic() + 60
            while not (shared / "demo").exists() and time.monotonic() < deadline:
                assert process.poll() is None
                time.sleep(0.05)
            docker("kill", "--signal", "TERM", name)
            assert process.wait(timeout=30) == 130
        finally:
            docker("rm", "--force", name, check=False)


def test_modules_are_not_searched_for_garbage(run: Run) -> None:
    code = "import atexit, gc; print(gc.get_threshold()[0], gc.get_freeze_count())\n"
    code += "atexit._run_exitfuncs(); print(gc.get_freeze_count() > 1000)"
    assert run("-c", code, program=PYTHON).stdout.split() == ["50000", "0", "True"]
