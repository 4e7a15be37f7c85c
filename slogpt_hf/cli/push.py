"""``slogpt-hf push``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slogpt_hf.cli.options import (
    CARD,
    CONVERSION,
    FIELDS,
    HUB,
    RELEASE,
    SIGNING,
    VOCABULARY,
    event_at_hand,
    json_option,
    merged,
    print_json,
    progress_for,
    quiet_option,
    settings_options,
)
from slogpt_hf.cli.release import print_release, told_where_it_does_not_load
from slogpt_hf.errors import UsageError

if TYPE_CHECKING:
    from slogpt_hf.release import Release

ALWAYS = (*HUB, *RELEASE, *SIGNING, "card_template", "require_witness")
OF_A_CONVERSION = tuple(
    name
    for name in (*FIELDS, *VOCABULARY, *CONVERSION, *CARD)
    if name not in ALWAYS and name != "dataset"
)


@click.command(
    "push",
    epilog="Example: slogpt-hf push shakespeare out/ckpt.pt --repo_name my-model --hub ./hub",
)
@click.argument("paths", nargs=-1, required=True, metavar="ARTEFACT | DATASET MODEL")
@click.option(
    "--repo_name",
    metavar="NAME",
    help="As --repo-id; without a namespace it is that of the token's account.",
)
@settings_options(*ALWAYS, *OF_A_CONVERSION)
@json_option
@quiet_option
def command(
    paths: tuple[str, ...], repo_name: str | None, as_json: bool, quiet: bool, **flags: Any
) -> None:
    """Publish the folder ARTEFACT that convert-model made: one commit, one tag.

    Every file must be the one that was proven, and the proof what --require-witness asks for.
    With DATASET and MODEL the checkpoint MODEL is converted and proven first, as by release, for
    which the options of the conversion are; or MODEL is an artefact with DATASET's vocabulary.
    """
    from slogpt_hf.card.record import is_artefact
    from slogpt_hf.release import push, push_checkpoint, with_repo

    if repo_name is not None and flags["repo_id"] is not None:
        raise UsageError("--repo-id and --repo_name are both given.", hint="Leave one of them out.")
    given = [f"--{n.replace('_', '-')}" for n in OF_A_CONVERSION if flags[n] not in (None, ())]
    if given and (len(paths) == 1 or is_artefact(Path(paths[-1]))):
        raise UsageError(
            f"{', '.join(given)}: an artefact is published as it was proven.",
            hint="Convert the checkpoint with it: slogpt-hf push DATASET MODEL ...",
        )
    settings, progress = merged(flags), progress_for(quiet)
    if len(paths) > 2:
        raise UsageError(
            f"push takes ARTEFACT, or DATASET and MODEL, not {len(paths)} paths.",
            hint="Several checkpoints are published by: slogpt-hf release CHECKPOINT...",
        )

    def tell(result: Release) -> None:
        if as_json:
            print_json(asdict(result))
        else:
            print_release(result, settings.hub)

    with told_where_it_does_not_load(tell):
        if len(paths) == 1:
            result = push(Path(paths[0]), with_repo(settings, repo_name, progress), progress)
        else:
            result = push_checkpoint(
                paths[0],
                Path(paths[1]),
                settings,
                progress,
                repo_name=repo_name,
                event=event_at_hand(),
            )
    tell(result)
