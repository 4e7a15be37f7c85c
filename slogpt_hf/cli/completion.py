"""``slogpt-hf completion``."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")


@click.command("completion", epilog='Example: eval "$(slogpt-hf completion bash)"')
@click.argument("shell", type=click.Choice(SHELLS))
def command(shell: str) -> None:
    """Print the completion script of SHELL; evaluate it in the shell's start-up file."""
    from slogpt_hf.cli import cli

    completion = get_completion_class(shell)
    assert completion is not None
    click.echo(completion(cli, {}, "slogpt-hf", "_SLOGPT_HF_COMPLETE").source())
