"""``slogpt-hf release``."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slogpt_hf.cli import printable
from slogpt_hf.cli.batch import batch_options, handed_on, memory_bytes, tell_outcomes
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
from slogpt_hf.errors import UsageError
from slogpt_hf.settings import Settings

if TYPE_CHECKING:
    from slogpt_hf.release import Release


@click.command(
    "release",
    epilog="Example: slogpt-hf release out/ckpt.pt --dataset shakespeare --repo-id me/my-model "
    "--hub ./hub",
)
@click.argument("paths", nargs=-1, required=True, metavar="CHECKPOINT...")
@settings_options(*HUB, *RELEASE, *SIGNING, *FIELDS, *VOCABULARY, *CONVERSION, *CARD, "output")
@settings_options("checkpoints")
@click.option(
    "--with-dataset",
    metavar="NS/NAME",
    help="Publish the dataset as well, under this name; the model card names it.",
)
@batch_options
@json_option
@quiet_option
def command(
    paths: tuple[str, ...],
    with_dataset: str | None,
    jobs: int,
    memory: str | None,
    as_json: bool,
    quiet: bool,
    **flags: Any,
) -> int:
    """Convert checkpoints, prove what each computes, and publish it.

    Each release is one commit and one tag. A checkpoint that is not proven is never published; one
    that was released before is found and left as it is. It is proven equal to the trainer's own
    model where a witness of that is there (--reference, recorded logits), else to the model of its
    family as slogpt-hf knows it; the release says to which, and what was assumed.

    A CHECKPOINT is a file, a folder of a checkpoint or of several, or a glob. Of several, one that
    fails keeps none of the others, and they are published in their order.
    """
    from slogpt_hf.batch import chosen

    settings, budget = merged(flags), memory_bytes(memory)
    if (found := chosen(paths, settings.checkpoints)) is None:
        _release(Path(paths[0]), settings, as_json, quiet, with_dataset)
        return 0
    if with_dataset:
        raise UsageError(
            "--with-dataset takes one checkpoint at a time.",
            hint="Publish the dataset by itself: slogpt-hf push-dataset.",
        )
    from slogpt_hf.batch.running import Batch
    from slogpt_hf.release import Release, require_releasable

    require_releasable(settings)
    settings, environment = handed_on(settings)
    batch = Batch(found, settings, jobs, budget, progress_for(quiet))
    return tell_outcomes(
        batch.release(environment),
        as_json,
        [each.name for each in fields(Release)],
        lambda outcome: print_release(Release(**outcome.facts), settings.hub),
    )


def _release(
    path: Path, settings: Settings, as_json: bool, quiet: bool, with_dataset: str | None
) -> None:
    from slogpt_hf.release import release_checkpoints

    done: list[dict[str, Any]] = []

    def tell(result: Release) -> None:
        done.append(asdict(result))
        if not as_json:
            print_release(result, settings.hub)

    try:
        with told_where_it_does_not_load(tell):
            for result in release_checkpoints(
                [path],
                settings,
                progress_for(quiet),
                event=event_at_hand(),
                with_dataset=with_dataset,
            ):
                tell(result)
    finally:
        # What is published is said, whatever ends the command.
        if as_json:
            print_json(done)


@contextmanager
def told_where_it_does_not_load(tell: Callable[[Release], None]) -> Iterator[None]:
    """Tell of a release that is published, also where the smoke test then fails."""
    from slogpt_hf.smoke import SmokeError

    try:
        yield
    except SmokeError as error:
        tell(error.release)
        raise


def print_release(result: Release, hub: str | None) -> None:
    """Say what a release did and how to load it."""
    from slogpt_hf.card.record import has_tokenizer_in
    from slogpt_hf.parity.claims import claim
    from slogpt_hf.parity.stated import stated
    from slogpt_hf.smoke import told

    parity = result.record["parity"]
    verb = "Released" if result.released else "Nothing new: released before as"
    click.echo(f"\n{verb} {result.repo_id} {result.version}")
    click.echo(f"  tag     {result.tag}")
    click.echo(f"  commit  {result.commit}")
    click.echo(
        f"  parity  float64 error {parity['fp64_error']:.1e} (bound {parity['fp64_bound']:.0e}), "
        f"float32 error {parity['fp32_error']:.1e} (bound {parity['fp32_bound']:.1e})"
    )
    # A ledger's entry of an older release leaves them out.
    unsaid = parity.get("level") and "assumptions" not in parity
    rest = "; what it assumes is in its card" if unsaid and parity["level"] != "witnessed" else ""
    click.echo(f"  proof   {printable(claim(stated(parity)))}{rest}")
    if result.smoke:
        click.echo(f"  load    {printable(told(**result.smoke))}")
    if result.smoke and result.smoke["status"] == "FAILED":
        return
    if hub:
        click.echo(f"\nLoad it, with the hub up in another terminal: {program()} hub serve {hub}")
        click.echo("  export HF_ENDPOINT=http://127.0.0.1:8090 HF_HUB_DISABLE_XET=1")
    else:
        click.echo("\nLoad it:")
    arguments = f'"{result.repo_id}", revision="{result.tag}"'
    if result.record["model"]["remote_code"]:
        arguments += ", trust_remote_code=True"
    tokenizer = ("AutoTokenizer",) if has_tokenizer_in(result.record) else ()
    for loader in (*tokenizer, "AutoModelForCausalLM"):
        click.echo(f"  {loader}.from_pretrained({arguments})")


def program() -> str:
    """How this very program is called from the current folder."""
    if shutil.which("slogpt-hf"):
        return "slogpt-hf"
    beside = Path(sys.executable).with_name("slogpt-hf")
    if not beside.is_file():
        return f"{sys.executable} -m slogpt_hf"
    return str(beside.relative_to(Path.cwd()) if beside.is_relative_to(Path.cwd()) else beside)
