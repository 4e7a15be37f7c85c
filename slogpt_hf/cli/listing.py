"""``slogpt-hf list``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from slogpt_hf.cli.options import json_option, print_columns, print_json
from slogpt_hf.progress import human_bytes

if TYPE_CHECKING:
    from slogpt_hf.local_models import LocalModel

COLUMNS = ("name", "origin", "revision", "date", "size", "parity")
SHORT = 12  # digits of a commit's id
DAY = len("2026-11-29")


@click.command("list", epilog="Example: slogpt-hf list models")
@click.argument("folders", nargs=-1, metavar="[FOLDER...]")
@json_option
def command(folders: tuple[str, ...], as_json: bool) -> None:
    """List the models below each FOLDER that were downloaded or converted.

    FOLDER is by default models, and hf_models of old. The parity of what slogpt-hf proved is the
    float64 error and the level that its record states; checked where the release was checked when
    it was downloaded, changed where a file is no longer the one that was proven.
    """
    from slogpt_hf.local_models import list_models

    models = list_models([Path(folder) for folder in folders])
    if as_json:
        print_json([model.to_dict() for model in models])
    elif not models:
        click.echo("No models found.")
    else:
        print_columns([COLUMNS, *map(_row, models)])


def _row(model: LocalModel) -> list[str]:
    revision = model.revision or model.commit
    is_commit = revision is not None and len(revision) == 40 and revision.isalnum()
    shown = (
        model.name,
        model.origin,
        revision[:SHORT] if revision and is_commit else revision,
        model.date and model.date[:DAY],
        human_bytes(model.n_bytes),
        _parity(model),
    )
    return [value or "-" for value in shown]


def _parity(model: LocalModel) -> str | None:
    if model.parity is None or model.proof == "changed":
        return model.proof
    error = model.parity["fp64_error"]
    words = (
        "unknown" if error is None else f"{error:.1e}",
        model.parity["level"] or "unknown",
        model.proof if model.proof == "checked" else "",
    )
    return " ".join(filter(None, words))
