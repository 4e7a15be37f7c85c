"""``slogpt-hf convert``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from slogpt_hf.cli import printable
from slogpt_hf.cli.options import (
    event_at_hand,
    json_option,
    merged,
    print_json,
    progress_for,
    quiet_option,
    settings_options,
)
from slogpt_hf.datasets.ids import N_BYTES
from slogpt_hf.errors import UsageError
from slogpt_hf.files import is_folder, require_free
from slogpt_hf.progress import Progress

BLOCK_SIZE = 1024
MOST_BLOCK = 1 << 20
HUB = ("hub", "token_file", "oidc")


@click.command("convert", epilog="Example: slogpt-hf convert shakespeare shakespeare-hf")
@click.argument("dataset")
@click.argument("output")
@click.option(
    "--block-size",
    type=click.IntRange(1, MOST_BLOCK),
    default=BLOCK_SIZE,
    metavar="N",
    help=f"Ids of a row of the configuration tokens.  [default: {BLOCK_SIZE}]",
)
@click.option(
    "--id-type",
    type=click.Choice(tuple(N_BYTES)),
    default=None,
    help="Width of the ids.  [default: uint16, or uint32 for more than 65536 entries]",
)
@click.option("--back", is_flag=True, help="Make train.bin, val.bin and meta.pkl of it again.")
@settings_options("tokenizer", "license", "language", *HUB)
@json_option
@quiet_option
def command(
    dataset: str,
    output: str,
    block_size: int,
    id_type: str | None,
    back: bool,
    as_json: bool,
    quiet: bool,
    **flags: Any,
) -> None:
    """Convert DATASET into the folder OUTPUT: parquet files, tokenizer, card.

    DATASET is a name below datasets/, or a folder with train.bin, val.bin and meta.pkl, or with
    llama2.c's tokenised shards. What is written is read back and compared. With --back DATASET is
    what convert wrote, or NS/NAME[@REVISION] on the Hub or the --hub, and OUTPUT gets the very
    files of ids that it was made of.
    """
    from slogpt_hf.dataset_build import convert_dataset

    progress = progress_for(quiet)
    hub = {name: flags.pop(name) for name in HUB}
    if back:
        if block_size != BLOCK_SIZE or id_type or any(flags.values()):
            raise UsageError("--back takes no option of the conversion.", hint="Leave it out.")
        names = _back(dataset, Path(output), hub, progress)
        if as_json:
            print_json({"output": output, "files": names})
        else:
            click.echo(f"{output}: {', '.join(names)}")
        return
    if any(hub.values()):
        raise UsageError(
            "--hub, --token-file and --oidc go with --back.",
            hint="Publish what was converted with: slogpt-hf push-dataset",
        )
    settings = merged(flags)
    record = convert_dataset(
        dataset,
        Path(output),
        settings,
        progress,
        block_size=block_size,
        id_type=id_type,
        event=event_at_hand(),
    )
    if as_json:
        print_json(record)
    else:
        click.echo(_told(output, record))


def _back(dataset: str, output: Path, hub: dict[str, Any], progress: Progress) -> list[str]:
    from slogpt_hf.dataset_build import convert_back
    from slogpt_hf.dataset_release import downloaded_dataset
    from slogpt_hf.hub.client import DATASET, hub_of
    from slogpt_hf.hub.download import model_of

    folder = Path(dataset)
    if is_folder(folder) or (named := model_of(dataset)) is None:
        if any(hub.values()):
            raise UsageError(f"{dataset}: is no repository of a hub.", hint="Name NS/NAME.")
        return convert_back(folder, output, progress)
    require_free(output)
    repo_id, revision = named
    with (
        hub_of(merged(hub), repo_id, progress.line, DATASET) as opened,
        downloaded_dataset(opened, repo_id, revision, output, progress) as held,
    ):
        return convert_back(held, output, progress)


def _told(output: str, record: dict[str, Any]) -> str:
    files = record["data"]["files"]
    n_ids = sum(file["n_ids"] for file in files)
    names = ", ".join(printable(file["file"]) for file in files[:4])
    more = f" and {len(files) - 4} more" if len(files) > 4 else ""
    return f"{output}: {n_ids:,} ids; {names}{more} come back byte for byte"
