"""``slogpt-hf discover``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slogpt_hf.cli import printable
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

if TYPE_CHECKING:
    from slogpt_hf.discover import Discovery


@click.command(
    "discover", epilog="Example: slogpt-hf discover out/ckpt.pt --reference model.py:GPT"
)
@click.argument("checkpoint")
@settings_options(*FIELDS, "reference")
@json_option
@quiet_option
def command(checkpoint: str, as_json: bool, quiet: bool, **flags: Any) -> int:
    """Find the settings of CHECKPOINT that its file does not record.

    A witness tells what was trained: the class that --reference names, else logits recorded beside
    the checkpoint, else the class that is found in its repository. Exit code 0: settings that agree
    are printed; 4: none does.
    """
    from slogpt_hf.discover import discover

    result = discover(Path(checkpoint), merged(flags), progress_for(quiet))
    if as_json:
        print_json(result.to_dict())
        return 0 if result.found.agrees else ParityError.exit_code
    for line in lines_of(result):
        click.echo(printable(line))
    if not result.found.agrees:
        raise ParityError(
            f"{checkpoint}: no settings were found that agree with {result.witness}.",
            hint="It computes what slogpt-hf does not know: see docs/adding-a-dialect.md.",
        )
    return 0


def lines_of(result: Discovery) -> list[str]:
    """What was found, for people: the options to paste, and what they rest on."""
    found = result.found
    how = "agrees" if found.agrees else "comes nearest"
    lines = [
        f"{result.witness}: the built-in model {how} with relative error {found.error:.1e} "
        f"(bound {found.bound:.1e}), {found.passes} models tried"
    ]
    if result.note:
        lines.append(f"note: {result.note}")
    if found.stopped:
        lines.append("note: the search ended at its limit of models or time")
    if found.agrees and not result.settings:
        lines.append("No setting is needed: the witness computes what is assumed.")
    if result.settings:
        lines += ["", " ".join(f"--set {option}" for option in result.settings)]
        pairs = [option.split("=", 1) for option in result.settings]
        lines += ["", "In .slogpt-hf.yml:", "set:", *(f"  {n}: {v}" for n, v in pairs)]
    if result.guessed:
        lines += [
            "",
            f"The witness does not tell {', '.join(result.guessed)}: set what was trained.",
        ]
    if found.alike:
        lines += [
            "",
            f"It agrees as well with {', '.join(found.alike)}: they cannot be told apart.",
        ]
    return lines
