"""``slogpt-hf convert-model``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from slogpt_hf.cli import printable
from slogpt_hf.cli.options import (
    CARD,
    CONVERSION,
    FIELDS,
    VOCABULARY,
    event_at_hand,
    json_option,
    merged,
    print_json,
    progress_for,
    quiet_option,
    settings_options,
)
from slogpt_hf.settings import Settings


@click.command(
    "convert-model",
    epilog="Example: slogpt-hf convert-model shakespeare out/ckpt.pt my-model",
)
@click.argument("dataset")
@click.argument("model")
@click.argument("output")
@settings_options(*FIELDS, *VOCABULARY[1:], *CONVERSION, *CARD)
@json_option
@quiet_option
def command(
    dataset: str, model: str, output: str, as_json: bool, quiet: bool, **flags: Any
) -> None:
    """Convert the checkpoint MODEL into the folder OUTPUT and prove what it computes.

    DATASET gives the vocabulary: a name below datasets/, a folder or file holding meta.pkl, or -
    for the one in or beside the checkpoint (or with --tokenizer). OUTPUT is ready for
    `slogpt-hf push` and for `from_pretrained`. What the proof rests on is said: the trainer's own
    model, or what slogpt-hf knows of the family and assumes.
    """
    from slogpt_hf.build import convert
    from slogpt_hf.libraries import missing
    from slogpt_hf.parity.claims import claim
    from slogpt_hf.parity.stated import stated

    settings = merged(flags | ({} if dataset == "-" else {"dataset": dataset}))
    if missing():
        _unproven(model, output, settings, as_json, quiet)
        return
    record = convert(
        Path(model), Path(output), settings, progress_for(quiet), event=event_at_hand()
    )
    if as_json:
        print_json(record)
    else:
        words = printable(claim(stated(record["parity"])))
        click.echo(f"{output}: {record['model']['target_class']}, made of {model}, {words}")


def _unproven(model: str, output: str, settings: Settings, as_json: bool, quiet: bool) -> None:
    from slogpt_hf.libraries import TO_PROVE
    from slogpt_hf.unproven import convert_unproven

    made = convert_unproven(Path(model), Path(output), settings, progress_for(quiet))
    if as_json:
        print_json(made.to_dict())
    else:
        click.echo(f"{output}: {made.target_class}, made of {model}")
    absent = ", ".join(made.missing)
    click.echo(f"NOT PROVEN, and not to be published: {absent} not installed. {TO_PROVE}", err=True)
