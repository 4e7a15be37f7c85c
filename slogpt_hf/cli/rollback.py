"""``slogpt-hf rollback``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from slogpt_hf.cli import printable
from slogpt_hf.cli.options import (
    json_option,
    named_hub,
    print_json,
    progress_for,
    quiet_option,
    settings_options,
)


@click.command("rollback", epilog="Example: slogpt-hf rollback me/my-model 1.2.0 --hub ./hub")
@click.argument("repo", metavar="REPO")
@click.argument("version")
@settings_options("hub", "token_file", "oidc", "revision")
@click.option(
    "--message",
    metavar="TEMPLATE",
    help="Message of the commit; knows {version}, {tag}, {step}, {branch} and {date}.",
)
@json_option
@quiet_option
def command(
    repo: str, version: str, message: str | None, as_json: bool, quiet: bool, **flags: Any
) -> None:
    """Make a branch of REPO hold the release VERSION again, by one new commit.

    VERSION may be a candidate, which promotes it. History, tags and ledger stay; files that are
    not of a release stay too. Nothing large is transferred.
    """
    from slogpt_hf.history import roll_back

    with named_hub(repo, flags, progress_for(quiet)) as (hub, settings):
        result = roll_back(hub, repo, version, revision=settings.revision, message=message)
    if as_json:
        print_json(asdict(result))
        return
    branch, version = printable(result.branch), printable(result.version)
    if not result.rolled_back:
        click.echo(f"Nothing to do: {branch} of {result.repo_id} holds {version}.")
        return
    instead = f" in place of {printable(result.previous)}" if result.previous else ""
    click.echo(f"{branch} of {result.repo_id} now holds {version}{instead}.")
    click.echo(f"  tag     {printable(result.tag)}, not moved")
    click.echo(f"  commit  {result.commit}")
