"""``slogpt-hf convert-model``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from slogpt_hf.cli import printable
from slogpt_hf.cli.batch import batch_options, memory_bytes, tell_outcomes
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
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.argument("output")
@settings_options(*FIELDS, *VOCABULARY[1:], *CONVERSION, *CARD)
@settings_options("checkpoints")
@batch_options
@json_option
@quiet_option
def command(
    dataset: str,
    models: tuple[str, ...],
    output: str,
    jobs: int,
    memory: str | None,
    as_json: bool,
    quiet: bool,
    **flags: Any,
) -> int:
    """Convert the checkpoint MODEL into the folder OUTPUT and prove what it computes.

    DATASET gives the vocabulary: a name below datasets/, a folder or file holding meta.pkl, or -
    for the one in or beside the checkpoint (or with --tokenizer). OUTPUT is ready for
    `slogpt-hf push` and for `from_pretrained`. What the proof rests on is said: the trainer's own
    model, or what slogpt-hf knows of the family and assumes.

    Of several MODELs, a glob or a folder of checkpoints each becomes a folder in OUTPUT. What is
    there already is left as it is, and one that fails keeps none of the others.
    """
    from slogpt_hf.batch import chosen

    settings = merged(flags | ({} if dataset == "-" else {"dataset": dataset}))
    budget = memory_bytes(memory)
    if (found := chosen(models, settings.checkpoints)) is None:
        _convert(Path(models[0]), Path(output), settings, as_json, quiet)
        return 0
    from slogpt_hf.batch.running import Batch

    batch = Batch(found, settings, jobs, budget, progress_for(quiet))
    code = tell_outcomes(batch.convert(Path(output)), as_json, ("output", "record"))
    _say_unproven()
    return code


def _convert(model: Path, output: Path, settings: Settings, as_json: bool, quiet: bool) -> None:
    from slogpt_hf.build import convert
    from slogpt_hf.libraries import missing
    from slogpt_hf.parity.claims import claim
    from slogpt_hf.parity.stated import stated

    if missing():
        _unproven(model, output, settings, as_json, quiet)
        return
    record = convert(model, output, settings, progress_for(quiet), event=event_at_hand())
    if as_json:
        print_json(record)
    else:
        words = printable(claim(stated(record["parity"])))
        click.echo(f"{output}: {record['model']['target_class']}, made of {model}, {words}")


def _unproven(model: Path, output: Path, settings: Settings, as_json: bool, quiet: bool) -> None:
    from slogpt_hf.unproven import convert_unproven

    made = convert_unproven(model, output, settings, progress_for(quiet))
    if as_json:
        print_json(made.to_dict())
    else:
        click.echo(f"{output}: {made.target_class}, made of {model}")
    _say_unproven()


def _say_unproven() -> None:
    from slogpt_hf.libraries import TO_PROVE, missing

    if absent := ", ".join(missing()):
        said = f"NOT PROVEN, and not to be published: {absent} not installed. {TO_PROVE}"
        click.echo(said, err=True)
