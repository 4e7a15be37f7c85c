"""``slogpt-hf plan``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from slogpt_hf.cli import printable
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
ENGINES = ("github", "gitlab", "kubernetes")
MATRIX = "--matrix"


class _Plan(click.Command):
    """Takes ``--matrix`` without an engine for GitHub's, whatever stands behind it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments, after saying whose matrix is meant."""
        end = args.index("--") if "--" in args else len(args)
        args = [
            f"{MATRIX}={ENGINES[0]}"
            if each == MATRIX and n < end and args[n + 1 : n + 2] not in [[e] for e in ENGINES]
            else each
            for n, each in enumerate(args)
        ]
        return super().parse_args(ctx, args)


@click.command(
    "plan",
    cls=_Plan,
    epilog="Example: slogpt-hf plan --checkpoints 'out/**/ckpt*.pt' --repo-id me/my-model",
)
@click.argument("sources", nargs=-1, metavar="[SOURCE]...")
@settings_options(*WATCH, *HUB, "revision", "base")
@json_option
@click.option(
    MATRIX,
    "engine",
    type=click.Choice(ENGINES),
    metavar="[ENGINE]",
    help="Print the jobs for an engine: github (a job matrix, one line of JSON; the default), "
    "gitlab (a child pipeline) or kubernetes (an Indexed Job).",
)
@quiet_option
def command(
    sources: tuple[str, ...], as_json: bool, engine: str | None, quiet: bool, **flags: Any
) -> None:
    """Show which checkpoints are new, and would be released.

    A SOURCE is a git repository (a folder or a URL), a file or a glob on disk, or the URL of an
    object store; by default it is the current folder. Nothing is downloaded but the list of
    releases.
    """
    from slogpt_hf.planning import MOST_JOBS, plan_releases
    from slogpt_hf.watch.sources import sources_of

    if as_json and engine:
        raise UsageError("--json and --matrix are both given.", hint="Leave one of them out.")
    if engine == "gitlab" and sources not in ((), (".",)):
        raise UsageError(
            f"{sources[0]}: a SOURCE is not handed on to the jobs of the child pipeline.",
            hint="Name it with --checkpoints, or in .slogpt-hf.yml.",
        )
    settings = merged(flags)
    progress = progress_for(quiet)
    event, named = event_at_hand(), sources or sources_of(settings)
    plan = plan_releases(named, settings, event, progress)
    if as_json:
        print_json(plan.to_dict())
    elif engine == "github":
        print_json(plan.matrix(), indent=None)
        if (left := len(plan.wanted) - MOST_JOBS) > 0:
            progress.line(f"    plan: {left} more than a matrix holds; the next run takes them.")
    elif engine:
        from slogpt_hf import fan_out

        if settings.hub:
            said = "is not handed on: the jobs release to the hub that their own settings name"
            click.echo(f"warning: --hub {printable(settings.hub)} {said}.", err=True)
        publish = not (event and event.is_pull_request)
        if engine == "gitlab":
            _print_yaml([fan_out.gitlab(plan, settings, publish=publish)])
        else:
            _print_yaml(fan_out.kubernetes(plan, settings, named))
    elif not plan.decisions:
        click.echo("No checkpoints were found. One that git ignores is found by its path alone.")
    else:
        print_columns([COLUMNS, *map(row_of, plan.decisions)])


def _print_yaml(documents: Sequence[dict[str, Any]]) -> None:
    import yaml

    class Plain(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:  # not every reader knows them
            return True

    options: dict[str, Any] = {"sort_keys": False, "explicit_start": len(documents) > 1}
    click.echo(yaml.dump_all(documents, Dumper=Plain, width=1000, **options), nl=False)


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
