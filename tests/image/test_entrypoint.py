"""What the image's entrypoint makes of its arguments and variables, without an engine."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).parents[2]
ENTRYPOINT = ROOT / "entrypoint"

SettingsOf = Callable[[Mapping[str, str]], dict[str, str]]


@pytest.fixture(scope="module")
def settings_of() -> SettingsOf:
    function: SettingsOf = runpy.run_path(str(ENTRYPOINT))["settings_of"]
    return function


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)} | variables
    return subprocess.run(
        [sys.executable, ENTRYPOINT, *arguments], env=environment, capture_output=True, text=True
    )


def test_bare_run_prints_the_help() -> None:
    done = run()
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: ")
    assert done.stdout == run("--help").stdout


def test_arguments_go_to_the_command_line() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout.split()[0]) == (0, "slogpt-hf")
    assert run("no-such-command").returncode == 2


def test_nothing_heavy_is_imported() -> None:
    done = run(PYTHONPROFILEIMPORTTIME="1")
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "slogpt_hf.cli" in imported
    assert not imported & {"torch", "transformers", "huggingface_hub", "numpy", "yaml"}


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"INPUT_REPO-ID": "me/x"}, {"SLOGPT_REPO_ID": "me/x"}),
        ({"INPUT_REPO_ID": "me/x"}, {"SLOGPT_REPO_ID": "me/x"}),
        ({"INPUT_MAX SHARD SIZE": "1GB"}, {"SLOGPT_MAX_SHARD_SIZE": "1GB"}),
        ({"INPUT_REPO-ID": ""}, {}),
        ({"INPUT_REPO-ID": " \n"}, {}),
        ({"INPUT_REPO-ID": "me/x", "SLOGPT_REPO_ID": "me/y"}, {}),
        ({"INPUT_REPO-ID": "me/x", "SLOGPT_REPO_ID": ""}, {"SLOGPT_REPO_ID": "me/x"}),
        ({"INPUT_TOKEN": "hf_x"}, {"HF_TOKEN": "hf_x"}),
        ({"INPUT_TOKEN": "hf_x", "HF_TOKEN": "hf_y"}, {}),
        ({"INPUT_HUB-ENDPOINT": "http://x"}, {"HF_ENDPOINT": "http://x"}),
        ({"INPUT_ARGS": "release"}, {}),
        ({"REPO_ID": "me/x", "MY_INPUT_REPO_ID": "me/x"}, {}),
    ],
)
def test_inputs_become_settings(
    settings_of: SettingsOf, given: dict[str, str], found: dict[str, str]
) -> None:
    assert settings_of(given) == found


names = st.text(st.sampled_from("ABCXYZ_- "), min_size=1)


@given(st.dictionaries(names, st.text()))
def test_a_given_setting_is_never_changed(settings_of: SettingsOf, inputs: dict[str, str]) -> None:
    environment = {f"INPUT_{name}": value for name, value in inputs.items()}
    wanted = settings_of(environment)
    assert all(value.strip() for value in wanted.values())
    assert settings_of(environment | dict.fromkeys(wanted, "given")) == {}


def test_an_input_reaches_the_settings() -> None:
    done = run("release", "missing.pt", **{"INPUT_PROMOTE": "sometimes"})
    assert done.returncode == 2
    assert "promote 'sometimes'" in done.stderr
