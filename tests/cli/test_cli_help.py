"""The command line itself: help, completion, exit codes of what it cannot mean, broken pipes."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import pytest

import slogpt_hf
from slogpt_hf.cli import COMMANDS, cli, run

HEAVY = ("torch", "transformers", "huggingface_hub", "tokenizers", "numpy")
PATHS = {**{(name,): name for name in COMMANDS}, ("hub", "serve"): "hub serve"}
WITH_EXAMPLE = [path for path in PATHS if path != ("hub",)]


def python(*arguments: str, folder: Path, **options: object) -> subprocess.CompletedProcess[str]:
    package = str(Path(slogpt_hf.__file__).parents[1])
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        [sys.executable, *arguments],
        **{"capture_output": True, "text": True, "check": False, "cwd": folder, **options},
        env=os.environ | {"PYTHONPATH": package},
    )


def command_at(path: tuple[str, ...]) -> tuple[click.Command, click.Context]:
    context = click.Context(cli, info_name="slogpt-hf")
    command: click.Command = cli
    for name in path:
        assert isinstance(command, click.Group)
        found = command.get_command(context, name)
        assert found is not None
        command, context = found, click.Context(found, parent=context, info_name=name)
    return command, context


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    text = capsys.readouterr().out
    for name, (_, what) in COMMANDS.items():
        assert re.search(rf"^  {re.escape(name)} +{re.escape(what)}$", text, re.MULTILINE)


@pytest.mark.parametrize("path", WITH_EXAMPLE, ids="-".join)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_of_a_command_has_an_example(
    path: tuple[str, ...], flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*path, flag]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f"Usage: slogpt-hf {' '.join(path)}" in text
    example = text.partition("Example: ")[2]
    assert f"slogpt-hf {' '.join(path)}" in example


@pytest.mark.parametrize("path", WITH_EXAMPLE, ids="-".join)
def test_the_example_is_a_command_line_that_parses(path: tuple[str, ...]) -> None:
    command, context = command_at(path)
    example = (command.epilog or "").partition("Example: ")[2]
    words = shlex.split(example.removeprefix('eval "$(').removesuffix(')"'))
    assert words[: 1 + len(path)] == ["slogpt-hf", *path]
    # Raises a UsageError for an option that does not exist and an argument too many or too few.
    command.make_context(path[-1], words[1 + len(path) :], parent=context.parent)


@pytest.mark.parametrize("path", PATHS, ids="-".join)
def test_every_option_explains_itself(path: tuple[str, ...]) -> None:
    command, context = command_at(path)
    assert command.help
    for option in command.get_params(context):
        if isinstance(option, click.Option):
            assert option.help, option.name


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"slogpt-hf {slogpt_hf.__version__}\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "_SLOGPT_HF_COMPLETE" in script and "slogpt-hf" in script


def test_completion_of_a_shell_completes(tmp_path: Path) -> None:
    """What the script asks for: the words of a command line give the words that may follow."""
    asked = {
        "_SLOGPT_HF_COMPLETE": "bash_complete",
        "COMP_WORDS": "slogpt-hf con",
        "COMP_CWORD": "1",
    }
    code = f"import os, sys; os.environ.update({asked!r}); sys.argv = ['slogpt-hf']\n"
    code += "from slogpt_hf.cli import main; main()"
    result = python("-c", code, folder=tmp_path)
    assert "plain,convert-model" in result.stdout.splitlines(), result.stderr


USAGE = {
    "unknown command": ["releese"],
    "unknown option": ["release", "x.pt", "--repoid", "me/x"],
    "no argument": ["release"],
    "argument too many": ["inspect", "a", "b"],
    "unknown shell": ["completion", "tcsh"],
    "unknown dtype": ["release", "x.pt", "--dtype", "int8"],
    "port that is no number": ["hub", "serve", ".", "--port", "x"],
}


@pytest.mark.parametrize("kind", USAGE)
def test_usage_error(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(USAGE[kind]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Error: " in captured.err and "Traceback" not in captured.err


def test_a_slip_of_the_keys_names_what_was_meant(capsys: pytest.CaptureFixture[str]) -> None:
    run(["release", "x.pt", "--repo-idd", "me/x"])
    assert "--repo-id" in capsys.readouterr().err


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 2
    captured = capsys.readouterr()
    assert "Usage: slogpt-hf" in captured.out + captured.err


def test_module_runs(tmp_path: Path) -> None:
    result = python("-m", "slogpt_hf", "--version", folder=tmp_path)
    assert (result.returncode, result.stdout) == (0, f"slogpt-hf {slogpt_hf.__version__}\n")
    result = python("-m", "slogpt_hf", "inspect", "nowhere.pt", folder=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "error: nowhere.pt: no such checkpoint. Check the path.\n"


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    """`--help` of the program and of every command; and `import slogpt_hf`."""
    code = (
        "import sys, slogpt_hf\n"
        "from slogpt_hf.cli import run\n"
        f"for path in {[list(path) for path in PATHS]!r}: run([*path, '--help'])\n"
        "run(['--help'])\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    result = python("-c", code, folder=tmp_path)
    assert (result.returncode, result.stderr) == (0, "[]\n")


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_work_goes_on_when_its_reader_has_gone(tmp_path: Path, stream: str) -> None:
    """As of ``release a b | head -1``: a second release must not depend on who reads."""
    code = (
        "import click, pathlib\n"
        "from slogpt_hf.cli import cli, main\n"
        "from slogpt_hf.progress import Progress\n"
        "@cli.command('work')\n"
        "def work():\n"
        "    for i in range(3):\n"
        "        Progress().line('working' * 10_000)\n"
        "        click.echo('done' * 10_000)\n"
        "        print('done')\n"
        "        pathlib.Path(f'{i}').touch()\n"
        "    return 4\n"
        "type(cli).get_command = lambda *_: work\n"
        "main(['work'])"
    )
    read, write = os.pipe()
    os.close(read)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: write}
    result = python("-c", code, folder=tmp_path, capture_output=False, **streams)
    os.close(write)
    assert "Traceback" not in (result.stderr or "") + (result.stdout or "")
    assert result.returncode == 4
    assert (tmp_path / "2").exists()


@pytest.mark.parametrize("arguments", [["--help"], ["completion", "bash"], ["inspect", "x.pt"]])
def test_reader_that_went_away(tmp_path: Path, arguments: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    with_reader = python("-m", "slogpt_hf", *arguments, folder=tmp_path)
    result = python(
        "-m",
        "slogpt_hf",
        *arguments,
        folder=tmp_path,
        capture_output=False,
        stdout=write,
        stderr=subprocess.PIPE,
    )
    os.close(write)
    assert (result.returncode, result.stderr) == (with_reader.returncode, with_reader.stderr)


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    for arguments in (("--debug", "inspect", "nowhere.pt"), ("inspect", "nowhere.pt", "--debug")):
        result = python("-m", "slogpt_hf", *arguments, folder=tmp_path)
        assert result.returncode == 2  # as without --debug
        assert "Traceback" in result.stderr and "UsageError: nowhere.pt" in result.stderr
        assert result.stderr.splitlines()[-1].startswith("error: nowhere.pt: ")


def test_a_bug_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from slogpt_hf import doctor

    def broken() -> None:
        raise ZeroDivisionError("by\x1b[31m zero")

    monkeypatch.setattr(doctor, "examine", broken)
    assert run(["doctor"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "ZeroDivisionError: by\\x1b[31m zero" in line and "--debug" in line
    assert run(["doctor", "--debug"]) == 1
    text = capsys.readouterr().err
    assert "Traceback" in text and "in broken" in text and "\x1b" not in text


def test_sigterm_interrupts_and_cleans_up(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from slogpt_hf import doctor\n"
        "from slogpt_hf.cli import run\n"
        "from slogpt_hf.files import staged_folder\n"
        "def cancelled():\n"
        "    with staged_folder(Path('artefact')) as folder:\n"
        "        (folder / 'half').touch()\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "doctor.examine = cancelled\n"
        "code = run(['doctor'])\n"
        "assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL\n"
        "sys.exit(code)"
    )
    result = python("-c", code, folder=tmp_path)
    assert result.stderr.strip() == "Interrupted; nothing half-written was left."
    assert result.returncode == 130
    assert list(tmp_path.iterdir()) == []


def test_a_handler_of_the_caller_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    from slogpt_hf import doctor

    seen: list[object] = []
    monkeypatch.setattr(doctor, "examine", lambda: seen.append(signal.getsignal(signal.SIGTERM)))
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        run(["doctor"])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [signal.SIG_IGN]


def test_a_thread_may_run_a_command() -> None:
    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(run, ["--version"]).result() == 0


def test_control_characters_of_a_file_name_do_not_reach_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["inspect", "\x1b]0;evil\x07.pt"]) == 2
    assert "\x1b" not in capsys.readouterr().err


def test_doctor(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from slogpt_hf import doctor
    from slogpt_hf.doctor import Finding

    findings = [
        Finding("python", "3.11.7", True, True, "Install Python."),
        Finding("torch", "not installed", False, True, "pip install 'torch>=2.6'"),
        Finding("Hub token", "none", False, False, "Set HF_TOKEN."),
    ]
    monkeypatch.setattr(doctor, "examine", lambda: findings)
    assert run(["doctor"]) == 2
    assert capsys.readouterr().out.splitlines() == [
        "     ok  python     3.11.7",
        "MISSING  torch      not installed",
        "                    -> pip install 'torch>=2.6'",
        "      -  Hub token  none",
        "                    -> Set HF_TOKEN.",
    ]
    assert run(["doctor", "--json"]) == 2
    assert [entry["ok"] for entry in json.loads(capsys.readouterr().out)] == [True, False, False]
    del findings[1]
    assert run(["doctor"]) == 0
