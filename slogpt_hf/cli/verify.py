"""``slogpt-hf verify``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slogpt_hf.cli import printable
from slogpt_hf.cli.options import (
    FIELDS,
    VOCABULARY,
    json_option,
    merged,
    named_hub,
    print_json,
    print_table,
    progress_for,
    quiet_option,
    settings_options,
)
from slogpt_hf.errors import GateInvalidError, ParityError, UsageError
from slogpt_hf.files import write_atomically

if TYPE_CHECKING:
    from slogpt_hf.parity import ParityReport
    from slogpt_hf.progress import Progress

NOT_SHAKEN = (
    "not run: how these tensors come from the checkpoint's is not known, or the blocks do not run "
    "one after the other; a fault that these very weights hide (a bias of zeros) would not show"
)


@click.command("verify", epilog="Example: slogpt-hf verify out/ckpt.pt me/my-model@v1.0.0")
@click.argument("model")
@click.argument("artefact")
@settings_options(*FIELDS, *VOCABULARY, "reference", "require_witness", "hub", "token_file", "oidc")
@click.option(
    "--picture",
    metavar="FILE.png",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the result as a picture.",
)
@click.option(
    "--trust-remote-code", is_flag=True, help="Run a modeling file that slogpt-hf did not write."
)
@json_option
@quiet_option
def command(
    model: str,
    artefact: str,
    picture: Path | None,
    trust_remote_code: bool,
    as_json: bool,
    quiet: bool,
    **flags: Any,
) -> int:
    """Compare ARTEFACT with the checkpoint MODEL that it was made from.

    The artefact is a folder, or a repository of the Hub: NS/NAME or NS/NAME@REVISION. It may be
    anyone's. What the proof rests on is said, with every fact that no file records. Exit code 0:
    equal; 4: not equal, or less than --require-witness asks for; 5: not proven, since a planted
    fault was not caught.
    """
    from slogpt_hf.build import verify
    from slogpt_hf.conversion.shipped import faults_in
    from slogpt_hf.parity.claims import meets
    from slogpt_hf.publishable import require_level

    if picture and picture.suffix.lower() != ".png":
        raise UsageError(f"--picture {picture}: is not FILE.png.", hint="Name a file of PNG.")
    progress = progress_for(quiet)
    with _folder_of(artefact, flags, progress) as folder:
        settings = merged(flags)
        report = verify(Path(model), folder, settings, progress, trust_remote_code)
        for fault in faults_in(folder):
            click.echo(f"warning: {fault}", err=True)
    if picture:
        from slogpt_hf.parity.picture import draw

        write_atomically(picture, draw(report.to_dict()))
    error = GateInvalidError if report.verdict == "invalid" else ParityError
    if as_json:
        print_json(report.to_dict())
        enough = meets(report.level, settings.require_witness)
        return 0 if report.passed and enough else error.exit_code
    click.echo(report.table())
    _print_further(report)
    click.echo(report.summary())
    if report.verdict == "invalid":
        raise error(f"{artefact} is not proven equal to {model}: {report.reason}")
    if not report.passed:
        raise error(f"{artefact} is not equal to {model}: {report.reason}")
    require_level(report, settings.require_witness, Path(artefact), report.witness_note)
    return 0


@contextmanager
def _folder_of(artefact: str, flags: dict[str, Any], progress: Progress) -> Iterator[Path]:
    """The artefact as a folder, for the time of the block."""
    from slogpt_hf.hub.download import downloaded, model_of

    named = None if Path(artefact).exists() else model_of(artefact)
    if named is None:
        yield Path(artefact)
        return
    repo_id, revision = named
    with (
        named_hub(repo_id, flags, progress) as (hub, _),
        downloaded(hub, repo_id, revision, progress) as (folder, commit),
    ):
        progress.line(f"artefact: {repo_id}@{revision}, commit {commit}")
        yield folder


def _print_further(report: ParityReport) -> None:
    """What was looked at beside the batches, a line each."""
    if not report.comparisons:
        return
    shaken = NOT_SHAKEN
    if report.shaken_error is not None:
        shaken = f"float64 error {report.shaken_error:.1e} (bound {report.fp64_bound:.0e})"
    n = report.caught + len(report.missed)
    missed = f"; NOT caught: {', '.join(report.missed)}" if report.missed else ""
    failed = [act.name for act in report.behaviours if not act.passed]
    same = len(report.behaviours) - len(failed)
    differ = f"; NOT: {', '.join(failed)}" if failed else ""
    rows: list[tuple[str, str | None]] = [
        ("shaken weights", shaken),
        ("planted faults", f"{report.caught} of {n} caught{missed}" if n else None),
        ("behaviour", f"{same} checks agree{differ}" if report.behaviours else None),
    ]
    rows += [(act.name, act.note) for act in report.behaviours if act.note]
    if found := report.published:
        error = f"error {found.error:.1e} (bound {found.bound:.1e})"
        rows.append((found.dtype, error))
    for each in report.witnesses:
        verb = "agrees" if each.agrees else "DISAGREES"
        allowed = each.bound + each.rounding
        error = f"{verb}: float32 error {each.error:.1e} (bound {allowed:.1e})"
        rows.append((printable(each.name), error))
    print_table(rows + _basis(report))


def _basis(report: ParityReport) -> list[tuple[str, str | None]]:
    """What the proof rests on: level, recorded loss, what is assumed and what was confirmed."""
    rows: list[tuple[str, str | None]] = [("level", report.level)]
    if found := report.loss:
        verb = "agrees" if found.agrees else "DISAGREES"
        rows.append(
            (
                "recorded loss",
                f"{verb}: recorded {found.recorded:.4f}, computed {found.computed:.4f} on "
                f"{found.data} (bound {found.bound:.4f})",
            )
        )
    rows += [("assumed", printable(f"{each.text}: {each.why}")) for each in report.assumptions]
    rows += [("confirmed", printable(each.text)) for each in report.confirmed]
    if report.witness_note:
        rows.append(("witness", printable(report.witness_note)))
    rows += [("note", printable(note)) for note in report.notes]
    return rows
