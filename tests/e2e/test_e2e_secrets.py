"""The token reaches the hub and nothing else."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants

from slogpt_hf.hub.embedded import serve

Cli = Callable[..., Any]
Content = Callable[..., dict[str, Any]]

SMALL = {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 12}
TOKEN = "hf_CanaryThatMustNotSingAnywhere0123"
WRONG = "hf_AnotherCanaryThatIsNotTheToken456"
SECRETS = {
    "wandb_api_key": "canary-by-name-1",
    "hf_token": "canary-by-name-2",
    "db_password": "canary-by-name-3",
    "client_secret": "canary-by-name-4",
    "aws-access-key": "canary-by-name-5",
    "s3.secret_key": "canary-by-name-6",
    "hubToken": "canary-by-name-7",
    "WANDB_KEY": "canary-by-name-8",
    "apikey": "canary-by-name-9",
    "remark": "hf_canaryByValue0123456789abcdef",
    "origin": "https://me:canary-in-url@example.org/data",
    "data_dir": "/home/canary-user/data",
}


@pytest.fixture
def endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A hub that asks for TOKEN, as HF_ENDPOINT and a client's environment name it."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # read once, at its import
    with serve(tmp_path / "hub", token=TOKEN) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.endpoint)
        yield running.endpoint


def contents(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def release(cli: Cli, path: Path, characters: Path, *options: Any) -> Any:
    outcome = cli("release", path, "--dataset", characters, "--repo-id", "me/model", *options)
    assert TOKEN not in outcome.text and WRONG not in outcome.text
    return outcome


@pytest.mark.parametrize("how", ["HF_TOKEN", "--token-file", "standard input"])
def test_the_right_token_releases(
    cli: Cli,
    endpoint: str,
    slo_checkpoint: Callable[..., Path],
    characters: Path,
    hub_view: Callable[[Path], Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    options: tuple[Any, ...] = ("--output", tmp_path / "artefact", "--json")
    if how == "HF_TOKEN":
        monkeypatch.setenv("HF_TOKEN", TOKEN)
    else:
        (tmp_path / "token").write_text(f"{TOKEN}\n")
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"{TOKEN}\n".encode())))
        monkeypatch.setenv("HF_TOKEN", WRONG)  # what is named on the command line wins
        options += ("--token-file", tmp_path / "token" if how == "--token-file" else "-")
    outcome = release(cli, slo_checkpoint(**SMALL), characters, *options)
    assert outcome.code == 0, outcome.err
    assert outcome.json[0]["endpoint"] == endpoint
    assert hub_view(tmp_path / "hub")["me/model"].tags.keys() == {"v1.0.0"}
    for folder in ("artefact", "hub"):
        assert TOKEN.encode() not in contents(tmp_path / folder)


@pytest.mark.parametrize("token", [None, WRONG])
def test_without_the_right_token_the_hub_refuses(
    cli: Cli,
    endpoint: str,
    slo_checkpoint: Callable[..., Path],
    characters: Path,
    hub_view: Callable[[Path], Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    token: str | None,
) -> None:
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    outcome = release(cli, slo_checkpoint(**SMALL), characters)
    assert outcome.code == 6
    message = outcome.err.splitlines()[-1]
    assert message.startswith("error: me/model: ")
    assert "status 401" in message and "HF_TOKEN" in message and "--token-file" in message
    assert "convert:" not in outcome.err  # said before the long part
    assert hub_view(tmp_path / "hub") == {}


@pytest.mark.parametrize(("content", "fragment"), [(None, "cannot be read"), (" \n", "no token")])
def test_token_file_without_a_token(
    cli: Cli,
    slo_checkpoint: Callable[..., Path],
    characters: Path,
    tmp_path: Path,
    content: str | None,
    fragment: str,
) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_text(content)
    outcome = release(cli, slo_checkpoint(**SMALL), characters, "--token-file", path)
    assert outcome.code == 2
    assert str(path) in outcome.err and fragment in outcome.err


def test_no_option_takes_a_token(cli: Cli) -> None:
    for command in ("release", "push"):
        outcome = cli(command, "x", "--token", TOKEN)
        assert outcome.code == 2
        assert "--token-file" in outcome.err  # what was meant


def test_hub_that_cannot_be_reached(
    cli: Cli,
    slo_checkpoint: Callable[..., Path],
    characters: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with serve(tmp_path / "hub") as running:
        monkeypatch.setenv("HF_ENDPOINT", running.endpoint)
    outcome = release(cli, slo_checkpoint(**SMALL), characters)
    assert outcome.code == 6, outcome.err
    assert "me/model: reading the repository failed" in outcome.err.splitlines()[-1]


def test_served_with_a_token_from_the_environment(
    cli: Cli,
    serving: Callable[..., Any],
    slo_checkpoint: Callable[..., Path],
    characters: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    process, line = serving(tmp_path / "hub", "--token-env", "HUB_SECRET", HUB_SECRET=TOKEN)
    monkeypatch.setenv("HF_ENDPOINT", line.split()[1].partition("=")[2])
    path = slo_checkpoint(**SMALL)
    assert release(cli, path, characters).code == 6
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert release(cli, path, characters).code == 0
    process.terminate()
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0
    assert TOKEN not in line + out + err


def test_serving_with_a_token_that_is_not_set(serving: Callable[..., Any], tmp_path: Path) -> None:
    process, line = serving(tmp_path / "hub", "--token-env", "HUB_SECRET")
    _, err = process.communicate(timeout=20)
    assert (process.returncode, line) == (2, "")
    assert "HUB_SECRET is not set" in err and "Traceback" not in err


def test_secrets_among_the_trainers_settings_are_not_published(
    cli: Cli, slo_content: Content, characters: Path, tmp_path: Path
) -> None:
    content = slo_content(**SMALL)
    content["config"] |= SECRETS
    torch.save(content, tmp_path / "ckpt.pt")
    hub, artefact = tmp_path / "hub", tmp_path / "artefact"
    options = ("--hub", hub, "--output", artefact, "--json")
    outcome = release(cli, tmp_path / "ckpt.pt", characters, *options)
    assert outcome.code == 0, outcome.err
    settings = outcome.json[0]["record"]["checkpoint"]["settings"]
    assert settings["learning_rate"] == "0.001"
    assert "data_dir" not in settings
    for text in (outcome.text.encode(), contents(artefact)):
        assert b"canary" not in text.lower().replace(str(tmp_path).lower().encode(), b"")
