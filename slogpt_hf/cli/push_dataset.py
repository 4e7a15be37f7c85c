"""``slogpt-hf push-dataset``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slogpt_hf.cli.options import (
    HUB,
    json_option,
    merged,
    print_json,
    progress_for,
    quiet_option,
    settings_options,
)
from slogpt_hf.cli.release import program

if TYPE_CHECKING:
    from slogpt_hf.hub.releases import Release

RELEASE = ("tag", "revision", "message", "private", "create", "transfer")


@click.command(
    "push-dataset",
    epilog="Example: slogpt-hf push-dataset shakespeare-hf --repo-id me/shakespeare --hub ./hub",
)
@click.argument("folder")
@settings_options(*HUB, *RELEASE)
@json_option
@quiet_option
def command(folder: str, as_json: bool, quiet: bool, **flags: Any) -> None:
    """Publish the FOLDER that convert made as a dataset: one commit, one tag.

    Every file must be the one that was proven. What was published before is not published again.
    """
    from slogpt_hf.dataset_release import push_dataset

    settings = merged(flags)
    result = push_dataset(Path(folder), settings, progress_for(quiet))
    if as_json:
        print_json(asdict(result))
    else:
        print_dataset(result, settings.hub)


def print_dataset(result: Release, hub: str | None) -> None:
    """Say what a release of a dataset did and how to load it."""
    verb = "Released" if result.released else "Nothing new: released before as"
    click.echo(f"\n{verb} dataset {result.repo_id} {result.version}")
    click.echo(f"  tag     {result.tag}")
    click.echo(f"  commit  {result.commit}")
    if hub:
        click.echo(f"\nLoad it, with the hub up in another terminal: {program()} hub serve {hub}")
        click.echo("  export HF_ENDPOINT=http://127.0.0.1:8090 HF_HUB_DISABLE_XET=1")
    else:
        click.echo("\nLoad it:")
    click.echo(f'  datasets.load_dataset("{result.repo_id}", revision="{result.tag}")')
