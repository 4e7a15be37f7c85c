"""``slogpt-hf verify``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from slogpt_hf.cli.options import (
    FIELDS,
    json_option,
    merged,
    print_json,
    progress_for,
    quiet_option,
    settings_options,
)
from slogpt_hf.errors import ParityError


@click.command("verify", epilog="Example: slogpt-hf verify out/ckpt.pt my-model")
@click.argument("model")
@click.argument("artefact")
@settings_options(*FIELDS, "dataset", "tokenizer", "allow_spare_ids")
@click.option(
    "--trust-remote-code", is_flag=True, help="Run a modeling file that slogpt-hf did not write."
)
@json_option
@quiet_option
def command(
    model: str,
    artefact: str,
    trust_remote_code: bool,
    as_json: bool,
    quiet: bool,
    **flags: Any,
) -> int:
    """Compare the folder ARTEFACT with the checkpoint MODEL that it was made from.

    The artefact may be anyone's. Exit code 0: equal; 4: not equal.
    """
    from slogpt_hf.build import verify

    report = verify(
        Path(model), Path(artefact), merged(flags), progress_for(quiet), trust_remote_code
    )
    if as_json:
        print_json(report.to_dict())
        return 0 if report.passed else ParityError.exit_code
    click.echo(report.table())
    click.echo(report.summary())
    if not report.passed:
        raise ParityError(
            f"{artefact} leaves {model} at {report.first_divergence}: {report.failures[0]}"
        )
    return 0
