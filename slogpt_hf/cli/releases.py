"""``slogpt-hf releases``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from slogpt_hf.cli.options import (
    json_option,
    named_hub,
    print_columns,
    print_json,
    progress_for,
    quiet_option,
    settings_options,
)

if TYPE_CHECKING:
    from slogpt_hf.history import KnownRelease

COLUMNS = ("version", "step", "loss", "parity", "level", "date", "source", "tag", "branch")
LEVEL_NOT_KNOWN = "unknown"
SHORT = 12  # digits of a commit's id
UNTAGGED = "untagged"


@click.command("releases", epilog="Example: slogpt-hf releases me/my-model --hub ./hub")
@click.argument("repo", metavar="REPO")
@settings_options("hub", "token_file", "oidc")
@json_option
@quiet_option
def command(repo: str, as_json: bool, quiet: bool, **flags: Any) -> None:
    """List the releases of REPO, the newest version first.

    The level is what the proof rests on: the trainer's own model (witnessed), its recorded loss
    (corroborated), or neither (assumed); unknown of releases by versions that did not say. The
    last column is the branch that holds a release now. A release that is untagged was stopped
    between commit and tag: release its checkpoint again, which finishes it.
    """
    from slogpt_hf.history import list_releases

    with named_hub(repo, flags, progress_for(quiet)) as (hub, _):
        releases = list_releases(hub, repo)
    if as_json:
        print_json([asdict(release) for release in releases])
    elif not releases:
        click.echo(f"{repo} has no releases.")
    else:
        print_columns([COLUMNS, *map(row_of, releases)])


def row_of(release: KnownRelease) -> Sequence[str]:
    """A release as a row of the table."""
    from slogpt_hf.parity.stated import stated

    error = release.parity.get("fp64_error")
    shown = (
        release.version,
        release.step,
        None if release.val_loss is None else f"{release.val_loss:.4f}",
        f"{error:.1e}" if isinstance(error, float) else None,
        stated(release.parity).level or LEVEL_NOT_KNOWN,
        release.date,
        release.source_commit and release.source_commit[:SHORT],
        release.tag if release.tagged else UNTAGGED,
        ", ".join(release.branches),
    )
    return ["-" if value in (None, "") else str(value) for value in shown]
