"""`@huggingface/hub`, the client that others wrote in another language, on the embedded hub."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from needs import PATH, node_for

from slogpt_hf.hub.embedded import Request, RunningHub, serve

if TYPE_CHECKING:
    from huggingface_hub import HfApi

HERE = Path(__file__).parent
TOKEN = "hf_theTokenOfTheseTests"  # the package takes none without this prefix
REPO = "me/model"


class RefusedError(Exception):
    """What the package threw: the status of the hub's answer, None where there was none."""

    def __init__(self, function: str, status: int | None, message: str) -> None:
        super().__init__(f"{function}: status {status}: {message}")
        self.status = status


@dataclass(frozen=True)
class SecondClient:
    """Functions of the package, called on one hub as one user. `bridge.mjs` is the other end."""

    process: subprocess.Popen[str]
    endpoint: str
    token: str | None

    def __call__(self, function: str, *, part: tuple[int, int] | None = None, **given: Any) -> Any:
        """What the function gives. `bytes` are Blobs and a Path is its file's URL.

        Args:
            function: a name that the package exports.
            part: first byte and end of what is read of a Blob; None for all of it.
            given: the function's parameters besides the hub's URL and the token.

        Raises:
            RefusedError: the function threw.
        """
        parameters = {"hubUrl": self.endpoint, "accessToken": self.token, **given}
        call = {"function": function, "parameters": parameters, "slice": part}
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(call, default=_encoded) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f"node ended with {self.process.wait()}"
        answer = json.loads(line)
        if "error" in answer:
            raise RefusedError(function, **answer["error"])
        value = answer["value"]
        is_blob = isinstance(value, dict) and value.keys() == {"base64"}
        return base64.b64decode(value["base64"]) if is_blob else value

    def refusal(self, function: str, **given: Any) -> int | None:
        """Status of the answer with which the hub refuses the call."""
        with pytest.raises(RefusedError) as error:
            self(function, **given)
        return error.value.status


def _encoded(value: bytes | Path) -> dict[str, str]:
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    return {"url": value.as_uri()}


@pytest.fixture(scope="session")
def _node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    node = node_for(HERE, "@huggingface/hub")
    home = tmp_path_factory.mktemp("node")
    process = subprocess.Popen(
        [node, HERE / "bridge.mjs"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        cwd=home,
        env={"PATH": PATH, "HOME": str(home)},  # no token, endpoint or proxy of the user's
    )
    yield process
    process.communicate()


@pytest.fixture(scope="session")
def second_client(_node: subprocess.Popen[str]) -> Callable[..., SecondClient]:
    """Makes a client: ``(running hub, token=TOKEN)``."""

    def make(running: RunningHub, token: str | None = TOKEN) -> SecondClient:
        return SecondClient(_node, running.endpoint, token)

    return make


@pytest.fixture(scope="session")
def cli() -> Callable[..., str]:
    """Runs a command line in this process, which must succeed; its standard output."""
    from slogpt_hf.cli import run

    def call(*arguments: Any) -> str:
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = run([str(argument) for argument in arguments])
        assert code == 0, err.getvalue()
        return out.getvalue()

    return call


@pytest.fixture(autouse=True)
def _clean_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting, token or hub of the user's, and a current folder of the test's own."""
    from huggingface_hub import constants

    for name in list(os.environ):
        if name.startswith("SLOGPT_") or name in ("HF_TOKEN", "HF_ENDPOINT"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SLOGPT_SMOKE", "false")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture
def requests() -> list[Request]:
    """What was asked of ``hub`` so far."""
    return []


@pytest.fixture
def hub(tmp_path: Path, requests: list[Request]) -> Iterator[RunningHub]:
    """A new hub that asks for TOKEN."""
    with serve(tmp_path / "hub", token=TOKEN, intercept=requests.append) as running:
        yield running


@pytest.fixture
def client(hub: RunningHub, second_client: Callable[..., SecondClient]) -> SecondClient:
    """The second client on the new hub."""
    return second_client(hub)


@pytest.fixture
def api(hub: RunningHub) -> HfApi:
    """The first client on the new hub."""
    from huggingface_hub import HfApi

    return HfApi(endpoint=hub.endpoint, token=TOKEN)


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., bytes]:
    """Downloads with the first client: ``(api, path, revision="main")`` to bytes."""

    def download(api: HfApi, path: str, revision: str = "main") -> bytes:
        cache = tmp_path / "cache"
        return Path(
            api.hf_hub_download(REPO, path, revision=revision, cache_dir=cache)
        ).read_bytes()

    return download
