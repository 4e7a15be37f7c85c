"""``slogpt-hf download``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slogpt_hf.cli import printable
from slogpt_hf.cli.options import (
    json_option,
    merged,
    print_json,
    print_table,
    progress_for,
    quiet_option,
    settings_options,
)
from slogpt_hf.progress import human_bytes

if TYPE_CHECKING:
    from slogpt_hf.downloading import Download


@click.command("download", epilog="Example: slogpt-hf download me/my-model --revision v1.0.0")
@click.argument("repo", metavar="REPO")
@click.option("--local-name", metavar="NAME", help="Name of its folder  [default: NS_NAME]")
@click.option(
    "--revision",
    default="main",
    show_default=True,
    metavar="REVISION",
    help="Branch, tag or commit to download.",
)
@click.option(
    "--folder",
    default="models",
    show_default=True,
    metavar="DIR",
    help="Folder that gets the model's own folder.",
)
@settings_options("hub", "token_file", "oidc")
@json_option
@quiet_option
def command(
    repo: str,
    local_name: str | None,
    revision: str,
    folder: str,
    as_json: bool,
    quiet: bool,
    **flags: Any,
) -> None:
    """Download the model REPO into a folder of its own below models/.

    The folder appears when every file is there as the hub lists it; a download that was stopped
    goes on where it was. A release of slogpt-hf is checked as by verify-release, and not kept if
    it is not what was proven (exit code 4).
    """
    from slogpt_hf.downloading import download_model, require_repo
    from slogpt_hf.hub.client import hub_of, require_hub_folder

    require_repo(repo)
    settings = merged(flags)
    require_hub_folder(settings)
    progress = progress_for(quiet)
    with hub_of(settings, repo, progress.line) as hub:
        result = download_model(
            *(hub, repo, revision),
            folder=Path(folder),
            local_name=local_name,
            progress=progress,
        )
    if as_json:
        print_json(result.to_dict())
    else:
        _print(result)


def _print(result: Download) -> None:
    from slogpt_hf.parity.claims import claim
    from slogpt_hf.parity.stated import stated

    verb = "Downloaded" if result.downloaded else "Nothing new: downloaded before,"
    click.echo(f"{verb} {result.repo_id}@{result.revision} to {result.folder}")
    checks = result.verification.checks if result.verification else ()
    print_table(
        [
            ("  commit", result.commit),
            ("  tag", result.tag),
            ("  size", human_bytes(result.n_bytes)),
            (
                "  proof",
                printable(claim(stated(result.parity)))
                if result.parity
                else "none: this is no release of slogpt-hf",
            ),
            ("  checks", ", ".join(f"{c.name} {c.status}" for c in checks) or None),
            *[("  note", printable(note)) for note in result.notes],
        ]
    )
