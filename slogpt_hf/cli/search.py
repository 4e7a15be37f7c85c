"""``slogpt-hf search``."""

from __future__ import annotations

from typing import Any

import click

from slogpt_hf.cli.options import (
    json_option,
    merged,
    print_columns,
    print_json,
    progress_for,
    quiet_option,
    settings_options,
)
from slogpt_hf.hub.search import DEFAULT_LIMIT, SORTS

DAY = len("2026-11-29")
COLUMNS = ("model", "downloads", "likes", "created", "library", "tags")
LONGEST_TAGS = 60  # characters


@click.command("search", epilog="Example: slogpt-hf search 'tiny shakespeare' --limit 5")
@click.argument("query")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=DEFAULT_LIMIT,
    show_default=True,
    help="Most models to list.",
)
@click.option(
    "--sort",
    type=click.Choice(SORTS),
    default=SORTS[0],
    show_default=True,
    help="What counts most.",
)
@click.option("--author", metavar="NAMESPACE", help="Only models of this user or organisation.")
@settings_options("hub", "token_file")
@json_option
@quiet_option
def command(
    query: str,
    limit: int,
    sort: str,
    author: str | None,
    as_json: bool,
    quiet: bool,
    **flags: Any,
) -> None:
    """Search the hub for models that generate text and whose name matches QUERY."""
    from slogpt_hf.hub.client import hub_to_search, require_hub_folder
    from slogpt_hf.hub.search import search_models

    settings = merged(flags)
    require_hub_folder(settings)
    with hub_to_search(settings, progress_for(quiet).line) as hub:
        models = search_models(hub, query, limit, sort, author)
    if as_json:
        print_json(models)
    elif not models:
        click.echo("No models found.")
    else:
        print_columns([COLUMNS, *map(_row, models)])


def _row(model: dict[str, Any]) -> list[str]:
    tags = ", ".join(model["tags"])
    return [
        model["id"],
        f"{model['downloads']:,}",
        f"{model['likes']:,}",
        model["created_at"][:DAY],
        model["library_name"],
        tags if len(tags) <= LONGEST_TAGS else f"{tags[: LONGEST_TAGS - 3]}...",
    ]
