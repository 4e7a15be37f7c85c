"""``slogpt-hf plan``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from slogpt_hf.cli.options import (
    HUB,
    WATCH,
    event_at_hand,
    json_option,
    merged,
    print_columns,
    print_json,
    progress_for,
    quiet_option,
    settings_options,
)
from slogpt_hf.errors import UsageError

if TYPE_CHECKING:
    from slogpt_hf.planning import Decision

COLUMNS = ("checkpoint", "branch", "commit", "size", "sha256", "release", "why")
SHORT = 12  # digits of a digest or of a commit's id


@click.command(
    "plan", epilog="Example: slogpt-hf plan --checkpoints 'out/**/ckpt*.pt' --repo-id me/my-model"
)
@click.argument("sources", nargs=-1, metavar="[SOURCE]...")
@settings_options(*WATCH, *HUB, "revision", "base")
@json_option
@click.option("--matrix", "as_matrix", is_flag=True, help="Print a job matrix, one line of JSON.")
@quiet_option
def command(
    sources: tuple[str, ...], as_json: bool, as_matrix: bool, quiet: bool, **flags: Any
) -> None:
    """Show which checkpoints are new, and would be released.

    A SOURCE is a git repository (a folder or a URL), a file or a glob on disk, or the URL of an
    object store; by default it is the current folder. Nothing is downloaded but the list of
    releases.
    """
    from slogpt_hf.planning import MOST_JOBS, plan_releases
    from slogpt_hf.watch.sources import sources_of

    if as_json and as_matrix:
        raise UsageError("--json and --matrix are both given.", hint="Leave one of them out.")
    settings = merged(flags)
    progress = progress_for(quiet)
    plan = plan_releases(sources or sources_of(settings), settings, event_at_hand(), progress)
    if as_json:
        print_json(plan.to_dict())
    elif as_matrix:
        print_json(plan.matrix(), indent=None)
        if (left := len(plan.wanted) - MOST_JOBS) > 0:
            progress.line(f"    plan: {left} more than a matrix holds; the next run takes them.")
    elif not plan.decisions:
        click.echo("No checkpoints were found.")
    else:
        print_columns([COLUMNS, *map(row_of, plan.decisions)])


def row_of(decision: Decision) -> Sequence[str]:
    """A decision as a row of the table."""
    from slogpt_hf.progress import human_bytes

    candidate = decision.candidate
    shown = (
        candidate.name,
        candidate.provenance.branch,
        (candidate.provenance.commit or "")[:SHORT],
        None if candidate.n_bytes is None else human_bytes(candidate.n_bytes),
        (candidate.sha256 or "")[:SHORT],
        "yes" if decision.wanted else "no",
        decision.reason,
    )
    return [value or "-" for value in shown]
