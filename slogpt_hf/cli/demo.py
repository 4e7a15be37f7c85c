"""``slogpt-hf demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from slogpt_hf.cli.options import (
    FIELDS,
    VOCABULARY,
    merged,
    progress_for,
    quiet_option,
    settings_options,
)
from slogpt_hf.cli.release import print_release
from slogpt_hf.errors import UsageError
from slogpt_hf.progress import Progress

DEFAULT_FOLDER = "slogpt-hf-demo"
REPO_ID = "demo/shakespeare-{variant}"


@click.command("demo", epilog="Example: slogpt-hf demo --variant modern")
@click.argument("checkpoint", required=False)
@click.option(
    "--variant",
    type=click.Choice(["classic", "modern", "both"]),
    default="both",
    show_default=True,
    help="classic: learned positions, LayerNorm, GELU; modern: rotary, RMSNorm, SwiGLU.",
)
@click.option("--steps", type=click.IntRange(min=1), help="Training steps.")
@click.option(
    "--folder", default=DEFAULT_FOLDER, show_default=True, help="Where everything is written."
)
@settings_options(*FIELDS, *VOCABULARY)
@quiet_option
def command(
    checkpoint: str | None,
    variant: str,
    steps: int | None,
    folder: str,
    quiet: bool,
    **options: Any,
) -> None:
    """Train a small Slo on a text that ships with slogpt-hf, then release it.

    The release goes to an embedded hub below FOLDER/hub: no account, no network. With CHECKPOINT
    nothing is trained: that checkpoint is released, and --set, --base, --dataset, --tokenizer,
    --unknown and --allow-spare-ids are as for release.
    """
    if checkpoint is None and any(value not in (None, ()) for value in options.values()):
        raise UsageError(
            "the demo's own model has its own dataset, tokenizer and fields.",
            hint="Name a CHECKPOINT beside --set, --base, --dataset, --tokenizer and so on.",
        )
    from slogpt_hf.release import release_checkpoints

    progress = progress_for(quiet)
    hub = str(Path(folder, "hub"))

    def publish(path: Path, repo_id: str, **flags: Any) -> None:
        for result in release_checkpoints(
            [path], merged({"repo_id": repo_id, "hub": hub, **flags}), progress
        ):
            print_release(result, hub)

    if checkpoint is not None:
        publish(Path(checkpoint), "demo/checkpoint", **options)
        return
    from slogpt_hf.demo import DEFAULT_STEPS, VARIANTS, checkpoint_path, dataset_path

    for name in VARIANTS if variant == "both" else (variant,):
        path = checkpoint_path(Path(folder), name)
        if path.is_file():
            progress.line(
                f"   model: {name}, {path} as it is; for a new one remove {path.parent} or name "
                "another --folder"
            )
        else:
            _train(Path(folder), name, steps or DEFAULT_STEPS, progress)
        publish(
            path,
            REPO_ID.format(variant=name),
            dataset=str(dataset_path(Path(folder))),
            language="en",
            license="cc0-1.0",
        )


def _train(folder: Path, variant: str, steps: int, progress: Progress) -> None:
    from slogpt_hf.demo import train_demo

    with progress.stage("train", steps, "steps") as advance:

        def step(done: int, loss: float) -> None:
            advance(done)

        run = train_demo(folder, variant, steps=steps, advance=step)
    progress.line(f"   model: {variant}, validation loss {run.val_loss:.3f}, {run.checkpoint}")
