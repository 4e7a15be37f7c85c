"""``slogpt-hf card``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from slogpt_hf.cli.options import CARD, merged, settings_options


@click.command("card", epilog="Example: slogpt-hf card my-model --license mit --write")
@click.argument("artefact")
@settings_options(*CARD)
@click.option("--write", is_flag=True, help="Write it to ARTEFACT/README.md.")
def command(artefact: str, write: bool, **flags: Any) -> None:
    """Render the model card of the folder ARTEFACT from its facts.

    --license and --language replace what the artefact's record says, for good with --write.
    """
    from slogpt_hf.build import render_artefact_card

    text = render_artefact_card(Path(artefact), merged(flags), write=write)
    click.echo(f"{artefact}/README.md: written" if write else text, nl=write)
