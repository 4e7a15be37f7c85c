"""Options and output that the commands share which take many checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import click

from slogpt_hf.cli import printable
from slogpt_hf.cli.options import print_columns, print_json

if TYPE_CHECKING:
    from slogpt_hf.batch import Outcome
    from slogpt_hf.settings import Settings

Function = TypeVar("Function", bound=Callable[..., Any])
COLUMNS = ("checkpoint", "result", "output", "proof", "seconds")


def batch_options(function: Function) -> Function:
    """Add --jobs and --memory; the command gets ``jobs`` and ``memory``."""
    jobs = click.option(
        "--jobs",
        type=click.IntRange(min=1),
        default=1,
        metavar="N",
        help="Work on N checkpoints at once, as far as memory allows.  [default: 1]",
    )
    memory = click.option(
        "--memory",
        metavar="SIZE",
        help="Memory that the jobs may take, e.g. 8GB.  [default: most of what is free]",
    )
    return jobs(memory(function))


def memory_bytes(memory: str | None) -> int | None:
    """What ``--memory`` says, in bytes."""
    from slogpt_hf.settings import size_in_bytes

    return size_in_bytes(memory) if memory else None


def tell_outcomes(
    outcomes: Iterator[Outcome],
    as_json: bool,
    keys: Iterable[str],
    tell: Callable[[Outcome], None] = lambda outcome: None,
) -> int:
    """Print what became of many checkpoints, a table of all at the end; the exit code.

    What ended is printed whatever ends the command.

    Args:
        outcomes: as they come.
        as_json: print a list instead of the table.
        keys: of an object of that list.
        tell: prints more of one that did not fail.
    """
    from slogpt_hf.batch.outcome import worst

    done: list[Outcome] = []
    try:
        for outcome in outcomes:
            done.append(outcome)
            if outcome.exit_code:
                click.echo(f"error: {printable(_named(outcome))}", err=True)
            elif not as_json:
                tell(outcome)
    finally:
        done.sort(key=lambda outcome: outcome.index)
        if as_json:
            print_json([each.to_dict(keys) for each in done])
        elif done:
            print_summary(done)
    return worst(done)


def print_summary(done: list[Outcome]) -> None:
    """Print the table of all outcomes, and how many of them failed."""
    click.echo()
    print_columns([COLUMNS, *map(_row, done)])
    counts = {status: [each.status for each in done].count(status) for status in _statuses(done)}
    click.echo("\n" + ", ".join(f"{count} {status}" for status, count in counts.items()))


def _row(outcome: Outcome) -> tuple[str, ...]:
    from slogpt_hf.parity.stated import stated

    result = f"failed ({outcome.exit_code})" if outcome.exit_code else outcome.status
    record = outcome.facts.get("record")
    level = stated(record.get("parity")).level if record else None
    return (
        outcome.checkpoint,
        result,
        outcome.output or "-",
        level or "-",
        f"{outcome.seconds:.1f}",
    )


def _statuses(done: list[Outcome]) -> list[str]:
    return sorted({each.status for each in done}, key=lambda status: status == "failed")


def _named(outcome: Outcome) -> str:
    if outcome.checkpoint in outcome.message:
        return outcome.message
    return f"{outcome.checkpoint}: {outcome.message}"


def handed_on(settings: Settings) -> tuple[Settings, dict[str, str]]:
    """Settings and environment for the processes of a batch, which have no standard input.

    Raises:
        UsageError, HubError: what should be a token is none.
    """
    from dataclasses import replace

    from slogpt_hf.hub.client import endpoint_of_environment
    from slogpt_hf.hub.credentials import (
        RESOURCE_VARIABLE,
        STANDARD_INPUT,
        find_credentials,
        source_of,
    )

    if source_of(settings) != STANDARD_INPUT:
        return settings, {}
    found = find_credentials(settings, settings.repo_id or "", endpoint_of_environment())
    environment = {"HF_TOKEN": found.token() or "", RESOURCE_VARIABLE: ""}
    return replace(settings, token_file=None), environment
