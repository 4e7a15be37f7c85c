"""``slogpt-hf push``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from slogpt_hf.cli.options import (
    HUB,
    RELEASE,
    SIGNING,
    json_option,
    merged,
    print_json,
    progress_for,
    quiet_option,
    settings_options,
)
from slogpt_hf.cli.release import print_release


@click.command("push", epilog="Example: slogpt-hf push my-model --repo-id me/my-model --hub ./hub")
@click.argument("artefact")
@settings_options(*HUB, *RELEASE, *SIGNING, "card_template", "require_witness")
@json_option
@quiet_option
def command(artefact: str, as_json: bool, quiet: bool, **flags: Any) -> None:
    """Publish the folder ARTEFACT that convert-model made: one commit, one tag.

    Every file must be the one that was proven, and the proof what --require-witness asks for.
    """
    from slogpt_hf.release import push

    settings = merged(flags)
    result = push(Path(artefact), settings, progress_for(quiet))
    if as_json:
        print_json(asdict(result))
    else:
        print_release(result, settings.hub)
