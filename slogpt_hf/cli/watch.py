"""``slogpt-hf watch``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from slogpt_hf.cli.options import (
    CARD,
    CONVERSION,
    FIELDS,
    HUB,
    RELEASE,
    SIGNING,
    VOCABULARY,
    WATCH,
    event_at_hand,
    merged,
    progress_for,
    quiet_option,
    settings_options,
)


@click.command(
    "watch",
    epilog="Example: slogpt-hf watch https://github.com/me/training.git --branches 'train/**' "
    "--repo-id me/my-model --interval 10m",
)
@click.argument("sources", nargs=-1, metavar="[SOURCE]...")
@click.option(
    "--interval",
    metavar="TIME",
    help="Look again and again, so long after the end of the last look: 30s, 10m, 1h. "
    "Default: look once.",
)
@click.option(
    "--state",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File that remembers between runs what need not be tried again; it may be lost.",
)
@settings_options(*WATCH, *HUB, *RELEASE, *SIGNING, *FIELDS, *VOCABULARY, *CONVERSION, *CARD)
@quiet_option
def command(
    sources: tuple[str, ...], interval: str | None, state: Path | None, quiet: bool, **flags: Any
) -> int:
    """Release what is new: once, or again and again until SIGTERM.

    A SOURCE is a git repository (a folder or a URL), a file or a glob on disk, or the URL of an
    object store; by default it is the current folder. Every decision is one line.
    """
    from slogpt_hf.intervals import seconds_of
    from slogpt_hf.watch.sources import sources_of
    from slogpt_hf.watching import watch

    settings = merged(flags)
    return watch(
        sources or sources_of(settings),
        settings,
        seconds_of(interval) if interval is not None else None,
        state.absolute() if state else None,
        event_at_hand(),
        progress_for(quiet),
    )
