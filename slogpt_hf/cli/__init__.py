"""The command line: parse, call, print. Commands are imported only when they run."""

from __future__ import annotations

import importlib
import io
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO, cast

import click

from slogpt_hf.errors import SloGPTError, UsageError
from slogpt_hf.redaction import register_environment, without_known_secrets, without_secrets
from slogpt_hf.version import __version__

INTERRUPTED = 130
COMMANDED = ("GITHUB_ACTIONS", "TF_BUILD")  # signs of CIs that obey lines of a log
COMMANDS = {
    # name: (module, what it does, as `slogpt-hf --help` lists it)
    "release": ("release", "Convert checkpoints, prove them, publish them."),
    "plan": ("plan", "Show which checkpoints are new, and would be released."),
    "watch": ("watch", "Release what is new: once, or again and again."),
    "convert": ("convert_dataset", "Convert a dataset into parquet files, or back."),
    "convert-model": ("convert", "Convert a checkpoint into a proven artefact."),
    "verify": ("verify", "Run the parity gate on a checkpoint and an artefact."),
    "push": ("push", "Publish a proven artefact."),
    "push-dataset": ("push_dataset", "Publish a converted dataset."),
    "verify-release": ("verify_release", "Check a published release: files, proof, signature."),
    "releases": ("releases", "List the releases of a repository."),
    "rollback": ("rollback", "Make a branch hold an older release or a candidate."),
    "diff": ("diff", "Show what changed between two releases."),
    "search": ("search", "Search the hub for models that generate text."),
    "download": ("download", "Download a model; a release is checked."),
    # A module called list would hide the builtin in this one.
    "list": ("listing", "List the models that were downloaded or converted."),
    "card": ("card", "Render the model card of an artefact."),
    "inspect": ("inspect", "Show what a checkpoint is."),
    "discover": ("discover", "Find settings that a checkpoint does not record."),
    "init": ("init", "Write the CI's file and the settings file of a repository."),
    "ci": ("ci", "Run one stage of a CI's job."),
    "demo": ("demo", "Train a small model and release it to an embedded hub."),
    "hub": ("hub", "Serve an embedded hub."),
    "doctor": ("doctor", "Show what is installed, what is missing, what to do."),
    "completion": ("completion", "Print the completion script of a shell."),
}


class LazyGroup(click.Group):
    """Lists its commands from a table and imports a command's module only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"slogpt_hf.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with: slogpt-hf demo",
)
@click.version_option(__version__, message="slogpt-hf %(version)s")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Release SloGPT checkpoints on the Hugging Face Hub, with a proof and what it rests on."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with the code that the outcome has."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    sys.stdout = cast(TextIO, _Heedless(sys.stdout))
    sys.stderr = cast(TextIO, _Discreet(sys.stderr))
    if arguments[:1] == ["ci"] or any(map(os.environ.get, COMMANDED)):
        from slogpt_hf.ci.logs import HarmlessStream

        sys.stdout = cast(TextIO, HarmlessStream(sys.stdout))
        sys.stderr = cast(TextIO, HarmlessStream(sys.stderr))
    sys.exit(run(arguments))


def obeyed(line: str) -> None:
    """Print a line that the CI at hand obeys, which whatever else is printed is kept from being."""
    stream = sys.stdout
    stream.flush()
    raw = getattr(stream, "obeyed", stream)
    raw.write(f"{line}\n")
    raw.flush()


def run(arguments: list[str]) -> int:
    """Run a command line and return its exit code; errors go to standard error."""
    register_environment(os.environ)
    debug = "--debug" in arguments
    # Accepted anywhere, since it is added to a command line that has just failed.
    arguments = ["--debug"] * debug + [a for a in arguments if a != "--debug"]
    try:
        with _terminated_as_interrupted():
            result = cli.main(arguments, prog_name="slogpt-hf", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except (click.exceptions.Abort, KeyboardInterrupt):  # click turns most of the latter into Abort
        click.echo("Interrupted; nothing half-written was left.", err=True)
        return INTERRUPTED
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(file=shown)
        click.echo(without_secrets(shown.getvalue()), nl=False, err=True)
        return error.exit_code
    except SloGPTError as error:
        if debug:
            _show_traceback(error)
        click.echo(f"error: {_shown(error)}", err=True)
        return error.exit_code
    except Exception as error:
        if debug:
            _show_traceback(error)
        if absent := _not_installed(error):
            click.echo(f"error: {absent}", err=True)
            return UsageError.exit_code
        click.echo(
            f"error: {type(error).__name__}: {_shown(error)} "
            "(a bug of slogpt-hf; run again with --debug and report the traceback)",
            err=True,
        )
        return 1


def _not_installed(error: Exception) -> str:
    """What to say of a package that a minimal install leaves out; empty for any other error."""
    from slogpt_hf.libraries import PROVING, TO_PROVE

    name = error.name if isinstance(error, ModuleNotFoundError) else None
    package = PROVING.get((name or "").partition(".")[0])
    return f"this takes {package}, which is not installed. {TO_PROVE}" if package else ""


def _show_traceback(error: Exception) -> None:
    for line in without_secrets("".join(traceback.format_exception(error))).splitlines():
        click.echo(printable(line), err=True)


def _shown(error: Exception) -> str:
    return printable(without_secrets(str(error)))


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Let SIGTERM (a CI's cancel) end a command as Ctrl-C does, so that it cleans up."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


class _Heedless:
    """A stream that goes nowhere once its reader has gone: ``| head`` must not stop a release."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            self._leave()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._leave()
            self._stream.flush()

    def _leave(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)


class _Discreet(_Heedless):
    """A stream for messages, whoever writes them: known secrets do not pass."""

    def write(self, text: str) -> int:
        super().write(without_known_secrets(text))
        return len(text)


def printable(text: str) -> str:
    """Text from files and servers without control characters, which a terminal or CI obeys."""
    return "".join(c if c.isprintable() or c == " " else f"\\x{ord(c):02x}" for c in text)
