"""``slogpt-hf hub``."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

import click

from slogpt_hf.errors import UsageError

DEFAULT_PORT = 8090


@click.group("hub")
def command() -> None:
    """An embedded hub: the Hugging Face Hub's protocol over a folder, on this machine only."""


@command.command("serve", epilog="Example: slogpt-hf hub serve ./hub")
@click.argument("folder", metavar="DIR")
@click.option("--port", default=DEFAULT_PORT, show_default=True, help="Port; 0 takes a free one.")
@click.option(
    "--token-env",
    metavar="NAME",
    help="Ask for the token in this environment variable; without it everything is open.",
)
def serve_command(folder: str, port: int, token_env: str | None) -> None:
    """Serve the repositories below DIR until Ctrl-C.

    Clients load from it with HF_ENDPOINT set to the address that it prints.
    """
    from slogpt_hf.hub.embedded import serve

    token = os.environ.get(token_env) if token_env else None
    if token_env and not token:
        raise UsageError(f"{token_env} is not set.", hint="Put the token into it.")
    # A shell starts background jobs with SIGINT ignored; SIGTERM would not close the sockets.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    with suppress(KeyboardInterrupt), serve(Path(folder), port=port, token=token) as hub:
        xet = "" if hub.xet else " HF_HUB_DISABLE_XET=1"
        click.echo(f"export HF_ENDPOINT={hub.endpoint}{xet}")
        click.echo("Serving until Ctrl-C.", err=True)
        hub.wait()
