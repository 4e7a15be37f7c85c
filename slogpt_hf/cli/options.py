"""Options that several commands share, made from the fields of Settings."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import click

from slogpt_hf.cli import printable
from slogpt_hf.progress import Progress
from slogpt_hf.settings import CHOICES, NAMES, Settings, load_settings

if TYPE_CHECKING:
    from slogpt_hf.hub.client import Hub
    from slogpt_hf.watch.event import Event

Function = TypeVar("Function", bound=Callable[..., Any])

TYPES = {name: click.Choice(known) for name, known in CHOICES.items()}
METAVARS = {
    "repo_id": "NS/NAME",
    "hub": "DIR",
    "dataset": "NAME|PATH",
    "tokenizer": "PATH|REPO|none",
    "unknown": "error|CHAR",
    "special_tokens": "ROLES",
    "set": "NAME=VALUE",
    "base": "CHECKPOINT",
    "unquantised": "CHECKPOINT",
    "reference": "FILE.py:CLASS",
    "max_shard_size": "SIZE",
    "tag": "TEMPLATE",
    "revision": "BRANCH",
    "license": "ID",
    "language": "CODES",
    "card_template": "FILE",
    "output": "DIR",
    "report": "FILE",
    "token_file": "FILE",
    "message": "TEMPLATE",
    "signing_key": "FILE",
    "checkpoints": "GLOB",
    "branches": "GLOB",
}
VOCABULARY = ("dataset", "tokenizer", "unknown", "special_tokens", "allow_spare_ids")
FIELDS = ("set", "base")
CONVERSION = (
    "unquantised",
    "reference",
    "require_witness",
    "dtype",
    "max_shard_size",
    "report",
)
CARD = ("license", "language", "card_template")
HUB = ("repo_id", "hub", "token_file", "oidc")
RELEASE = ("tag", "revision", "promote", "message", "private", "create", "transfer", "smoke")
SIGNING = ("sign", "signing_key")
WATCH = ("checkpoints", "branches", "which")


def settings_options(*names: str) -> Callable[[Function], Function]:
    """Add the options of the named settings; the command gets them as keyword arguments."""

    def decorate(function: Function) -> Function:
        for name in reversed(names):
            field = NAMES[name]
            flag, several = isinstance(field.default, bool), isinstance(field.default, tuple)
            shown = " ".join(getattr(Settings, name)) if several else field.default
            default = f"  [default: {shown}]" if not flag and shown else ""
            written = name.replace("_", "-")
            option = click.option(
                f"--{written}/--no-{written}" if field.default is True else f"--{written}",
                name,
                default=None,
                is_flag=flag,
                multiple=several,
                type=None if flag else TYPES.get(name, str),
                metavar=None if flag or name in TYPES else METAVARS[name],
                help=field.metadata["help"] + default,
            )
            function = option(function)
        return function

    return decorate


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
quiet_option = click.option("--quiet", "-q", is_flag=True, help="Say nothing while working.")


def merged(flags: dict[str, Any]) -> Settings:
    """The settings of a command, its flags over environment and settings file."""
    return load_settings(flags)


def event_at_hand() -> Event | None:
    """Why the CI at hand runs; None outside of any."""
    from slogpt_hf.ci.detect import detect

    ci = detect(os.environ)
    return ci.event if ci else None


def progress_for(quiet: bool) -> Progress:
    """Progress on standard error."""
    return Progress(quiet=quiet)


def print_json(content: Any, indent: int | None = 2) -> None:
    """Print a value as JSON, which a CI whose log it goes to does not obey, nor change."""
    from slogpt_hf.ci.logs import harmless

    separators = None if indent else (",", ":")
    for ascii_only in (False, True):
        text = json.dumps(content, indent=indent, ensure_ascii=ascii_only, separators=separators)
        text = text.replace("##", "#\\u0023")
        if text.replace("\n", "").isprintable() and harmless(text) == text:
            break
    click.echo(text)


def print_table(rows: list[tuple[str, Any]]) -> None:
    """Print names and values in two columns; rows without a value are left out."""
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        if value is not None:
            click.echo(f"{name:<{width}}  {value}")


def print_columns(rows: Sequence[Sequence[str]]) -> None:
    """Print a table; the first row is its heading, and control characters do not pass."""
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        line = "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        click.echo(line.rstrip())


@contextmanager
def named_hub(
    repo_id: str, flags: dict[str, Any], progress: Progress
) -> Iterator[tuple[Hub, Settings]]:
    """The hub of a command that names its repository, and the settings, for the time of the block.

    Raises:
        UsageError: ``repo_id`` is not NAMESPACE/NAME, or there is no folder of a hub.
        HubError: the hub refused to exchange an OIDC identity for a token.
    """
    from slogpt_hf.hub.client import hub_of, require_hub_folder

    settings = replace(merged(flags), repo_id=repo_id)
    require_hub_folder(settings)
    with hub_of(settings, repo_id, progress.line) as hub:
        yield hub, settings
