"""``slogpt-hf diff``."""

from __future__ import annotations

import json
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
from slogpt_hf.progress import human_bytes

if TYPE_CHECKING:
    from slogpt_hf.history import Comparison, FileChange

DIGEST_CHARACTERS = 40  # longer digests are cut to SHORT
SHORT = 12
WIDEST = 60  # characters of a value


@click.command("diff", epilog="Example: slogpt-hf diff me/my-model 1.0.0 1.1.0 --hub ./hub")
@click.argument("repo", metavar="REPO")
@click.argument("a")
@click.argument("b")
@settings_options("hub", "token_file", "oidc")
@json_option
@quiet_option
def command(repo: str, a: str, b: str, as_json: bool, quiet: bool, **flags: Any) -> None:
    """Show what changed from release A to release B of REPO, by their records.

    A and B are versions or tags. Only what differs is listed; weights are not downloaded.
    """
    from slogpt_hf.history import compare

    with named_hub(repo, flags, progress_for(quiet)) as (hub, _):
        comparison = compare(hub, repo, a, b)
    if as_json:
        print_json(comparison.to_dict())
    elif comparison.same:
        click.echo("No difference.")
    else:
        _print(comparison)


def _print(comparison: Comparison) -> None:
    print_columns(
        [
            ("", comparison.a.tag, comparison.b.tag),
            *((each.name, shown(each.a), shown(each.b)) for each in comparison.differences),
            *((each.path, *_sizes(each)) for each in comparison.files),
        ]
    )
    if comparison.compare_url:
        click.echo(f"\nSource: {comparison.compare_url}")


def shown(value: Any) -> str:
    """A value of a record as one short cell."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if len(text) >= DIGEST_CHARACTERS and all(c in "0123456789abcdef" for c in text):
        return text[:SHORT]
    return text if len(text) <= WIDEST else f"{text[:WIDEST]}..."


def _sizes(change: FileChange) -> tuple[str, str]:
    a, b = (
        "-" if n_bytes is None else human_bytes(n_bytes)
        for n_bytes in (change.a_bytes, change.b_bytes)
    )
    return a, f"{b} ({change.change})"
