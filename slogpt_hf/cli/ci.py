"""``slogpt-hf ci``."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slogpt_hf.cli import obeyed
from slogpt_hf.cli.options import merged, progress_for

if TYPE_CHECKING:
    from slogpt_hf.ci.detect import CI
    from slogpt_hf.ci.outcome import Outcome

MOST_KEY_BYTES = 64
JOBS = ("all", "plan", "prove", "publish")


@click.group("ci", epilog="Example: slogpt-hf ci prepare work && slogpt-hf ci prove work")
def command() -> None:
    """Run one stage of a CI's job: prepare, prove, publish or report.

    Each leaves in FOLDER what the next one needs, so that they can run in containers or jobs of
    their own: the one that reads checkpoints needs neither network nor token, the one that has the
    token reads none. Settings come from the environment and .slogpt-hf.yml, as prepare finds them.
    """


def _stage(name: str) -> Callable[[Callable[..., Any]], click.Command]:
    argument = click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
    return lambda function: command.command(name)(argument(function))


_job_option = click.option(
    "--job",
    type=click.Choice(JOBS),
    default="all",
    envvar="ACTION_STAGE",
    help="What this job does: all; or, of several jobs, plan, prove or publish.  [default: all]",
)


@_stage("prepare")
@_job_option
@click.option(
    "--candidate",
    metavar="KEY",
    envvar="ACTION_CANDIDATE",
    callback=lambda context, option, value: _key_in(value) if value else value,
    help="Of the job prove: the key of its checkpoint, from the matrix of the job plan; or @FILE, "
    "which holds it.",
)
@click.option(
    "--artefacts",
    metavar="DIR",
    type=click.Path(path_type=Path),
    envvar="ACTION_ARTEFACTS",
    help="Of the job publish: the folder in which the folders of the proving jobs lie.",
)
@click.option(
    "--publish/--no-publish",
    "publish_it",
    default=True,
    envvar="ACTION_PUBLISH",
    help="Whether to publish what is proven; a pull request never does.  [default: publish]",
)
def _prepare(
    folder: Path, job: str, candidate: str | None, artefacts: Path | None, publish_it: bool
) -> None:
    """Find what is new and fetch it; or gather what other jobs proved."""
    from slogpt_hf.ci.outputs import write_outputs
    from slogpt_hf.stages import Job, Work, known_outcomes, prepare, report

    ci, work = _ci_at_hand(), Work(folder.absolute())
    with _grouped(ci, "Find and fetch what is new"):
        given = Job(job, candidate, artefacts, publish_it)
        prepared = prepare(work, merged({}), ci, given, progress_for(False))
    if job != "plan" and not prepared.keys:
        known, more = known_outcomes(prepared.plan), prepared.outputs
        report(work, known, ci, os.environ, obeyed, progress_for(False), more=more)
        return
    for line in write_outputs(prepared.outputs, os.environ, work.outputs):
        obeyed(line)


@_stage("prove")
def _prove(folder: Path) -> int:
    """Convert what was fetched, and prove each artefact; the proof says what it rests on."""
    from slogpt_hf.stages import Work, prove

    work = Work(folder.absolute())
    if work.cache.is_dir():  # before the Hub's client is imported, which looks once
        os.environ["HF_HUB_CACHE"] = str(work.cache)
    with _grouped(_ci_at_hand(), "Convert and prove"):
        return _worst(prove(work, progress_for(False)))


@_stage("publish")
def _publish(folder: Path) -> int:
    """Publish what was proven."""
    from slogpt_hf.stages import Work, publish

    ci = _ci_at_hand()
    with _grouped(ci, "Publish"):
        return _worst(publish(Work(folder.absolute()), ci.event, progress_for(False)))


@_stage("report")
@_job_option
@click.option(
    "--comment/--no-comment",
    "with_comment",
    default=False,
    envvar="ACTION_COMMENT",
    help="Comment on the pull request.  [default: no-comment]",
)
def _report(folder: Path, job: str, with_comment: bool) -> None:
    """Write outputs, summary and annotations; comment on the pull request."""
    from slogpt_hf.stages import REMARKED, Work, outcomes_of, report

    ci, work = _ci_at_hand(), Work(folder.absolute())
    # What the proving jobs refused, or proved on assumptions, they have annotated themselves.
    annotated = ("unpublished",) if job == "publish" else REMARKED
    report(
        work,
        outcomes_of(work),
        ci,
        os.environ,
        obeyed,
        progress_for(False),
        annotated=annotated,
        with_comment=with_comment,
    )


def _key_in(value: str) -> str:
    """A key, or what is in the file that ``@`` stands before."""
    if not value.startswith("@"):
        return value
    from slogpt_hf.errors import UsageError
    from slogpt_hf.planning import KEY

    try:
        with Path(value[1:]).open("rb") as file:
            key = file.read(MOST_KEY_BYTES).decode("ascii", "replace").strip()
    except (OSError, ValueError):
        key = ""
    if not KEY.fullmatch(key):
        raise UsageError(
            f"{value[1:]}: holds no key of a checkpoint.", hint="Run the job plan again."
        )
    return key


def _ci_at_hand() -> CI:
    """The CI at hand, which masks the secrets of the environment before anything is printed."""
    from slogpt_hf.ci.detect import NONE, detect
    from slogpt_hf.ci.logs import masks

    ci = detect(os.environ) or NONE
    for line in masks(ci.logs, os.environ):
        obeyed(line)
    return ci


@contextmanager
def _grouped(ci: CI, title: str) -> Iterator[None]:
    from slogpt_hf.ci.logs import grouped

    with grouped(ci.logs, title, obeyed, time.time):
        yield


def _worst(outcomes: Iterable[Outcome]) -> int:
    return max((outcome.exit_code for outcome in outcomes), default=0)
